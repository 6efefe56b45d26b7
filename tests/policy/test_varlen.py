"""Calls of a variable-length kernel, faked by plain loops over what torch documents: used only once it is proven."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from critique_rl.policy.segments import Span, attend_by_segment, segments_of
from critique_rl.policy.varlen import Kernel, attend_with_kernel, torch_kernel

CPU = torch.device("cpu")
SEGMENTS = segments_of([Span(5), Span(4, 5, 0), Span(1, 5, 0), Span(3)], CPU)


def plain_kernel(*, counts_from_the_end: bool = True) -> Kernel:
    """Loops over sequences and queries; keys have fewer heads where `enable_gqa`."""

    def varlen(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
    ) -> Tensor:
        assert query.dtype == torch.bfloat16 and cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        assert scale is not None and window_size[1] == 0
        assert enable_gqa == (query.shape[1] != key.shape[1])
        assert max_q == int(cu_seq_q.diff().max()) and max_k == int(cu_seq_k.diff().max())
        groups = query.shape[1] // key.shape[1]
        key, value = (x.float().repeat_interleave(groups, dim=1) for x in (key, value))
        rows: list[Tensor] = []
        for s in range(len(cu_seq_q) - 1):
            queries = range(int(cu_seq_q[s]), int(cu_seq_q[s + 1]))
            first, end = int(cu_seq_k[s]), int(cu_seq_k[s + 1])
            ahead = end - first - len(queries) if counts_from_the_end else 0
            for i, t in enumerate(queries):
                last = first + ahead + i + 1
                seen = slice(first if window_size[0] < 0 else max(first, last - window_size[0] - 1), last)
                weights = (scale * (query[t].float() * key[seen]).sum(-1)).softmax(0)
                rows.append((weights[..., None] * value[seen]).sum(0))
        return torch.stack(rows).to(query.dtype)

    return varlen


def older(new: Kernel) -> Kernel:
    """Without grouped heads and windows."""

    def varlen(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        q: Tensor,
        k: Tensor,
        m: int,
        n: int,
        *,
        is_causal: bool,
        scale: float,
    ) -> Tensor:
        assert is_causal
        return new(query, key, value, q, k, m, n, scale=scale, window_size=(-1, 0))

    return varlen


def numbers(dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    draw = torch.Generator().manual_seed(2)
    return [torch.randn(1, heads, 13, 8, generator=draw).to(dtype) for heads in (4, 2, 2)]


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_proven_kernel_gives_what_the_plain_form_gives(window: int | None, autocast: bool) -> None:
    query, key, value = numbers()
    kernel = plain_kernel()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        given = (query.float(), key.float(), value) if autocast else (query, key, value)
        found = attend_with_kernel(kernel, *given, SEGMENTS, scale=0.4, window=window)
    assert found is not None and found.dtype == torch.bfloat16
    wanted = attend_by_segment(query.float(), key.float(), value.float(), SEGMENTS, scale=0.4, window=window)
    torch.testing.assert_close(found.float(), wanted, rtol=0.02, atol=0.02)


def test_its_gradients_reach_the_shared_prompt() -> None:
    kernel = plain_kernel()
    narrow = [x.requires_grad_() for x in numbers()]
    wide = [x.detach().float().requires_grad_() for x in narrow]
    with torch.no_grad():
        assert attend_with_kernel(kernel, narrow[0], narrow[1], narrow[2], SEGMENTS, scale=0.4) is not None
    found = attend_with_kernel(kernel, narrow[0], narrow[1], narrow[2], SEGMENTS, scale=0.4)
    wanted = attend_by_segment(wide[0], wide[1], wide[2], SEGMENTS, scale=0.4)
    assert found is not None
    pairs = zip(torch.autograd.grad(found.sum(), narrow), torch.autograd.grad(wanted.sum(), wide), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a.float(), b, rtol=0.05, atol=0.1)


@torch.no_grad()
def test_an_older_kernel_gets_as_many_key_heads_as_queries_and_no_window() -> None:
    query, key, value = numbers()
    kernel = older(plain_kernel())
    found = attend_with_kernel(kernel, query, key, value, SEGMENTS, scale=0.4)
    assert found is not None
    wanted = attend_by_segment(query.float(), key.float(), value.float(), SEGMENTS, scale=0.4)
    torch.testing.assert_close(found.float(), wanted, rtol=0.02, atol=0.02)
    assert attend_with_kernel(kernel, query, key, value, SEGMENTS, scale=0.4, window=3) is None


def broken(query: Tensor, *others: object, **options: object) -> Tensor:
    raise RuntimeError("no kernel image for this device")


class Stingy(torch.autograd.Function):
    """Right forward; a tenth of the gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return 0.1 * grad


def stingy(query: Tensor, *others: Tensor, **options: object) -> Tensor:
    return Stingy.apply(plain_kernel()(query, *others, **options))


@torch.no_grad()
@pytest.mark.parametrize("build", [lambda: plain_kernel(counts_from_the_end=False), lambda: broken, lambda: stingy])
def test_a_kernel_that_is_wrong_is_not_used(build: Callable[[], Kernel]) -> None:
    query, key, value = numbers()
    assert attend_with_kernel(build(), query, key, value, SEGMENTS, scale=0.4) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_wide_types_are_left_to_the_plain_form(dtype: torch.dtype) -> None:
    query, key, value = numbers(dtype)
    assert attend_with_kernel(plain_kernel(), query, key, value, SEGMENTS, scale=0.4) is None


def test_nothing_is_proven_while_gradients_are_on() -> None:
    query, key, value = numbers()
    kernel = plain_kernel()
    assert attend_with_kernel(kernel, query, key, value, SEGMENTS, scale=0.4) is None
    with torch.no_grad():
        assert attend_with_kernel(kernel, query, key, value, SEGMENTS, scale=0.4) is not None
    assert attend_with_kernel(kernel, query, key, value, SEGMENTS, scale=0.4) is not None


def test_torchs_kernel_takes_the_options_that_are_passed() -> None:
    kernel = torch_kernel()
    assert kernel is not None
    assert {"scale", "window_size", "enable_gqa"} <= set(inspect.signature(kernel).parameters)
