"""The chunked head against the dense version: values, gradients, narrow types, and what it holds at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from critique_rl.ops.divergences import topk_tail_divergence
from critique_rl.ops.fused import HeadTerms, dense_terms, dense_topk, head_terms, head_topk

N, H, V = 7, 5, 11


class Case(NamedTuple):
    """Random inputs, and random weights with which every output enters one scalar."""

    hidden_NH: Tensor
    weight_VH: Tensor
    bias_V: Tensor
    ids_N: Tensor
    rows_M: Tensor
    ids_MK: Tensor
    w_N: Tensor
    w_MK: Tensor
    w_entropy_N: Tensor

    def scalar(self, terms: HeadTerms) -> Tensor:
        total = (terms.logprobs_N * self.w_N).sum() + (terms.support_MK * self.w_MK).sum()
        return total if terms.entropy_N is None else total + (terms.entropy_N * self.w_entropy_N).sum()


def case(
    k: int = 3, *, rows: tuple[int, ...] = (1, 1, 4, 6), n: int = N, v: int = V, h: int = H, seed: int = 0
) -> Case:
    """Row 2 has no upstream gradient at all; a row with two supports; one id twice within one support."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    ids_MK = torch.stack([torch.randperm(v, generator=draw)[:k] for _ in rows]) if rows else torch.zeros(0, k).long()
    if 1 < k < v and rows:
        ids_MK[0, 1] = ids_MK[0, 0]
    w_N, w_entropy_N = normal(n), normal(n)
    w_N[2:3], w_entropy_N[2:3] = 0.0, 0.0
    return Case(
        hidden_NH=normal(n, h).requires_grad_(),
        weight_VH=normal(v, h).requires_grad_(),
        bias_V=normal(v).requires_grad_(),
        ids_N=torch.randint(v, (n,), generator=draw),
        rows_M=torch.tensor(rows, dtype=torch.int64),
        ids_MK=ids_MK,
        w_N=w_N,
        w_MK=normal(len(rows), k),
        w_entropy_N=w_entropy_N,
    )


def fused(c: Case, *, bias: bool = True, entropy: bool = True, temperature: float = 1.0, rows: int = 0) -> HeadTerms:
    """`rows` per chunk, 0 for the default."""
    return head_terms(
        c.hidden_NH,
        c.weight_VH,
        c.ids_N,
        bias_V=c.bias_V if bias else None,
        temperature=temperature,
        rows_M=c.rows_M,
        ids_MK=c.ids_MK,
        entropy=entropy,
        chunk_bytes=rows * 8 * c.weight_VH.shape[0] or None,
    )


def dense(c: Case, *, bias: bool = True, entropy: bool = True, temperature: float = 1.0) -> HeadTerms:
    logits_NV = torch.nn.functional.linear(c.hidden_NH, c.weight_VH, c.bias_V if bias else None)
    return dense_terms(logits_NV, c.ids_N, temperature=temperature, rows_M=c.rows_M, ids_MK=c.ids_MK, entropy=entropy)


def gradients(c: Case, terms: HeadTerms, *, bias: bool = True) -> tuple[Tensor, ...]:
    inputs = (c.hidden_NH, c.weight_VH, c.bias_V) if bias else (c.hidden_NH, c.weight_VH)
    return torch.autograd.grad(c.scalar(terms), inputs)


def assert_same(c: Case, got: HeadTerms, wanted: HeadTerms, *, bias: bool = True) -> None:
    exact = {"rtol": 0.0, "atol": 1e-10}
    torch.testing.assert_close(got.logprobs_N, wanted.logprobs_N, **exact)
    torch.testing.assert_close(got.support_MK, wanted.support_MK, **exact)
    torch.testing.assert_close(got.entropy_N, wanted.entropy_N, **exact)
    assert got.vocabulary == wanted.vocabulary
    torch.testing.assert_close(gradients(c, got, bias=bias), gradients(c, wanted, bias=bias), **exact)


