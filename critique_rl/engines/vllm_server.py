"""Sampling from a vLLM server that holds the trainer's weights.

Owns: when weights are pushed and proven, seeds, end tokens, and what happens when the server goes away. Must not know:
tasks, rewards, training. vLLM is never imported here.
Trap: a server that was restarted answers at once, with the weights it was started from. Every completion therefore
states which weights sampled it, and one that states others is sampled again.
"""

from __future__ import annotations

import hashlib
import os
import queue
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from critique_rl.config.engine import VllmEngineConfig
from critique_rl.engines.nccl_sync import NamedWeights, nccl_sync
from critique_rl.engines.stopping import StopStrings
from critique_rl.engines.sync import ReloadSync, WeightSync
from critique_rl.engines.vllm_connection import WAYS_OUT, ServerGone, call_pool
from critique_rl.engines.vllm_http import Sampled, VllmServer
from critique_rl.errors import ConfigError, CriticError, CriticMalformedError, CriticSetupError, EngineError
from critique_rl.net import CallFailed, CallResult, PlannedCall
from critique_rl.stats.mismatch import logprob_mismatch
from critique_rl.types import Array, Completion, Message, TokenIds

_COLDEST = 0.01
"""vLLM raises a temperature between 0 and this to this, and says so in its own log only."""
_PROBES = ("Count from one to ten.", "Name the colours of the rainbow, then say which one you like best.")


