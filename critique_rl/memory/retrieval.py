"""Which skills stand in a task's prompt: general ones, and the task's own by threshold, then top-k, then token budget.

Owns: that order, what is compared with what, and that no skill is shown to a task whose answer it states. Must not
know: how skills came to be, how they are put into a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from critique_rl.embedding.by_name import Embedder
from critique_rl.feedback.leak import leaks
from critique_rl.memory.bank import Bank
from critique_rl.memory.skill import Skill, Split
from critique_rl.types import Array, Task

_CACHED = 20_000


class Found(NamedTuple):
    """A skill, and how near it is to the task: cosine similarity in [-1, 1]."""

    skill: Skill
    similarity: float


def above_then_top(similarities: Sequence[float], *, min_sim: float, k: int) -> list[int]:
    """Indices of the k highest similarities among those > min_sim, best first; equal ones in their own order.

    S_ret = TopK({s : sim(e_d, e_s) > min_sim}, K)   (SkillRL, arXiv 2602.08234: threshold first, then top-k)
    """
    near = [i for i, similarity in enumerate(similarities) if similarity > min_sim]
    return sorted(near, key=lambda i: (-similarities[i], i))[:k]


@dataclass(kw_only=True)
class SkillBank:
    """Finds skills of one bank. `tokens_of` counts what skills take before a question, all words around them included.

    A skill is as near as the nearer of its whole text and its `when_to_apply` alone: the principle's words would only
    dilute the description of the situation that a question is compared with.
    """

    bank: Bank
    embedder: Embedder
    tokens_of: Callable[[Sequence[Skill], str], int]
    match_kind: bool = True

    def __post_init__(self) -> None:
        self._known: dict[str, Array] = {}

    def retrieve(
        self,
        task: Task,
        *,
        k_general: int,
        k_task: int,
        min_sim: float,
        token_budget: int,
        split: Split = "train",
    ) -> tuple[Found, ...]:
        """General skills first, then the task's own, each best first, as many as fit into `token_budget`.

        General skills need no similarity; where there are more than `k_general`, the nearest are taken. With
        `match_kind` a task gets its own kind's skills only. Prompts of held-out tasks never get a skill that was
        learned from held-out tasks.
        """
        allowed = [skill for skill in self.bank.active if split == "train" or skill.split == "train"]
        general = [skill for skill in allowed if skill.scope == "general"]
        own = [
            skill
            for skill in allowed
            if skill.scope == "task" and (not self.match_kind or skill.category in ("", category_of(task)))
        ]
        ranked = [
            *self._nearest(task, general, min_sim=-2.0, k=k_general),
            *self._nearest(task, own, min_sim=min_sim, k=k_task),
        ]
        return tuple(self._fitting(ranked, task.question, token_budget))

    def _nearest(self, task: Task, skills: Sequence[Skill], *, min_sim: float, k: int) -> list[Found]:
        if not skills or k == 0:
            return []
        asked = self._vector(task.question)
        similarities = [
            max(float(asked @ self._vector(text)) for text in (skill.text, skill.when_to_apply) if text)
            for skill in skills
        ]
        order = above_then_top(similarities, min_sim=min_sim, k=len(skills))
        safe = (i for i in order if not leaks(skills[i].principle, task.answer, question=task.question))
        return [Found(skills[i], similarities[i]) for i in islice(safe, k)]

    def _fitting(self, ranked: Sequence[Found], question: str, token_budget: int) -> Sequence[Found]:
        """All of them, or one after another as long as they fit: a long one is passed over, not what comes after it."""
        if not ranked or self.tokens_of([found.skill for found in ranked], question) <= token_budget:
            return ranked
        kept: list[Found] = []
        for found in ranked:
            if self.tokens_of([*(one.skill for one in kept), found.skill], question) <= token_budget:
                kept.append(found)
        return kept

    def similarity(self, left: str, right: str) -> float:
        """Cosine of two texts."""
        return float(self._vector(left) @ self._vector(right))

    def _vector(self, text: str) -> Array:
        found = self._known.get(text)
        if found is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            found = self._known[text] = self.embedder.embed([text])[0]
        return found


def category_of(task: Task) -> str:
    """The section of a bank that a task's own skills stand in."""
    return task.kind or "all"