@pytest.mark.parametrize("rows", [1, 3, 0])
@pytest.mark.parametrize("entropy", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("k", "bias"), [(3, True), (3, False), (V, False), (1, True)])
def test_values_and_gradients_are_the_dense_ones(
    rows: int, entropy: bool, temperature: float, k: int, bias: bool
) -> None:
    c = case(k)
    got = fused(c, bias=bias, entropy=entropy, temperature=temperature, rows=rows)
    assert_same(c, got, dense(c, bias=bias, entropy=entropy, temperature=temperature), bias=bias)


@pytest.mark.parametrize("rows", [2, 0])
def test_gradcheck(rows: int) -> None:
    c = case(n=4, v=6, h=3, rows=(0, 3))

    def outputs(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        terms = fused(c._replace(hidden_NH=hidden, weight_VH=weight, bias_V=bias), temperature=0.8, rows=rows)
        assert terms.entropy_N is not None
        return terms.logprobs_N, terms.support_MK, terms.entropy_N

    assert torch.autograd.gradcheck(outputs, (c.hidden_NH, c.weight_VH, c.bias_V))


@pytest.mark.parametrize("rows", [1, 3, 0])
def test_no_support_no_rows_and_no_gradient(rows: int) -> None:
    without = case(rows=())
    assert_same(without, fused(without, rows=rows), dense(without))
    c = case()
    bare = head_terms(c.hidden_NH, c.weight_VH, c.ids_N, chunk_bytes=rows * 8 * V or None)
    assert bare.support_MK.shape == (0, 0) and bare.entropy_N is None
    empty = case(n=0, rows=())
    assert_same(empty, fused(empty, rows=rows), dense(empty))
    silent = torch.autograd.grad((fused(c, rows=rows).logprobs_N * 0).sum(), (c.hidden_NH, c.weight_VH, c.bias_V))
    assert not any(g.any() for g in silent)


def test_a_teacher_of_nan_poisons_neither_its_row_nor_another() -> None:
    c = case()
    teacher_MK = dense(c).support_MK.detach() + c.w_MK
    teacher_MK[2] = math.nan
    weights_M = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64)

    def gradient(terms: HeadTerms, kept: Tensor) -> tuple[Tensor, ...]:
        each_M = topk_tail_divergence(terms.support_MK, teacher_MK, kind="reverse", whole_vocabulary=True)
        total = torch.where(kept, each_M, torch.zeros_like(each_M)).sum() + terms.logprobs_N.sum()
        return torch.autograd.grad(total, (c.hidden_NH, c.weight_VH))

    got = gradient(fused(c, entropy=False), weights_M > 0)
    assert all(torch.isfinite(g).all() for g in got)
    torch.testing.assert_close(got, gradient(dense(c, entropy=False), weights_M > 0), rtol=0, atol=1e-10)


