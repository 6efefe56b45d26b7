"""Which sampled groups are trained on, what is sampled in place of the others, and what returns later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from critique_rl.config.load import merge, validate
from critique_rl.config.sampling import SamplingConfig
from critique_rl.errors import ConfigError
from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.recall import Recalled
from critique_rl.loop.resample import Resampler
from critique_rl.loop.train import Trainer
from critique_rl.types import Score, Task, Turn
from tests.lab_runs import Tree
from tests.loop.banks import BASE, REPLY, Bank, Sampler, asked, figures, make, trained
from tests.loop.fakes import CharPolicy, ExactReward, group, task

# -- rounds ------------------------------------------------------------------------------------------------------------


def test_spec_9_7_dynamic_sampling_keeps_what_differs(tmp_path: Path) -> None:
    texts = {"a": ("1", "1", "1", "1"), "b": ("1", "8", "8", "1"), "c": ("8",) * 4, "d": ("1", "8", "8", "8")}
    bank = Bank("a", "b", "c", "d", first=("a", "b", "c", "d"))
    changes: Tree = {"rollout": {"prompts_per_step": 4, "group_size": 4}, "sampling": {"max_rounds": 1}}
    trainer = make(bank, tmp_path, changes, sampler=Sampler(texts))
    trainer.run()
    assert trained(trainer) == [["b", "d"]]
    (seen,) = figures(trainer)
    assert (seen["sampling/kept"], seen["sampling/missing"], seen["sampling/rounds"]) == (2, 2, 1)
    assert (seen["sampling/dropped_all_right"], seen["sampling/dropped_all_wrong"]) == (1, 1)


def test_it_samples_on_until_the_batch_is_full(tmp_path: Path) -> None:
    bank = Bank("mixed-0", "mixed-1", "right-0", "wrong-0", "wrong-1", first=("wrong-0", "right-0"))
    trainer = make(bank, tmp_path)
    trainer.run()
    (batch,) = trained(trainer)
    assert sorted(batch) == ["mixed-0", "mixed-1"]
    rounds = asked(trainer)
    assert rounds[0] == ["wrong-0", "right-0"] and all(len(each) <= 2 for each in rounds)
    every = [name for each in rounds for name in each]
    assert len(set(every)) == len(every)  # no prompt twice in a step
    (seen,) = figures(trainer)
    dropped = len(every) - 2
    assert seen["sampling/rounds"] == len(rounds) and seen["sampling/kept"] == 2 and seen["sampling/missing"] == 0
    assert seen["sampling/dropped_all_right"] + seen["sampling/dropped_all_wrong"] == dropped
    # four tokens a group of two one-character answers, each with an end; all of them are paid for
    assert seen["sampling/extra_tokens"] == 4 * dropped
    assert seen["tokens/generated"] == 4 * len(every) == trainer.progress.generated_tokens
    # the plateau tracker and reward/mean are of all that was sampled, not of what differs
    right = 2 * sum(name.startswith("right") for name in every) + 2
    assert seen["reward/mean"] == pytest.approx(right / (2 * len(every)))
    assert seen["reward/wrong"] == 0.0 and seen["plateau/fresh"] + seen["plateau/plateaued"] == len(every)


def test_every_round_has_random_numbers_of_its_own_and_the_first_one_todays(tmp_path: Path) -> None:
    bank, names = Bank("mixed-0", "mixed-1", "wrong-0", first=("wrong-0", "mixed-0")), ("mixed-0", "mixed-1")
    trainer = make(bank, tmp_path)
    trainer.run()
    sampler = cast(Sampler, trainer.parts.engine)
    assert len(set(sampler.seeds)) == len(sampler.seeds) >= 2
    plain = make(
        Bank(*names, first=names), tmp_path / "plain", {"sampling": {"dynamic": False, "overlong_filter": True}}
    )
    plain.run()
    assert cast(Sampler, plain.parts.engine).seeds == sampler.seeds[:1]


def test_further_prompts_are_a_function_of_seed_and_step(tmp_path: Path) -> None:
    names = [f"{sort}-{i}" for sort in ("mixed", "wrong", "right") for i in range(6)]
    runs = [
        make(Bank(*names), tmp_path / str(i), {"budget": {"max_steps": 3}, "seed": s}) for i, s in enumerate((0, 0, 1))
    ]
    for trainer in runs:
        trainer.run()
    assert asked(runs[0]) == asked(runs[1]) != asked(runs[2])


def test_a_source_that_sorts_its_batches_is_sampled_evenly(tmp_path: Path) -> None:
    """With the wrong ones always first, the head of every further batch would be wrong ones."""

    class Sorted(Bank):
        def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
            return sorted(super().batch(step, size, seed=seed), key=lambda task: task.id, reverse=True)

    names = [f"{sort}-{i}" for sort in ("mixed", "wrong") for i in range(40)]
    trainer = make(
        Sorted(*names), tmp_path, {"rollout": {"prompts_per_step": 8}, "budget": {"max_steps": 6}, "seed": 3}
    )
    trainer.run()
    further = [name for each in asked(trainer) if len(each) < 8 for name in each]
    assert 0.3 < sum(name.startswith("wrong") for name in further) / len(further) < 0.7


def test_after_the_last_round_it_trains_on_what_there_is(tmp_path: Path) -> None:
    names = ("mixed-0", *(f"wrong-{i}" for i in range(9)))
    trainer = make(Bank(*names, first=("mixed-0", "wrong-0")), tmp_path, {"sampling": {"max_rounds": 3}})
    trainer.run()
    assert trained(trainer) == [["mixed-0"]] and len(asked(trainer)) == 3
    (seen,) = figures(trainer)
    assert (seen["sampling/missing"], seen["sampling/dropped_all_wrong"]) == (1, 3)


def test_or_it_stops_as_dapos_code_does_and_the_step_is_taken_back(tmp_path: Path) -> None:
    trainer = make(
        Bank("mixed-0", "wrong-0", "wrong-1", "wrong-2", first=("mixed-0", "wrong-0")),
        tmp_path,
        {"sampling": {"max_rounds": 2, "when_short": "error"}},
    )
    with pytest.raises(ConfigError, match=r"after 2 rounds of step 1 there are 1 groups .* \(dropped: 2 all_wrong\)"):
        trainer.run()
    assert trainer.progress.step == 0 and trainer.progress.generated_tokens == 0
    assert (
        trainer.parts.plateau.counts()["plateau/fresh"] == 0.0
        and latest_checkpoint(tmp_path / "checkpoints") is not None
    )


def test_a_source_that_is_used_up_ends_the_rounds(tmp_path: Path) -> None:
    trainer = make(Bank("mixed-0", "wrong-0", "wrong-1", first=("mixed-0", "wrong-0")), tmp_path)
    trainer.run()
    assert trained(trainer) == [["mixed-0"]]
    assert sorted(name for each in asked(trainer) for name in each) == ["mixed-0", "wrong-0", "wrong-1"]


def test_a_step_with_nothing_at_all_is_a_step(tmp_path: Path) -> None:
    trainer = make(Bank("wrong-0", "right-0"), tmp_path, {"budget": {"max_steps": 2}})
    trainer.run()
    assert trained(trainer) == [[], []] and trainer.progress.step == 2
    assert figures(trainer)[1]["sampling/kept"] == 0.0 and trainer.stopped_because == "step budget spent"


def test_a_failed_verifier_is_dropped_as_such(tmp_path: Path) -> None:
    trainer = make(Bank("failed-0", "mixed-0"), tmp_path, {"sampling": {"recycle": True}})
    trainer.run()
    (seen,) = figures(trainer)
    assert seen["sampling/dropped_unjudged"] == 1.0 and seen["sampling/pool"] == 0.0


@pytest.mark.parametrize(("over", "kept"), [("all", 1.0), ("valid", 0.0)])
def test_one_format_error_is_a_contrast_or_not(tmp_path: Path, over: str, kept: float) -> None:
    class Penalty(ExactReward):
        def score(self, task: Task, text: str) -> Score:
            found = super().score(task, text)
            return replace(found, reward=-1.0) if text == "?" else found

    trainer = make(Bank("unread-0", first=("unread-0",)), tmp_path, {"rollout": {"prompts_per_step": 1}})
    config = validate(merge(BASE, {"rollout": {"prompts_per_step": 1}, "sampling": {"std_over": over}}), source="test")
    trainer = Trainer(config, replace(trainer.parts, reward=Penalty()), tmp_path)
    trainer.run()
    assert figures(trainer)[0]["sampling/kept"] == kept


@pytest.mark.parametrize(("k", "kept"), [(1, 1.0), (2, 1.0), (3, 0.0)])
def test_pass_at_k_learns_nothing_from_fewer_than_k_wrong_ones(tmp_path: Path, k: int, kept: float) -> None:
    changes: Tree = {
        "algorithm": {"name": "pass_at_k", "k": k},
        "rollout": {"prompts_per_step": 1, "group_size": 4},
    }
    trainer = make(Bank("mixed-0"), tmp_path, changes)  # two of four are wrong
    trainer.run()
    (seen,) = figures(trainer)
    assert (seen["sampling/kept"], seen["sampling/dropped_flat"]) == (kept, 1.0 - kept)


def test_min_std(tmp_path: Path) -> None:
    for least, wanted in ((0.49, [["mixed-0"]]), (0.5, [[]])):  # one of two right: .5
        trainer = make(
            Bank("mixed-0"), tmp_path / str(least), {"rollout": {"prompts_per_step": 1}, "sampling": {"min_std": least}}
        )
        trainer.run()
        assert trained(trainer) == wanted
    assert figures(trainer)[0]["sampling/dropped_flat"] == 1.0


def test_copies_of_a_prompt_are_judged_together(tmp_path: Path) -> None:
    """One copy all right and one all wrong: together they are a contrast, and share its baseline."""
    bank = Bank("x", "y")
    bank.tasks["y"] = task("y", question="x", answer="1")
    bank.tasks["x"] = task("x", question="x", answer="1")
    trainer = make(bank, tmp_path, sampler=Sampler({"x": ("1", "1", "8", "8")}))
    trainer.run()
    batch = cast(CharPolicy, trainer.parts.policy).trained[0]
    assert [float(sample.advantages[0]) for sample in batch] == [0.5, 0.5, -0.5, -0.5]


# -- with a critic -----------------------------------------------------------------------------------------------------


def test_a_plateaued_group_is_a_signal_and_stays(tmp_path: Path) -> None:
    changes: Tree = {
        "algorithm": {"name": "two_channel", "use": ["refinements"]},
        "critic": {"kind": "scripted", "replies": [REPLY]},
        "plateau": {"min_failures": 2, "max_success": 0.9},
        "sampling": {"max_rounds": 1},
    }
    trainer = make(Bank("wrong-0", "right-0", first=("wrong-0", "right-0")), tmp_path, changes)
    trainer.run()
    (batch,) = cast(CharPolicy, trainer.parts.policy).trained
    assert {sample.task_id for sample in batch} == {"wrong-0"}
    assert any(sample.imitate_weight.any() for sample in batch)  # what the critic said became a refinement
    (seen,) = figures(trainer)
    assert (seen["critic/calls"], seen["sampling/dropped_all_right"], seen["sampling/dropped_all_wrong"]) == (2, 1, 0)


def test_without_the_section_nothing_is_sifted() -> None:
    config = validate({key: value for key, value in BASE.items() if key != "sampling"}, source="test")
    parts = make(Bank("wrong-0"), Path("x")).parts
    resampler = Resampler(config, parts)
    tasks = [task("a"), task("b")]
    assert resampler.start(0, tasks) == tasks and resampler.more(0) == [] and resampler.figures() == {}


# -- what is left out --------------------------------------------------------------------------------------------------


def test_void_episodes_are_told() -> None:
    config = validate({key: value for key, value in BASE.items() if key != "sampling"}, source="test")
    config = config.model_copy(update={"sampling": SamplingConfig(drop_void_turns=True)})
    parts = make(Bank("wrong-0"), Path("x")).parts
    resampler = Resampler(config, parts)
    of = group(task("a"), "42", "8", "9")
    said = [("search", "answer"), ("search", ""), ()]
    turns = [tuple(Turn(start=0, end=1, text="w", action=action) for action in actions) for actions in said]
    rollouts = tuple(replace(r, turns=each) for r, each in zip(of.rollouts, turns, strict=True))
    resampler.start(0, [of.task])
    assert resampler.sift(0, [(replace(of, rollouts=rollouts), Recalled())])
    assert resampler.figures() == {"sampling/void_episodes": 1.0}


def test_truncated_rollouts_and_lengths_are_told(tmp_path: Path) -> None:
    texts = {"long": ("12345", "1"), "short": ("1", "8")}
    changes: Tree = {"sampling": {"dynamic": False, "overlong_filter": True, "overlong_buffer": 2}}
    bank = Bank("long-0", "short-0", first=("long-0", "short-0"))
    trainer = make(bank, tmp_path, changes, sampler=Sampler(texts))
    trainer.run()
    (seen,) = figures(trainer)
    assert seen["sampling/truncated"] == 1.0
    assert seen["sampling/overlong_penalty"] == pytest.approx(-0.25)  # lengths 4, 2, 2, 2 of L = 4, C = 2: -1, 0, 0, 0
