"""A prompt's whole story as plain JSON: attempts told once, both channels' marks on the right tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pytest

from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.config.algorithm import DistillationConfig, RefinementConfig, TwoChannelConfig
from critique_rl.config.run import RolloutConfig
from critique_rl.loop.guidance import Guidance
from critique_rl.loop.refine import refine
from critique_rl.loop.stories import tell
from critique_rl.loop.targets import teach
from critique_rl.trackers.jsonl import JsonlTracker
from critique_rl.types import CriticOutcome, Group, Task, TeacherTargets, TrainSample, Turn
from tests.loop.fakes import TEMPLATE, CharPolicy, ExactReward, critique, engine, group, task

Json = dict[str, object]
HOSTILE = '</script><script>alert(1)</script>\x00\x1b[31m\u2028"\\\ud800 {{ directive }}'


class State(NamedTuple):
    status: str = "plateaued"
    cause: str = "hopeless"
    upper_bound: float = 0.25
    select: bool = True
    rung: int = 0


def story(of: Group, samples: Sequence[TrainSample] = (), *, k: int = 4) -> Json:
    told = tell(of, State(), samples, policy=CharPolicy(), distillation=DistillationConfig(k=k), step=3)
    assert isinstance(told, Mapping)
    return cast(Json, json.loads(json.dumps(told, allow_nan=False)))


def listed(record: Json, key: str) -> list[Json]:
    return cast("list[Json]", record[key])


def through_the_loop(of: Task, *texts: str, refined: str = "42") -> Group:
    """A group whose every wrong attempt was criticised, taught and refined."""
    base = group(of, *texts)
    wrong = [r.id for r, s in zip(base.rollouts, base.scores, strict=True) if not s.correct]
    told = replace(base, critiques={name: critique(name) for name in wrong})
    policy = CharPolicy()
    (found,) = refine(
        [told],
        policy=policy,
        engine=engine(refined),
        reward=ExactReward(),
        guidance=Guidance(config=RefinementConfig(), template=TEMPLATE),
        rollout=RolloutConfig(max_tokens=64),
        step=0,
        seed=0,
    )
    (taught,) = teach([found], policy=policy, template=TEMPLATE, config=DistillationConfig(k=4))
    return taught


def test_what_was_asked_and_where_the_prompt_stands() -> None:
    told = story(group(task("a", kind="hard"), "41"))
    assert {key: told[key] for key in ("step", "task_id", "kind", "question", "answer")} == {
        "step": 3,
        "task_id": "a",
        "kind": "hard",
        "question": "6*7=",
        "answer": "42",
    }
    assert told["plateau"] == {"status": "plateaued", "cause": "hopeless", "upper_bound": 0.25}


def test_equal_attempts_are_told_once_with_their_number() -> None:
    told = story(through_the_loop(task(), "41", "42", "41", "40", "41"))
    assert [(a["rollout_id"], a["times"]) for a in listed(told, "attempts")] == [("t/0", 3), ("t/1", 1), ("t/3", 1)]
    assert [c["rollout_id"] for c in listed(told, "critiques")] == ["t/0", "t/3"]


def test_marks_of_both_channels_by_hand() -> None:
    found = through_the_loop(task(), "41", "42")
    samples = TwoChannel(TwoChannelConfig()).assemble([found])
    told = story(found, samples)
    wrong, right = listed(told, "attempts")
    # rewards 0, 1 and the refinement's 1: the mean is 2/3
    assert [t["pg"] for t in listed(wrong, "tokens")] == pytest.approx([-2 / 3] * 3)
    assert [t["pg"] for t in listed(right, "tokens")] == pytest.approx([1 / 3] * 3)
    assert [t["distill"] for t in listed(wrong, "tokens")] == [1.0] * 3
    assert [t["distill"] for t in listed(right, "tokens")] == [0.0] * 3
    first = listed(wrong, "tokens")[0]
    assert first["text"] == "4" and first["student_prob"] == pytest.approx(math.exp(-1))
    assert first["teacher_prob"] == pytest.approx(0.25)
    # student and teacher are both uniform over the support: no divergence
    assert first["divergence"] == pytest.approx(0.0, abs=1e-12)
    alternatives = listed(first, "teacher")
    assert len(alternatives) == 3 and alternatives[0]["prob"] == pytest.approx(0.25)
    assert "teacher" not in listed(right, "tokens")[0]
    (refinement,) = listed(told, "refinements")
    assert (refinement["text"], refinement["rejected"], refinement["reliance"]) == ("42", "", 0.0)
    assert [t["imitate"] for t in listed(refinement, "tokens")] == pytest.approx([1 / 3] * 3)
    assert [t["logprob_bare"] for t in listed(refinement, "tokens")] == [-1.0] * 3


def test_what_a_tool_said_is_one_entry_in_its_own_words() -> None:
    (rollout,) = group(task(), "ab[CAT]c").rollouts
    turns = (Turn(start=0, end=2, text="ab", observation="CAT"), Turn(start=7, end=8, text="c"))
    mask = tuple(t < 2 or t >= 7 for t in range(len(rollout.completion_ids)))
    episode = replace(rollout, turns=turns, policy_mask=mask)
    sample = TrainSample(
        rollout_id=episode.id,
        task_id=episode.task_id,
        prompt_ids=episode.prompt_ids,
        completion_ids=episode.completion_ids,
        loss_mask=np.array(mask, dtype=np.float64),
        behaviour_logprobs=np.array(episode.behaviour_logprobs),
        advantages=np.arange(1.0, len(mask) + 1),
        pg_weight=np.ones(len(mask)),
        distill_weight=np.zeros(len(mask)),
        imitate_weight=np.zeros(len(mask)),
    )
    found = replace(group(task(), "ab[CAT]c"), rollouts=(episode,))
    tokens = listed(listed(story(found, [sample]), "attempts")[0], "tokens")
    assert [(t["text"], t.get("heard"), t.get("pg")) for t in tokens] == [
        ("a", None, 1.0),
        ("b", None, 2.0),
        ("CAT", True, None),
        ("c", None, 8.0),
    ]


def test_under_the_surrogate_a_story_tells_how_far_both_sides_are_apart_on_the_shared_ids() -> None:
    teacher = TeacherTargets(
        ids_TK=np.array([[101, 1, 2]] * 3),
        logprobs_TK=np.array([[math.log(0.5), -math.inf, math.log(0.25)]] * 3),
        sampled_logprobs_T=np.full(3, -1.0),
        mask_T=np.ones(3),
        context_ids=(1,),
    )
    of = replace(group(task(), "41"), targets={"t/0": teacher})
    samples = TwoChannel(TwoChannelConfig()).assemble([of])
    options = DistillationConfig(divergence="topk_surrogate", support="overlap", k=3)
    told = tell(of, State(), samples, policy=CharPolicy(), distillation=options, step=3)
    record = cast(Json, json.loads(json.dumps(told, allow_nan=False)))
    token = listed(listed(record, "attempts")[0], "tokens")[0]
    # the policy says a third at every id, and one of the three ids is in the tail: S (1/3, 1/3, 1/3), T (.5, .25, .25)
    apart = (math.log(1 / 1.5) + 2 * math.log(1 / 0.75)) / 3
    assert token["divergence"] == pytest.approx(apart)
    assert [row["prob"] for row in listed(token, "teacher")] == pytest.approx([0.5, 0.25])


def test_a_token_without_a_usable_teacher_has_no_divergence() -> None:
    found = through_the_loop(task(), "41")
    blind = {name: replace(t, mask_T=np.array([0.0, 1.0, 1.0])) for name, t in found.targets.items()}
    told = story(found, TwoChannel(TwoChannelConfig()).assemble([replace(found, targets=blind)]))
    tokens = listed(listed(told, "attempts")[0], "tokens")
    assert tokens[0]["divergence"] is None and tokens[1]["divergence"] is not None


def test_a_rejected_refinement_is_told_with_its_reason() -> None:
    told = story(through_the_loop(task(), "41", refined="43"))
    (refinement,) = listed(told, "refinements")
    assert refinement["rejected"] == "not verified"
    assert [t["logprob_bare"] for t in listed(refinement, "tokens")] == [None] * 3


def test_a_failed_critic_is_told_as_what_it_was() -> None:
    base = group(task(), "41")
    failed = replace(critique("t/0", outcome=CriticOutcome.TIMED_OUT), reason="no reply after 60 s")
    told = story(replace(base, critiques={"t/0": failed}))
    (shown,) = listed(told, "critiques")
    assert (shown["outcome"], shown["reason"], shown["directives"]) == ("timed_out", "no reply after 60 s", [])


def test_hostile_text_reaches_the_file_as_data(tmp_path: Path) -> None:
    found = through_the_loop(task(question=HOSTILE, kind=HOSTILE, answer="42"), HOSTILE, "41")
    hostile = replace(critique("t/0", HOSTILE), reply=HOSTILE, dropped=((HOSTILE, "too long"),))
    found = replace(found, critiques={**found.critiques, "t/0": hostile})
    record = tell(
        found,
        State(),
        TwoChannel(TwoChannelConfig()).assemble([found]),
        policy=CharPolicy(),
        distillation=DistillationConfig(k=2),
        step=1,
    )
    tracker = JsonlTracker(tmp_path)
    tracker.sample(1, record)
    tracker.sample(2, record)
    tracker.close()
    lines = (tmp_path / "samples.jsonl").read_bytes().split(b"\n")
    assert len(lines) == 3 and lines[2] == b""
    told = json.loads(lines[0])
    assert told["attempts"][0]["text"] == HOSTILE
    assert told["critiques"][0]["dropped"] == [[HOSTILE, "too long"]]


def test_numbers_that_json_cannot_say_do_not_stop_the_record(tmp_path: Path) -> None:
    found = through_the_loop(task(), "41")

    def nowhere(targets: TeacherTargets) -> TeacherTargets:
        return replace(targets, logprobs_TK=np.full_like(targets.logprobs_TK, np.nan))

    broken = replace(found, targets={name: nowhere(t) for name, t in found.targets.items()})
    samples = TwoChannel(TwoChannelConfig()).assemble([broken])
    record = tell(broken, State(), samples, policy=CharPolicy(), distillation=DistillationConfig(k=4), step=1)
    tracker = JsonlTracker(tmp_path)
    tracker.sample(1, record)
    tracker.close()
    token = json.loads((tmp_path / "samples.jsonl").read_text())["attempts"][0]["tokens"][0]
    assert token["divergence"] is None and token["teacher"][0]["prob"] is None
