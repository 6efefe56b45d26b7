"""Sampling with transformers' continuous batching: a sequence that ends makes room for the next one at once.

Owns: which requests are made of prompts, the forward pass and the draw of each step, what a completion is. Must not
know: tasks, rewards, training. Scheduling and the paged cache are transformers'; its background thread is not used, so
that the caller's thread samples, under the caller's autocast, and hears of every completion itself.
Trap: the attention that samples is another than the one that trains; it is put back before anybody else sees the model.
"""

from __future__ import annotations

import gc
import inspect
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from accelerate import Accelerator
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor
from transformers.generation.continuous_batching.input_outputs import ContinuousBatchingIOs
from transformers.generation.continuous_batching.requests import GenerationOutput
from transformers.utils.versions import require_version

from critique_rl.engines.draws import draw, row_uniforms
from critique_rl.engines.local import LocalEngine, as_completion
from critique_rl.engines.pages import PAGES, plan_reads
from critique_rl.engines.stopping import StopStrings
from critique_rl.errors import ModelError
from critique_rl.ops.logprobs import token_logprobs
from critique_rl.types import Array, Completion, TokenIds

PAGE_TOKENS = 32
STEP_TOKENS = 2048
"""Most tokens of one forward pass; longer prompts are read in pieces."""
USE_HF = "or sample with engine.kind = 'hf'"
NEEDED = "transformers>=5.23"
"""Continuous batching is not yet settled there, and this is written against inner parts of it."""


