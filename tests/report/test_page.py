"""The whole page: well formed, self-contained, safe against what models write, and honest about gaps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from critique_rl.errors import CheckpointError
from critique_rl.report.page import write_report

MakeRun = Callable[..., Path]
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Checker(HTMLParser):
    """Collects tags, attributes and text; fails on tags that are closed in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def read(path: Path) -> Checker:
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    checker.close()
    assert checker.open == []
    return checker


def test_a_page_of_several_arms(tmp_path: Path, make_run: MakeRun) -> None:
    path = write_report(make_run(tmp_path))
    assert path == tmp_path / "report.html"
    page = read(path)
    for part in (
        "Column sums with dropped carries",
        "0.1–0.7",
        "876 critiques",
        "Critique-GRPO",
        "critique-rl demo --seeds 1 2",
    ):
        assert part in page.text
    for part in ("wanted ", "dropped: states the reference answer", "5 min 22 s", "× 5 alike"):
        assert part in page.text
    assert "Not in this report" not in page.text
    assert page.tags.count("article") == 6


@pytest.mark.parametrize(
    ("arms", "seeds", "note"),
    [
        (("grpo", "two_channel"), (1, 2, 3), "interval over 3 seeds; ticks are single seeds, the dot is their mean."),
        (("grpo", "two_channel"), (1,), "interval within one seed, which does not say where other seeds would end."),
    ],
)
def test_the_page_says_what_its_intervals_are_over(
    tmp_path: Path, make_run: MakeRun, arms: tuple[str, ...], seeds: tuple[int, ...], note: str
) -> None:
    page = read(write_report(make_run(tmp_path, arms, seeds)))
    assert note in " ".join(page.text.split())
    assert page.tags.count("s") == len(arms) * 2 * len(seeds) * (len(seeds) > 1)  # a tick a seed, in two classes
    assert ("the worst of the seeds" in page.text) == (len(seeds) > 1)


def test_nothing_is_fetched_and_nothing_runs(tmp_path: Path, make_run: MakeRun) -> None:
    page = read(write_report(make_run(tmp_path)))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in {"src", "href", "xlink:href"}:
            assert value is not None and value.startswith("#")
    css = re.findall(r"url\(([^)]*)\)", (tmp_path / "report.html").read_text(encoding="utf-8"))
    assert all(target.startswith("#") for target in css)


def test_an_equal_run_gives_an_equal_page(tmp_path: Path, make_run: MakeRun) -> None:
    first, second = (write_report(make_run(tmp_path / name / "run")) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


HOSTILE = (
    "</pre></style><script>alert(1)</script><img src=x onerror=alert(1)>\" onmouseover='x' "
    "{{ 7*7 }} {% raw %} \x00 \ud83d"
)


def test_hostile_text_of_models_and_files_stays_text(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, ("two_channel",), (1,))

    def poison(value: object) -> object:
        if isinstance(value, dict):
            return {key: poison(item) if key != "outcome" else item for key, item in value.items()}
        if isinstance(value, list):
            return [poison(item) for item in value]
        return f"{value}{HOSTILE}" if isinstance(value, str) else value

    for name in ("samples.jsonl", "events.jsonl"):
        lines = [json.dumps(poison(json.loads(line))) for line in (tmp_path / name).read_text().splitlines()]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    summary = json.loads((tmp_path / "summary.json").read_text())
    poisoned = {key: poison(value) if key not in {"runs", "arms"} else value for key, value in summary.items()}
    (tmp_path / "summary.json").write_text(json.dumps(poisoned))
    (tmp_path / "config.toml").write_text(HOSTILE, encoding="utf-8", errors="replace")
    page = read(write_report(tmp_path))
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text and "{{ 7*7 }}" in page.text


@pytest.mark.parametrize("gone", ["config.toml", "metrics.jsonl", "events.jsonl", "samples.jsonl", "summary.json"])
def test_a_missing_file_leaves_a_page_that_says_so(tmp_path: Path, make_run: MakeRun, gone: str) -> None:
    (make_run(tmp_path, ("two_channel",), (1,)) / gone).unlink()
    page = read(write_report(tmp_path))
    assert (f"{gone} is missing" in page.text) == (gone != "config.toml")


def test_an_empty_directory_gives_a_page(tmp_path: Path) -> None:
    page = read(write_report(tmp_path))
    assert "Nothing is recorded of this run yet." in page.text
    assert page.text.count("is missing") == 4


def test_empty_tables_and_counts_of_zero(tmp_path: Path) -> None:
    table = [{"arm": "a", "class": "hard", "successes": 0, "trials": 0}]
    (tmp_path / "summary.json").write_text(json.dumps({"table": table, "checks": [{"name": "open question"}]}))
    page = read(write_report(tmp_path))
    assert "open question" in page.text and "0 / 0" in page.text


def test_a_failed_critic_call_is_told_as_one(tmp_path: Path) -> None:
    story = {
        "step": 0,
        "attempts": [{"rollout_id": "r", "text": "plain text", "reward": 0.0}],
        "critiques": [{"rollout_id": "r", "critic": "gpt", "outcome": "timed_out", "reason": "no reply within 20 s"}],
    }
    (tmp_path / "samples.jsonl").write_text(json.dumps(story))
    text = " ".join(read(write_report(tmp_path)).text.split())
    assert "timed out" in text and "no reply within 20 s; the attempt keeps its verified reward alone" in text
    assert "plain text" in text


def test_many_events_are_cut_to_the_telling_ones(tmp_path: Path) -> None:
    events = [{"step": s, "kind": "evaluation", "message": "routine"} for s in range(100)]
    events.append({"step": 100, "kind": "stall", "message": "the telling one"})
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    text = read(write_report(tmp_path)).text
    assert "the telling one" in text and "100 more in events.jsonl" in text


def test_a_page_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(CheckpointError, match=r"report\.html: the report cannot be written: .*; the run itself"):
        write_report(tmp_path)
