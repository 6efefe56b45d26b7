"""The policy as its own critic: one batch a step, equal requests asked once, recorded and replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from critique_rl.config.critic import PolicyCriticConfig, RecordedCriticConfig
from critique_rl.critics.policy_critic import AskOptions, PolicyAnswer, policy_critic
from critique_rl.critics.recorded import recorded_critic
from critique_rl.errors import CriticError, CriticSetupError
from critique_rl.feedback.store import ExchangeStore
from critique_rl.types import Completion, CriticOutcome, CriticRequest, Message, Usage

Make = Callable[..., CriticRequest]
CONFIG = PolicyCriticConfig(kind="policy", max_tokens=40, temperature=0.5)


class FakePolicy:
    """Answers with `reply(user turn)`, and keeps each batch."""

    def __init__(self, reply: Callable[[str], str | CriticError], *, finished: bool = True) -> None:
        self.reply = reply
        self.finished = finished
        self.batches: list[tuple[list[tuple[Message, ...]], AskOptions]] = []

    def __call__(
        self, chats: Sequence[tuple[Message, ...]], options: AskOptions
    ) -> Sequence[PolicyAnswer | CriticError]:
        self.batches.append((list(chats), options))
        return [self._answer(chat) for chat in chats]

    def _answer(self, chat: tuple[Message, ...]) -> PolicyAnswer | CriticError:
        text = self.reply(chat[-1].content)
        if isinstance(text, CriticError):
            return text
        done = Completion(
            completion_ids=(5, 6, 7), behaviour_logprobs=(0.0, 0.0, 0.0), text=text, finished=self.finished
        )
        return PolicyAnswer(completion=done, prompt_tokens=11)


def test_one_batch_for_all_and_equal_requests_once(good_reply: str, make_request: Make) -> None:
    policy = FakePolicy(lambda _: good_reply)
    critic = policy_critic(CONFIG, ask=policy)
    same_a, other, same_b = make_request(1), make_request(1, "27 + 15 = 52"), make_request(1)
    critiques = critic.review([same_a, other, same_b])
    critic.close()
    ((chats, options),) = policy.batches
    assert len(chats) == 2
    assert (options.max_tokens, options.temperature) == (40, 0.5)
    assert 0 <= options.seed < 2**31
    assert [critique.outcome for critique in critiques] == [CriticOutcome.OK] * 3
    # A shared answer is paid for once.
    paid, shared = Usage(prompt_tokens=11, completion_tokens=3, cost_usd=0.0), Usage(cost_usd=0.0)
    assert [critique.usage for critique in critiques] == [paid, paid, shared]
    assert critiques[0].directive_text == critiques[2].directive_text == "Carry the one from the ones column."
    assert critic.name == critiques[0].critic == "policy"


def test_the_seed_depends_on_what_is_asked_and_not_on_its_order(good_reply: str, make_request: Make) -> None:
    policy = FakePolicy(lambda _: good_reply)
    critic = policy_critic(CONFIG, ask=policy)
    first, second = make_request(1), make_request(2, "27 + 15 = 52")
    for requests in ([first, second], [second, first, first], [first]):
        critic.review(requests)
    (chats, options), (turned, options_turned), (_, options_alone) = policy.batches
    assert (chats, options) == (turned, options_turned)
    assert options_alone.seed != options.seed
    assert critic.review([]) == [] and len(policy.batches) == 3


def test_the_reference_is_shown_only_if_the_run_says_so(good_reply: str, make_request: Make) -> None:
    def asked(config: PolicyCriticConfig) -> str:
        policy = FakePolicy(lambda _: good_reply)
        policy_critic(config, ask=policy).review([make_request(reference="forty-two")])
        return "\n".join(message.content for message in policy.batches[0][0][0])

    assert "forty-two" not in asked(CONFIG)
    assert "forty-two" in asked(CONFIG.model_copy(update={"show_reference": True}))


def test_what_cannot_be_used_is_an_outcome(good_reply: str, make_request: Make) -> None:
    mumbled = policy_critic(CONFIG, ask=FakePolicy(lambda _: "mumble")).review([make_request()])[0]
    assert (mumbled.outcome, mumbled.evaluative, mumbled.reply) == (CriticOutcome.MALFORMED, (), "mumble")
    cut = policy_critic(CONFIG, ask=FakePolicy(lambda _: good_reply, finished=False)).review([make_request()])[0]
    assert cut.outcome is CriticOutcome.MALFORMED
    assert "cut off" in cut.reason
    unasked = FakePolicy(lambda _: CriticError("the prompt is longer than the policy's context"))
    failed = policy_critic(CONFIG, ask=unasked).review([make_request()])[0]
    assert (failed.outcome, failed.usage) == (CriticOutcome.FAILED, Usage(cost_usd=0.0))
    assert "context" in failed.reason


def test_a_leaked_answer_never_directs(make_request: Make) -> None:
    policy = FakePolicy(lambda _: '{"directives": [{"text": "Write that the sum is 42."}], "verdict": "incorrect"}')
    critique = policy_critic(CONFIG, ask=policy).review([make_request()])[0]
    assert critique.directives == ()
    assert critique.dropped[0][1] == "states the reference answer"


def test_exchanges_are_recorded_and_replay(tmp_path: Path, good_reply: str, make_request: Make) -> None:
    path = tmp_path / "exchanges.jsonl"
    replies = iter([good_reply, "mumble"])
    critic = policy_critic(CONFIG, ask=FakePolicy(lambda _: next(replies)), store=ExchangeStore(path))
    requests = [make_request(1), make_request(2, "27 + 15 = 52"), make_request(1)]
    live = critic.review(requests)
    critic.close()
    exchanges = list(ExchangeStore(path))
    assert [exchange.rollout_id for exchange in exchanges] == ["r1", "r2", "r1"]
    assert [exchange.attempts for exchange in exchanges] == [1, 1, 0]
    assert (exchanges[0].model, exchanges[0].sampling) == ("policy", {"temperature": 0.5, "max_tokens": 40})
    replay = recorded_critic(RecordedCriticConfig(kind="recorded", path=str(path)))
    again = replay.review(requests)
    replay.close()
    for said, told in zip(live, again, strict=True):
        assert (told.outcome, told.evaluative, told.directives) == (said.outcome, said.evaluative, said.directives)


def test_a_record_that_cannot_be_written_stops_the_run(tmp_path: Path, good_reply: str, make_request: Make) -> None:
    (tmp_path / "file").write_text("")
    critic = policy_critic(
        CONFIG, ask=FakePolicy(lambda _: good_reply), store=ExchangeStore(tmp_path / "dir" / "x.jsonl")
    )
    (tmp_path / "dir").write_text("a file where a folder should be")
    with pytest.raises(CriticSetupError, match="cannot be recorded"):
        critic.review([make_request()])
