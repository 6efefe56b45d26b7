"""Writes the result tables of README.md and docs/*.md from docs/results/*.json: `python docs/tables.py`.

A page holds `<!-- results: NAME.json -->` ... `<!-- end of results -->`; what stands between is replaced. A house test
checks that nothing there was typed in by hand. `<!-- lab -->` does the same for the packaged policy's LAB.json.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LAB_ROWS = {
    "easy": "easy class, bare",
    "hard": "hard class, bare",
    "refined": "hard class, shown its attempt and the rule critic's directive",
    "teacher": "hard class, shown the directive only",
    "bare_verdict": 'hard class, shown its attempt and "Wrong."',
    "foreign": "hard class, shown a directive about another problem",
}
LAB_BLOCK = re.compile(r"(<!-- lab -->\n).*?(<!-- end of lab -->)", re.DOTALL)
BLOCK = re.compile(r"(<!-- results: ([\w.-]+\.json) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def table(name: str) -> str:
    """One row per arm and class: successes of each seed, then steps, tokens and critic calls (means over seeds)."""
    run = json.loads((ROOT / "docs" / "results" / name).read_text(encoding="utf-8"))
    lines = [
        "| arm | class | held-out success by seed | 95 %, seeds pooled | steps | generated tokens | critic calls |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm in run["arms"]:
        entries = [entry for entry in run["table"] if entry["arm"] == arm]
        for kind in dict.fromkeys(entry["class"] for entry in entries):
            lines.append(_row(arm, kind, [entry for entry in entries if entry["class"] == kind]))
    wall_min = run["wall_time_s"] / 60
    made = f"`{run['command']}`, seeds {', '.join(map(str, run['seeds']))}, {run['device']}, {wall_min:.0f} min, "
    return "\n".join([*lines, "", f"Made by {made}commit {run['commit']} ([{name}](docs/results/{name})).", ""])


def lab() -> str:
    """What was measured when the packaged lab policy was built."""
    facts = json.loads((ROOT / "critique_rl" / "lab" / "policy" / "LAB.json").read_text(encoding="utf-8"))
    lines = [
        "| sampled at temperature 1 | successes | of | rate | 95 % upper bound |",
        "| --- | --- | --- | --- | --- |",
    ]
    for key, label in LAB_ROWS.items():
        rate = facts["measured"][key]
        lines.append(
            f"| {label} | {rate['successes']:,} | {rate['samples']:,} | {rate['rate']:.3%} | {rate['upper_95']:.3%} |"
        )
    built = f"{facts['parameters']:,} parameters, seed {facts['seed']}, {facts['steps']:,} steps"
    return "\n".join([*lines, "", f"{built}, built and measured in {facts['wall_s'] / 60:.0f} min (`LAB.json`).", ""])


def _row(arm: str, kind: str, entries: list[dict[str, float]]) -> str:
    from critique_rl.stats.intervals import wilson_interval

    seeds = ", ".join(f"{entry['success']:.1%}" for entry in entries)
    pooled = wilson_interval(sum(e["successes"] for e in entries), sum(e["trials"] for e in entries))
    means = [sum(e[key] for e in entries) / len(entries) for key in ("steps", "generated_tokens", "critic_calls")]
    counts = " | ".join(f"{mean:,.0f}" for mean in means)
    return f"| {arm} | {kind} | {seeds} | {pooled.low:.1%} to {pooled.high:.1%} | {counts} |"


def render(page: Path) -> str:
    """The page's text with every results block made anew."""
    text = page.read_text(encoding="utf-8")

    def block(match: re.Match[str]) -> str:
        body = table(match[2])
        if page.parent.name == "docs":
            body = body.replace("(docs/results/", "(results/")
        return match[1] + body + match[3]

    text = LAB_BLOCK.sub(lambda match: match[1] + lab() + match[2], text)
    return BLOCK.sub(block, text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render(page), encoding="utf-8")
