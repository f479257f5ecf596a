"""All retrieval metrics of one set of queries against one database, in one report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation import metrics
from hashfaiss.evaluation.batches import Counts
from hashfaiss.evaluation.metrics import Floats, Norm
from hashfaiss.evaluation.ranking import Database, Labels

MeanNorm = Literal[Norm, "kept"]

CURVE_POINTS = 60  # ranks of the precision-recall curve, evenly spaced in their logarithm
RADIUS = 2  # the radius of P@H<=2, where hash lookup stays cheap


@dataclass(frozen=True)
class RetrievalReport:
    """Retrieval quality; every metric is a mean over all queries, where one without relevant items counts 0 (but for
    mAP with norm "kept").

    Attributes:
        queries, items, bits: numbers of queries and of items each is ranked against, and K.
        queries_without_relevant: queries that share no label with any item.
        cutoff, norm: R and the divisor of mAP@R (see `Norm`); R None is the whole database.
        mean_average_precision: tie-aware mAP@R, the expectation over all orders of ties: the one to quote.
        pessimistic, optimistic: least and greatest mAP@R any order of the ties could show.
        stable_order: mAP@R with ties in database order, as one particular sort would show; None where not asked for.
        precision_at, recall_at: P@N and R@N by N.
        precision_by_radius, recall_by_radius: entry r is for the items at distance <= r; an empty ball counts 0.
        ranks, precision_by_rank, recall_by_rank: the other precision-recall curve, over the first N items.
        precision_within_2: P@H<=2; an empty ball counts 0.
        empty_balls: share of queries with no item at distance <= 2.
        average_precisions: tie-aware AP@R of each query, which mAP is the mean of; not in `to_dict`.
    """

    queries: int
    items: int
    bits: int
    queries_without_relevant: int
    cutoff: int | None
    norm: MeanNorm
    mean_average_precision: float
    pessimistic: float
    optimistic: float
    stable_order: float | None
    precision_at: dict[int, float]
    recall_at: dict[int, float]
    precision_by_radius: list[float]
    recall_by_radius: list[float]
    ranks: list[int]
    precision_by_rank: list[float]
    recall_by_rank: list[float]
    precision_within_2: float
    empty_balls: float
    average_precisions: tuple[float, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The report ready for JSON: N as text where it is a key."""
        by_rank = {
            name: {str(rank): value for rank, value in getattr(self, name).items()}
            for name in ("precision_at", "recall_at")
        }
        found = asdict(self) | by_rank
        del found["average_precisions"]
        return found


def evaluate_retrieval(
    query_codes: Codes,
    query_labels: Labels,
    database_codes: Codes,
    database_labels: Labels,
    bits: int,
    cutoff: int | None = None,
    norm: MeanNorm = "found",
    leave_out: npt.ArrayLike | None = None,
    precision_at: Sequence[int] = (10, 100, 1000),
    recall_at: Sequence[int] = (10, 100, 1000, 10000),
    device: str = "cpu",
    by_id: bool = True,
) -> RetrievalReport:
    """Rank the database for every query by Hamming distance and measure what comes first.

    Args:
        query_codes, database_codes: uint8 (queries or n, ceil(bits/8)), codes of K = `bits` bits.
        query_labels, database_labels: a tuple of label names for each; relevant means sharing at least one.
        cutoff, norm: R and divisor of mAP@R, as in `metrics.average_precision`; "kept" is "found", and the mean is over
            the queries that find a relevant item at all, as HashNet's and DTSH's code has it. With ties it is the
            expected sum over the expected number of them.
        leave_out: for queries that are database items themselves, the row of each, which then does not count.
        precision_at, recall_at: the N of P@N and R@N; those larger than the ranking are dropped.
        device: where counting is done: "cpu", or where torch can, such as "cuda".
        by_id: `stable_order` too, which takes twice the time of all else.
    """
    database, ranked = _database(query_codes, database_codes, database_labels, bits, leave_out)
    items, relevant = database.level_counts(query_codes, query_labels, leave_out, device)
    per_query: Norm = "found" if norm == "kept" else norm
    values = metrics.average_precision(items, relevant, cutoff, per_query)
    low, high = metrics.average_precision_bounds(items, relevant, cutoff, per_query)
    chance = metrics.chance_of_relevant(items, relevant, cutoff) if norm == "kept" else np.ones(len(items))
    by_radius = metrics.precision_recall_by_radius(items, relevant)
    ranks = np.unique(np.geomspace(1, ranked, CURVE_POINTS).round().astype(np.int64)).tolist()
    by_rank = metrics.precision_recall_by_rank(items, relevant, ranks)
    within, empty = metrics.precision_within_radius(items, relevant, RADIUS)
    return RetrievalReport(
        queries=len(items),
        items=ranked,
        bits=bits,
        queries_without_relevant=int((relevant.sum(axis=1) == 0).sum()),
        cutoff=cutoff,
        norm=norm,
        mean_average_precision=_ratio(values, chance.sum()),
        pessimistic=_ratio(low, (chance > 0).sum()),
        optimistic=_ratio(high, (chance == 1).sum()),
        stable_order=_stable_order(database, query_codes, query_labels, leave_out, relevant, cutoff, norm)
        if by_id
        else None,
        precision_at=_means(metrics.precision_at, items, relevant, [n for n in precision_at if n <= ranked]),
        recall_at=_means(metrics.recall_at, items, relevant, [n for n in recall_at if n <= ranked]),
        precision_by_radius=by_radius[0].tolist(),
        recall_by_radius=by_radius[1].tolist(),
        ranks=ranks,
        precision_by_rank=by_rank[0].tolist(),
        recall_by_rank=by_rank[1].tolist(),
        precision_within_2=within,
        empty_balls=empty,
        average_precisions=tuple(values.tolist()),
    )


def _database(
    queries: Codes, codes: Codes, labels: Labels, bits: int, leave_out: npt.ArrayLike | None
) -> tuple[Database, int]:
    """The database and how many of its items each query ranks; an evaluation of nothing is refused."""
    if len(queries) == 0:
        raise ArgumentError("there are no queries to evaluate: give at least one")
    database = Database(codes, bits, labels)
    ranked = len(database) - (leave_out is not None)
    if ranked < 1:
        raise ArgumentError("the database holds no item to rank: give at least one besides the query itself")
    return database, ranked


def _stable_order(
    database: Database,
    codes: Codes,
    labels: Labels,
    leave_out: npt.ArrayLike | None,
    relevant: Counts,
    cutoff: int | None,
    norm: MeanNorm,
) -> float:
    """mAP@R with ties in database order."""
    values = np.zeros(len(codes))
    for batch, relevance in database.ranked_relevance(codes, labels, leave_out):
        totals = relevant[batch].sum(axis=1)
        values[batch] = metrics.average_precision_ranked(relevance, totals, cutoff, "found" if norm == "kept" else norm)
    return _ratio(values, int(np.count_nonzero(values))) if norm == "kept" else float(values.mean())


def _ratio(values: Floats, queries: float) -> float:
    """Their sum over so many queries, at most 1: bounds may be over more or fewer than are counted."""
    return min(1.0, float(values.sum() / queries)) if queries else float(values.sum() > 0)


def _means(
    metric: Callable[[Counts, Counts, Sequence[int]], Floats], items: Counts, relevant: Counts, ranks: Sequence[int]
) -> dict[int, float]:
    """Mean over queries of P@N or R@N, by N."""
    return dict(zip(ranks, metric(items, relevant, ranks).mean(axis=0).tolist(), strict=True))
