"""The shuffled control: another task's words, one's own scores."""

from __future__ import annotations

import pytest

from critique_rl.build_critic import build_critic
from critique_rl.config.critic import LabRulesCriticConfig, ShuffledCriticConfig
from critique_rl.critics.scripted import FailingCritic, ScriptedCritic
from critique_rl.critics.shuffled import ShuffledCritic
from critique_rl.types import CriticOutcome, CriticRequest, Message, Score, Task


def request(task_id: str, n: int) -> CriticRequest:
    task = Task(id=task_id, messages=(Message(role="user", content="?"),), answer="q", verifier="exact")
    return CriticRequest(rollout_id=f"{task_id}/{n}", task=task, attempt=f"{task_id}-{n}", score=Score(reward=0.0))


def own_words() -> ScriptedCritic:
    return ScriptedCritic(
        lambda r: f'{{"directives": [{{"text": "Do it as in {r.attempt}."}}], "scores": {{"good": 0.{r.attempt[-1]}}}}}'
    )


def test_every_attempt_gets_words_about_another_task_and_keeps_its_scores() -> None:
    requests = [request(task, n) for task in ("a", "b", "c") for n in (1, 2)]
    given = ShuffledCritic(own_words()).review(requests)
    for asked, critique in zip(requests, given, strict=True):
        assert critique.rollout_id == asked.rollout_id
        assert f" {asked.task.id}-" not in critique.directives[0].text
        assert critique.evaluative[0].value == pytest.approx(int(asked.attempt[-1]) / 10)
    assert given == ShuffledCritic(own_words()).review(requests)
    assert len({c.directives[0].text for c in given}) > 2


def test_the_least_similar_words_are_taken() -> None:
    said = {"a-1": "carry one into the tens", "b-1": "carry two into the tens", "c-1": "begin with the ones"}
    critic = ScriptedCritic(lambda r: f'{{"directives": [{{"text": "{said[r.attempt]}"}}]}}')
    given = ShuffledCritic(critic).review([request(task, 1) for task in "abc"])
    # words in common, of all: a and b 4/6, a and c 1/8, b and c 1/8
    assert [c.directives[0].text for c in given[:2]] == [said["c-1"]] * 2
    assert given[2].directives[0].text in (said["a-1"], said["b-1"])


def test_one_task_alone_gets_words_of_an_earlier_call_or_none() -> None:
    critic = ShuffledCritic(own_words())
    assert critic.review([request("a", 1)])[0].directives == ()
    assert critic.review([request("b", 1)])[0].directives[0].text == "Do it as in a-1."
    assert critic.review([]) == []


def test_a_failed_call_stays_a_failed_call() -> None:
    (critique,) = ShuffledCritic(FailingCritic(outcome=CriticOutcome.REFUSED)).review([request("a", 1)])
    assert (critique.outcome, critique.directives) == (CriticOutcome.REFUSED, ())


def test_it_is_built_from_its_section() -> None:
    critic = build_critic(ShuffledCriticConfig(kind="shuffled", critic=LabRulesCriticConfig(kind="lab_rules")))
    assert critic is not None
    assert critic.name == "shuffled lab-rules"
    critic.close()
