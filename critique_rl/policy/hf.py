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

from critique_rl.errors import CheckpointError, ConfigError
from critique_rl.policy.adapters import has_adapters, read_adapters, save_adapters
from critique_rl.policy.batching import Layout
from critique_rl.policy.codec import PromptCodec
from critique_rl.policy.crew import Crew
from critique_rl.policy.head import ResponseHead
from critique_rl.policy.layout import usable_layout
from critique_rl.policy.load import read_weights
from critique_rl.policy.optimizers import load_optimizer_state, optimizer_state
from critique_rl.policy.ranked_scorer import RankedScorer, WholeScorer
from critique_rl.policy.scoring import Scorer
from critique_rl.policy.sharding import RankedHead, cut_state, like_parameters, whole_state
from critique_rl.policy.step import StepConfig, TwoChannelStep
from critique_rl.policy.streams import active
from critique_rl.policy.teacher import BaseScorer, TargetScorer, Teacher
from critique_rl.policy.updates import learn
from critique_rl.protocols import StepReport
from critique_rl.types import Array, Knobs, Message, TeacherTargets, TokenIds, TrainSample


class HFPolicy:
    """`protocols.Policy` over a transformers model on one device."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        accelerator: Accelerator,
        config: StepConfig,
        *,
        served: TargetScorer | None = None,
        crew: Crew | None = None,
    ) -> None:
        """`served` is the teacher where `distillation.teacher = "served"`. Errors: ConfigError without it there.

        With a crew of several ranks, every rank makes its policy from the same weights and config, then all `spread`.
        """
        self.model = model.to(accelerator.device)  # pyright: ignore[reportArgumentType]
        self.tokenizer = tokenizer
        self.accelerator = accelerator
        self.codec = PromptCodec(tokenizer)
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self.pad_id = int(cast(int, pad_id))
        head = ResponseHead(self.model)
        with accelerator.autocast():
            self.layout: Layout = usable_layout(head, config.optimizer.layout)
        self.ranked = RankedHead(head, accelerator, crew or Crew())
        self._knobs = Knobs()
        self._scorers: list[Scorer] = []
        self._scorer = self._scorer_of(head, config)
        self.teacher = Teacher(self.model, config.distillation)
        start = BaseScorer(self._scorer, self.model) if has_adapters(self.model) else None
        self._teacher = self._teacher_scorer(start, config, served)
        self._reference: Scorer | BaseScorer | None = None
        if config.loss.kl_weight > 0:
            self._reference = start or self._start_scorer(config)
        self.train_step = TwoChannelStep(
            self.model, head, accelerator, config, self.pad_id, layout=self.layout, ranked=self.ranked
        )
        self._share_out()

    def _share_out(self) -> None:
        """Put every scorer behind the crew, and register what else all ranks do."""
        self._by_policy = RankedScorer("policy", self._scorer, self.ranked)
        self._by_teacher: TargetScorer = self._by_policy
        if self.teacher.kind == "served":
            self._by_teacher = self._teacher
        elif self._teacher is not self._scorer:
            self._by_teacher = RankedScorer("teacher", cast(WholeScorer, self._teacher), self.ranked)
        self._by_start = None if self._reference is None else RankedScorer("start", self._reference, self.ranked)
        crew = self.ranked.crew
        self._spread_all = crew.duty("spread", self._spread_share)
        self._whole_all = crew.duty("whole", self._whole_share)
        self._follow_all = crew.duty("follow", self._follow_share)
        self._state_all = crew.duty("optimizer state", self._state_share)
        self._restore_all = crew.duty("restore", self._restore_share)
        self._turn_all = crew.duty("turn", self._turn_share)

    def spread(self) -> None:
        """Have all ranks wrap the model for training together; nothing for one process. Before the first use."""
        self._spread_all([None] * self.ranked.crew.size)

    def _spread_share(self, _: None) -> None:
        self.ranked.spread()
        if self.ranked.sharded:
            self.train_step.build_optimizer()

    def whole_model(self) -> PreTrainedModel:
        """The model with all its weights, for transformers' own functions; good until the next step."""
        if self.ranked.sharded:
            self._whole_all([None] * self.ranked.crew.size)
        return self.ranked.whole_model()

    def _whole_share(self, _: None) -> None:
        self.ranked.whole()

    def _teacher_scorer(
        self, start: BaseScorer | None, config: StepConfig, served: TargetScorer | None
    ) -> TargetScorer:
        if self.teacher.kind == "served":
            if served is None:
                raise ConfigError(
                    'distillation.teacher = "served" came without a server to score with; name one in '
                    "[distillation.server], or choose another teacher"
                )
            return served
        if self.teacher.model is not self.model:
            return self._scorer_of(ResponseHead(self.teacher.model), config)
        return start if start is not None and self.teacher.kind == "frozen" else self._scorer

    def _start_scorer(self, config: StepConfig) -> Scorer:
        if self.teacher.kind == "frozen" and isinstance(self._teacher, Scorer):
            return self._teacher
        return self._scorer_of(ResponseHead(copy.deepcopy(self.model).requires_grad_(False)), config)

    def _scorer_of(self, head: ResponseHead, config: StepConfig) -> Scorer:
        made = Scorer(
            head,
            self.accelerator,
            temperature=config.temperature,
            max_tokens=config.optimizer.micro_batch_tokens,
            pad_id=self.pad_id,
            layout=self.layout,
        )
        self._scorers.append(made)
        return made

    def set_knobs(self, knobs: Knobs) -> None:
        """What a guard of exploration has changed, from now on: in the training step, and in the temperature at which
        everything is scored."""
        if knobs != self._knobs:
            self._knobs = knobs
            self._turn_all([knobs] * self.ranked.crew.size)

    def _turn_share(self, knobs: Knobs) -> None:
        self.train_step.turn(knobs)
        for scorer in self._scorers:
            scorer.temperature = self.train_step.config.temperature

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

    def encode_observation(self, text: str, *, after: int) -> TokenIds:
        return self.codec.encode_observation(text, after=after)

    def decode(self, ids: Sequence[int]) -> str:
        return self.codec.decode(ids)

    def logprobs(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[Array]:
        return self._by_policy.logprobs(prompts, completions)

    def topk_logprobs(
        self,
        contexts: Sequence[TokenIds],
        completions: Sequence[TokenIds],
        *,
        k: int,
        who: Literal["policy", "teacher"],
        support: Sequence[TeacherTargets] | None = None,
    ) -> list[TeacherTargets]:
        scorer = self._by_teacher if who == "teacher" else self._by_policy
        return scorer.topk(contexts, completions, k=k, support=support)

    def step(self, samples: Sequence[TrainSample], *, refresh_teacher: bool | None = None) -> StepReport:
        before = self.version
        report = learn(self.train_step, self._with_reference(samples), self.train_step.config.optimizer)
        if self.teacher.kind != "ema":
            return report
        due = refresh_teacher if report.applied else False
        if due is None:
            # Several updates at once may step over the multiple at which a refresh is due.
            due = before // self.teacher.every != self.version // self.teacher.every
        refreshed = self._follow_all([due] * self.ranked.crew.size)[0]
        return report._replace(diagnostics={**report.diagnostics, "teacher/refreshed": float(refreshed)})

    def _follow_share(self, due: bool | None) -> bool:
        if due is False:
            return False
        # Split weights have no state dict of whole tensors, which the average is read from.
        return self.teacher.follow(applied=True, steps_taken=self.version, policy=self.ranked.whole_model(), due=due)

    def _with_reference(self, samples: Sequence[TrainSample]) -> Sequence[TrainSample]:
        """The samples with the starting policy's log-probs where a KL penalty reads them."""
        if self._by_start is None:
            return samples
        held = [i for i, s in enumerate(samples) if active(s, s.pg_weight).any()]
        scored = self._by_start.logprobs(
            [samples[i].prompt_ids for i in held], [samples[i].completion_ids for i in held]
        )
        filled = list(samples)
        for i, logprobs in zip(held, scored, strict=True):
            filled[i] = replace(samples[i], reference_logprobs=logprobs)
        return filled

    def save(self, directory: Path) -> None:
        """Write `policy/` (loads with from_pretrained; adapters alone, with peft's), `optimizer.pt` and what the
        teacher cannot be rebuilt from: the same files for any number of ranks. Errors: OSError as it comes.
        """
        model = self.whole_model()
        if has_adapters(model):
            save_adapters(model, directory / "policy")
        else:
            model.save_pretrained(directory / "policy")
        self.tokenizer.save_pretrained(directory / "policy")
        state = {
            "optimizer": self._optimizer_state(),
            "steps_taken": self.train_step.steps_taken,
            "entropy_coefficient": self.train_step.entropy_coefficient,
            "conflict_measured_at": self.train_step.conflict_measured_at,
        }
        torch.save(state, directory / "optimizer.pt")
        self.teacher.save(directory)

    def _optimizer_state(self) -> dict[str, object]:
        if self.ranked.sharded:
            return cast("dict[str, object]", self._state_all([None] * self.ranked.crew.size)[0])
        return optimizer_state(self.train_step.optimizer)

    def _state_share(self, _: None) -> dict[str, object] | None:
        """The leading rank's whole state; the others only help to make it."""
        crew = self.ranked.crew
        with crew.together():
            state = whole_state(self.train_step.optimizer, keep=crew.leads)
        return state if crew.leads else None

    def restore(self, directory: Path) -> None:
        """Load what `save` wrote, on every rank. Errors: CheckpointError naming the directory; do not train on after
        one."""
        self._restore_all([directory] * self.ranked.crew.size)

    def _restore_share(self, directory: Path) -> None:
        self.ranked.part()
        optimizer = self.train_step.optimizer
        try:
            saved = self._read_policy(directory / "policy")
            state = torch.load(directory / "optimizer.pt", weights_only=True, map_location="cpu")
            steps_taken = int(state["steps_taken"])
            coefficient = float(state.get("entropy_coefficient", self.train_step.entropy_coefficient))
            measured_at = None if state.get("conflict_measured_at") is None else int(state["conflict_measured_at"])
            self.model.load_state_dict(like_parameters(saved, self.model), strict=True)
            load_optimizer_state(optimizer, cut_state(state["optimizer"], optimizer))
            self.teacher.restore(directory)
        except Exception as error:  # torch's and safetensors' readers raise kinds of their own for a broken file
            raise CheckpointError(
                f"checkpoint {str(directory)!r} cannot be read: {type(error).__name__}: {error}; delete it to go back"
            ) from error
        self.train_step.steps_taken = steps_taken
        self.train_step.entropy_coefficient = coefficient
        self.train_step.conflict_measured_at = measured_at

    def _read_policy(self, directory: Path) -> dict[str, torch.Tensor]:
        if has_adapters(self.model):
            return {**self.model.state_dict(), **read_adapters(self.model, directory)}
        return read_weights(directory, self.model.dtype).state_dict()
