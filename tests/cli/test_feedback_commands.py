"""`critique` and `feedback` from the command line, with the lab's rule critic and with files written by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from critique_rl.cli.feedback_commands import spec_from
from critique_rl.cli.main import main, parser
from tests.servers.batches import BatchServer, chat_completion

HAND = {
    "id": "a",
    "question": "What is 27 + 15?",
    "attempt": "27 + 15 = 32",
    "answer": "42",
    "feedback": {
        "critic": "human:ann",
        "scores": [{"criterion": "correctness", "value": 0.25}],
        "directives": [{"text": "Carry the one.", "quote": "= 32"}, {"text": "The answer is 42."}],
    },
}


def written(path: Path, *rows: object) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def rollouts(tmp_path: Path) -> str:
    return written(tmp_path / "r.jsonl", *({"id": f"r{n}", "question": "1 + 1?", "attempt": f"{n}"} for n in range(5)))


@pytest.fixture
def python_critic(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(
        "def review(request):\n"
        "    return {'scores': {'correctness': 0.5}, 'directives': [{'text': 'Read the question once more.'}]}\n"
    )
    return str(path)


def test_a_file_is_criticised_and_looked_at(
    tmp_path: Path, rollouts: str, python_critic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "f.jsonl"
    command = ["critique", rollouts, "--critic", python_critic, "--out", str(out)]
    assert main([*command, "--dry-run"]) == 0
    assert "5 to ask about" in capsys.readouterr().out
    assert not out.exists()
    assert main([*command, "--limit", "3", "--critic.max_in_flight", "2"]) == 0
    assert '3 rows, {"ok": 3}' in capsys.readouterr().out
    assert main(command) == 0
    assert '5 rows, {"ok": 5}' in capsys.readouterr().out
    assert main(["feedback", "stats", str(out), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["rows"], figures["directives"], figures["scores"]["correctness"]["mean"]) == (5, 5, 0.5)
    assert main(["feedback", "stats", str(out)]) == 0
    assert "ok 5" in capsys.readouterr().out
    assert main(["feedback", "show", str(out), "--limit", "2"]) == 0
    shown = capsys.readouterr().out
    assert "Read the question once more." in shown
    assert "the first 2" in shown
    assert main(["feedback", "show", str(out), "--row", "r4"]) == 0
    assert "r4" in capsys.readouterr().out
    assert main(["feedback", "show", str(out), "--row", "r9"]) == 2
    assert main(["feedback", "validate", str(out)]) == 0


def test_a_spec_file_and_flags_over_it(tmp_path: Path, rollouts: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text('rollouts = "r.jsonl"\nout = "f.jsonl"\nlimit = 9\ncritic = "my-model@http://127.0.0.1:1/v1"\n')
    known = parser().parse_args(["critique", str(path), "--limit", "2", "--shard", "1/2", "--retry-failed"])
    spec = spec_from(known, [("critic.max_tokens", "64")])
    assert (spec.rollouts, spec.limit, spec.shard, spec.retry_failed) == ("r.jsonl", 2, "1/2", True)
    assert spec.critic.model_dump()["model"] == "my-model"
    assert spec.critic.model_dump()["max_tokens"] == 64
    known = parser().parse_args(["critique", rollouts, "--critic", "anthropic/claude-x", "--out", "g.jsonl"])
    known.max_cost_usd = 2.5
    assert spec_from(known, []).critic.model_dump()["max_cost_usd"] == 2.5


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--out", "f.jsonl"], "critic is missing"),
        (["--critic", "lab_rules"], "out is missing"),
        (["--critic", "lab_rules", "--out", "f.csv"], "out:"),
        (["--critic", "lab_rules", "--out", "f.jsonl", "--max-cost-usd", "1"], "max_cost_usd is not a known key"),
        (["--critic", "lab_rules", "--out", "f.jsonl", "--shard", "5"], "shard"),
        (["--critic", "lab_rules", "--out", "f.jsonl", "--loss.clip", "1"], "--loss.clip"),
        (["--critic", "what", "--out", "f.jsonl"], "is no critic"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_code_2(
    rollouts: str, arguments: list[str], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["critique", rollouts, *arguments]) == 2
    error = capsys.readouterr().err
    assert wanted in error
    assert error.count("\n") == 1


def test_validate_names_every_bad_row_and_what_the_filters_would_drop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad_score = {**HAND, "id": "b", "feedback": {"critic": "h", "scores": [{"criterion": "c", "value": 7}]}}
    path = written(tmp_path / "f.jsonl", HAND, bad_score, "{not json", HAND, {**HAND, "id": "c", "reward": "good"})
    assert main(["feedback", "validate", path]) == 1
    out = capsys.readouterr().out
    assert f"{path}, line 2: feedback.scores[0].value is 7; wanted a number from 0 to 1" in out
    assert f"{path}, line 3: not JSON" in out
    assert f"{path}, line 4: id 'a' is also that of" in out
    assert f"{path}, line 5: reward is" in out
    assert f"{path}, line 1: would be dropped, because it states the reference answer: The answer is 42." in out
    assert "5 rows, 4 bad; 1 directives would be dropped" in out


def test_show_tells_what_was_kept_and_what_was_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feedback = {**HAND["feedback"], "dropped": [["[bold]x", "is [too] long"]], "verdict": "incorrect"}  # type: ignore[dict-item]
    path = written(tmp_path / "f.jsonl", {**HAND, "reward": 0.0, "feedback": feedback})
    assert main(["feedback", "show", path]) == 0
    out = capsys.readouterr().out
    for wanted in ("human:ann", "Carry the one.", "on '= 32'", "[bold]x", "[is [too] long]", "incorrect", "0.25"):
        assert wanted in out


# -- a provider's batch endpoint ---------------------------------------------------------------------------------------


@pytest.fixture
def provider() -> Iterator[BatchServer]:
    one = BatchServer()
    yield one
    one.close()


def test_a_file_goes_through_the_batch_endpoint_and_is_paid_once(
    tmp_path: Path, rollouts: str, provider: BatchServer, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "f.jsonl"
    command = ["critique", rollouts, "--critic", f"m@{provider.url}", "--out", str(out), "--mode", "batch"]
    assert main([*command, "--no-wait"]) == 0
    assert "the same command again looks for answers" in capsys.readouterr().out and not out.exists()
    assert main([*command, "--poll-s", "0.01"]) == 0
    assert '5 rows, {"ok": 5}' in capsys.readouterr().out
    assert provider.chat_calls == 0 and set(provider.answered.values()) == {1}
    assert main([*command, "--cancel"]) == 0
    assert "0 batches asked to end" in capsys.readouterr().out


def test_a_batch_file_is_written_and_its_results_are_taken_in(
    tmp_path: Path, rollouts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    requests, results = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    base = ["critique", rollouts, "--critic", "m@http://127.0.0.1:9/v1", "--out", str(tmp_path / "f.jsonl")]
    command = [*base, "--mode", "batch-file"]
    assert main([*command, "--requests", str(requests)]) == 0
    lines = [json.loads(line) for line in requests.read_text().splitlines()]
    assert len(lines) == 5 and lines[0]["url"] == "/v1/chat/completions"
    answers = [
        {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": chat_completion()}, "error": None}
        for line in lines[1:]
    ]
    written(results, *answers)
    assert main([*command, "--results", str(results)]) == 0
    told = capsys.readouterr().out
    assert "4 answers, 0 failed, 1 requests without a line" in told and '{"failed": 1, "ok": 4}' in told
    assert main(command) == 2
    assert "--requests FILE to write one, or --results FILE" in capsys.readouterr().err
