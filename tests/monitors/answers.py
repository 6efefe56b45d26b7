"""Groups with given texts and verdicts, and batches with given shares and accuracies of formats."""

from __future__ import annotations

from collections.abc import Sequence

from critique_rl.types import Group, Rollout, Score, ScoreStatus, Task, Turn


def task(name: str = "t", kind: str = "") -> Task:
    return Task(id=name, messages=(), answer="1", verifier="exact", kind=kind)


def rollout(i: int, text: str, *, name: str = "t", turns: Sequence[Turn] = (), mask: Sequence[bool] = ()) -> Rollout:
    """One id a character, log-probs -0.1, -0.2, ..."""
    count = len(mask) or len(text)
    return Rollout(
        id=f"{name}/{i}",
        task_id=name,
        prompt_ids=(1,),
        completion_ids=tuple(range(count)),
        behaviour_logprobs=tuple(-(j + 1) / 10 for j in range(count)),
        text=text,
        finished=True,
        policy_version=0,
        policy_mask=tuple(mask),
        turns=tuple(turns),
    )


def answers(name: str, *given: tuple[str, float | None]) -> Group:
    """Texts with their rewards; None: the verifier failed. What is extracted is the text's last word."""
    rollouts = tuple(rollout(i, text, name=name) for i, (text, _) in enumerate(given))
    scores = tuple(
        Score(reward=0.0, status=ScoreStatus.ERROR)
        if reward is None
        else Score(reward=reward, extracted=text.split()[-1] if text.split() else None)
        for text, reward in given
    )
    return Group(task=task(name), rollouts=rollouts, scores=scores)


def searched(name: str, *episodes: Sequence[tuple[str, str, tuple[str, ...]]]) -> Group:
    """Episodes of (action, argument, documents); each is wrong."""
    rollouts: list[Rollout] = []
    for i, episode in enumerate(episodes):
        turns = [
            Turn(start=2 * t, end=2 * t + 1, text=f"{action} {argument}", action=action, argument=argument, documents=d)
            for t, (action, argument, d) in enumerate(episode)
        ]
        rollouts.append(rollout(i, "tool words " * 9, name=name, turns=turns))
    scores = tuple(Score(reward=0.0) for _ in rollouts)
    return Group(task=task(name), rollouts=tuple(rollouts), scores=scores)


def batch(shares: Sequence[float], accuracies: Sequence[float], *, samples: int = 1000) -> list[Group]:
    """Groups of ten whose texts begin with "A: ", "B: ", ... in these shares, right in these shares of each format."""
    rows: list[tuple[str, float]] = []
    for letter, share, accuracy in zip("ABCDEF", shares, accuracies, strict=False):
        count = round(share * samples)
        rows += [(f"{letter}: {i}", float(i < round(accuracy * count))) for i in range(count)]
    return [answers(f"t{g}", *rows[g::100]) for g in range(100)]


PATTERNS = {"a": r"^A: ", "b": r"^B: ", "c": r"^C: "}
