"""A user's function as a critic: loading, what it may return, and that its faults end nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from critique_rl.config.critic import PythonCriticConfig
from critique_rl.critics.python_critic import CallableCritic, python_critic
from critique_rl.errors import CriticRefusedError, CriticSetupError
from critique_rl.protocols import StreamingCritic
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Directive, Evaluative, Usage

Make = Callable[..., CriticRequest]
ADVICE = "Carry the one from the ones column."


def from_file(tmp_path: Path, code: str, **options: object) -> CallableCritic:
    path = tmp_path / "judge.py"
    path.write_text(code)
    return python_critic(PythonCriticConfig.model_validate({"kind": "python", "path": str(path), **options}))


def one(function: Callable[[CriticRequest], object], request: CriticRequest) -> Critique:
    critic = CallableCritic(function)
    critique = critic.review([request])[0]
    critic.close()
    return critique


def test_a_file_of_the_users_own(tmp_path: Path, make_request: Make) -> None:
    code = (
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass(slots=True)\n"
        "class Said:\n"
        "    text: str\n"
        "def judge(request):\n"
        "    said = Said(f'Look at {request.task.id} once more.')\n"
        "    return {'directives': [{'text': said.text}], 'scores': {'correctness': 0.25}, 'verdict': 'incorrect'}\n"
    )
    critic = from_file(tmp_path, code, function="judge")
    critiques = critic.review([make_request(1), make_request(2)])
    critic.close()
    critic.close()
    assert critic.name == "python:judge"
    assert isinstance(critic, StreamingCritic)
    assert [critique.directive_text for critique in critiques] == ["Look at t1 once more.", "Look at t2 once more."]
    assert [critique.rollout_id for critique in critiques] == ["r1", "r2"]
    assert critiques[0].evaluative == (Evaluative(criterion="correctness", value=0.25),)
    assert critiques[0].usage == Usage()  # what the function itself paid for is not known


def test_bounds_of_the_config_apply(tmp_path: Path, make_request: Make) -> None:
    code = f"def review(request):\n    return {{'directives': [{{'text': {ADVICE!r}}}]}}\n"
    critic = from_file(tmp_path, code, max_directive_chars=20, name="mine")
    critique = critic.review([make_request()])[0]
    critic.close()
    assert (critique.critic, critique.dropped) == ("mine", ((ADVICE, "is longer than 20 characters"),))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\n", "has no such function"),
        ("review = 3\n", "is int, not a function"),
        ("def review():\n    pass\n", r"review\(\) cannot be called with one CriticRequest"),
        ("def review(request, attempt):\n    pass\n", "write it as review"),
        ("def review(*, request):\n    pass\n", "cannot be called"),
        ("x = 1\ny = x +\n", "line 2: SyntaxError"),
        ("import json\n\njson.loads('{')\n", "line 3: JSONDecodeError"),
        ("import nowhere_at_all\n", "line 1: ModuleNotFoundError.*nowhere_at_all"),
        ("raise SystemExit(3)\n", "line 1: SystemExit"),
        ("key = 'sk-abcdefghijklmnop1234'\nraise ValueError(key)\n", r"line 2: ValueError: \[redacted\]"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, code: str, said: str) -> None:
    with pytest.raises(CriticSetupError, match=said):
        from_file(tmp_path, code)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CriticSetupError, match="does not exist"):
        python_critic(PythonCriticConfig(kind="python", path=str(tmp_path / "no.py")))
    (tmp_path / "judge.txt").write_text("def review(request): ...")
    with pytest.raises(CriticSetupError, match=r"ends in \.py"):
        python_critic(PythonCriticConfig(kind="python", path=str(tmp_path / "judge.txt")))


@pytest.mark.parametrize(
    ("returned", "outcome", "said"),
    [
        (None, CriticOutcome.ABSTAINED, "nothing to say"),
        ({"scores": {}}, CriticOutcome.ABSTAINED, "nothing to say"),
        ('Sure: {"verdict": "incorrect"}', CriticOutcome.OK, ""),
        ("<verdict>incorrect</verdict>", CriticOutcome.OK, ""),
        ("mumble", CriticOutcome.MALFORMED, "neither a JSON reply nor tags"),
        (0.5, CriticOutcome.MALFORMED, "returned float; wanted text, a dict"),
        ({"scores": {"correctness": 1.5}}, CriticOutcome.MALFORMED, "scores.correctness"),
        ({"scores": {"correctness": float("nan")}}, CriticOutcome.MALFORMED, "not JSON"),
        ({"scores": {1, 2}}, CriticOutcome.MALFORMED, "not JSON"),
        ({"score": 1.0}, CriticOutcome.MALFORMED, "none of the fields"),
    ],
)
def test_what_may_be_returned(make_request: Make, returned: object, outcome: CriticOutcome, said: str) -> None:
    critique = one(lambda _: returned, make_request())
    assert critique.outcome is outcome
    assert said in critique.reason
    assert critique.evaluative == ()


def test_a_critique_made_by_hand_passes_the_same_filters(make_request: Make) -> None:
    made = Critique(
        rollout_id="r1",
        critic="someone",
        outcome=CriticOutcome.OK,
        evaluative=(Evaluative(criterion="correctness", value=0.25, confidence=0.5),),
        directives=(Directive(text=ADVICE, quote="= 32", turn=0), Directive(text="The answer is 42.")),
        verdict="incorrect",
        usage=Usage(prompt_tokens=3, cost_usd=0.5),
        latency_s=2.0,
    )
    critique = one(lambda _: made, make_request())
    assert critique.directive_text == ADVICE
    directive = critique.directives[0]
    assert (directive.quote, directive.turn, directive.critic) == ("= 32", 0, "python:<lambda>")
    assert critique.dropped == (("The answer is 42.", "states the reference answer"),)
    assert (critique.evaluative, critique.usage, critique.latency_s) == (made.evaluative, made.usage, 2.0)


def test_a_critique_made_wrong(make_request: Make) -> None:
    def made(**fields: object) -> Critique:
        base: dict[str, object] = {"rollout_id": "r1", "critic": "x", "outcome": CriticOutcome.OK}
        return one(lambda _: Critique(**{**base, **fields}), make_request())  # type: ignore[arg-type]

    elsewhere = made(rollout_id="r2")
    assert (elsewhere.rollout_id, elsewhere.outcome) == ("r1", CriticOutcome.MALFORMED)
    assert "'r2'" in elsewhere.reason
    score = (Evaluative(criterion="correctness", value=7.0),)
    assert made(evaluative=score).outcome is CriticOutcome.MALFORMED
    gave_up = made(outcome=CriticOutcome.REFUSED, evaluative=score, directives=(Directive(text=ADVICE),))
    assert (gave_up.outcome, gave_up.evaluative, gave_up.directives) == (CriticOutcome.REFUSED, (), ())


@pytest.mark.parametrize("form", ["def", "async def"])
def test_a_fault_is_an_outcome_with_its_line(tmp_path: Path, make_request: Make, form: str) -> None:
    code = (
        "import json, sys\n"
        f"{form} review(request):\n"
        "    if request.rollout_id == 'r1':\n"
        "        return {}[request.attempt]\n"
        "    if request.rollout_id == 'r2':\n"
        "        json.loads('{')\n"
        "    if request.rollout_id == 'r3':\n"
        "        sys.exit(1)\n"
        "    return None\n"
    )
    critic = from_file(tmp_path, code)
    broken, deep, left, fine = critic.review([make_request(number) for number in (1, 2, 3, 4)])
    critic.close()
    assert broken.outcome is deep.outcome is left.outcome is CriticOutcome.FAILED
    assert broken.reason.startswith("KeyError at line 4: ")
    assert deep.reason.startswith("JSONDecodeError at line 6: ")
    assert "line 8" in left.reason and "exit" in left.reason.lower()
    assert fine.outcome is CriticOutcome.ABSTAINED


def test_a_critic_error_keeps_its_outcome_and_keys_stay_out(make_request: Make) -> None:
    def refuses(_: CriticRequest) -> object:
        raise CriticRefusedError("no, says sk-abcdefghijklmnop1234")

    critique = one(refuses, make_request())
    assert critique.outcome is CriticOutcome.REFUSED
    assert "sk-abc" not in critique.reason and "[redacted]" in critique.reason


def test_calls_run_side_by_side(make_request: Make) -> None:
    together = threading.Barrier(3, timeout=10)

    def review(_: CriticRequest) -> object:
        together.wait()
        return {"verdict": "incorrect"}

    critic = CallableCritic(review, max_in_flight=3)
    critiques = critic.review([make_request(number) for number in range(3)])
    critic.close()
    assert [critique.outcome for critique in critiques] == [CriticOutcome.OK] * 3


def test_async_calls_share_one_loop(make_request: Make) -> None:
    loops: set[asyncio.AbstractEventLoop] = set()

    class Judge:
        async def __call__(self, request: CriticRequest) -> object:
            loops.add(asyncio.get_running_loop())
            await asyncio.sleep(0)
            return {"directives": [{"text": f"Look at {request.task.id} once more."}]}

    critic = CallableCritic(Judge(), max_in_flight=2)
    first = critic.review([make_request(1), make_request(2)])
    second = critic.submit(make_request(3)).result()
    critic.close()
    assert [critique.directive_text[8:10] for critique in [*first, second]] == ["t1", "t2", "t3"]
    assert (critic.name, len(loops)) == ("python:Judge", 1)


def test_a_coroutine_from_a_plain_function_is_named_as_what_it_is(make_request: Make) -> None:
    async def hidden(_: CriticRequest) -> object:
        return None

    critique = one(lambda request: hidden(request), make_request())
    assert (critique.outcome, "coroutine" in critique.reason) == (CriticOutcome.MALFORMED, True)


def test_closing_gives_up_an_async_call_that_hangs(make_request: Make) -> None:
    begun = threading.Event()

    async def hangs(_: CriticRequest) -> object:
        begun.set()
        await asyncio.Event().wait()

    critic = CallableCritic(hangs)
    running, waiting = critic.submit(make_request(1)), critic.submit(make_request(2))
    assert begun.wait(10)
    critic.close()
    assert running.result().outcome is CriticOutcome.FAILED
    assert waiting.cancelled()
