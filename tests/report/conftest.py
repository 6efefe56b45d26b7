"""A run directory as the loop and the demo write it: three arms, two seeds, column sums whose carries are dropped."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

ARMS = ("grpo", "critique_grpo", "two_channel")
STEPS, TOKENS_PER_STEP = 160, 1900
FINAL = {"grpo": 0.002, "critique_grpo": 0.71, "two_channel": 0.965}
Record = dict[str, object]


def write_lines(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def rising(step: int, arm: str, *, seed: int) -> float:
    start = {"grpo": 9e9, "critique_grpo": 74.0, "two_channel": 52.0}[arm] + 3 * seed
    return FINAL[arm] / (1 + math.exp(min(-(step - start) / 8, 300.0)))


def metrics(arm: str, seed: int) -> list[Record]:
    noise = random.Random(f"{arm}{seed}")
    lines: list[Record] = []
    for step in range(STEPS):
        hard = rising(step, arm, seed=seed)
        easy = 0.98 - 0.26 * math.exp(-step / 30)
        stalled = 0 if step < 14 else round(24 * (1 - hard)) if step < 60 or arm == "grpo" else round(20 * (1 - hard))
        rescued = 0 if arm == "grpo" else round(24 * hard)
        record: Record = {
            "step": step,
            "reward/mean": (hard + easy) / 2,
            "reward/hard": min(max(hard + noise.gauss(0, 0.03) * (hard > 0.01), 0.0), 1.0),
            "reward/easy": min(max(easy + noise.gauss(0, 0.03), 0.0), 1.0),
            "tokens/generated": TOKENS_PER_STEP * (step + 1),
            "critic/calls": 0 if arm == "grpo" or step < 14 else 3 * (step - 13),
            "plateau/plateaued": stalled,
            "plateau/rescued": rescued,
            "plateau/dormant": 3 if arm != "grpo" and 30 < step < 70 else 0,
            "loss/pg": None if step == 3 else 0.01,
        }
        lines.append(record)
        if step % 20 == 19 or step == 0:
            generated = TOKENS_PER_STEP * (step + 1)
            lines.append(
                {
                    "step": step,
                    "eval/hard": hard,
                    "eval/hard/low": 0.0,
                    "eval/easy": easy,
                    "tokens/generated": generated,
                }
            )
    return lines


def attempt_tokens(text: str, wrong_at: int) -> list[Record]:
    tokens: list[Record] = []
    for index, char in enumerate(text):
        near = index == wrong_at
        teacher = [
            {"token": "1" if near else char, "prob": 0.91, "student_prob": 0.03 if near else 0.94},
            {"token": char if near else "0", "prob": 0.06, "student_prob": 0.95 if near else 0.02},
            {"token": "7", "prob": 0.01, "student_prob": 0.01},
        ]
        tokens.append(
            {
                "text": char,
                "pg": -0.125,
                "distill": 1.0,
                "divergence": 2.31 if near else 0.04 if index > wrong_at else 0.002,
                "student_prob": 0.95 if near else 0.94,
                "teacher": teacher,
            }
        )
    return tokens


def story(step: int, number: int, *, taught: bool = True, distilled: bool = True) -> Record:
    a, b = 27 + number, 58
    wrong, right = f"{(a % 10 + b % 10) % 10}{a // 10 + b // 10}", str(a + b)[::-1]
    text = f"ones {a % 10}+{b % 10}={a % 10 + b % 10} tens {a // 10}+{b // 10}={a // 10 + b // 10} ans {wrong}"
    tens = f"{a // 10}+{b // 10}+1={a // 10 + b // 10 + 1}"
    fixed = f"ones {a % 10}+{b % 10}={a % 10 + b % 10} carry 1 tens {tens} ans {right}"
    tokens = attempt_tokens(text, text.index("tens"))
    if not taught:
        tokens = [{"text": token["text"], "pg": 0.0, "student_prob": token["student_prob"]} for token in tokens]
    if not distilled:
        tokens = [{**token, "distill": 0.0, "divergence": None, "teacher": []} for token in tokens]
    record: Record = {
        "step": step,
        "task_id": f"hard-{number:03d}",
        "kind": "hard",
        "question": f"{a} + {b} = ?\nWrite the digits of the sum last first.",
        "answer": right,
        "plateau": {"status": "plateaued", "cause": "hopeless", "upper_bound": 0.171},
        "attempts": [
            {
                "rollout_id": "r0",
                "text": text,
                "times": 5,
                "reward": 0.0,
                "status": "ok",
                "detail": f"read {wrong}, wanted {right}",
                "tokens": tokens,
            },
            {
                "rollout_id": "r1",
                "text": "ones ones ones",
                "times": 2,
                "reward": 0.0,
                "status": "unparsed",
                "detail": "no 'ans' found",
                "tokens": [],
            },
        ],
        "critiques": [],
        "refinements": [],
    }
    if taught:
        directive = (
            f"The ones add up to {a % 10 + b % 10}, more than 9: write the last digit and carry 1 into the tens."
        )
        record["critiques"] = [
            {
                "rollout_id": "r0",
                "critic": "lab-rules",
                "outcome": "ok",
                "reason": "",
                "reply": f"The ones column is added correctly. The tens column forgets the carry.\n{directive}",
                "verdict": "incorrect",
                "evaluative": [
                    {"criterion": "ones", "value": 1.0},
                    {"criterion": "carry", "value": 0.0},
                    {"criterion": "format", "value": 0.8},
                ],
                "directives": [{"text": directive, "kind": "procedure", "quote": "tens"}],
                "dropped": [[f"The answer is {right}.", "states the reference answer"]],
            },
            {
                "rollout_id": "r1",
                "critic": "lab-rules",
                "outcome": "timed_out",
                "reason": "no reply within 20 s",
                "reply": "",
            },
        ]
        imitated = [
            {"text": c, "imitate": 0.5 + 0.4 * (i % 3) / 2, "logprob_bare": -1.9, "logprob_guided": -0.1}
            for i, c in enumerate(fixed)
        ]
        record["refinements"] = [
            {"attempt_id": "r0", "text": fixed, "reward": 1.0, "rejected": "", "reliance": -1.84, "tokens": imitated},
            {
                "attempt_id": "r0",
                "text": text,
                "reward": 0.0,
                "rejected": "wrong",
                "reliance": -0.3,
                "tokens": [{"text": c, "imitate": 0.0} for c in text],
            },
        ]
    return record


def write_run(folder: Path, arm: str, seed: int) -> None:
    events: list[Record] = [{"step": 0, "kind": "evaluation", "message": "easy 72 %, hard 0 %"}]
    message = "stall: 18 of 24 hard prompts all-fail over >=16 rollouts each (95% upper bound on success 0.17 or less)"
    events.append({"step": 14, "kind": "stall", "message": message})
    if arm != "grpo":
        events.append({"step": 14, "kind": "critic", "message": "first critic call: 3 of 8 prompts are plateaued"})
    events += [{"step": s, "kind": "evaluation", "message": f"step {s}"} for s in range(19, STEPS, 20)]
    write_lines(folder / "metrics.jsonl", metrics(arm, seed))
    write_lines(folder / "events.jsonl", events)
    stories = [
        story(s, s // 10 + 10 * seed, taught=arm != "grpo" and s >= 14, distilled=arm == "two_channel")
        for s in range(4, STEPS, 10)
    ]
    write_lines(folder / "samples.jsonl", stories)
    (folder / "config.toml").write_text(
        f'name = "{arm}"\nseed = {seed}\n\n[algorithm]\nname = "{arm}"\n', encoding="utf-8"
    )


def result_row(arm: str, seed: int, kind: str) -> Record:
    rate = 0.97 if kind == "easy" else FINAL[arm] + 0.01 * (seed - 1) * (arm != "grpo")
    return {
        "arm": arm, "seed": seed, "class": kind, "successes": round(500 * rate), "trials": 500, "success": rate,
        "low": max(rate - 0.02, 0), "high": min(rate + 0.02, 1), "steps": STEPS,
        "generated_tokens": STEPS * TOKENS_PER_STEP, "critic_calls": 0 if arm == "grpo" else 438,
    }  # fmt: skip


@pytest.fixture
def make_run() -> Callable[..., Path]:
    """Writes a run directory of several arms, or with one arm and one seed of that single run."""

    def make(root: Path, arms: Sequence[str] = ARMS, seeds: Sequence[int] = (1, 2)) -> Path:
        single = len(arms) == len(seeds) == 1
        names = {f"{arm}/{seed}": "." if single else f"{arm}/seed-{seed}" for arm in arms for seed in seeds}
        for key, name in names.items():
            arm, _, seed = key.partition("/")
            write_run(root / name, arm, int(seed))
        summary = {
            "title": "Column sums with dropped carries",
            "arms": list(arms),
            "seeds": list(seeds),
            "runs": names,
            "table": [result_row(a, s, kind) for a in arms for s in seeds for kind in ("easy", "hard")],
            "checks": [
                {
                    "name": "scalar GRPO stays under 5 % on the hard class",
                    "holds": True,
                    "value": 0.002,
                    "target": 0.05,
                },
                {"name": "both channels reach 80 % on the hard class", "holds": True},
                {"name": "the stall is reported before the first critic call", "holds": False},
            ],
            "command": "critique-rl demo --seeds 1 2",
            "versions": {"python": "3.11.9", "torch": "2.13.0"},
            "commit": "0123456789abcdef0123",
            "device": "CPU, 2 cores",
            "wall_time_s": 322.4,
        }
        (root / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        return root

    return make
