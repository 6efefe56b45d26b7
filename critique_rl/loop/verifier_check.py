"""Whether a verifier accepts at least the tasks' own reference answers, in the forms that a verifier may want.

Owns: those forms, and what is said when all of them are rejected. Must not know: when to check, prompts' states.
Trap: a form that only the policy never produces is no fault of the verifier; it is what critics are for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from critique_rl.config.rewards import ExactRewardConfig, FormatRewardConfig, JudgeRewardConfig, RewardConfig
from critique_rl.protocols import Plateau, Reward
from critique_rl.types import Score, ScoreStatus, Task

CHECKED_TASKS = 4
"""Most prompts that one check tries."""

MIN_TASKS = 2
"""Fewest prompts whose reference answers are rejected before the verifier is called broken: one may be a bad row."""

ANSWER_PLACE = "..."
"""What stands for the answer in a reward's `form`."""

FORMS = {
    "as it is": "{}",
    "boxed": "\\boxed{{{}}}",
    '"Answer: ..."': "Answer: {}",
    "<answer> tags": "<answer>{}</answer>",
}
"""Forms tried on every verifier, by name."""


class VerifierFinding(NamedTuple):
    """`accepts` is None where nothing can be said; `message` is for a person."""

    accepts: bool | None
    message: str


class _Rejected(NamedTuple):
    task: Task
    scores: list[Score]


def check_verifiers(
    step: int,
    tasks: Sequence[Task],
    *,
    held_out: Callable[[], Sequence[Task]],
    plateau: Plateau,
    reward: Reward,
    rewards: Mapping[str, RewardConfig],
) -> None:
    """Check the verifiers of a step's tasks that the plateau tracker wants checked, before any critic is asked."""
    for name in dict.fromkeys(task.verifier for task in tasks):
        if plateau.wants_verifier_check(name, step):
            alike = {task.id: task for task in chain(tasks, held_out()) if task.verifier == name}
            found = check_verifier(list(alike.values()), reward=reward, config=rewards.get(name))
            plateau.note_verifier(name, step, accepts=found.accepts, found=found.message)


def check_verifier(tasks: Sequence[Task], *, reward: Reward, config: RewardConfig | None) -> VerifierFinding:
    """Score the reference answers of up to `CHECKED_TASKS` tasks of one verifier; one that is accepted ends it.

    A task without a reference answer, one that the verifier fails on, and a verifier that looks at the shape alone,
    compares with the reference or reads only a pattern whose `form` is not stated tell nothing, unless its group could
    never read the answer.
    """
    with_answers = [task for task in tasks if task.answer.strip()][:CHECKED_TASKS]
    if not with_answers or isinstance(config, FormatRewardConfig | JudgeRewardConfig):
        return VerifierFinding(None, "")
    pattern, form = getattr(config, "pattern", None), str(getattr(config, "form", ""))
    own = {f"{form!r}": form} if ANSWER_PLACE in form else {}
    rejected: list[_Rejected] = []
    for task in with_answers:
        texts = [shape.format(task.answer) for shape in FORMS.values()]
        texts += [form.replace(ANSWER_PLACE, task.answer) for form in own.values()]
        scores = [reward.score(task, text) for text in texts]
        if any(score.correct for score in scores):
            message = f"verifier {task.verifier!r} accepts the reference answer of task {task.id!r} now"
            return VerifierFinding(True, message)
        unread = all(score.status is ScoreStatus.UNPARSED for score in scores)
        unusual = pattern and not own and unread and not _reads_never(config, task.answer)
        if unusual or any(score.status is ScoreStatus.ERROR for score in scores):
            continue
        rejected.append(_Rejected(task, scores))
    if len(rejected) < MIN_TASKS:
        return VerifierFinding(None, "")
    return VerifierFinding(False, _what_was_tried(rejected, [*FORMS, *own]))


def _reads_never(config: RewardConfig | None, answer: str) -> bool:
    """Whether no text at all can make an exact verifier read this very answer out of its pattern's group."""
    if not isinstance(config, ExactRewardConfig) or config.match != "equal" or config.pattern is None:
        return False
    whole, inside = re.compile(config.pattern), _group_of(config.pattern)
    wanted = " ".join(answer.split()) if config.collapse_whitespace else answer.strip()
    try:
        flags = whole.flags | (re.IGNORECASE if config.casefold else 0)
        return inside is not None and re.fullmatch(rf"\s*(?:{inside})\s*", wanted, flags) is None
    except re.error:  # a group that stands for itself only inside its pattern, such as one with a reference
        return False


def _group_of(pattern: str) -> str | None:
    """What stands inside the one group of a pattern; None where that is not plain to see."""
    opened: list[int | None] = []
    escaped = in_set = False
    for at, char in enumerate(pattern):
        if escaped or char == "\\":
            escaped = not escaped
        elif in_set or char == "[":
            in_set = char != "]" or pattern[at - 1] in "[^"
        elif char == "(":
            captures = pattern[at + 1 : at + 2] != "?" or pattern.startswith("(?P<", at)
            opened.append(at if captures else None)
        elif char == ")" and opened and (start := opened.pop()) is not None:
            named = re.match(r"\?P<\w+>", pattern[start + 1 :])
            return pattern[start + 1 + (named.end() if named else 0) : at]
    return None


def _what_was_tried(rejected: Sequence[_Rejected], forms: Sequence[str]) -> str:
    task, scores = rejected[0]
    details = list(dict.fromkeys(f"{score.status.value}: {score.detail or 'no detail'}" for score in scores))
    return (
        f"verifier {task.verifier!r} looks broken: it rejects the reference answers of all {len(rejected)} prompts "
        f"tried ({', '.join(repr(r.task.id) for r in rejected)}), in every form ({', '.join(forms)}). Of "
        f"{task.id!r} it says: {'; '.join(details)}. So no critic is asked, and training goes on with the scalar "
        f"rewards alone. Compare [rewards.{task.verifier}] (kind, pattern, form, match) with those tasks' answers; "
        "where the pattern is meant, write its form with ... in place of the answer"
    )