def test_a_row_that_nothing_reads_may_hold_anything() -> None:
    c = case()
    good = gradients(c, fused(c))
    broken = c.hidden_NH.detach().clone()
    broken[2] = math.nan
    c = c._replace(hidden_NH=broken.requires_grad_())
    for got, wanted in zip(gradients(c, fused(c, rows=2)), good, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_what_is_not_finite_shows() -> None:
    c = case()
    for broken in (math.nan, math.inf):
        hidden = c.hidden_NH.detach().clone()
        hidden[1, 0] = broken
        terms = fused(c._replace(hidden_NH=hidden))
        assert terms.entropy_N is not None
        assert [int(x) for x in torch.isfinite(terms.logprobs_N)] == [1, 0, 1, 1, 1, 1, 1]
        assert not torch.isfinite(terms.support_MK[0]).any() and not torch.isfinite(terms.entropy_N[1])


def test_an_impossible_id_has_no_mass_and_its_own_log_prob() -> None:
    c = case()
    bias = c.bias_V.detach().clone()
    bias[int(c.ids_N[0])] = -math.inf
    c = c._replace(bias_V=bias)
    got, wanted = fused(c), dense(c)
    assert got.logprobs_N[0] == -math.inf
    torch.testing.assert_close(got[:3], wanted[:3])
    scalars = [(t.entropy_N.sum() + t.logprobs_N[c.ids_N != c.ids_N[0]].sum()) for t in (got, wanted)]  # pyright: ignore
    ours, theirs = (torch.autograd.grad(s, (c.hidden_NH, c.weight_VH)) for s in scalars)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("k", [1, 4, V, V + 9])
@pytest.mark.parametrize("rows", [1, 3, 0])
def test_top_k(k: int, rows: int) -> None:
    c = case()
    got = head_topk(
        c.hidden_NH, c.weight_VH, c.ids_N, k, bias_V=c.bias_V, temperature=0.7, chunk_bytes=rows * 8 * V or None
    )
    logits_NV = torch.nn.functional.linear(c.hidden_NH, c.weight_VH, c.bias_V).detach()
    wanted = dense_topk(logits_NV, c.ids_N, k, temperature=0.7)
    assert torch.equal(got.ids_NK, wanted.ids_NK)
    torch.testing.assert_close((got.logprobs_N, got.topk_NK), (wanted.logprobs_N, wanted.topk_NK), rtol=0, atol=1e-12)
    assert not got.topk_NK.requires_grad


def test_narrow_inputs_have_wide_reductions() -> None:
    c = case(n=64, v=500, h=16, rows=tuple(range(0, 64, 3)))
    narrow = c._replace(**{name: getattr(c, name).detach().bfloat16() for name in ("hidden_NH", "weight_VH", "bias_V")})
    logits_NV = torch.nn.functional.linear(narrow.hidden_NH, narrow.weight_VH, narrow.bias_V)
    got = fused(narrow, rows=5)
    wanted = dense_terms(logits_NV.double(), c.ids_N, rows_M=c.rows_M, ids_MK=c.ids_MK, entropy=True)
    for ours, theirs in zip(got[:3], wanted[:3], strict=True):
        assert isinstance(ours, Tensor) and isinstance(theirs, Tensor) and ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-5)
    # many chunks: a sum of dW in bfloat16 would lose small ones
    leaves = narrow._replace(
        hidden_NH=narrow.hidden_NH.requires_grad_(),
        weight_VH=narrow.weight_VH.requires_grad_(),
        bias_V=narrow.bias_V.requires_grad_(),
        **{name: getattr(c, name).float() for name in ("w_N", "w_MK", "w_entropy_N")},
    )
    exact = c._replace(
        hidden_NH=narrow.hidden_NH.detach().double().requires_grad_(),
        weight_VH=narrow.weight_VH.detach().double().requires_grad_(),
        bias_V=narrow.bias_V.detach().double().requires_grad_(),
    )
    for ours, theirs in zip(gradients(leaves, fused(leaves, rows=1)), gradients(exact, dense(exact)), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize("backward_inside", [False, True])
def test_autocast_sets_the_type_of_the_matmul_only(backward_inside: bool) -> None:
    wide = case(n=64, v=500, h=16, rows=tuple(range(0, 64, 3)))
    c = Case(*(x.detach().float() if x.is_floating_point() else x for x in wide))
    for leaf in (c.hidden_NH, c.weight_VH, c.bias_V):
        leaf.requires_grad_()
    narrow_NV = torch.nn.functional.linear(c.hidden_NH.bfloat16(), c.weight_VH.bfloat16(), c.bias_V.bfloat16())
    wanted = dense_terms(narrow_NV.double(), c.ids_N, rows_M=c.rows_M, ids_MK=c.ids_MK, entropy=True)
    with torch.autocast("cpu", torch.bfloat16):
        got = fused(c, rows=5)
        top = head_topk(c.hidden_NH, c.weight_VH, c.ids_N, 4, bias_V=c.bias_V)
        inside = gradients(c, got) if backward_inside else ()
    for ours, theirs in zip(got[:3], wanted[:3], strict=True):
        assert isinstance(ours, Tensor) and isinstance(theirs, Tensor) and ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(top.logprobs_N, got.logprobs_N, rtol=0, atol=1e-5)
    for ours, theirs in zip(inside or gradients(c, got), gradients(wide, dense(wide)), strict=True):
        assert ours.dtype == torch.float32
        assert (ours.double() - theirs).norm() < 0.01 * theirs.norm()
    with torch.autocast("cpu", torch.bfloat16):
        assert fused(wide).logprobs_N.dtype == torch.float64  # which autocast leaves alone


class _Largest(TorchDispatchMode):
    """The largest tensor that any operation makes, in elements."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # pyright: ignore
        made = func(*args, **(kwargs or {}))
        for x in made if isinstance(made, tuple | list) else (made,):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return made


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_nothing_larger_than_a_chunk_is_made_or_kept(dtype: torch.dtype) -> None:
    n, v, h, rows = 96, 300, 4, 6
    wide = case(n=n, v=v, h=h, rows=tuple(range(0, n, 2)))
    c = Case(*(x.detach().to(dtype) if x.is_floating_point() else x for x in wide))
    for leaf in (c.hidden_NH, c.weight_VH, c.bias_V):
        leaf.requires_grad_()
    kept: list[int] = []

    def note(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    itemsize = torch.promote_types(dtype, torch.float32).itemsize
    with _Largest() as largest, torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        terms = head_terms(
            c.hidden_NH,
            c.weight_VH,
            c.ids_N,
            rows_M=c.rows_M,
            ids_MK=c.ids_MK,
            entropy=True,
            chunk_bytes=rows * v * itemsize,
        )
        loss = c.scalar(terms)
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
    assert largest.elements == rows * v  # 1,800; weight and its gradient are 1,200, all logits would be 28,800
    assert max(kept) == v * h
    assert c.weight_VH.grad is not None and c.weight_VH.grad.any()


def test_a_frozen_weight_or_frozen_hidden_states_get_no_gradient() -> None:
    c = case()
    both = gradients(c, fused(c))
    no_weight = c._replace(weight_VH=c.weight_VH.detach(), bias_V=c.bias_V.detach())
    (hidden,) = torch.autograd.grad(no_weight.scalar(fused(no_weight)), no_weight.hidden_NH)
    no_hidden = c._replace(hidden_NH=c.hidden_NH.detach())
    (weight,) = torch.autograd.grad(no_hidden.scalar(fused(no_hidden)), no_hidden.weight_VH)
    assert torch.equal(hidden, both[0]) and torch.equal(weight, both[1])
    with torch.no_grad():
        assert not fused(c).logprobs_N.requires_grad


def test_a_second_backward_gives_the_same() -> None:
    c = case()
    total = c.scalar(fused(c, rows=3))
    first = torch.autograd.grad(total, (c.hidden_NH, c.weight_VH), retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(total, (c.hidden_NH, c.weight_VH))))


def test_shifting_all_logits_changes_nothing() -> None:
    c = case()
    shifted = c._replace(bias_V=c.bias_V + 50.0)
    torch.testing.assert_close(fused(shifted)[:3], fused(c)[:3], rtol=0, atol=1e-10)


def test_errors_say_what_came() -> None:
    c = case()
    h, w, ids = c.hidden_NH, c.weight_VH, c.ids_N
    with pytest.raises(ValueError, match=r"hidden_NH has shape \[7, 5\], weight_VH \[5, 11\]; wanted"):
        head_terms(h, w.T, ids)
    with pytest.raises(ValueError, match=r"ids_N has shape \[6\]; wanted \[N\]"):
        head_terms(h, w, ids[1:])
    with pytest.raises(ValueError, match="temperature is 0; wanted a number above 0"):
        head_terms(h, w, ids, temperature=0)
    with pytest.raises(ValueError, match="chunk_bytes is 0; wanted at least 1"):
        head_terms(h, w, ids, chunk_bytes=0)
    with pytest.raises(ValueError, match="only one of rows_M and ids_MK is given"):
        head_terms(h, w, ids, rows_M=c.rows_M)
    with pytest.raises(ValueError, match=r"rows_M has shape \[3\], ids_MK \[4, 3\]; wanted \[M\] and \[M, K\]"):
        head_terms(h, w, ids, rows_M=c.rows_M[1:], ids_MK=c.ids_MK)
    with pytest.raises(ValueError, match=r"rows_M is \[6, 4, 1, 1\]; wanted ascending row numbers"):
        head_terms(h, w, ids, rows_M=c.rows_M.flip(0), ids_MK=c.ids_MK)
    with pytest.raises(ValueError, match="k is 0; wanted at least 1"):
        head_topk(h, w, ids, 0)
