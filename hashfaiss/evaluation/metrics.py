"""Retrieval metrics from counts at each Hamming distance, exact in expectation over the order of ties.

Every function takes `items` and `relevant`, int64 (queries, K + 1): how many database items, and how many relevant
ones, lie at each distance from each query (`Database.level_counts`). Ties are the rule with hash codes: on one set of
16-bit codes the mAP lies anywhere between 0.40 and 0.58 as ties fall. The value here is the mean over all orders of
the ties (McSherry & Najork, ECIR 2008; He, Cakir, Bargal & Sclaroff, CVPR 2018), not the luck of one sort.

A query without any relevant item counts 0, the popular rule; `chance_of_relevant` is for means without such queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation.batches import Counts, Flags

Floats = npt.NDArray[np.float64]
Norm = Literal["found", "min", "all"]

SMALL = 16  # harmonic numbers up to here are summed; beyond, the series below is exact to the last digit
SMALL_HARMONIC: Floats = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, SMALL + 1))])
MIXTURE_QUERIES = 256  # queries whose hypergeometric weights are held at once


def average_precision(items: Counts, relevant: Counts, cutoff: int | None = None, norm: Norm = "found") -> Floats:
    """Tie-aware average precision at R of each query: float64 (queries,).

    AP = (sum over relevant ranks t <= R of precision at t) / normaliser; its mean over queries is mAP@R.

    Args:
        items, relevant: counts by distance (queries, K + 1).
        cutoff: R; None ranks the whole database.
        norm: what the sum is divided by. "found": the relevant items among the top R (the popular rule).
            "all": every relevant item of the database (DATH Eq. 10). "min": the smaller of that number and R.
    """
    cut = _Cut.at(items, relevant, cutoff, norm)
    sums = _expected_sum(cut.before, cut.relevant_before, cut.items, cut.relevant, cut.slots)
    if cutoff is None or norm != "found":
        return _divide(sums.sum(axis=1), cut.denominator(cutoff, norm))
    straddle = _Straddle.of(cut, sums)
    values = _divide(straddle.sums, straddle.relevant_before)
    rows = np.flatnonzero(straddle.slots)
    for start in range(0, len(rows), MIXTURE_QUERIES):
        block = rows[start : start + MIXTURE_QUERIES]
        values[block] = _mixture(straddle.rows(block))
    return values


def chance_of_relevant(items: Counts, relevant: Counts, cutoff: int | None = None) -> Floats:
    """Of each query, the chance over all orders of ties that a relevant item is among the first R: float64 (queries,).

    Arguments as in `average_precision`.
    """
    cut = _Cut.at(items, relevant, cutoff, "found")
    # none of the r relevant of n items in m slots: C(n - r, m) / C(n, m), level by level; 1 where r or m is 0
    others = cut.items - cut.relevant
    logarithm = gammaln(others + 1) - gammaln(np.maximum(others - cut.slots, 0) + 1)
    logarithm -= gammaln(cut.items + 1) - gammaln(cut.items - cut.slots + 1)
    none = np.where(others < cut.slots, 0.0, np.exp(logarithm))
    chance: Floats = 1 - none.prod(axis=1)
    return chance


def average_precision_bounds(
    items: Counts, relevant: Counts, cutoff: int | None = None, norm: Norm = "found"
) -> tuple[Floats, Floats]:
    """Least and greatest average precision over all orders of the ties: (pessimistic, optimistic), each (queries,).

    Arguments as in `average_precision`. Within a level, relevant items last or first are the extremes. With norm
    "found" and a cutoff, how many relevant items of the level that straddles R get in also moves the divisor, and
    fewer of them can mean a higher value: that number is optimised too.
    """
    cut = _Cut.at(items, relevant, cutoff, norm)
    least = np.maximum(cut.slots - (cut.items - cut.relevant), 0)
    most = np.minimum(cut.slots, cut.relevant)
    low = _sum_last(cut.before, cut.relevant_before, cut.slots, least)
    high = _sum_first(cut.before, cut.relevant_before, most)
    if cutoff is None or norm != "found":
        denominator = cut.denominator(cutoff, norm)
        return _divide(low.sum(axis=1), denominator), _divide(high.sum(axis=1), denominator)
    return _least(_Straddle.of(cut, low)), _greatest(_Straddle.of(cut, high))


def average_precision_ranked(
    relevance: Flags, total_relevant: Counts, cutoff: int | None = None, norm: Norm = "found"
) -> Floats:
    """Average precision at R of rankings without ties: float64 (queries,).

    Args:
        relevance: bool (queries, ranks), whether the item at each rank is relevant.
        total_relevant: int64 (queries,), relevant items of the database, ranked here or not.
        cutoff, norm: as in `average_precision`.
    """
    _check_cutoff(cutoff, norm)
    relevance = relevance[:, :cutoff]
    queries, depth = relevance.shape
    found = np.count_nonzero(relevance, axis=1)
    rows = np.repeat(np.arange(queries), found)
    ranks = np.flatnonzero(relevance) - rows * depth + 1
    hits = np.arange(1, len(rows) + 1) - np.repeat(np.cumsum(found) - found, found)
    sums = np.bincount(rows, hits / ranks, minlength=queries)
    if norm == "found":
        return _divide(sums, found)
    return _divide(sums, total_relevant if norm == "all" or cutoff is None else np.minimum(total_relevant, cutoff))


def precision_at(items: Counts, relevant: Counts, ranks: Sequence[int]) -> Floats:
    """Expected share of relevant items among the first N, for each N of `ranks`: float64 (queries, len(ranks)).

    The divisor is N even where the database is smaller.
    """
    return _expected_hits(items, relevant, ranks) / np.array(ranks, dtype=np.float64)


def recall_at(items: Counts, relevant: Counts, ranks: Sequence[int]) -> Floats:
    """Expected share of all relevant items that the first N hold, for each N: float64 (queries, len(ranks))."""
    return _divide(_expected_hits(items, relevant, ranks), relevant.sum(axis=1)[:, None])


def precision_recall_by_radius(items: Counts, relevant: Counts) -> tuple[Floats, Floats]:
    """Mean precision and mean recall over queries of the items within each radius 0..K: two float64 (K + 1,).

    Hash lookup's curve: an empty ball has precision 0.
    """
    _check_queries(items)
    hits = np.cumsum(relevant, axis=1)
    precision = _divide(hits, np.cumsum(items, axis=1))
    return precision.mean(axis=0), _divide(hits, hits[:, -1:]).mean(axis=0)


def precision_recall_by_rank(items: Counts, relevant: Counts, ranks: Sequence[int]) -> tuple[Floats, Floats]:
    """Mean precision and mean recall over queries of the first N items, for each N: two float64 (len(ranks),).

    Hamming ranking's curve, which differs from the one by radius: name the one drawn.
    """
    _check_queries(items)
    return precision_at(items, relevant, ranks).mean(axis=0), recall_at(items, relevant, ranks).mean(axis=0)


def precision_within_radius(items: Counts, relevant: Counts, radius: int = 2) -> tuple[float, float]:
    """P@H<=r: (mean precision of the items at distance <= radius, share of queries with none there).

    An empty ball counts 0 in the mean.
    """
    _check_queries(items)
    if radius < 0:
        raise ArgumentError(f"radius is {radius}: give 0 or more")
    ball = items[:, : radius + 1].sum(axis=1)
    precision = _divide(relevant[:, : radius + 1].sum(axis=1), ball)
    return float(precision.mean()), float((ball == 0).mean())


@dataclass(frozen=True)
class _Cut:
    """Levels of every query, cut at rank R; all arrays are int64 (queries, K + 1).

    before, relevant_before: items and relevant items at smaller distances; slots: ranks <= R that the level fills.
    """

    items: Counts
    relevant: Counts
    before: Counts
    relevant_before: Counts
    slots: Counts

    @classmethod
    def at(cls, items: Counts, relevant: Counts, cutoff: int | None, norm: Norm) -> _Cut:
        _check_cutoff(cutoff, norm)
        before = np.cumsum(items, axis=1) - items
        slots = items if cutoff is None else np.clip(cutoff - before, 0, items)
        return cls(items, relevant, before, np.cumsum(relevant, axis=1) - relevant, slots)

    def denominator(self, cutoff: int | None, norm: Norm) -> Counts:
        total: Counts = self.relevant.sum(axis=1)
        return total if cutoff is None or norm != "min" else np.minimum(total, cutoff)


@dataclass(frozen=True)
class _Straddle:
    """Of each query (queries,): what the levels wholly inside R sum to, and the one level R cuts through (or zeros)."""

    sums: Floats
    before: Counts
    relevant_before: Counts
    items: Counts
    relevant: Counts
    slots: Counts

    @classmethod
    def of(cls, cut: _Cut, sums: Floats) -> _Straddle:
        whole = cut.slots == cut.items
        return cls(
            sums=sums.sum(axis=1, where=whole),
            before=cut.items.sum(axis=1, where=whole),
            relevant_before=cut.relevant.sum(axis=1, where=whole),
            items=cut.items.sum(axis=1, where=~whole & (cut.slots > 0)),
            relevant=cut.relevant.sum(axis=1, where=~whole & (cut.slots > 0)),
            slots=cut.slots.sum(axis=1, where=~whole),
        )

    def rows(self, rows: Counts) -> _Straddle:
        """The queries `rows`, as columns (len(rows), 1)."""
        return _Straddle(
            self.sums[rows, None],
            self.before[rows, None],
            self.relevant_before[rows, None],
            self.items[rows, None],
            self.relevant[rows, None],
            self.slots[rows, None],
        )

    @property
    def least(self) -> Counts:
        """Fewest relevant items of the cut level among its slots."""
        return np.maximum(self.slots - (self.items - self.relevant), 0)

    @property
    def most(self) -> Counts:
        """Most relevant items of the cut level among its slots."""
        return np.minimum(self.slots, self.relevant)


def _mixture(cut: _Straddle) -> Floats:
    """Expected AP with norm "found": columns (queries, 1) -> (queries,), a mean over how many relevant items get in."""
    entered, weights = _hypergeometric(cut)
    sums = cut.sums + _expected_sum(cut.before, cut.relevant_before, cut.slots, entered, cut.slots)
    expected: Floats = (weights * _divide(sums, cut.relevant_before + entered)).sum(axis=1)
    return expected


def _hypergeometric(cut: _Straddle) -> tuple[Counts, Floats]:
    """The number x of relevant items among the cut level's slots, and its probability: both (queries, widest range).

    Built from p(x + 1) / p(x) = (r - x)(m - x) / ((x + 1)(n - r - m + x + 1)). Values beyond mean ± 4.5 sqrt(slots)
    weigh below 1e-17 together (Hoeffding 1963: 2 exp(-2 t² / slots)) and are left out; columns past a query's own
    range weigh 0.
    """
    mean = cut.slots * cut.relevant // cut.items
    reach = np.ceil(4.5 * np.sqrt(cut.slots)).astype(np.int64) + 1
    start, stop = np.maximum(cut.least, mean - reach), np.minimum(cut.most, mean + reach)
    wanted = start + np.arange((stop - start).max() + 1)
    entered = np.minimum(wanted, stop)
    x, inside = entered[:, :-1], wanted[:, 1:] <= stop
    rises = (cut.relevant - x) * (cut.slots - x)
    falls = (x + 1) * (cut.items - cut.relevant - cut.slots + x + 1)
    ratio = np.divide(rises, falls, out=np.ones(x.shape), where=inside)
    logarithm = np.zeros(entered.shape)
    logarithm[:, 1:] = np.cumsum(np.log(ratio), axis=1)
    logarithm[wanted > stop] = -np.inf
    weights = np.exp(logarithm - logarithm.max(axis=1, keepdims=True))
    return entered, weights / weights.sum(axis=1, keepdims=True)


def _greatest(cut: _Straddle) -> Floats:
    """Greatest AP with norm "found", over how many relevant items of the cut level get in.

    Relevant-first, each further one adds more than the one before, so the mean first falls, then rises: the greatest
    value stands at an end.
    """
    ends = [
        _divide(cut.sums + _sum_first(cut.before, cut.relevant_before, count), cut.relevant_before + count)
        for count in (cut.least, cut.most)
    ]
    return np.maximum(*ends)


def _least(cut: _Straddle) -> Floats:
    """Least AP with norm "found", over how many relevant items of the cut level get in.

    Relevant-last sums are convex in that number, so the mean has one valley: bisect for where it starts to rise.
    """

    def value(count: Counts) -> Floats:
        sums = cut.sums + _sum_last(cut.before, cut.relevant_before, cut.slots, count)
        return _divide(sums, cut.relevant_before + count)

    low, high = cut.least, cut.most
    while (low < high).any():
        middle = (low + high) // 2
        rises = value(np.minimum(middle + 1, cut.most)) >= value(middle)
        low, high = np.where(rises | (low == high), low, middle + 1), np.where(rises, middle, high)
    return value(low)


def _expected_sum(before: Counts, relevant_before: Counts, items: Counts, relevant: Counts, slots: Counts) -> Floats:
    """Expected sum of precisions at the relevant ranks among the first `slots` of a level in random order.

    (r/n) sum_{i=1..m} (R0 + 1 + (i-1)(r-1)/(n-1)) / (N0 + i), summed in closed form with harmonic numbers.
    """
    harmonic = _harmonic(before, slots)
    slope = (relevant - 1) / np.maximum(items - 1, 1)
    inner = (relevant_before + 1) * harmonic + slope * (slots - (before + 1) * harmonic)
    return relevant / np.maximum(items, 1) * inner


def _sum_first(before: Counts, relevant_before: Counts, count: Counts) -> Floats:
    """sum_{i=1..x} (R0 + i) / (N0 + i): precisions of x relevant items that come straight after N0 items."""
    return count + (relevant_before - before) * _harmonic(before, count)


def _sum_last(before: Counts, relevant_before: Counts, slots: Counts, count: Counts) -> Floats:
    """The same for x relevant items in the last x of the level's slots."""
    return _sum_first(before + slots - count, relevant_before, count)


