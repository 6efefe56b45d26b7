"""A random two-layer Llama, a word-level tokenizer and train samples: small enough to check by brute force.

Legend: T completion tokens, K support ids, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from critique_rl.config.algorithm import DistillationConfig, RefinementConfig
from critique_rl.config.loss import LossConfig
from critique_rl.config.policy import OptimizerConfig
from critique_rl.engines.hf import HFEngine
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.step import StepConfig
from critique_rl.types import TeacherTargets, TrainSample

PAD, BOS, EOS, UNKNOWN = 0, 1, 2, 3
V = 40
WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(4, V))]
TEMPLATE = (
    "{% for m in messages %}<bos> {{ m['content'] }} <eos> {% endfor %}{% if add_generation_prompt %}w4{% endif %}"
)


def tiny_tokenizer(*, adds_bos: bool = False, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Words w4..w39 by whitespace; `adds_bos` puts <bos> before every encoded text, as many tokenizers do."""
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    if adds_bos:
        words.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_model(seed: int = 0, *, dtype: torch.dtype = torch.float64, vocabulary: int = V) -> LlamaForCausalLM:
    """Random weights wide enough that the distributions are far from uniform."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.4,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.to(dtype).eval()  # pyright: ignore[reportArgumentType]


def step_config(
    *,
    loss: Mapping[str, object] | None = None,
    refinement: Mapping[str, object] | None = None,
    distillation: Mapping[str, object] | None = None,
    optimizer: Mapping[str, object] | None = None,
    temperature: float = 1.0,
    max_completion_tokens: int = 8,
) -> StepConfig:
    """A `StepConfig` of defaults, with a learning rate at which one step can be seen."""
    return StepConfig(
        loss=LossConfig.model_validate(loss or {}),
        refinement=RefinementConfig.model_validate(refinement or {}),
        distillation=DistillationConfig.model_validate(distillation or {}),
        optimizer=OptimizerConfig.model_validate({"learning_rate": 1e-3} | dict(optimizer or {})),
        temperature=temperature,
        max_completion_tokens=max_completion_tokens,
    )


def tiny_policy(config: StepConfig | None = None, *, seed: int = 0, **tokenizer: object) -> HFPolicy:
    return HFPolicy(tiny_model(seed), tiny_tokenizer(**tokenizer), Accelerator(cpu=True), config or step_config())  # pyright: ignore[reportArgumentType]


def tiny_engine(policy: HFPolicy, *, end_ids: Sequence[int] = (EOS,), batch_size: int = 8) -> HFEngine:
    return HFEngine(
        policy.model,
        policy.tokenizer,
        policy.accelerator,
        end_ids=end_ids,
        pad_id=policy.pad_id,
        batch_size=batch_size,
    )


def ids(*numbers: int) -> tuple[int, ...]:
    return numbers


def sample(
    prompt: Sequence[int],
    completion: Sequence[int],
    *,
    advantage: float = 0.0,
    pg: float = 0.0,
    distill: float = 0.0,
    imitate: float = 0.0,
    behaviour: Sequence[float] | None = None,
    guided: Sequence[float] | None = None,
    mask: Sequence[float] | None = None,
    teacher: TeacherTargets | None = None,
) -> TrainSample:
    """A train sample with one number per stream on every token."""
    length = len(completion)
    return TrainSample(
        rollout_id="r",
        task_id="t",
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        loss_mask=np.ones(length) if mask is None else np.array(mask, dtype=np.float64),
        behaviour_logprobs=np.full(length, -2.0) if behaviour is None else np.array(behaviour, dtype=np.float64),
        advantages=np.full(length, advantage),
        pg_weight=np.full(length, pg),
        distill_weight=np.full(length, distill),
        imitate_weight=np.full(length, imitate),
        teacher=teacher,
        guided_logprobs=None if guided is None else np.array(guided, dtype=np.float64),
    )


def random_targets(rng: np.random.Generator, length: int, k: int, *, vocabulary: int = V) -> TeacherTargets:
    """Targets of a random teacher at its own top-K."""
    logits_TV = 1.5 * rng.normal(size=(length, vocabulary))
    logprobs_TV = logits_TV - np.log(np.exp(logits_TV).sum(axis=1, keepdims=True))
    ids_TK = np.argsort(-logprobs_TV, axis=1)[:, :k]
    return TeacherTargets(
        ids_TK=ids_TK.astype(np.int64),
        logprobs_TK=np.take_along_axis(logprobs_TV, ids_TK, axis=1),
        sampled_logprobs_T=logprobs_TV[:, 0],
        mask_T=np.ones(length),
        context_ids=(BOS,),
    )


def gradient(policy: HFPolicy, samples: Sequence[TrainSample], *, max_tokens: int | None = None) -> torch.Tensor:
    """The batch's accumulated gradient over all weights, flat and unclipped; zeros if nothing carries one."""
    policy.model.zero_grad(set_to_none=True)
    policy.train_step.accumulate(samples, max_tokens=max_tokens)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.model.parameters()]
    return torch.cat([part.detach().clone().flatten() for part in parts])


def weights(policy: HFPolicy) -> torch.Tensor:
    return torch.cat([p.detach().clone().flatten() for p in policy.model.parameters()])
