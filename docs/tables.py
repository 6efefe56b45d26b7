"""Writes the result tables of README.md and docs/*.md from docs/results/*.json: `python docs/tables.py`.

A page holds `<!-- KIND: NAME.json -->` ... `<!-- end of KIND -->` with a kind of `KINDS`; what stands between is
replaced. A house test checks that nothing there was typed in by hand. `<!-- lab -->` does the same for LAB.json,
and `<!-- lab_guess -->` and `<!-- lab_school -->` for those of the other two worlds.
`<!-- figures: NAME.json whole -->` gives rows their whole names; `<!-- ablation: NAME.json floor -->` has more columns:
floors, entropy and trips of runs that were evaluated on the way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

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
GUESS_COLUMNS = {
    "accuracy": "right",
    "well_formed": "in the right form",
    "abstained": "abstained",
    "confidence": "mean confidence",
    "ece": "ECE",
    "auroc": "AUROC",
    "pass_at_64": "pass@64",
}
LAB_BLOCK = re.compile(r"(<!-- (lab|lab_guess|lab_school) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)
BLOCK = re.compile(r"(<!-- (\w+): ([\w.-]+\.json)((?: \w+)*) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)
SERVERS = {"llama_cpp": "llama.cpp", "vllm": "vLLM", "transformers_serve": "transformers serve"}
WIRE = {"in_process": "rules, in process", "noise_0": "rules, over HTTP", "noise_0.3": "rules, over HTTP, 30 % lies"}
TRUST = {"scalar_grpo": "scalar GRPO, no critic", "smollm2": "both channels, SmolLM2 as the critic"}


def table(name: str) -> str:
    """One row per arm and class: success of each seed, the mean with its interval, then steps, tokens and critic calls
    (means over seeds)."""
    run = _run(name)
    basis = "over seeds" if len(run["seeds"]) > 1 else "within one seed"
    lines = [
        f"| arm | class | held-out success by seed | mean (95 % {basis}) | steps | generated tokens | critic calls |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm in run["arms"]:
        entries = [entry for entry in run["table"] if entry["arm"] == arm]
        for kind in dict.fromkeys(entry["class"] for entry in entries):
            lines.append(_row(arm, kind, [entry for entry in entries if entry["class"] == kind]))
    wall_min = run["wall_time_s"] / 60
    made = f"`{run['command']}`, seeds {', '.join(map(str, run['seeds']))}, {run['device']}, {wall_min:.0f} min, "
    return "\n".join([*lines, "", f"Made by {made}commit {run['commit']} ([{name}](docs/results/{name})).", ""])


def scoreboard(name: str) -> str:
    """One row per critic of `critique-rl rescue`."""
    run = _run(name)
    lines = [
        "| critic | valid | usable | rescued | minus control | better | verdicts right | AUROC |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for e in run["table"]:
        better = {None: "", True: "yes", False: "no"}[e.get("better_than_control")]
        rescued = f"{e['rescue_rate']:.0%} ({e['rescue_low']:.0%} to {e['rescue_high']:.0%})"
        over = "" if e.get("difference") is None else f"{e['difference_low']:+.0%} to {e['difference_high']:+.0%}"
        shares = [_given(e.get(key), ".0%") for key in ("valid_rate", "usable_rate")]
        judged = [_given(e.get("verdict_accuracy"), ".0%"), _given(e.get("auroc"), ".2f")]
        lines.append(f"| {' | '.join([e['critic'], *shares, rescued, over, better, *judged])} |")
    right = max(e.get("reviewed_right_attempts", 0) for e in run["table"])
    counted = f"{run['attempts']} failed attempts at {run['tasks']} tasks, {right} right ones"
    made = f"`{run['command']}`, {run['device']}, {run['wall_time_s'] / 60:.0f} min, commit {run['commit']}"
    return "\n".join([*lines, "", f"{counted}. Made by {made} ([{name}](docs/results/{name})).", ""])


def servers(name: str) -> str:
    """One column per model server, one row per figure."""
    run = _run(name)
    tried = [key for key in SERVERS if key in run["parts"]]
    cells = {key: {row["name"].partition("/")[2]: row for row in run["parts"][key]["rows"]} for key in tried}
    heads = [f"{SERVERS[key]} ({_versions(run['parts'][key]['server_versions'])})" for key in tried]
    lines = [f"| | {' | '.join(heads)} |", f"| --- |{' --- |' * len(tried)}"]
    names = list(dict.fromkeys(figure for key in tried for figure in cells[key]))
    for figure in sorted(names, key=lambda figure: figure.split("/")[0] != "online"):
        unit = next(cells[key][figure]["unit"] for key in tried if figure in cells[key])
        shown = [_figure(cells[key].get(figure, {}).get("value")) for key in tried]
        lines.append(f"| {_label(figure, unit)} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", _made_by_parts(run, tried, name), ""])


def batch(name: str) -> str:
    """The figures of the batch file that went through vLLM's own runner."""
    run = _run(name)
    lines = ["| | |", "| --- | --- |"]
    for row in run["parts"]["vllm_run_batch"]["rows"]:
        lines.append(f"| {_label(row['name'].partition('/')[2], row['unit'])} | {_figure(row['value'])} |")
    return "\n".join([*lines, "", _made_by_parts(run, ["vllm_run_batch"], name), ""])