class Trained(Protocol):
    """What the engine asks of the policy: any `protocols.Policy`."""

    @property
    def version(self) -> int: ...

    def encode(self, messages: Sequence[Message]) -> TokenIds: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def logprobs(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[Array]: ...


class VllmServerEngine:
    """`protocols.RolloutEngine` behind HTTP. Weights follow `policy.version`: nothing has to be told of a step."""

    def __init__(
        self,
        server: VllmServer,
        sync: WeightSync,
        policy: Trained,
        config: VllmEngineConfig,
        *,
        end_ids: Sequence[int],
        temperature: float,
        poll_s: float = 1.0,
    ) -> None:
        """`temperature`: at which `policy.logprobs` scores; `poll_s`: the wait between looks at a lost server."""
        self._server = server
        self._sync = sync
        self._policy = policy
        self._config = config
        self._end_ids = frozenset(end_ids)
        self._temperature = temperature
        self._poll_s = poll_s
        self._pool = call_pool(timeout_s=config.timeout_s, max_in_flight=config.max_in_flight, poll_s=poll_s)
        self._label = ""
        self._version = -1

    def generate(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_done: Callable[[int, Completion], None] | None = None,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """One completion per prompt, each with a seed of its own; temperature 0 is greedy. `stop`: texts that end a
        completion; the server looks for them in its own text, and what is kept is decided by the policy's.

        Equal seeds give equal completions as far as the server's arithmetic does not depend on what it batches.
        Raises EngineError: the server stayed away, refuses, or does not hold the trainer's weights.
        """
        if 0 < temperature < _COLDEST:
            raise ConfigError(
                f"temperature = {temperature:g}: vLLM samples no colder than {_COLDEST:g}; set 0 for greedy"
            )
        stops = StopStrings(stop, self._policy.decode)
        done: dict[int, Completion] = {}

        def sample_the_rest() -> None:
            self.sync_weights()
            left = {i: prompt for i, prompt in enumerate(prompts) if i not in done}
            with closing(self._sample(left, max_tokens, temperature, seed, stops)) as arriving:
                for i, completion in arriving:
                    done[i] = completion
                    if on_done is not None:
                        on_done(i, completion)

        limits = self._config
        self._server.outlive(
            sample_the_rest, restarts=limits.max_restarts, wait_s=limits.restart_wait_s, poll_s=self._poll_s
        )
        return [done[i] for i in range(len(prompts))]

    def sync_weights(self) -> None:
        """Push the trainer's weights if the server does not hold them, and prove that it does.

        Raises EngineError, CheckpointError, ServerGone.
        """
        version = self._policy.version
        if self._label and version == self._version and self._server.weight_label() == self._label:
            return
        self._server.check()
        self._label = ""
        self._label = self._sync.push(version)
        try:
            self._prove(version)
        except BaseException:
            self._label = ""
            raise
        self._version = version

    def close(self) -> None:
        """Drop what is in flight and close the connections."""
        try:
            self._sync.close()
        finally:
            self._pool.close(self._server.close)

    def _prove(self, version: int) -> None:
        """Sample a little and score it with the trainer. Raises EngineError if the two disagree."""
        prompts = dict(enumerate(self._policy.encode([Message(role="user", content=text)]) for text in _PROBES))
        none = StopStrings((), self._policy.decode)
        sampled = dict(self._sample(prompts, self._config.probe_tokens, self._temperature, version, none))
        rows = [(prompts[i], sampled[i]) for i in prompts]
        trainer = self._policy.logprobs([prompt for prompt, _ in rows], [c.completion_ids for _, c in rows])
        server = [c.behaviour_logprobs for _, c in rows]
        found = logprob_mismatch(trainer, server)
        assert found is not None
        limit = self._config.probe_tolerance
        if not found.mean <= limit:
            ours = sum(float(logprobs_T.sum()) for logprobs_T in trainer) / found.tokens
            theirs = ours - found.bias
            raise EngineError(
                f"engine: after the sync of version {version} the server at {self._server.address} does not hold the "
                f"trainer's weights: over {found.tokens} probe tokens the mean log-prob is {ours:.4f} here and "
                f"{theirs:.4f} there, mean |difference| {found.mean:.4g}, at most {limit:g} allowed "
                f"(engine.probe_tolerance); is its model the run's, and its --dtype close enough? ({WAYS_OUT})"
            )

    def _sample(
        self, prompts: Mapping[int, TokenIds], max_tokens: int, temperature: float, seed: int, stops: StopStrings
    ) -> Generator[tuple[int, Completion]]:
        """Completions as they arrive; the others end in ServerGone once all have ended. Raises EngineError at once."""
        ready: queue.SimpleQueue[tuple[int, Future[CallResult[Sampled]]]] = queue.SimpleQueue()
        sent: list[Future[CallResult[Sampled]]] = []
        gone: ServerGone | None = None
        try:
            for i, prompt in prompts.items():
                sampling = self._sampling(max_tokens, temperature, request_seed(seed, i), stops)
                call = PlannedCall(send=partial(self._send, prompt, sampling, stops))
                future = self._pool.start(self._pool.call(call))
                sent.append(future)
                future.add_done_callback(partial(_put, ready, i))
            for _ in prompts:
                i, future = ready.get()
                result = future.result()
                if result.answer is not None:
                    yield i, self._completion(result.answer, stops)
                elif isinstance(result.error, CriticSetupError | CriticMalformedError):
                    raise EngineError(f"engine: the server at {self._server.address}: {result.error} ({WAYS_OUT})")
                else:
                    gone = ServerGone(str(result.error))
        finally:
            for future in sent:
                future.cancel()
        if gone is not None:
            raise gone

    async def _send(self, prompt: TokenIds, sampling: Mapping[str, object], stops: StopStrings) -> Sampled:
        sampled = await self._server.generate(prompt, sampling)
        if sampled.weights != frozenset({self._label}):
            stale = CriticError(f"it samples from weights {sorted(sampled.weights)}, not from {self._label!r}")
            raise CallFailed(stale, retryable=False)
        last = sampled.token_ids[-1]
        if sampled.stopped and last not in self._end_ids and stops.cut(sampled.token_ids) is None:
            unread = f", and its text here holds none of {list(stops.strings)}" if stops else ""
            raise CallFailed(
                CriticMalformedError(f"a completion stopped at id {last}, which ends none here{unread}"),
                retryable=False,
            )
        return sampled

    def _sampling(self, max_tokens: int, temperature: float, seed: int, stops: StopStrings) -> dict[str, object]:
        # Whatever is left out here, the server may fill from the model's generation config or its own defaults.
        return {
            "n": 1,
            "max_tokens": max_tokens,
            "min_tokens": 0,
            "temperature": temperature,
            "seed": seed,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            # The end ids are the trainer's, not the server's idea of them.
            "ignore_eos": True,
            "stop_token_ids": sorted(self._end_ids),
            "logprobs": 0,
            **(_looks_for(stops) if stops else {"detokenize": False}),
        }

    def _completion(self, sampled: Sampled, stops: StopStrings) -> Completion:
        stopped = stops.cut(sampled.token_ids)
        ids = sampled.token_ids[:stopped]
        return Completion(
            completion_ids=ids,
            behaviour_logprobs=sampled.logprobs[:stopped],
            text=self._policy.decode(ids),
            finished=stopped is not None or ids[-1] in self._end_ids,
        )


def _looks_for(stops: StopStrings) -> dict[str, object]:
    # The ids that it gives end with the one that completes a stop string; its text is not read.
    return {
        "stop": list(stops.strings),
        "include_stop_str_in_output": True,
        "detokenize": True,
        "skip_special_tokens": True,
    }


def request_seed(seed: int, index: int) -> int:
    """The seed of the `index`-th prompt of a batch: 48 bits, which JSON and every generator can hold."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{index}".encode()).digest()[:6], "big")


def vllm_engine(
    config: VllmEngineConfig,
    policy: Trained,
    save: Callable[[Path], None],
    *,
    end_ids: Sequence[int],
    temperature: float,
    named_weights: NamedWeights | None = None,
    device: torch.device | None = None,
    poll_s: float = 1.0,
) -> VllmServerEngine:
    """The engine of a run file. `save` writes a checkpoint of the whole policy (`engines.sync.write_checkpoint`).

    `named_weights` gives the same weights one by one on `device` (`engines.nccl_sync.model_weights`): `sync = "nccl"`.
    Raises MissingExtraError, ConfigError.
    """
    server = VllmServer(
        config.base_url,
        config.model,
        key=os.environ.get(config.api_key_env, "").strip() or None,
        timeout_s=config.timeout_s,
        max_in_flight=config.max_in_flight,
    )
    if config.sync == "nccl":
        assert named_weights is not None and device is not None
        sync: WeightSync = nccl_sync(server, named_weights, device=device, timeout_s=config.timeout_s)
    else:
        assert config.weights_directory is not None
        sync = ReloadSync(
            server, save, directory=Path(config.weights_directory), server_directory=config.server_weights_directory
        )
    return VllmServerEngine(server, sync, policy, config, end_ids=end_ids, temperature=temperature, poll_s=poll_s)


def _put(
    ready: queue.SimpleQueue[tuple[int, Future[CallResult[Sampled]]]], i: int, future: Future[CallResult[Sampled]]
) -> None:
    ready.put((i, future))
