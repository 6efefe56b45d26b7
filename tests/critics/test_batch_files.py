from __future__ import annotations

import json
from pathlib import Path

import pytest

from critique_rl.critics.batch_files import (
    BatchLine,
    encode_line,
    read_result_file,
    read_results,
    write_requests,
)
from critique_rl.critics.redaction import Redactor
from critique_rl.errors import CriticError, CriticRateLimitError, CriticRefusedError, CriticTimeoutError, DataError

QUIET = Redactor([])


def price(prompt_tokens: int, completion_tokens: int) -> float:
    return (prompt_tokens + 2 * completion_tokens) / 1e6


def completion(text: str = "hello") -> dict[str, object]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"id": "c", "object": "chat.completion", "model": "m-1", "choices": [choice], "usage": usage}


def output_line(key: str, body: object, status: int = 200, error: object = None) -> str:
    response = {"status_code": status, "request_id": "q", "body": body}
    return json.dumps({"id": "b", "custom_id": key, "response": response, "error": error})


def test_an_input_line_is_the_documented_form_to_the_letter() -> None:
    line = encode_line("request-1", {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Grüße"}]})
    assert line == (
        '{"custom_id":"request-1","method":"POST","url":"/v1/chat/completions",'
        '"body":{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Grüße"}]}}'
    )


@pytest.mark.parametrize("key", ["", "k" * 65])
def test_a_custom_id_that_servers_refuse_is_refused_here(key: str) -> None:
    with pytest.raises(DataError, match="1 to 64"):
        encode_line(key, {})


def test_a_number_that_json_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode_line("a", {"temperature": float("nan")})


def test_a_request_file_holds_each_key_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "requests.jsonl"
    lines = [
        BatchLine(key=key, body={"model": "m"}, row_ids=(row,)) for key, row in (("a", "1"), ("b", "2"), ("a", "3"))
    ]
    assert write_requests(path, lines) == 2
    assert [json.loads(line)["custom_id"] for line in path.read_text().splitlines()] == ["a", "b"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_reply_is_read_with_its_price() -> None:
    read = read_results([output_line("a", completion("hi"))], price_usd=price, redact=QUIET)
    reply = read.results["a"].reply
    assert reply is not None and (reply.text, reply.finish_reason, reply.model) == ("hi", "stop", "m-1")
    assert reply.usage.cost_usd == pytest.approx(20e-6)  # 10 + 2 * 5


@pytest.mark.parametrize(
    ("line", "kind", "retryable"),
    [
        (output_line("a", {"error": {"message": "slow", "code": None}}, 429), CriticRateLimitError, True),
        (output_line("a", {"error": {"message": "oops"}}, 500), CriticError, True),
        (output_line("a", {"error": {"message": "content_filter"}}, 400), CriticRefusedError, False),
        (output_line("a", {"error": {"message": "bad"}}, 400), CriticError, False),
        # vLLM's run_batch: nested twice, no body
        (output_line("a", None, 404, {"error": {"error": {"message": "no model", "code": 404}}}), CriticError, False),
        (output_line("a", None, 400, {"error": {"message": "too long", "code": 400}}), CriticError, False),
        (
            json.dumps({"custom_id": "a", "response": None, "error": {"code": "batch_expired", "message": "late"}}),
            CriticTimeoutError,
            True,
        ),
        (json.dumps({"custom_id": "a", "response": None, "error": None}), CriticError, True),
        (json.dumps({"custom_id": "a"}), CriticError, True),
        (output_line("a", {"choices": []}), CriticError, True),
        (output_line("a", {"choices": [{"index": 0}]}), CriticError, True),
        (output_line("a", {"choices": "none", "_fields_set": 1}), CriticError, True),
        (output_line("a", [1]), CriticError, True),
    ],
)
def test_what_each_error_line_means(line: str, kind: type[CriticError], retryable: bool) -> None:
    result = read_results([line], price_usd=price, redact=QUIET).results["a"]
    assert result.reply is None and isinstance(result.error, kind)
    assert result.retryable is retryable


def test_a_key_in_an_error_line_is_taken_out() -> None:
    line = output_line("a", {"error": {"message": "key sekrit-123456 is wrong"}}, 401)
    result = read_results([line], price_usd=price, redact=Redactor(["sekrit-123456"])).results["a"]
    assert "sekrit" not in str(result.error) and "wrong" in str(result.error)


def test_lines_out_of_order_twice_unknown_and_torn() -> None:
    lines = [
        output_line("b", completion("second")),
        output_line("a", {"error": {"message": "bad"}}, 400),
        "",
        output_line("b", completion("again")),
        output_line("a", completion("first after all")),
        '{"custom_id": "c", "resp',
        "[1, 2]",
        json.dumps({"custom_id": 7}),
        "[" * 100_000,
    ]
    read = read_results(lines, price_usd=price, redact=QUIET)
    texts = {key: result.reply.text if result.reply else None for key, result in read.results.items()}
    assert texts == {"b": "second", "a": "first after all"}
    assert (read.duplicates, read.unreadable) == (2, 4)


def test_a_line_separator_inside_a_reply_does_not_cut_the_line(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(
        output_line("a", completion("x")).replace('"x"', '"one\u2028two\x85three"') + "\n", encoding="utf-8"
    )
    read = read_result_file(path, price_usd=price, redact=QUIET)
    reply = read.results["a"].reply
    assert reply is not None and reply.text == "one\u2028two\x85three"


def test_a_results_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_result_file(tmp_path / "none.jsonl", price_usd=price, redact=QUIET)
