from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from critique_rl.errors import ConfigError
from critique_rl.feedback.parse import parse_reply
from critique_rl.lab.critic import TOTALS, LabCritic, directives_for
from critique_rl.lab.problems import Problem, select_problems
from critique_rl.lab.tasks import task_of
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Score


def request(question: str, attempt: str) -> CriticRequest:
    task = task_of(Problem.parse(question))
    return CriticRequest(rollout_id="r1", task=task, attempt=attempt, score=Score(reward=0.0))


def review(question: str, attempt: str) -> Critique:
    return LabCritic().review([request(question, attempt)])[0]


def said(question: str, attempt: str) -> list[str]:
    return [d.text for d in directives_for(Problem.parse(question), attempt, wording=0)]


def test_a_dropped_carry_is_named_with_the_ones_total() -> None:
    assert said("27+38=", "550") == ["The ones column adds to fifteen, so carry one into the tens."]


def test_a_chain_of_carries_gets_one_directive_a_column_without_the_digit_still_to_find() -> None:
    assert said("67+38=", "590") == [
        "The ones column adds to fifteen, so carry one into the tens.",
        "The tens column goes over nine, so carry one into the hundreds.",
    ]


@pytest.mark.parametrize(
    ("question", "attempt", "directive"),
    [
        ("27+38=", "460", "The ones column is wrong: add 7 and 8 again."),
        ("27+38=", "580", "The tens column is wrong: add 2, 3 and the carried one again."),
        ("27+38=", "561", "The tens column stays under ten, so carry nothing into the hundreds."),
        ("21+43=", "470", "The ones column stays under ten, so carry nothing into the tens."),
        ("21+43=", "490", "The tens column is wrong: add 2 and 4 again."),
        ("77+38=", "519", "The tens column goes over nine, so carry one into the hundreds."),
        ("21+43=", "64", "Write exactly 3 digits, the ones first, and nothing else."),
        ("21+43=", "46x", "Write exactly 3 digits, the ones first, and nothing else."),
        ("21+43=", "064", "You wrote the digits from the wrong end: start with the ones."),
    ],
)
def test_each_fault_has_its_own_directive(question: str, attempt: str, directive: str) -> None:
    assert said(question, attempt) == [directive]


def test_a_wrong_ones_digit_hides_the_total_that_would_give_it_away() -> None:
    assert said("27+38=", "450")[1] == "The ones column goes over nine, so carry one into the tens."


def test_an_attempt_from_the_wrong_end_is_also_judged_turned_round() -> None:
    assert said("27+38=", "055")[1:] == ["The ones column adds to fifteen, so carry one into the tens."]


def test_scores_verdict_and_reply_agree() -> None:
    critique = review("27+38=", "550")
    assert critique.outcome is CriticOutcome.OK
    assert {e.criterion: e.value for e in critique.evaluative} == {"columns": 2 / 3, "format": 1.0}
    assert critique.verdict == "incorrect"
    assert critique.directives[0].quote == "55"
    assert json.loads(critique.reply)["scores"]["columns"] == 2 / 3
    parsed = parse_reply(critique.reply).reply
    assert parsed.scores == {"columns": 2 / 3, "format": 1.0}
    assert [(d.text, d.kind, d.quote) for d in parsed.directives] == [
        (d.text, d.kind, d.quote) for d in critique.directives
    ]
    assert parsed.verdict == "incorrect"


def test_a_right_attempt_gets_no_directive() -> None:
    critique = review("27+38=", " 560\n")
    assert (critique.verdict, critique.directives, critique.directive_text) == ("correct", (), "")
    assert [e.value for e in critique.evaluative] == [1.0, 1.0]


@pytest.mark.parametrize("attempt", ["", "5", "5600", "५६०", "550 because", "²50"])
def test_an_unreadable_attempt_scores_zero_and_is_told_the_form(attempt: str) -> None:
    critique = review("27+38=", attempt)
    assert [e.value for e in critique.evaluative] == [0.0, 0.0]
    assert [d.kind for d in critique.directives] == ["format"]


def test_the_task_answer_is_never_looked_at() -> None:
    honest = request("27+38=", "550")
    lied_to = replace(honest, task=replace(honest.task, answer="999"), reference="999")
    assert LabCritic().review([honest]) == LabCritic().review([lied_to])


def test_a_foreign_question_is_an_abstention() -> None:
    foreign = request("27+38=", "550")
    message = replace(foreign.task.messages[0], content="What is the capital of France?")
    critique = LabCritic().review([replace(foreign, task=replace(foreign.task, messages=(message,)))])[0]
    assert critique.outcome is CriticOutcome.ABSTAINED
    assert "wanted a sum" in critique.reason


def test_no_directive_about_a_dropped_carry_holds_any_digit() -> None:
    for problem in select_problems("held_out", "hard", 200):
        for wording in range(12):
            for directive in directives_for(problem, problem.dropped_answer, wording=wording):
                assert not re.search(r"\d", directive.text)
                totals = set(re.findall(r"\w+", directive.text)) & set(TOTALS.values())
                assert totals <= {TOTALS[problem.totals[0]]}


def test_wordings_differ_between_problems() -> None:
    problems = select_problems("held_out", "hard", 60)
    first = [(review(p.question, p.dropped_answer).directives[0].text, TOTALS[p.totals[0]]) for p in problems]
    texts = {re.sub(rf"\b{total}\b", "N", text) for text, total in first}
    assert len(texts) == 6


def test_a_dropped_answer_that_reads_the_same_from_both_ends_is_not_called_turned() -> None:
    problem = Problem.parse("56+95=")  # 151; dropped: 1, 4, 1
    assert problem.dropped_answer == "141"
    assert said("56+95=", "141") == ["The ones column adds to eleven, so carry one into the tens."]


def test_lies_are_a_share_of_the_critiques_and_contradict_the_carry() -> None:
    problems = select_problems("train", "hard", 200)
    asked = [request(p.question, p.dropped_answer) for p in problems]
    truth, half, lies = (LabCritic(lies=share, seed=1).review(asked) for share in (0.0, 0.5, 1.0))
    assert [c.directives for c in truth] == [c.directives for c in LabCritic().review(asked)]
    assert all("under ten" in c.directives[0].text and len(c.directives) == 1 for c in lies)
    assert all(c in (t, lie) for c, t, lie in zip(half, truth, lies, strict=True))
    assert 70 <= sum(c.directives == lie.directives for c, lie in zip(half, lies, strict=True)) <= 130
    with pytest.raises(ConfigError, match=r"lies: came 1\.5"):
        LabCritic(lies=1.5)


def test_a_revealing_critic_says_the_digits_and_nothing_about_steps() -> None:
    (critique,) = LabCritic(reveals=True).review([request("27+38=", "550")])
    assert [d.text for d in critique.directives] == ["The right digits are 5, 6, 0, in this order."]
    assert json.loads(critique.reply)["directives"][0]["text"] == critique.directives[0].text
    assert LabCritic(reveals=True).review([request("27+38=", "560")])[0].directives == ()
