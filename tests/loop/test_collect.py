"""Groups of rollouts: order, ids, the exact prompt ids, one call of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from critique_rl.config.run import RolloutConfig
from critique_rl.loop.collect import collect
from critique_rl.types import Completion, Score, ScoreStatus, Task, TokenIds
from tests.loop.fakes import END, CharPolicy, ExactReward, encode, engine, task


class Recorder:
    """Remembers how it was called; the i-th completion is "i" without an end token."""

    def __init__(self) -> None:
        self.calls: list[tuple[Sequence[TokenIds], int, float, int]] = []

    def generate(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_done: Callable[[int, Completion], None] | None = None,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """Leaves `on_done` alone, as an engine may that has nothing to tell before the end."""
        self.calls.append((prompts, max_tokens, temperature, seed))
        return [
            Completion(completion_ids=(65 + i,), behaviour_logprobs=(-0.5,), text=chr(65 + i), finished=False)
            for i in range(len(prompts))
        ]


def test_groups_come_in_task_order_from_one_call() -> None:
    policy, recorder = CharPolicy(), Recorder()
    policy.version = 7
    tasks = [task("a", question="q1", answer="B"), task("b", question="q2", answer="C")]
    config = RolloutConfig(group_size=2, max_tokens=9, temperature=0.7)
    groups = collect(tasks, policy=policy, engine=recorder, reward=ExactReward(), config=config, step=3, seed=11)
    first, second = policy.encode(tasks[0].messages), policy.encode(tasks[1].messages)
    assert recorder.calls == [([first, first, second, second], 9, 0.7, 11)]
    assert [g.task.id for g in groups] == ["a", "b"]
    assert [[r.text for r in g.rollouts] for g in groups] == [["A", "B"], ["C", "D"]]
    assert [[s.reward for s in g.scores] for g in groups] == [[0.0, 1.0], [1.0, 0.0]]
    last = groups[1].rollouts[1]
    assert last.id == "3/b/1"
    assert (last.task_id, last.prompt_ids, last.completion_ids, last.behaviour_logprobs) == (
        "b",
        second,
        (68,),
        (-0.5,),
    )
    assert (last.finished, last.policy_version) == (False, 7)
    assert not any(g.plateaued or g.critiques or g.refinements or g.targets for g in groups)


def test_a_verifier_that_fails_is_kept_apart_from_a_wrong_answer() -> None:
    config = RolloutConfig(group_size=3, max_tokens=4)
    (found,) = collect(
        [task()],
        policy=CharPolicy(),
        engine=engine("41", "!", "?"),
        reward=ExactReward(),
        config=config,
        step=0,
        seed=0,
    )
    assert [s.status for s in found.scores] == [ScoreStatus.OK, ScoreStatus.ERROR, ScoreStatus.UNPARSED]
    assert found.rollouts[0].completion_ids == (*encode("41"), END)


def test_a_group_is_told_of_as_soon_as_it_is_whole() -> None:
    heard: list[tuple[int, list[str]]] = []

    class Backwards(Recorder):
        def generate(self, prompts, *, on_done=None, **options):  # pyright: ignore
            completions = super().generate(prompts, **options)
            for i in (3, 0, 2, 1):
                on_done(i, completions[i])  # pyright: ignore
                heard.append((-1, [str(i)]))
            return completions

    collect(
        [task("a"), task("b")],
        policy=CharPolicy(),
        engine=Backwards(),
        reward=ExactReward(),
        config=RolloutConfig(group_size=2),
        step=0,
        seed=0,
        on_group=lambda t, group: heard.append((t, [r.text for r in group.rollouts])),
    )
    # the second task's group is whole with its rollouts 3 and 2, before rollout 1 is there
    assert heard == [(-1, ["3"]), (-1, ["0"]), (1, ["C", "D"]), (-1, ["2"]), (0, ["A", "B"]), (-1, ["1"])]


class Doubtful:
    """The last character is a confidence in tenths, what stands before it the answer; unparsed without a digit."""

    def score(self, task: Task, text: str) -> Score:
        if not text[-1:].isdigit():
            return Score(reward=0.0, status=ScoreStatus.UNPARSED, objectives={"confidence": 0.0})
        return Score(
            reward=float(text[:-1] == task.answer), confidence=int(text[-1]) / 10, confidence_start=len(text) - 1
        )


def test_a_group_knows_the_token_of_each_confidence_that_was_stated() -> None:
    (found,) = collect(
        [task(answer="no")],
        policy=CharPolicy(),
        engine=engine("no9", "no", "9", "maybe1"),
        reward=Doubtful(),
        config=RolloutConfig(group_size=4, max_tokens=9),
        step=2,
        seed=0,
    )
    # One token a character and an end token, which decodes to nothing.
    assert [r.id for r in found.rollouts] == ["2/t/0", "2/t/1", "2/t/2", "2/t/3"]
    assert found.confidence_tokens == {"2/t/0": 2, "2/t/2": 0, "2/t/3": 5}
    assert [s.reward for s in found.scores] == [1.0, 0.0, 0.0, 0.0]
