"""Episodes of a real chat model with the search tool: whose ids are whose, and what its chat template makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest

from critique_rl.build_sampler import Sampler, build_sampler
from critique_rl.build_tasks import build_environment, build_tasks
from critique_rl.config.load import read_run_file, resolve
from critique_rl.loop.episodes import Episode, sample_answers
from critique_rl.loop.worked_episodes import demonstration_rollout
from critique_rl.tasks.search import SearchEnvironment, SearchTasks
from critique_rl.types import Message, Task, TokenIds, Turn

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
END = "<|im_end|>"
SHOTS = ("Hugo Falk", "Ada Brandt", "Rosa Keller")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.is_file(), reason="`make smollm2` brings the model of this test"),
]


class Run:
    """The example's policy, tool and questions."""

    def __init__(self) -> None:
        config = resolve(read_run_file(ROOT / "examples" / "smollm2_search.toml"))
        self.sampler: Sampler = build_sampler(config)
        self.tokenizer = self.sampler.policy.tokenizer
        tasks, tool = build_tasks(config.tasks), build_environment(config.tasks)
        assert isinstance(tasks, SearchTasks) and isinstance(tool, SearchEnvironment)
        self.tasks, self.tool = tasks, tool
        self.tool.max_turns, self.tool.max_turn_tokens = 2, 12

    def play(self, tasks: Sequence[Task]) -> list[Episode]:
        answers = sample_answers(
            tasks,
            [self.sampler.policy.encode(task.messages) for task in tasks],
            environment=self.tool,
            policy=self.sampler.policy,
            engine=self.sampler.engine,
            max_tokens=360,
            temperature=0.0,
            seed=1,
        )
        return [answer for answer in answers if isinstance(answer, Episode)]

    def read(self, ids: Sequence[int]) -> str:
        return cast(str, self.tokenizer.decode(list(ids)))

    def talk(self, task: Task, turns: Sequence[Turn]) -> str:
        """The whole conversation as the chat template writes it."""
        messages = [{"role": m.role, "content": m.content} for m in task.messages]
        for turn in turns:
            messages.append({"role": "assistant", "content": turn.text})
            messages += [{"role": "user", "content": turn.observation}] if turn.observation else []
        return cast(str, self.tokenizer.apply_chat_template(messages, tokenize=False))

    def check(self, task: Task, ids: TokenIds, mask: Sequence[bool], turns: Sequence[Turn]) -> None:
        """The ids read as the template's own text; turns are the policy's, token by token, and nothing else is."""
        prompt = self.sampler.policy.encode(task.messages)
        said, whole = self.read([*prompt, *ids]), self.talk(task, turns)
        assert whole.startswith(said) and whole[len(said) :] in ("\n", f"{END}\n")
        own = [any(turn.start <= t < turn.end for turn in turns) for t in range(len(ids))]
        assert list(mask) == own
        for turn, later in pairwise(turns):
            heard = self.read(ids[turn.end : later.start])
            closed = "" if ids[turn.end - 1] == self.tokenizer.eos_token_id else END
            assert heard == f"{closed}\n<|im_start|>user\n{turn.observation}{END}\n<|im_start|>assistant\n"
            words = self.tokenizer.encode(heard, add_special_tokens=False)
            assert list(ids[turn.end : later.start]) == words


@pytest.fixture(scope="module")
def run() -> Run:
    patch = pytest.MonkeyPatch()
    patch.chdir(ROOT)
    try:
        return Run()
    finally:
        patch.undo()


def test_episodes_read_as_the_template_writes_them(run: Run) -> None:
    shots = [
        message
        for name in SHOTS
        for message in (
            Message(role="user", content=f"Look up {name}."),
            Message(role="assistant", content=f"<search>{name}</search>"),
        )
    ]
    asked = Task(
        id="shown",
        messages=(*shots, Message(role="user", content="Look up Dirk Nygaard.")),
        answer="x",
        verifier="search",
    )
    plain = run.tasks.held_out()[0]
    searched, guessed = run.play([asked, plain])
    for task, episode in ((asked, searched), (plain, guessed)):
        run.check(task, episode.completion_ids, episode.policy_mask, episode.turns)
        known = [logprob != 0.0 for logprob in episode.behaviour_logprobs]
        assert not any(there and not own for there, own in zip(known, episode.policy_mask, strict=True))
    # one turn ended at its call, one was cut off: both are closed by an end token that is the template's
    first = searched.turns[0]
    assert first.text.endswith("</search>") and first.documents[0] == "p0"
    assert guessed.turns[0].end == 12 and "No call could be read" in guessed.turns[0].observation
    for episode in (searched, guessed):
        end = episode.turns[0].end
        assert run.read(episode.completion_ids[end : end + 1]) == END and not episode.policy_mask[end]


def test_a_worked_episode_reads_so_too_and_keeps_its_end_tokens(run: Run) -> None:
    for task in (run.tasks.training()[0], run.tasks.training()[3]):
        rollout = demonstration_rollout(task, run.sampler.policy, step=0)
        run.check(task, rollout.completion_ids, rollout.policy_mask, rollout.turns)
        assert len(rollout.completion_ids) <= 360
        ends = [run.read(rollout.completion_ids[turn.end - 1 : turn.end]) for turn in rollout.turns]
        assert ends == [END] * len(rollout.turns)
        assert rollout.text in (_told(episode) for episode in json.loads(task.metadata["episodes"]))


def _told(episode: list[dict[str, str]]) -> str:
    return "\n".join(part for turn in episode for part in (turn["text"], turn["observation"]) if part)