def _harmonic(before: Counts, count: Counts) -> Floats:
    """H(before + count) - H(before), to the last digits of the difference itself.

    A difference of tabled harmonic numbers loses digits as `before` grows, and the sums above multiply it by `before`;
    the asymptotic series (Abramowitz & Stegun 6.3.18) differenced term by term does not.
    """
    start, stop = before, before + count
    small = SMALL_HARMONIC[np.minimum(stop, SMALL)] - SMALL_HARMONIC[np.minimum(start, SMALL)]
    start, stop = np.maximum(start, SMALL), np.maximum(stop, SMALL)
    difference: Floats = small + np.log1p((stop - start) / start) + _series(stop) - _series(start)
    return difference


def _series(number: Counts) -> Floats:
    """H(x) - ln x - Euler's constant, for x >= 16."""
    x = number.astype(np.float64)
    y = 1.0 / (x * x)
    series: Floats = 0.5 / x - y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y / 132))))
    return series


def _expected_hits(items: Counts, relevant: Counts, ranks: Sequence[int]) -> Floats:
    """Expected relevant items among the first N, for each N: float64 (queries, len(ranks))."""
    hits = np.zeros((len(items), len(ranks)))
    before = np.cumsum(items, axis=1) - items
    density = _divide(relevant, items)
    for column, rank in enumerate(ranks):
        if rank < 1:
            raise ArgumentError(f"rank N is {rank}: give 1 or more")
        hits[:, column] = (np.clip(rank - before, 0, items) * density).sum(axis=1)
    return hits


def _divide(numerator: Floats | Counts, denominator: Counts) -> Floats:
    """numerator / denominator, and 0 where the denominator is 0 (there the numerator is 0 too)."""
    return numerator / np.maximum(denominator, 1)


def _check_cutoff(cutoff: int | None, norm: Norm) -> None:
    if cutoff is not None and cutoff < 1:
        raise ArgumentError(f"cutoff R is {cutoff}: give 1 or more, or None for the whole database")
    if norm not in get_args(Norm):
        raise ArgumentError(f"norm is {norm!r}: give one of {', '.join(get_args(Norm))}")


def _check_queries(items: Counts) -> None:
    if len(items) == 0:
        raise ArgumentError("there are no queries: a mean over queries needs at least one")
