"""How many different ways there are among whole trajectories, and how steeply visits of steps fall off.

Owns: chrF similarity, its clusters, and the decay rate of ranked visits (all three as arXiv 2509.21128 uses them; known
to us from summaries of it). Must not know: rollouts, what a step is, which trajectories are right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from critique_rl.errors import MissingExtraError

Matrix = NDArray[np.float64]
CUT = 60.0
"""Trajectories at least this similar (0 to 100, on the average of two clusters) are one way."""
_ORDERS = 6


def chrf(hypothesis: str, reference: str, *, beta: float = 2.0) -> float:
    """chrF in [0, 100]: (1 + beta^2) P R / (beta^2 P + R), P and R the means over character 1- to 6-grams of as many
    orders as both texts have, spaces removed (Popovic 2015).

    Not symmetric unless beta is 1: see `chrf_matrix`. Errors: MissingExtraError without sacrebleu; ValueError.
    """
    _check_beta(beta)
    try:
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise MissingExtraError("sacrebleu", "diversity", "chrF of one pair") from None
    # The parameter is an int in sacrebleu's annotations only; F_beta is defined for every positive number.
    scorer = CHRF(char_order=_ORDERS, word_order=0, beta=beta)  # pyright: ignore[reportArgumentType]
    return float(scorer.sentence_score(hypothesis, [reference]).score)


def chrf_matrix(texts: Sequence[str], *, beta: float = 2.0) -> Matrix:
    """`chrf` of every pair, as the mean of both directions, and 100 for equal texts, even without a character.

    The same numbers as sacrebleu's, whose calls would cut every text into n-grams anew for each pair: seconds for one
    prompt's long answers. Raises ValueError as `chrf` does.
    """
    return chrf_matrices([texts], beta=beta)[0]


def chrf_matrices(samples: Sequence[Sequence[str]], *, beta: float = 2.0) -> list[Matrix]:
    """`chrf_matrix` of each list of texts, in one pass over all of them.

    min(a, b) = sum over k of [a >= k][b >= k], so that the clipped matches of all pairs are one sparse product.
    """
    _check_beta(beta)
    different = [list(dict.fromkeys(texts)) for texts in samples]
    unlike = [block for block in different if len(block) > 1]
    size = max(map(len, unlike), default=0)
    precision, recall, orders = (np.zeros((len(unlike), size, size)) for _ in range(3))
    for matched, totals in _matches([["".join(text.split()) for text in block] for block in unlike], size):
        both = (totals[:, :, None] > 0) & (totals[:, None, :] > 0)
        precision += np.where(both, matched / np.maximum(totals[:, :, None], 1), 0.0)
        recall += np.where(both, matched / np.maximum(totals[:, None, :], 1), 0.0)
        orders += both
    weighed = beta * beta * precision + recall  # sums over orders, whose number cancels but for one
    found = 100 * (1 + beta * beta) * precision * recall / np.where(weighed > 0, weighed * np.maximum(orders, 1), 1.0)
    found = (found + found.transpose(0, 2, 1)) / 2
    found[:, range(size), range(size)] = 100.0
    blocks = iter(found)
    return [
        _spread_out(next(blocks) if len(own) > 1 else np.full((1, 1), 100.0), own, texts)
        for own, texts in zip(different, samples, strict=True)
    ]


def _spread_out(found: Matrix, different: Sequence[str], texts: Sequence[str]) -> Matrix:
    place = {text: i for i, text in enumerate(different)}
    rows = [place[text] for text in texts]
    return found[np.ix_(rows, rows)]


def _matches(blocks: Sequence[Sequence[str]], size: int) -> Iterator[tuple[Matrix, Matrix]]:
    """For each order from 1 to 6: how many n-grams two texts of a block share (clipped), and how many each has."""
    texts = [text for block in blocks for text in block]
    slot = np.array([b * size + i for b, block in enumerate(blocks) for i in range(len(block))], dtype=np.int64)
    raw = [np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32) for text in texts]
    letters, marks = np.unique(np.concatenate([np.zeros(0, dtype=np.uint32), *raw]), return_inverse=True)
    owner = np.repeat(slot, [len(codes) for codes in raw])
    starts, grams = np.arange(len(marks)), marks + (owner // max(1, size)) * len(letters)
    for order in range(1, _ORDERS + 1):
        if order > 1:
            inside = np.flatnonzero(starts + order - 1 < len(owner))
            inside = inside[owner[starts[inside]] == owner[starts[inside] + order - 1]]
            starts = starts[inside]
            keys = grams[inside] * len(letters) + marks[starts + order - 1]
            grams = np.unique(keys, return_inverse=True)[1]
        if not len(starts):
            return
        owners = owner[starts]
        slots = len(blocks) * size
        totals = np.bincount(owners, minlength=slots).astype(np.float64).reshape(len(blocks), size)
        matched = np.zeros((len(blocks), size, size))
        pairs = _shared(owners, grams, slots)
        matched[pairs.row // max(1, size), pairs.row % max(1, size), pairs.col % max(1, size)] = pairs.data
        yield matched, totals


def _shared(owners: NDArray[np.int64], grams: NDArray[np.int64], count: int) -> sparse.coo_array:
    """sum over n-grams of min(how often i has it, how often j has it), for all i and j."""
    by_gram = np.lexsort((grams, owners))
    owners, grams = owners[by_gram], grams[by_gram]
    first = np.ones(len(grams), dtype=bool)
    first[1:] = (grams[1:] != grams[:-1]) | (owners[1:] != owners[:-1])
    places = np.arange(len(grams))
    nth = places - np.maximum.accumulate(np.where(first, places, 0))  # the nth time that this text has this n-gram
    columns = np.unique(grams * (int(nth.max(initial=0)) + 1) + nth, return_inverse=True)[1]
    shape = (count, int(columns.max(initial=-1)) + 1)
    holds = sparse.csr_array((np.ones(len(columns)), (owners, columns)), shape=shape)
    return sparse.coo_array(holds @ holds.T)


def clusters(similarity: Matrix, *, cut: float = CUT) -> NDArray[np.int64]:
    """The cluster of each row, numbered from 1: average linkage (UPGMA) of 100 - similarity, cut at `cut`.

    No rows give none, and one row is a cluster. Raises ValueError for a matrix that is not square and symmetric.
    """
    n = len(similarity)
    if similarity.shape != (n, n) or not np.allclose(similarity, similarity.T):
        raise ValueError(
            f"similarity has the shape {similarity.shape}; wanted a square symmetric matrix: take the mean of both "
            "directions first"
        )
    if n < 2:
        return np.ones(n, dtype=np.int64)
    distance = np.clip(100.0 - similarity, 0.0, None)
    np.fill_diagonal(distance, 0.0)
    tree = hierarchy.linkage(squareform(distance, checks=False), method="average")
    return np.asarray(hierarchy.fcluster(tree, t=100.0 - cut, criterion="distance"), dtype=np.int64)


def cluster_count(similarity: Matrix, *, cut: float = CUT) -> int:
    """The number of `clusters`: how many different ways there are. Raises ValueError as `clusters` does."""
    n = len(similarity)
    if n < 2:
        return n
    others = similarity[~np.eye(n, dtype=bool)]
    if others.min() >= cut:
        return 1  # no mean of similarities is below the least one, and none above the largest
    return n if others.max() < cut else int(clusters(similarity, cut=cut).max())


def decay_rate(visits: Sequence[float] | Sequence[int]) -> float | None:
    """beta of log10 X(R) = alpha - beta R, by least squares over the ranks R of the values, largest first.

    X falls as exp(-beta ln(10) R): the larger beta, the fewer steps hold the visits. Values of 0 are left out; fewer
    than two others give None. Raises ValueError for a negative or non-finite value.
    """
    if any(not math.isfinite(value) or value < 0 for value in visits):
        raise ValueError(f"visits is {visits!r}; wanted finite numbers of 0 or more")
    values = np.sort(np.asarray([value for value in visits if value > 0], dtype=np.float64))[::-1]
    if values.size < 2:
        return None
    ranks = np.arange(values.size) - (values.size - 1) / 2
    return -float((ranks * np.log10(values)).sum() / (ranks * ranks).sum())


def _check_beta(beta: float) -> None:
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta is {beta}; wanted a finite number above 0")