def wire(name: str) -> str:
    """Runs that differ in how the rule critic is reached."""
    return _endings(name, "lab_wire", WIRE)


def trust(name: str) -> str:
    """A run with a critic that is switched off, beside the run without one, and what the guard said."""
    quotes = _run(name)["parts"]["trust"]["quotes"]
    said = [f"> {text}" for text in quotes.values()]
    return _endings(name, "trust", TRUST) + "\n" + "\n>\n".join(said) + "\n"


def _endings(name: str, part: str, labels: dict[str, str]) -> str:
    run = _run(name)
    found = {row["name"]: row["value"] for row in run["parts"][part]["rows"]}
    lines = [
        "| run | hard, held out | easy, held out | judged at step | critiques | right second attempts | steps |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, label in labels.items():
        rates = [_given(found.get(f"{part}/{key}/{kind}"), ".1%") for kind in ("hard", "easy")]
        keys = ("judged_at_step", "critic_calls", "refinements_verified", "refinements_sampled", "steps")
        judged, calls, right, tried, steps = (_given(found.get(f"{part}/{key}/{figure}"), ",.0f") for figure in keys)
        seconds = f"{right} of {tried}" if tried else ""
        lines.append(f"| {' | '.join([label, *rates, judged, calls, seconds, steps])} |")
    return "\n".join([*lines, "", _made_by_parts(run, [part], name), ""])


def _made_by_parts(run: dict[str, Any], parts: list[str], name: str) -> str:
    wall_min = sum(run["parts"][part]["wall_time_s"] for part in parts) / 60
    commits = ", ".join(dict.fromkeys(str(run["parts"][part]["commit"]) for part in parts))
    command = f"`python -m tests.manual.real_servers {' '.join(parts)}`"
    return f"Made by {command}, {run['device']}, {wall_min:.0f} min, commit {commits} ([{name}](docs/results/{name}))."


def _label(figure: str, unit: str) -> str:
    return f"{figure.replace('/', ': ').replace('_', ' ')} ({unit})"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{package} {number}" for package, number in list(versions.items())[:1])


def _given(value: float | None, form: str) -> str:
    """The figure, or nothing where there is none: a missing figure is not 0."""
    return "" if value is None else format(value, form)


def _figure(value: float | None) -> str:
    return _given(value, ",.0f" if value is not None and value == int(value) else ",.4g")


def _run(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "docs" / "results" / name).read_text(encoding="utf-8"))


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


def lab_guess() -> str:
    """What was measured when the packaged policy of the guessing world was built: exact probabilities."""
    facts = json.loads((ROOT / "critique_rl" / "lab" / "guess" / "policy" / "LAB.json").read_text(encoding="utf-8"))
    measured = facts["measured"]
    lines = [f"| class | {' | '.join(GUESS_COLUMNS.values())} |", "| --- |" + " --- |" * len(GUESS_COLUMNS)]
    for kind, found in {**measured["by_kind"], "all": measured["all"], "ideal, all": measured["ideal"]}.items():
        lines.append(f"| {kind} | {' | '.join(_given(found[key], '.3f') for key in GUESS_COLUMNS)} |")
    built = f"{facts['parameters']:,} parameters, seed {facts['seed']}, {facts['steps']:,} steps"
    made = f"{built}, {facts['problems_per_n']} held-out problems of each class, built and measured in "
    return "\n".join([*lines, "", f"{made}{facts['wall_s'] / 60:.0f} min (`LAB.json`).", ""])