class ContinuousEngine(LocalEngine):
    """`protocols.RolloutEngine` over the very weights that are trained, `batch_size` sequences at a time.

    Draws are those of `HFEngine`: a completion depends on its prompt, the seed and its place in the call alone, up to
    the rounding of the model's logits, which is another than in `generate`. Log-probs are of the logits that were drawn
    from, in float32. The cache lives for one call, in the type of the weights.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        accelerator: Accelerator,
        *,
        end_ids: Sequence[int],
        batch_size: int,
        memory_share: float,
    ) -> None:
        """`memory_share`: of the memory that is free when a call begins, how much the cache may take. Raises ModelError
        for a transformers that is too old."""
        try:
            require_version(NEEDED)
        except ImportError as error:
            found = str(error).strip().splitlines()[0].rstrip(".")
            raise ModelError(f"engine.kind = 'continuous': {found}: pip install '{NEEDED}', {USE_HF}") from None
        super().__init__(model, tokenizer, accelerator, end_ids=end_ids, batch_size=batch_size)
        self.memory_share = memory_share
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    def generate_rows(
        self,
        prompts: Sequence[TokenIds],
        indices: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_done: Callable[[int, Completion], None] | None = None,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """`generate` for some rows of a larger call; `on_done` hears of each completion when it ends.

        Raises ModelError for logits that are not finite, a model whose attention is not full, or too little memory, and
        ValueError for an empty prompt.
        """
        stops = self.stop_strings(stop)
        if not all(prompts):
            empty = next(i for i, prompt in enumerate(prompts) if not prompt)
            raise ValueError(f"prompt {empty} holds no token; wanted at least one, such as a beginning-of-text id")
        uniforms_NT = row_uniforms(seed, indices, max_tokens if temperature > 0 else 0)
        done: dict[int, Completion] = {}
        if not prompts:
            return []
        manager = self._manager(prompts, max_tokens)
        try:
            while len(done) < len(prompts):
                for ended in self._until_some_end(manager, uniforms_NT, temperature, stops):
                    if ended.error is not None:
                        raise ModelError(f"engine: transformers gave a sequence up: {ended.error} ({USE_HF})")
                    i = int(ended.request_id)
                    done[i] = as_completion(ended.generated_tokens, ended.logprobs, self.end_ids, self.tokenizer, stops)
                    if on_done is not None:
                        on_done(i, done[i])
        finally:
            _release(manager)
        return [done[i] for i in range(len(prompts))]

    def _manager(self, prompts: Sequence[TokenIds], max_tokens: int) -> ContinuousBatchingManager:
        """Every prompt as a waiting request, over a cache for `batch_size` of them, or for as many as memory holds."""
        pages = sorted((math.ceil((len(prompt) + max_tokens) / PAGE_TOKENS) for prompt in prompts), reverse=True)
        try:
            try:
                manager = self._made(sum(pages[: self.batch_size]))
            except MemoryError:
                manager = self._made(None)
        except (MemoryError, ValueError) as error:
            raise ModelError(
                f"no cache for this model can be made in engine.memory_share = {self.memory_share:g} of free memory "
                f"({error}); raise it, lower rollout.max_tokens, {USE_HF}"
            ) from error
        for i, prompt in enumerate(prompts):
            manager.add_request(
                list(prompt), request_id=str(i), max_new_tokens=max_tokens, eos_token_id=list(self.end_ids)
            )
        return manager

    def _made(self, pages: int | None) -> ContinuousBatchingManager:
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        training = self.model.training
        options = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=pages,
            max_batch_tokens=max(STEP_TOKENS, self.batch_size),
            max_requests_per_batch=self.batch_size,
            max_memory_percent=self.memory_share,
            max_blocks_per_request=0,
            safety_margin=0.0,
            allow_block_sharing=False,
            use_async_batching=False,
            use_cuda_graph=False,
            return_logprobs=True,
            auto_switch_to_flash=False,
            disable_nccl_graph_mixing=False,
        )
        # transformers seeds torch when it makes a cache.
        with self._attention(PAGES), torch.random.fork_rng(devices=devices):
            self.model.set_attn_implementation("eager")  # the manager refuses an attention that it does not know
            try:
                manager = ContinuousBatchingManager(
                    self.model,  # pyright: ignore[reportArgumentType]
                    GenerationConfig(do_sample=False, eos_token_id=list(self.end_ids)),
                    options,
                )
                self.model.set_attn_implementation(PAGES)  # which needs no mask over the whole cache
                manager.warmup()
            finally:
                self.model.train(training)
        assert manager.batch_processor is not None
        kinds = set(manager.batch_processor.cache.cache_allocators)
        if kinds != {"full_attention"}:
            raise ModelError(
                f"engine.kind = 'continuous' samples from models with full attention in every layer, and this one has "
                f"{', '.join(sorted(kinds))}; set engine.kind = 'hf'"
            )
        return manager

    @torch.no_grad()
    def _until_some_end(
        self, manager: ContinuousBatchingManager, uniforms_NT: Array, temperature: float, stops: StopStrings
    ) -> list[GenerationOutput]:
        processor = manager.batch_processor
        assert processor is not None
        ended: list[GenerationOutput] = []
        with self._attention(PAGES), self.accelerator.autocast():
            while not ended:
                try:
                    scheduled = processor.prepare_next_batch()
                except RuntimeError as error:
                    raise ModelError(
                        f"engine.memory_share = {self.memory_share:g} of the free memory holds no whole sequence "
                        f"({error}); raise it, lower rollout.max_tokens, {USE_HF}"
                    ) from error
                assert scheduled, "requests are left, and none is scheduled"
                self._step(processor, uniforms_NT, temperature, stops)
                processor.update_batch()
                while (output := manager.get_result()) is not None:
                    ended.append(output)
        return ended

    def _step(
        self, processor: ContinuousBatchProcessor, uniforms_NT: Array, temperature: float, stops: StopStrings
    ) -> None:
        """One forward pass over what is scheduled, and one draw for each sequence whose prompt is read."""
        io = processor.inputs_and_outputs
        assert isinstance(io, ContinuousBatchingIOs)
        batch = io.get_model_kwargs()
        sequences = io.requests_in_batch
        reads = plan_reads(
            [s.query_length for s in sequences], [s.state.position_offset for s in sequences], batch["read_index"][0]
        )
        layer = {
            "read_index": [reads.slots_K],
            "write_index": batch["write_index"],
            "cu_seq_lens_k": batch["cu_seq_lens_k"],
            "max_length_k": batch["max_length_k"],
        }
        drawing = [s.state for s in sequences if s.has_new_token]
        predicts_N = batch["logits_indices"][: len(drawing)]
        output = self.model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            use_cache=False,
            cache=processor.cache,
            reads=reads,
            layer=layer,
            **({"logits_to_keep": predicts_N} if self._keeps_logits else {}),
        )
        logits_NV = cast(torch.Tensor, output.logits)[0]
        logits_NV = (logits_NV if self._keeps_logits else logits_NV[predicts_N]).to(
            torch.promote_types(torch.float32, self.model.dtype)
        )
        greedy = temperature == 0.0
        # A sequence that made room for others and began anew keeps its log-probs: they count its tokens.
        uniforms = [0.0 if greedy else uniforms_NT[int(s.request_id), len(s.logprobs)] for s in drawing]
        uniforms_N = torch.tensor(uniforms, dtype=torch.float64).to(logits_NV.device)
        ids_N = draw(logits_NV, uniforms_N, temperature=temperature)
        logprobs_N = token_logprobs(logits_NV, ids_N, temperature=1.0 if greedy else temperature)
        # transformers carries log-probs as the bits of an integer.
        io.output_ids[0, : len(drawing)] = ids_N
        io.output_ids[1, : len(drawing)] = logprobs_N.float().view(torch.int32)
        if stops:
            for state, token in zip(drawing, cast("list[int]", ids_N.tolist()), strict=True):
                # What was sampled before a sequence had to make room for others now stands behind its prompt.
                earlier = len(state.logprobs) - len(state.generated_tokens)
                before = state.initial_tokens[len(state.initial_tokens) - earlier :]
                if stops.ends([*before, *state.generated_tokens, token]):
                    state._new_tokens_limit = len(state.generated_tokens) + 1  # pyright: ignore[reportPrivateUsage]

    @contextmanager
    def _attention(self, name: str) -> Generator[None]:
        own = self._attention_now()
        self.model.set_attn_implementation(name)
        try:
            if self._attention_now() != name:
                raise ModelError(
                    "engine.kind = 'continuous' must set the model's attention, and "
                    f"{type(self.model).__name__} does not allow that; set engine.kind = 'hf'"
                )
            yield
        finally:
            self.model.set_attn_implementation(own)

    def _attention_now(self) -> str:
        now = self.model.config._attn_implementation  # pyright: ignore[reportPrivateUsage]
        assert now is not None
        return now


def _release(manager: ContinuousBatchingManager) -> None:
    """Free the cache now, whoever still holds the manager."""
    # A processor that goes has Python collect garbage, which takes longer than many calls do: it shall find nothing.
    freeze = gc.get_freeze_count() == 0
    if freeze:
        gc.freeze()
    try:
        manager.batch_processor = None
    finally:
        if freeze:
            gc.unfreeze()
