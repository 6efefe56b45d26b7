"""Which critiques the policy has to predict, under which prompt, and that a run without the option is untouched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.config.algorithm import TwoChannelConfig
from critique_rl.config.plateau import PlateauConfig
from critique_rl.config.refinement import RefinementConfig
from critique_rl.errors import PromptError
from critique_rl.loop.auxiliary import CritiquePrediction
from critique_rl.loop.parts import Parts
from critique_rl.schedule.plateau import PlateauTracker
from critique_rl.types import CriticOutcome, Group, Rollout, TrainSample
from tests.lab_runs import LAB, Tree, lab_config, lines, run_lab, same_weights, weights
from tests.loop.fakes import END, CharPolicy, ExactReward, Memory, critique, decode, encode, engine, group, task
from tests.loop.test_replay import OneQuestion

TOLD = "Add the ones first."


class Heard:
    """A predictor that remembers what it was given, and adds nothing."""

    def __init__(self) -> None:
        self.critiques: list[Rollout] = []

    def add(self, samples: Sequence[TrainSample], critiques: Sequence[Rollout]) -> list[TrainSample]:
        self.critiques = list(critiques)
        return list(samples)


def predicted(*groups: Group, policy: CharPolicy | None = None) -> list[Rollout]:
    heard = Heard()
    parts = Parts(
        tasks=OneQuestion(),
        policy=policy or CharPolicy(),
        engine=engine("8"),
        reward=ExactReward(),
        plateau=PlateauTracker(PlateauConfig()),
        algorithm=TwoChannel(TwoChannelConfig()),
        tracker=Memory(),
        predictor=heard,
    )
    stage = CritiquePrediction(RefinementConfig(predict_critique=1.0), parts)
    assert stage.add([], groups) == []
    assert stage.figures() == {"refinement/predicted_critiques": len(heard.critiques)}
    return heard.critiques


def criticised(*texts: str, said: str = TOLD, outcome: CriticOutcome = CriticOutcome.OK) -> Group:
    of = group(task(), *texts)
    return replace(of, critiques={r.id: critique(r.id, said, outcome) for r in of.rollouts})


def test_the_directive_is_asked_for_with_the_question_and_the_attempt() -> None:
    (one,) = predicted(criticised("41"))
    assert decode(one.prompt_ids) == (
        "user: 6*7=\n\nA wrong answer to this was:\n41\n\n"
        "Say in a few words what must be done differently, without giving the answer."
    )
    assert one.completion_ids == (*encode(TOLD), END) and one.id == "t/0/critique" and one.behaviour_logprobs == ()


def test_equal_attempts_are_asked_about_once() -> None:
    assert [one.id for one in predicted(criticised("41", "40", "41"))] == ["t/0/critique", "t/1/critique"]


@pytest.mark.parametrize(
    "of",
    [
        group(task(), "41"),
        criticised("41", outcome=CriticOutcome.REFUSED),
        criticised("41", said=""),
        criticised("41", said="The answer is 42."),
    ],
    ids=["not asked", "failed", "empty", "leak"],
)
def test_only_what_passed_every_filter_is_shown(of: Group) -> None:
    assert predicted(of) == []


def test_what_does_not_fit_is_left_out_and_a_long_attempt_loses_its_middle() -> None:
    class Short(CharPolicy):
        max_positions = 170

    (one,) = predicted(criticised("4" * 60), policy=Short())
    assert len(one.prompt_ids) + len(one.completion_ids) <= 170 and " [...] " in decode(one.prompt_ids)

    class Tiny(CharPolicy):
        max_positions = 60

    assert predicted(criticised("41"), policy=Tiny()) == []


def test_a_template_that_wants_the_directive_is_refused() -> None:
    parts = Parts(
        tasks=OneQuestion(),
        policy=CharPolicy(),
        engine=engine("8"),
        reward=ExactReward(),
        plateau=PlateauTracker(PlateauConfig()),
        algorithm=TwoChannel(TwoChannelConfig()),
        tracker=Memory(),
        predictor=Heard(),
    )
    with pytest.raises(PromptError, match="directive"):
        CritiquePrediction(RefinementConfig(predict_critique=1.0, predict_prompt="refine"), parts)


# -- whole runs --------------------------------------------------------------------------------------------------------


def refining(**options: object) -> Tree:
    return {"refinement": {"prompt": "lab_refine", **options}, "rollout": {"temperature": 2.0}}


def losses(run_dir: Path, key: str) -> list[float]:
    return [float(str(row[key])) for row in lines(run_dir / "metrics.jsonl") if "loss/total" in row]


def test_a_lab_run_learns_to_predict_critiques(tmp_path: Path) -> None:
    plain = run_lab(lab_config(refining(), base=LAB), tmp_path / "plain")
    off = run_lab(lab_config(refining(predict_critique=0.0), base=LAB), tmp_path / "off")
    on = run_lab(lab_config(refining(predict_critique=0.5), base=LAB), tmp_path / "on")
    assert same_weights(weights(plain), weights(off)) and not same_weights(weights(plain), weights(on))
    assert (tmp_path / "plain/metrics.jsonl").read_bytes() == (tmp_path / "off/metrics.jsonl").read_bytes()
    said = losses(tmp_path / "on", "refinement/predicted_critiques")
    assert any(said)
    first = next(i for i, count in enumerate(said) if count)
    mine, theirs = (losses(tmp_path / run, "loss/distill")[first] for run in ("on", "plain"))
    assert mine > theirs > 0  # the cross-entropy stands in the channel's figure
