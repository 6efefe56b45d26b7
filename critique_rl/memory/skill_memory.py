"""A run's skills: dresses its tasks, watches how they fare, and lets the bank grow out of the run's own attempts.

Owns: that one version of the bank serves a whole step, the share of groups without skills, and what is told of both.
Must not know: the loop, which critic writes, files.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

from critique_rl.config.skills import SkillsConfig
from critique_rl.embedding.by_name import Embedder
from critique_rl.errors import DataError
from critique_rl.memory.bank import Bank, bank_from_json
from critique_rl.memory.dressing import BLOCK, dressed, shown_to, token_counter, undressed
from critique_rl.memory.episodes import EpisodePool, episodes_of
from critique_rl.memory.evolution import Evolved, Rules, evolve
from critique_rl.memory.retrieval import Found, SkillBank
from critique_rl.memory.skill import Split
from critique_rl.memory.utility import Evidence, evidence_by_skill, is_harmful, saving, utility
from critique_rl.memory.writing import Writer
from critique_rl.prompting.template import PromptTemplate
from critique_rl.types import Group, ScoreStatus, Task

ALL = ""
"""The name under which the evidence about skills in general stands."""
HIT_TASKS = 100
"""Tasks that are looked at before a person is told that retrieval finds nothing."""


class SkillMemory:
    """`loop.parts.Skills` over a bank that starts from a file or empty; its state is plain JSON."""

    def __init__(
        self,
        config: SkillsConfig,
        *,
        template: PromptTemplate,
        embedder: Embedder,
        tokens_of: Callable[[str], int],
        writer: Writer | None,
        bank: Bank | None = None,
        seed: int = 0,
    ) -> None:
        """`writer` None: the bank stays as it is. Raises DataError for a bank that leaks held-out tasks."""
        bank = bank or Bank()
        leaked = next((skill.id for skill in bank.skills if skill.split == "held_out"), None)
        if leaked is not None and not config.allow_val_leak:
            raise DataError(
                f"skills.bank = {config.bank!r}: skill {leaked!r} was learned from held-out tasks, so success on them "
                "would mean little; remove it, or set skills.allow_val_leak = true"
            )
        self._config = config
        self._template = template
        self._tokens_of = tokens_of
        self._writer = writer
        self._seed = seed
        self._finder = SkillBank(
            bank=bank, embedder=embedder, tokens_of=token_counter(template, tokens_of), match_kind=config.match_kind
        )
        self._pool = EpisodePool()
        self._evidence: dict[str, Evidence] = {}
        self._found: dict[str, tuple[Found, ...]] = {}
        self._withheld: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._latest: dict[str, float] = {}
        self._step = -1
        self._made: list[Task] = []
        self._messages: list[str] = []
        self._told_misses = self._told_harm = False

    @property
    def bank(self) -> Bank:
        return self._finder.bank

    @property
    def version(self) -> int:
        return self.bank.version

    @property
    def writer_tokens(self) -> int:
        """Completion tokens that the writer used in the whole run."""
        return self._counts["writer_tokens"]

    def bank_json(self) -> dict[str, object]:
        return self.bank.to_json()

    def dress(self, tasks: Sequence[Task], step: int) -> list[Task]:
        """A step's training tasks with the skills that they get; a share of them, drawn by hash, gets none.

        The draw depends on (seed, step, task) alone. A step may ask for tasks several times; what was found for each is
        kept until the next step.
        """
        if step != self._step:
            self._step, self._found, self._withheld, self._made, self._latest = step, {}, set(), [], {}
        bare = [undressed(task) for task in tasks]
        self._found |= {task.id: self._retrieve(task, "train") for task in bare}
        self._withheld |= {task.id for task in bare if self._found[task.id] and self._withholds(task.id, step)}
        if any(skill.scope == "task" for skill in self.bank.active) and self._config.k_task:
            self._count_hits([self._has_own(task) for task in bare])
        made = [self._dressed(task, () if task.id in self._withheld else self._found[task.id]) for task in bare]
        self._made += made
        self._latest = self._prompt_figures(self._made)
        return made

    def dress_held_out(self, tasks: Sequence[Task]) -> list[Task]:
        """Held-out tasks with their skills; nothing is counted, and nothing learned from held-out tasks is shown."""
        bare = [undressed(task) for task in tasks]
        return [self._dressed(task, self._retrieve(task, "held_out")) for task in bare]

    def note(self, groups: Sequence[Group], *, split: Split = "train") -> None:
        """A step's groups, verified and criticised. Raises DataError for held-out ones unless the run allows them."""
        if split == "held_out" and not self._config.allow_val_leak:
            raise DataError(
                "skills: held-out attempts were offered to the bank, which learns from training attempts only; set "
                "skills.allow_val_leak = true if held-out success need not mean anything"
            )
        for group in groups:
            if split == "train" and not group.late:
                self._note_use(group)
            if not group.late:
                self._pool.count(group.task, group.scores)
            for episode in episodes_of(group, split):
                self._pool.add(episode)
        self._warn_if_harmful()
        if split == "train":
            self._latest |= self._use_figures([g for g in groups if not g.late])

    def evolve(self, step: int) -> Evolved | None:
        """The bank's next version out of what was noted, every so many steps; None where it is not due.

        Raises CriticSetupError for a writer that can never answer.
        """
        if self._writer is None or (step + 1) % self._config.every:
            return None
        config = self._config
        failures = self._pool.failures(below=config.low_success, budget=config.max_failures)
        written = self._writer.write(failures, self._pool.successes(budget=config.max_successes))
        for draft in written.drafts:
            self._counts["draft_tokens"] += self._tokens_of(draft.principle)
            self._counts["attempt_tokens"] += self._tokens_of(draft.episode.attempt)
        evolved = evolve(
            self.bank,
            written.drafts,
            step=step,
            rules=_rules(config),
            similarity=self._finder.similarity,
            evidence=self._evidence,
        )
        self._take(evolved)
        self._counts["leaked"] += written.leaked
        self._counts["writer_calls"] += written.calls
        self._counts["writer_tokens"] += written.usage.completion_tokens
        self._counts["writer_prompt_tokens"] += written.usage.prompt_tokens
        self._pool.clear()
        return evolved

    def figures(self) -> Mapping[str, float]:
        """The bank, the latest step's prompts, and what skills are worth so far; missing is an absent key."""
        counts, active = self._counts, self.bank.active
        found = utility(self._evidence.get(ALL, Evidence()))
        worth = {} if found is None else {"utility": found.value, "utility/low": found.low, "utility/high": found.high}
        spared = (
            {"saved_against_attempts": saving(counts["attempt_tokens"], counts["draft_tokens"])}
            if counts["attempt_tokens"]
            else {}
        )
        values: dict[str, float] = {
            "version": self.version,
            "active": len(active),
            "general": sum(skill.scope == "general" for skill in active),
            **{name: counts[name] for name in ("added", "refined", "repeated", "retired", "leaked")},
            **{name: counts[name] for name in ("writer_calls", "writer_prompt_tokens", "writer_tokens")},
            **worth,
            **spared,
            **self._latest,
        }
        return {f"skills/{name}": float(value) for name, value in values.items()}

    def messages(self) -> Sequence[str]:
        """What a person should know since the last call."""
        told, self._messages = self._messages, []
        return told

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def state_dict(self) -> dict[str, object]:
        """Plain JSON; what belongs to a step that is under way is not part of it."""
        return {
            "bank": self.bank.to_json(),
            # A bank's sections group its skills; between equals their own order decides.
            "order": [skill.id for skill in self.bank.skills],
            "pool": self._pool.state_dict(),
            "evidence": {name: evidence.to_json() for name, evidence in self._evidence.items()},
            "counts": dict(self._counts),
            "told_misses": self._told_misses,
            "told_harm": self._told_harm,
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from `state_dict()`. Raises DataError for a bank that does not hold together."""
        bank = bank_from_json(state["bank"], where="checkpoint: skills")
        places = {name: place for place, name in enumerate(cast("list[str]", state["order"]))}
        self._finder.bank = replace(bank, skills=tuple(sorted(bank.skills, key=lambda skill: places[skill.id])))
        self._pool.load_state_dict(cast("Mapping[str, object]", state["pool"]))
        self._evidence = evidence_by_skill(cast("Mapping[str, object]", state["evidence"]))
        self._counts = Counter(cast("Mapping[str, int]", state["counts"]))
        self._told_misses = bool(state["told_misses"])
        self._told_harm = bool(state["told_harm"])
        self._step, self._found, self._withheld, self._made = -1, {}, set(), []
        self._latest, self._messages = {}, []

    def _retrieve(self, task: Task, split: Split) -> tuple[Found, ...]:
        config = self._config
        return self._finder.retrieve(
            task,
            k_general=config.k_general,
            k_task=config.k_task,
            min_sim=config.min_similarity,
            token_budget=config.token_budget,
            split=split,
        )

    def _withholds(self, task_id: str, step: int) -> bool:
        digest = hashlib.blake2b(f"{self._seed}/{step}/{task_id}/skills".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self._config.dropout * 2**64

    def _dressed(self, task: Task, found: Sequence[Found]) -> Task:
        return dressed(task, [one.skill for one in found], self._template)

    def _note_use(self, group: Group) -> None:
        """Evidence of one group, at the skills that it saw or would have seen."""
        rights = [score.correct for score in group.scores if score.status is not ScoreStatus.ERROR]
        found = self._found.get(group.task.id, ())
        shown = group.task.id not in self._withheld
        if not rights or not found or shown != bool(shown_to(group.task)):
            return
        rate = sum(rights) / len(rights)
        for name in (ALL, *(one.skill.id for one in found)):
            self._evidence[name] = self._evidence.get(name, Evidence()).plus(rate, shown=shown)
        if shown:
            ids = set(shown_to(group.task))
            self._finder.bank = replace(
                self.bank,
                skills=tuple(
                    replace(s, uses=s.uses + len(rights), wins=s.wins + sum(rights)) if s.id in ids else s
                    for s in self.bank.skills
                ),
            )

    def _warn_if_harmful(self) -> None:
        """Single skills may each have too few groups to be judged by; all of them together have not."""
        config, evidence = self._config, self._evidence.get(ALL, Evidence())
        if self._told_harm or not is_harmful(evidence, epsilon=config.prune_below, min_groups=config.min_groups):
            return
        self._told_harm = True
        lost = evidence.withheld.mean - evidence.shown.mean
        self._messages.append(
            f"prompts with skills succeed {lost:.0%} less often than those without: the policy cannot use them as they "
            "stand; look at them with `critique-rl skills show`, choose another skills.prompt or source, or remove "
            "[skills]"
        )

    def _take(self, evolved: Evolved) -> None:
        self._finder.bank = evolved.bank
        for gone in (*evolved.refined, *evolved.retired):
            self._evidence.pop(gone, None)
        changes = {"added": evolved.added, "refined": evolved.refined, "retired": evolved.retired}
        for name, ids in changes.items():
            self._counts[name] += len(ids)
        self._counts["repeated"] += evolved.repeated
        told = [f"{name} {', '.join(ids)}" for name, ids in changes.items() if ids]
        if told:
            self._messages.append(f"version {self.version}: {'; '.join(told)}; {len(self.bank.active)} active")

    def _count_hits(self, own: Sequence[bool]) -> None:
        counts, config = self._counts, self._config
        counts["asked"] += len(own)
        counts["hit"] += sum(own)
        if counts["asked"] < HIT_TASKS or self._told_misses or counts["hit"] >= config.min_hit_share * counts["asked"]:
            return
        self._told_misses = True
        self._messages.append(
            f"only {counts['hit']} of {counts['asked']} tasks got a skill of their own: lower skills.min_similarity "
            f"({config.min_similarity:g}), or set match_kind = false if the tasks' kinds differ from the bank's"
        )

    def _has_own(self, task: Task) -> bool:
        return any(found.skill.scope == "task" for found in self._found[task.id])

    def _prompt_figures(self, tasks: Sequence[Task]) -> dict[str, float]:
        if not tasks:
            return {}
        blocks = [self._tokens_of(t.metadata[BLOCK]) if shown_to(t) else 0 for t in tasks]
        used = Counter(name for task in tasks for name in shown_to(task))
        return {
            "prompt_tokens": sum(blocks) / len(tasks),
            "tasks_with": sum(bool(shown_to(task)) for task in tasks) / len(tasks),
            "tasks_hit": sum(map(self._has_own, tasks)) / len(tasks),
            "withheld": float(len(self._withheld)),
            **({"use_entropy": _entropy(list(used.values()))} if used else {}),
        }

    def _use_figures(self, groups: Sequence[Group]) -> dict[str, float]:
        titles = {skill.id: skill.title.casefold() for skill in self.bank.skills}
        texts = [(r.text.casefold(), shown_to(g.task)) for g in groups for r in g.rollouts if shown_to(g.task)]
        if not texts:
            return {}
        mentions = [any(titles.get(name, "") and titles[name] in text for name in ids) for text, ids in texts]
        return {"mentioned": sum(mentions) / len(mentions)}


def _rules(config: SkillsConfig) -> Rules:
    return Rules(
        dedup_above=config.dedup_above,
        refine_above=config.refine_above,
        max_new=config.max_new,
        capacity=config.capacity,
        epsilon=config.prune_below,
        min_groups=config.min_groups,
    )


def _entropy(counts: Sequence[int]) -> float:
    """Nats."""
    total = sum(counts)
    return -sum(n / total * math.log(n / total) for n in counts) or 0.0
