"""A training run whose rollouts come from a real vLLM server, which may be killed in the middle of a step.

Owns: the run's config and what is written down of each step. Must not know: what the figures have to be.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from critique_rl.build import build
from critique_rl.config.engine import VllmEngineConfig
from critique_rl.config.load import validate
from critique_rl.config.run import RunConfig
from critique_rl.engines.vllm_server import VllmServerEngine
from critique_rl.loop.train import Trainer
from critique_rl.policy.hf import HFPolicy
from critique_rl.trackers.jsonl import JsonlTracker
from critique_rl.types import Completion, TokenIds
from tests.servers.vllm_process import SERVED_NAME, VllmProcess

TEMPERATURE = 0.8
MAX_TOKENS = 16
STEPS = 3
KILLED_IN_STEP = 2
PROMPTS, GROUP = 2, 4
EVEN_E = r"^[^e]*(e[^e]*e[^e]*)*$"
"""A form that about half of all short texts have, so that groups are mixed and every step has a gradient."""
QUESTIONS = ("Tell me about the sea.", "What is 12 + 30?", "Name three birds.", "Write one line about rain.")


@dataclass(kw_only=True)
class Recorded:
    """`arrived[v]`: which completions came from version v, in order; `completions[v]`: the same once all were there;
    `pushes[v]`: how often weights had been pushed by then; `mismatch` and `applied`: a figure a step."""

    arrived: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    completions: dict[int, list[Completion]] = field(default_factory=dict[int, list[Completion]])
    pushes: dict[int, int] = field(default_factory=dict[int, int])
    mismatch: list[float] = field(default_factory=list[float])
    applied: list[float] = field(default_factory=list[float])


def run_config(weights: Path, base_url: str, work: Path, *, tolerance: float) -> RunConfig:
    """Three steps of GRPO on four questions; `tolerance` bounds the probes after each sync and the mismatch alike."""
    work.mkdir(parents=True, exist_ok=True)
    tasks = work / "tasks.jsonl"
    tasks.write_text("".join(json.dumps({"prompt": q, "answer": "any"}) + "\n" for q in QUESTIONS), encoding="utf-8")
    return validate(
        {
            "policy": {"model": str(weights), "device": "cpu", "threads": 1},
            "tasks": {"kind": "jsonl", "path": str(tasks), "held_out_fraction": 0, "verifier": "form"},
            "rewards": {"form": {"kind": "format", "pattern": EVEN_E}},
            "rollout": {
                "prompts_per_step": PROMPTS,
                "group_size": GROUP,
                "max_tokens": MAX_TOKENS,
                "temperature": TEMPERATURE,
            },
            "engine": {
                "kind": "vllm",
                "model": SERVED_NAME,
                "base_url": base_url,
                "weights_directory": str(work / "weights"),
                "probe_tolerance": tolerance,
                "max_in_flight": 4,
            },
            "mismatch": {"alarm": tolerance, "abort": 10 * tolerance},
            "algorithm": {"name": "grpo"},
            "optimizer": {"learning_rate": 1e-5},
            "budget": {"max_steps": STEPS},
            "evaluation": {"every": 0},
        },
        source="tests.manual.vllm_run",
    )


def train(config: RunConfig, directory: Path, *, kill: VllmProcess | None = None) -> Recorded:
    """Train to the end; `kill` dies when the second completion of one step has arrived, and is back after a while."""
    parts = build(config, tracker=JsonlTracker(directory, resume_step=None))
    assert isinstance(parts.engine, VllmServerEngine) and isinstance(parts.policy, HFPolicy)
    recorded = Recorded()
    deaths: list[threading.Thread] = []

    def die() -> None:
        assert kill is not None
        kill.kill()
        deaths.append(threading.Thread(target=_start_again, args=(kill,)))
        deaths[0].start()

    assert isinstance(config.engine, VllmEngineConfig) and config.engine.weights_directory is not None
    weights = Path(config.engine.weights_directory)
    _watch(parts.engine, parts.policy, recorded, weights, die if kill else None)
    try:
        Trainer(config, parts, directory).run()
    finally:
        parts.engine.close()
        parts.tracker.close()
        for death in deaths:
            death.join()
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    shutil.rmtree(weights)
    for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        figures = cast("dict[str, float]", json.loads(line))
        if "mismatch/mean" in figures:
            recorded.mismatch.append(figures["mismatch/mean"])
            recorded.applied.append(figures["step/applied"])
    return recorded


def _start_again(server: VllmProcess) -> None:
    time.sleep(3)
    server.start()


def _watch(
    engine: VllmServerEngine, policy: HFPolicy, recorded: Recorded, weights: Path, die: Callable[[], None] | None
) -> None:
    """Write down what arrives, and call `die` once, in the middle of a step."""
    generate = engine.generate

    def watched(
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_done: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        version = policy.version
        arrived: list[int] = []

        def arrive(i: int, completion: Completion) -> None:
            arrived.append(i)
            if die is not None and version == KILLED_IN_STEP - 1 and len(arrived) == 2:
                die()
            if on_done is not None:
                on_done(i, completion)

        completions = generate(prompts, max_tokens=max_tokens, temperature=temperature, seed=seed, on_done=arrive)
        if prompts:
            recorded.arrived[version] = arrived
            recorded.completions[version] = completions
            (label,) = [path.name for path in weights.iterdir() if not path.name.startswith(".")]
            recorded.pushes[version] = int(label.rsplit(".", 1)[1])
        return completions

    engine.generate = watched
