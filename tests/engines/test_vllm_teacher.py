"""A served teacher: the same targets as the same weights give in process, and nothing where the server gave nothing.

Legend: T tokens of a completion, K ids, V vocabulary.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from critique_rl.config.algorithm import TeacherServerConfig
from critique_rl.engines.vllm_teacher import VllmTeacher, vllm_teacher
from critique_rl.errors import EngineError
from critique_rl.policy.head import ResponseHead
from critique_rl.policy.scoring import Scorer
from critique_rl.types import TeacherTargets, TokenIds
from tests.servers.vllm import FakeVllm, PromptLogprobs, Trouble
from tests.tiny import PAD, V, tiny_model, tiny_tokenizer

MODEL = tiny_model(3)
TOKENIZER = tiny_tokenizer()
CONTEXTS: list[TokenIds] = [(1, 5, 6), (1, 39), (1, 7, 8, 9, 10), (1, 11)]
COMPLETIONS: list[TokenIds] = [(12, 13, 14, 2), (15, 16), (17,), (18, 19, 20)]
MARKED = 1
"""The row of id 39, which trouble picks on."""
KEY = "a-key-that-must-not-show"
GENERATE = "/inference/v1/generate"


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


@torch.no_grad()
def scores(ids: list[int]) -> list[list[float]]:
    """What the served model predicts before each id but the first: log-probs of the whole vocabulary."""
    return MODEL(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1).tolist()


def local(k: int) -> list[TeacherTargets]:
    scorer = Scorer(ResponseHead(MODEL), Accelerator(cpu=True), temperature=1.0, max_tokens=64, pad_id=PAD)
    return scorer.topk(CONTEXTS, COMPLETIONS, k=k, support=None)


@contextmanager
def running(
    trouble: Trouble | None = None, *, theirs: Callable[[str], list[int]] = encode, **options: object
) -> Generator[tuple[VllmTeacher, FakeVllm]]:
    """A teacher before a fake server."""
    with FakeVllm(trouble, scores=scores, encode=theirs) as fake:
        given = {"model": "small", "base_url": fake.base_url, "timeout_s": 5.0, "restart_wait_s": 5.0}
        config = TeacherServerConfig.model_validate(given | options)
        teacher = vllm_teacher(
            config, encode=encode, vocabulary=V, special_tokens=TOKENIZER.all_special_tokens, poll_s=0.005
        )
        try:
            yield teacher, fake
        finally:
            teacher.close()


def score(teacher: VllmTeacher, k: int = 4) -> list[TeacherTargets]:
    return teacher.topk(CONTEXTS, COMPLETIONS, k=k)


def assert_same(found: TeacherTargets, wanted: TeacherTargets) -> None:
    np.testing.assert_array_equal(found.ids_TK, wanted.ids_TK)
    np.testing.assert_allclose(found.logprobs_TK, wanted.logprobs_TK, atol=1e-12)
    np.testing.assert_allclose(found.sampled_logprobs_T, wanted.sampled_logprobs_T, atol=1e-12)
    np.testing.assert_array_equal(found.mask_T, wanted.mask_T)
    assert found.context_ids == wanted.context_ids
    assert (found.ids_TK.dtype, found.logprobs_TK.dtype) == (np.int64, np.float64)


@pytest.mark.parametrize("k", [1, 4, 20])
def test_the_same_weights_in_process_and_behind_a_server(k: int) -> None:
    with running() as (teacher, _):
        for found, wanted in zip(score(teacher, k), local(k), strict=True):
            assert_same(found, wanted)
        assert (teacher.lost_rows, teacher.lost_tokens) == (0, 0)


def test_the_token_itself_is_not_one_of_the_top_k_unless_it_is() -> None:
    with running() as (teacher, _):
        rows = score(teacher, 20)
    own = [
        token in ids
        for targets, ids_T in zip(rows, COMPLETIONS, strict=True)
        for token, ids in zip(ids_T, targets.ids_TK, strict=True)
    ]
    assert {True, False} == set(own)  # the equality test has seen both


def test_the_very_ids_are_sent_once_each() -> None:
    with running() as (teacher, fake):
        score(teacher)
        score(teacher)
        probe, *bodies = fake.asked(GENERATE)
        assert len(fake.asked("/tokenize")) == 1
    assert len(bodies) == 2 * len(CONTEXTS)
    wanted = sorted([*context, *completion] for context, completion in zip(CONTEXTS, COMPLETIONS, strict=True))
    assert sorted(body["token_ids"] for body in bodies[: len(CONTEXTS)]) == wanted  # pyright: ignore[reportArgumentType]
    for body in [probe, *bodies]:
        sampling = body["sampling_params"]
        assert isinstance(sampling, dict)
        assert (sampling["prompt_logprobs"], sampling["max_tokens"], sampling["n"]) == (4, 1, 1)


def test_nothing_to_score_asks_nothing() -> None:
    with running() as (teacher, fake):
        assert teacher.topk([], [], k=4) == []
        (empty,) = teacher.topk([(1, 5)], [()], k=4)
        assert fake.requests == []
    assert (empty.ids_TK.shape, empty.mask_T.shape, empty.context_ids) == ((0, 4), (0,), (1, 5))


def test_what_no_server_can_be_asked() -> None:
    with running() as (teacher, fake):
        with pytest.raises(ValueError, match="support: a served teacher scores at its own top-K"):
            teacher.topk(CONTEXTS, COMPLETIONS, k=4, support=local(4))
        with pytest.raises(ValueError, match="context 1 holds no token"):
            teacher.topk([(1,), ()], [(5,), (6,)], k=4)
        assert fake.requests == []


def on_marked(change: Callable[[PromptLogprobs], object]) -> Trouble:
    """Trouble with the answer to the marked row alone."""

    def garble(ids: list[int], logprobs: PromptLogprobs) -> object:
        return change(deepcopy(logprobs)) if 39 in ids else logprobs

    return Trouble(garbles=garble)


def at_last(change: Callable[[dict[str, dict[str, float | None]]], object]) -> Trouble:
    """Trouble with the last token of the marked row."""

    def garble(logprobs: PromptLogprobs) -> PromptLogprobs:
        last = logprobs[-1]
        assert last is not None
        change(last)
        return logprobs

    return on_marked(garble)


def other_id(entry: dict[str, dict[str, float | None]]) -> None:
    entry["30"] = entry.pop("16")


@pytest.mark.parametrize(
    "trouble",
    [
        on_marked(lambda logprobs: logprobs[1:]),  # as a prefix cache would leave it
        on_marked(lambda logprobs: [*logprobs, logprobs[-1]]),
        on_marked(lambda logprobs: [*logprobs[:-1], None]),
        on_marked(lambda logprobs: None),
        on_marked(lambda logprobs: "no list"),
        at_last(other_id),
        at_last(lambda entry: entry.update({"31": {"logprob": -9.0}, "32": {"logprob": -9.0}})),
        at_last(lambda entry: [entry.pop(i) for i in [*entry][2:]]),
        at_last(lambda entry: entry.update({"w16": {"logprob": -1.0}})),
        Trouble(fails_at={39: (400, "longer than the maximum model length")}),
        Trouble(fails_at={39: (500, "out of memory")}),
    ],
)
def test_a_row_without_a_usable_answer_gets_no_targets(trouble: Trouble, caplog: pytest.LogCaptureFixture) -> None:
    with running(trouble) as (teacher, fake), caplog.at_level(logging.WARNING):
        rows = score(teacher)
        sends = [body for body in fake.asked(GENERATE) if 39 in body["token_ids"]]  # pyright: ignore[reportOperatorIssue]
        assert (teacher.lost_rows, teacher.lost_tokens) == (1, 0)
    assert "1 of 4 rows got no targets" in caplog.text
    assert len(sends) == (3 if 500 in [status for status, _ in trouble.fails_at.values()] else 1)
    for i, (found, wanted) in enumerate(zip(rows, local(4), strict=True)):
        if i != MARKED:
            assert_same(found, wanted)
    lost = rows[MARKED]
    assert lost.ids_TK.shape == lost.logprobs_TK.shape == (2, 4)
    assert not lost.mask_T.any() and np.isnan(lost.logprobs_TK).all() and np.isnan(lost.sampled_logprobs_T).all()


def set_first(value: float | None) -> Callable[[dict[str, dict[str, float | None]]], object]:
    """Give the likeliest id of an entry another log-prob."""

    def change(entry: dict[str, dict[str, float | None]]) -> None:
        best = max((i for i in entry if i != "16"), key=lambda i: entry[i]["logprob"] or 0.0)
        entry[best]["logprob"] = value

    return change


def beyond(entry: dict[str, dict[str, float | None]]) -> None:
    """As a served model with a padded vocabulary could: an id that the policy has no logit for."""
    entry[str(V)] = entry.pop(next(i for i in entry if i != "16"))


@pytest.mark.parametrize(
    "trouble",
    [
        at_last(set_first(math.nan)),
        at_last(set_first(None)),
        at_last(set_first(-9999.0)),
        at_last(set_first(-math.inf)),
        at_last(set_first(0.5)),
        at_last(beyond),
        at_last(lambda entry: entry["16"].update({"logprob": -9999.0})),
        at_last(lambda entry: [value.update({"logprob": -40.0}) for value in entry.values()]),  # logits of GPT-2
        at_last(lambda entry: [value.update({"logprob": -0.1}) for value in entry.values()]),  # sum above 1
    ],
)
def test_a_token_without_usable_log_probs_is_masked(trouble: Trouble, caplog: pytest.LogCaptureFixture) -> None:
    with running(trouble) as (teacher, _), caplog.at_level(logging.WARNING):
        found, wanted = score(teacher)[MARKED], local(4)[MARKED]
        assert (teacher.lost_rows, teacher.lost_tokens) == (0, 1)
    assert "1 tokens got no targets" in caplog.text
    assert found.mask_T.tolist() == [1.0, 0.0]
    assert np.isnan(found.logprobs_TK[1]).all() and math.isnan(found.sampled_logprobs_T[1])
    np.testing.assert_array_equal(found.ids_TK[0], wanted.ids_TK[0])
    np.testing.assert_allclose(found.logprobs_TK[0], wanted.logprobs_TK[0], atol=1e-12)


def shifted(by: float) -> Trouble:
    def garble(_ids: list[int], logprobs: PromptLogprobs) -> PromptLogprobs:
        return [e and {i: {"logprob": (v["logprob"] or 0.0) + by} for i, v in e.items()} for e in logprobs]

    return Trouble(garbles=garble)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (Trouble(max_logprobs=3), r"k = 4: refused \(400\).*max allowed: 3.*--max-logprobs has to be distillation.k"),
        (Trouble(served="large"), r"distillation.server.model: .* serves \['large'\], not 'small'"),
        (Trouble(refuses=(403, "Scale-out endpoints are disabled")), "--enable-scale-out"),
        (Trouble(refuses=(500, "out of memory")), r"k = 4: server error 500: .*out of memory"),
        (Trouble(fails_at={39: (401, "no key")}), r"cannot be the teacher: refused \(401\)"),
        (shifted(8.0), "--logprobs-mode raw_logprobs"),
        (shifted(-30.0), "--logprobs-mode raw_logprobs"),
    ],
)
def test_a_server_that_cannot_be_the_teacher_is_told_at_once(trouble: Trouble, said: str) -> None:
    with running(trouble) as (teacher, _), pytest.raises(EngineError, match=said):
        score(teacher)


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (lambda text: [*encode(text)[:5], 9, *encode(text)[6:]], r"from id 5 on a test text is \(3, \d+, \d+\).*\(9, "),
        (lambda text: [1, *encode(text)], r"from id 0 on.*\(1, "),
        (lambda text: encode(text)[:-1], r"\(\).*\.\.\. there"),
        (lambda text: [*encode(text), 2], r"is \(\)\.\.\. here"),
    ],
)
def test_another_tokenizer_is_found_before_anything_is_scored(theirs: Callable[[str], list[int]], said: str) -> None:
    with running(theirs=theirs) as (teacher, fake), pytest.raises(EngineError, match=said):
        score(teacher)
    assert fake.asked(GENERATE) == []


@pytest.mark.parametrize("dies_after", [0, 1, 3])
def test_a_server_that_dies_midway_is_waited_for_and_proven_again(dies_after: int) -> None:
    with running(Trouble(dies_after=dies_after), max_in_flight=1) as (teacher, fake):
        rows = score(teacher)
        assert len(fake.asked("/tokenize")) == 2
        assert (teacher.lost_rows, teacher.lost_tokens) == (0, 0)
    for found, wanted in zip(rows, local(4), strict=True):
        assert_same(found, wanted)


def test_a_server_that_stays_away_is_one_clear_error() -> None:
    said = pytest.raises(
        EngineError, match=r"server\.base_url: no healthy server at 127.0.0.1:\d+ for 0.05 s; start it"
    )
    with running(Trouble(dies_after=2, looks_down=10**6), restart_wait_s=0.05) as (teacher, _), said:
        score(teacher)


def test_a_server_that_dies_too_often() -> None:
    said = pytest.raises(EngineError, match=r"distillation\.server: .* went away 1 times within one batch")
    with running(Trouble(dies_after=2), max_restarts=0) as (teacher, _), said:
        score(teacher)


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    with running(Trouble(refuses=(401, f"bad key {KEY}"))) as (teacher, fake):
        with pytest.raises(EngineError) as caught:
            score(teacher)
        assert set(fake.headers) == {f"Bearer {KEY}"}
    assert KEY not in str(caught.value) and KEY not in repr(teacher)