def lab_school() -> str:
    """What was measured when the packaged policy of the school world was built."""
    facts = json.loads((ROOT / "critique_rl" / "lab" / "school" / "policy" / "LAB.json").read_text(encoding="utf-8"))
    measured = facts["measured"]
    shares = {**measured["plans"], **measured["format_shares"]}
    rows = {
        **{f"success on `{kind}`": value for kind, value in measured["success"].items()},
        "one step of a chain, all before it in the prompt": measured["step_accuracy"],
        'chains, shown an attempt under "at once" and the rule critic\'s advice': measured["refined"],
        "chains, shown the advice only": measured["taught"],
        'chains, shown the attempt and "Wrong."': measured["bare_verdict"],
        "chains, shown the attempt and advice that leads astray": measured["misled"],
        **{f"share of `{name}`": value for name, value in shares.items()},
        **{f"right among `{name}`": value for name, value in measured["format_accuracy"].items()},
    }
    lines = ["| at the start | |", "| --- | --- |", *(f"| {name} | {value:.2%} |" for name, value in rows.items())]
    built = f"{facts['parameters']:,} parameters, seed {facts['seed']}, {facts['steps']:,} steps"
    made = f"{built}, {facts['problems_per_kind']} held-out problems of each kind, built and measured in "
    return "\n".join([*lines, "", f"{made}{facts['wall_s'] / 60:.0f} min (`LAB.json`).", ""])


LABS: dict[str, Callable[[], str]] = {"lab": lab, "lab_guess": lab_guess, "lab_school": lab_school}


def _row(arm: str, kind: str, entries: list[dict[str, Any]]) -> str:
    from critique_rl.stats.intervals import seeds_interval

    seeds = ", ".join(f"{entry['success']:.1%}" for entry in entries)
    low, high = seeds_interval([e["successes"] for e in entries], [e["trials"] for e in entries])
    keys = ("success", "steps", "generated_tokens", "critic_calls")
    mean, *used = (sum(e[key] for e in entries) / len(entries) for key in keys)
    counts = " | ".join(f"{number:,.0f}" for number in used)
    return f"| {arm} | {kind} | {seeds} | {mean:.1%} ({low:.1%} to {high:.1%}) | {counts} |"


def figures(name: str, *, whole: bool = False) -> str:
    """Every row of a benchmark, with its target; `whole`: under all of its name."""
    run = _run(name)
    lines = ["| | value | target | |", "| --- | --- | --- | --- |"]
    for row in run["rows"]:
        held = {None: "", True: "holds", False: "MISSED"}[row["holds"]]
        what = (row["name"].split("/")[-1] if not whole else row["name"].replace("/", ", ")).replace("_", " ")
        lines.append(f"| {what} ({row['unit']}) | {_given(row['value'], ',.6g')} | {row['target'] or ''} | {held} |")
    made = f"`{run['command']}`, {run['device']}, {run['wall_time_s'] / 60:.0f} min, commit {run['commit']}"
    return "\n".join([*lines, "", f"Made by {made} ([{name}](docs/results/{name})).", ""])


def ablation(name: str, *, floors: bool = False) -> str:
    """One row per arm: mean success over seeds with its interval for each class, and what it used; then the claims."""
    from critique_rl.report.ablation_table import ablation_table

    run = _run(name)
    made = f"`{run['command']}`, {run['device']}, {run['wall_time_s'] / 60:.0f} min, commit {run['commit']}"
    told = f"Means over seeds {', '.join(map(str, run['seeds']))} with 95 % intervals. Made by {made}"
    return "\n".join([ablation_table(run, floors=floors), f"{told} ([{name}](docs/results/{name})).", ""])


KINDS: dict[str, Callable[[str], str]] = {
    "figures": figures,
    "results": table,
    "scoreboard": scoreboard,
    "servers": servers,
    "batch": batch,
    "wire": wire,
    "trust": trust,
    "ablation": ablation,
}
OPTIONS: dict[tuple[str, str], Callable[[str], str]] = {
    ("ablation", "floor"): partial(ablation, floors=True),
    ("figures", "whole"): partial(figures, whole=True),
}


def render(page: Path) -> str:
    """The page's text with every results block made anew."""
    text = page.read_text(encoding="utf-8")

    def block(match: re.Match[str]) -> str:
        kind, name, option = match[2], match[3], match[4].strip()
        if option and (kind, option) not in OPTIONS:
            known = ", ".join(f"{kind}: {option}" for kind, option in OPTIONS)
            raise ValueError(f"{page.name}: {match[1].strip()} has an unknown option {option!r}; known are {known}")
        body = OPTIONS[kind, option](name) if option else KINDS[kind](name)
        if page.parent.name == "docs":
            body = body.replace("(docs/results/", "(results/")
        return match[1] + body + match[5]

    text = LAB_BLOCK.sub(lambda match: match[1] + LABS[match[2]]() + match[3], text)
    return BLOCK.sub(block, text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render(page), encoding="utf-8")
