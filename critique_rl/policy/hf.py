"""A transformers causal LM as the policy: encode, re-score, step, save.

Owns: what a checkpoint of the model holds. Must not know: critiques, the loop.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from critique_rl.errors import CheckpointError
from critique_rl.policy.codec import PromptCodec
from critique_rl.policy.head import ResponseHead
from critique_rl.policy.load import read_weights
from critique_rl.policy.scoring import Scorer
from critique_rl.policy.step import StepConfig, TwoChannelStep
from critique_rl.policy.streams import active
from critique_rl.policy.teacher import Teacher
from critique_rl.protocols import StepReport
from critique_rl.types import Array, Message, TeacherTargets, TokenIds, TrainSample


class HFPolicy:
    """`protocols.Policy` over a transformers model on one device."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        accelerator: Accelerator,
        config: StepConfig,
    ) -> None:
        self.model = model.to(accelerator.device)  # pyright: ignore[reportArgumentType]
        self.tokenizer = tokenizer
        self.accelerator = accelerator
        self.codec = PromptCodec(tokenizer)
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self.pad_id = int(cast(int, pad_id))
        head = ResponseHead(self.model)
        self._scorer = self._scorer_of(head, config)
        self.teacher = Teacher(self.model, config.distillation)
        live = self.teacher.model is self.model
        self._teacher = self._scorer if live else self._scorer_of(ResponseHead(self.teacher.model), config)
        self._reference: Scorer | None = None
        if config.loss.kl_weight > 0 and self.teacher.kind == "frozen":
            self._reference = self._teacher
        elif config.loss.kl_weight > 0:
            start = copy.deepcopy(self.model).requires_grad_(False)
            self._reference = self._scorer_of(ResponseHead(start), config)
        self.train_step = TwoChannelStep(self.model, head, accelerator, config, self.pad_id)

    def _scorer_of(self, head: ResponseHead, config: StepConfig) -> Scorer:
        return Scorer(
            head,
            self.accelerator,
            temperature=config.temperature,
            max_tokens=config.optimizer.micro_batch_tokens,
            pad_id=self.pad_id,
        )

    @property
    def version(self) -> int:
        return self.train_step.steps_taken

    @property
    def max_positions(self) -> int | None:
        """Longest sequence that the model has positions for; None if its config names no limit."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit if isinstance(limit, int) and limit > 0 else None

    def encode(self, messages: Sequence[Message]) -> TokenIds:
        return self.codec.encode(messages)

    def encode_completion(self, text: str) -> TokenIds:
        return self.codec.encode_completion(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.codec.decode(ids)

    def logprobs(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[Array]:
        return self._scorer.logprobs(prompts, completions)

    def topk_logprobs(
        self,
        contexts: Sequence[TokenIds],
        completions: Sequence[TokenIds],
        *,
        k: int,
        who: Literal["policy", "teacher"],
        support: Sequence[TeacherTargets] | None = None,
    ) -> list[TeacherTargets]:
        scorer = self._teacher if who == "teacher" else self._scorer
        return scorer.topk(contexts, completions, k=k, support=support)

    def step(self, samples: Sequence[TrainSample]) -> StepReport:
        report = self.train_step(self._with_reference(samples))
        refreshed = self.teacher.follow(applied=report.applied, steps_taken=self.version)
        if self.teacher.kind != "ema":
            return report
        return report._replace(diagnostics={**report.diagnostics, "teacher/refreshed": float(refreshed)})

    def _with_reference(self, samples: Sequence[TrainSample]) -> Sequence[TrainSample]:
        """The samples with the starting policy's log-probs where a KL penalty reads them."""
        if self._reference is None:
            return samples
        held = [i for i, s in enumerate(samples) if active(s, s.pg_weight).any()]
        scored = self._reference.logprobs(
            [samples[i].prompt_ids for i in held], [samples[i].completion_ids for i in held]
        )
        filled = list(samples)
        for i, logprobs in zip(held, scored, strict=True):
            filled[i] = replace(samples[i], reference_logprobs=logprobs)
        return filled

    def save(self, directory: Path) -> None:
        """Write `policy/` (loads with from_pretrained), `optimizer.pt` and what the teacher cannot be rebuilt from.

        Errors: OSError as it comes.
        """
        self.model.save_pretrained(directory / "policy")
        self.tokenizer.save_pretrained(directory / "policy")
        state = {
            "optimizer": self.train_step.optimizer.state_dict(),
            "steps_taken": self.train_step.steps_taken,
            "entropy_coefficient": self.train_step.entropy_coefficient,
        }
        torch.save(state, directory / "optimizer.pt")
        self.teacher.save(directory)

    def restore(self, directory: Path) -> None:
        """Load what `save` wrote. Errors: CheckpointError naming the directory; do not train on after one."""
        try:
            saved = read_weights(directory / "policy", self.model.dtype)
            state = torch.load(directory / "optimizer.pt", weights_only=True, map_location=self.accelerator.device)
            steps_taken = int(state["steps_taken"])
            coefficient = float(state.get("entropy_coefficient", self.train_step.entropy_coefficient))
            self.model.load_state_dict(saved.state_dict(), strict=True)
            self.train_step.optimizer.load_state_dict(state["optimizer"])
            self.teacher.restore(directory)
        except Exception as error:  # torch's and safetensors' readers raise kinds of their own for a broken file
            raise CheckpointError(
                f"checkpoint {str(directory)!r} cannot be read: {type(error).__name__}: {error}; delete it to go back"
            ) from error
        self.train_step.steps_taken = steps_taken
        self.train_step.entropy_coefficient = coefficient
