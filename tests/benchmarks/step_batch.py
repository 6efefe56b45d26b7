"""What both sides of `tests.benchmarks.step` share: the model, the rollouts, the clock and the memory meter.

Owns: the job that a driver sends to a worker, and the loop that answers it from a process of its own, forked after the
imports, so that one peak of memory belongs to one measurement. Must not know: critique_rl, TRL (either may be missing).
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TOP_K = 20
LEARNING_RATE = 1e-6
SHAPES = {
    # hidden, inner, layers, heads, key/value heads, head size
    "tiny": (32, 64, 2, 2, 1, 16),
    "small": (256, 768, 4, 8, 4, 32),
    "qwen3-0.6b": (1024, 3072, 28, 16, 8, 128),
    "qwen3-1.7b": (2048, 6144, 28, 16, 8, 128),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One measurement. `share` of the rows have a directive; `variant` is the side's own name for its options."""

    side: str
    variant: str = "default"
    shape: str = "small"
    vocabulary: int = 32_000
    rows: int = 16
    prompt: int = 48
    directive: int = 64
    completion: int = 128
    skewed: bool = False
    share: float = 0.0
    steps: int = 1
    threads: int = 1
    device: str = "cpu"
    seed: int = 0

    @property
    def directed(self) -> int:
        """How many rows have a directive: the first ones."""
        return round(self.share * self.rows)


class Measured(NamedTuple):
    """Seconds of each timed step, on the wall and of processor; bytes at the peak and before the first step; the
    gradient's norm in the last step."""

    wall_s: list[float]
    cpu_s: list[float]
    peak_bytes: int
    base_bytes: int
    grad_norm: float


class Rollout(NamedTuple):
    """Token ids of one rollout, its context with the directive, and its advantage."""

    prompt: list[int]
    context: list[int]
    completion: list[int]
    advantage: float


def lengths(rows: int, mean: int, *, skewed: bool) -> list[int]:
    """Completion lengths with the sum rows * mean, in a fixed mixed order: all equal, or the quantiles of a log-normal
    (sigma 0.8), whose longest of 16 is about 3.3 times the mean."""
    if not skewed:
        return [mean] * rows
    from statistics import NormalDist

    raw = [math.exp(0.8 * NormalDist().inv_cdf((i + 0.5) / rows)) for i in range(rows)]
    found = [max(1, round(r * mean * rows / sum(raw))) for r in raw]
    found[-1] += rows * mean - sum(found)
    random.Random(rows).shuffle(found)
    return found


def rollouts(job: Job) -> list[Rollout]:
    """The fixed rollouts of a job; ids 0 to 2 are special and never occur."""
    draw = random.Random(job.seed)

    def ids(count: int) -> list[int]:
        return [draw.randrange(3, job.vocabulary) for _ in range(count)]

    made: list[Rollout] = []
    for i, length in enumerate(lengths(job.rows, job.completion, skewed=job.skewed)):
        prompt, directive = ids(job.prompt), ids(job.directive)
        made.append(Rollout(prompt, prompt + directive, ids(length), 1.0 if i % 2 else -1.0))
    return made


def start_logprob(job: Job) -> float:
    """What either side is told of every sampled token's log-prob: that of a uniform policy, near which random weights
    are, so that no ratio is clipped."""
    return -math.log(job.vocabulary)


def model_of(job: Job) -> PreTrainedModel:
    """A Qwen3 of the job's shape with tied embeddings and random weights, equal on both sides for equal versions."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    hidden, inner, layers, heads, kv_heads, head_size = SHAPES[job.shape]
    config = Qwen3Config(
        vocab_size=job.vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_size,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(job.seed)
    with torch.device(job.device):
        return Qwen3ForCausalLM(config).eval()


def tokenizer_of() -> PreTrainedTokenizerFast:
    """A tokenizer in name only: no text is ever encoded here."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def measure_steps(job: Job, step: Callable[[int], float]) -> Measured:
    """A step to warm up, which also makes the optimiser's state, then the timed ones. `step` takes the number of rows
    to learn from and returns the gradient's norm; on the CPU two rows are enough to warm up."""
    base_bytes = _start_of_peak(job.device)
    step(job.rows if job.device == "cuda" else 2)
    walls: list[float] = []
    cpus: list[float] = []
    norm = 0.0
    for _ in range(job.steps):
        synchronise(job.device)
        wall, cpu = time.perf_counter(), time.process_time()
        norm = step(job.rows)
        synchronise(job.device)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Measured(walls, cpus, peak_bytes(job.device), base_bytes, norm)


def synchronise(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _start_of_peak(device: str) -> int:
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status_bytes("VmRSS")


def peak_bytes(device: str) -> int:
    """The most memory held since the first step began: of the whole process on the CPU, in tensors on CUDA."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return _status_bytes("VmHWM")


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def padded(sequences: list[list[int]], *, left: bool, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [B, T], padded with id 0."""
    import torch

    width = max(map(len, sequences))
    fill = [[0] * (width - len(s)) for s in sequences]
    ones = [[1] * len(s) for s in sequences]
    if left:
        ids = [f + s for f, s in zip(fill, sequences, strict=True)]
        mask = [f + o for f, o in zip(fill, ones, strict=True)]
    else:
        ids = [s + f for f, s in zip(fill, sequences, strict=True)]
        mask = [o + f for f, o in zip(fill, ones, strict=True)]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def serve(measure: Callable[[Job], Measured], about: dict[str, str]) -> None:
    """Say who we are in one line, then answer each job on stdin with one line; whatever else is printed goes to
    stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        print(_in_child(measure, Job(**json.loads(line))), file=answers, flush=True)


def _in_child(measure: Callable[[Job], Measured], job: Job) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            import torch

            torch.set_num_threads(job.threads)
            reply = json.dumps(measure(job)._asdict())
        except BaseException as error:
            traceback.print_exc()
            reply = json.dumps({"error": f"{type(error).__name__}: {error}"[:300]})
        with os.fdopen(writer, "w", encoding="utf-8") as pipe:
            pipe.write(reply)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        reply = pipe.read()
    status = os.waitpid(child, 0)[1]
    return reply or json.dumps({"error": f"its process ended with status {status}: out of memory, probably"})
