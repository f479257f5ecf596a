"""Does an index return the exact Hamming ranking, and are its claims of exactness true?

The truth is the order of (distance, id) over the whole database, computed without FAISS.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, hamming
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation.batches import Counts, Flags, batches
from hashfaiss.evaluation.ranking import SORT_CELLS, order


class Answers(Protocol):
    """What an index returned for each query, one query after the other.

    Attributes:
        offsets: int64 (queries + 1,); query i owns results offsets[i] to offsets[i + 1].
        ids, distances: int64 and int32 (results,), sorted by (distance, id) within a query.
        exact: bool (queries,), whether the index certifies the query's results as exact.
    """

    @property
    def offsets(self) -> npt.NDArray[np.int64]: ...
    @property
    def ids(self) -> npt.NDArray[np.int64]: ...
    @property
    def distances(self) -> npt.NDArray[np.int32]: ...
    @property
    def exact(self) -> npt.NDArray[np.bool_]: ...


@dataclass(frozen=True)
class Agreement:
    """How far an index agrees with the exact ranking: sums over queries, so that batches add up with `+`.

    Attributes:
        queries: queries compared.
        right_numbers: queries that got min(k, database) results.
        right_distances: queries whose distances are right at every rank (and so is their number).
        right_ids: queries whose ids are right at every rank.
        certified: queries the index certified as exact.
        false_certificates: certified queries with a wrong number, distance or id. Must be 0.
        recall_sum: sum over queries of the share of the true k nearest that was returned.
    """

    queries: int = 0
    right_numbers: int = 0
    right_distances: int = 0
    right_ids: int = 0
    certified: int = 0
    false_certificates: int = 0
    recall_sum: float = 0.0

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def numbers_equal(self) -> float:
        """Share of queries with the right number of results; like every share here, 0 when there are no queries."""
        return self.right_numbers / max(self.queries, 1)

    @property
    def distances_equal(self) -> float:
        """Share of queries whose distances equal the exact ones at every rank."""
        return self.right_distances / max(self.queries, 1)

    @property
    def ids_equal(self) -> float:
        """Share of queries whose ids equal the exact ones at every rank."""
        return self.right_ids / max(self.queries, 1)

    @property
    def certified_share(self) -> float:
        """Share of queries certified exact."""
        return self.certified / max(self.queries, 1)

    @property
    def recall_by_distance(self) -> float:
        """Mean share of the true k nearest that was returned, any item as near as the k-th counting as right."""
        return self.recall_sum / max(self.queries, 1)

    def to_dict(self) -> dict[str, int | float]:
        """Sums and shares, ready for JSON."""
        shares = ("numbers_equal", "distances_equal", "ids_equal", "certified_share", "recall_by_distance")
        return asdict(self) | {name: getattr(self, name) for name in shares}


def compare(answers: Answers, queries: Codes, database_codes: Codes, database_ids: npt.ArrayLike, k: int) -> Agreement:
    """Hold an index's answers for the k nearest against the exact order of (distance, id).

    Recall uses the true distances of the returned ids, not those reported: an index cannot talk itself up. Unknown
    and repeated ids count nothing.

    Args:
        answers: see `Answers`.
        queries: uint8 (queries, bytes).
        database_codes: uint8 (n, bytes), everything the index holds.
        database_ids: int64 (n,), the id of each, all different, in any order.
        k: results asked for; with fewer items than k, all of them are expected.
    """
    ids = np.asarray(database_ids, dtype=np.int64)
    if k < 1:
        raise ArgumentError(f"k is {k}: give 1 or more")
    if ids.shape != (len(database_codes),):
        raise ArgumentError(f"database ids have shape {ids.shape}: give one for each of {len(database_codes)} codes")
    if len(answers.offsets) != len(queries) + 1 or len(answers.exact) != len(queries):
        raise ArgumentError(f"answers are for {len(answers.exact)} queries and there are {len(queries)}")
    by_id = np.argsort(ids, kind="stable")
    ids, codes = ids[by_id], database_codes[by_id]
    if (ids[1:] == ids[:-1]).any():
        raise ArgumentError("database ids repeat: give each item its own id")
    total = Agreement()
    for batch in batches(len(queries), len(codes), SORT_CELLS):
        total += _compare_batch(answers, batch, hamming(queries[batch], codes), ids, min(k, len(codes)))
    return total


def _compare_batch(answers: Answers, batch: slice, distances: npt.NDArray[np.uint16], ids: Counts, k: int) -> Agreement:
    """One batch: `distances` uint16 (queries, n) with columns in order of `ids`; k results expected."""
    bounds = np.asarray(answers.offsets[batch.start : batch.stop + 1])
    exact = np.asarray(answers.exact[batch])
    nearest = order(distances)[:, :k]
    right_number = np.diff(bounds) == k
    results = bounds[:-1][right_number, None] + np.arange(k)
    right_distances, right_ids = np.zeros_like(right_number), np.zeros_like(right_number)
    truth = np.take_along_axis(distances, nearest, axis=1)
    right_distances[right_number] = (answers.distances[results] == truth[right_number]).all(axis=1)
    right_ids[right_number] = (answers.ids[results] == ids[nearest[right_number]]).all(axis=1)
    found = _found(answers.ids[bounds[0] : bounds[-1]], np.diff(bounds), distances, ids, truth)
    return Agreement(
        queries=len(exact),
        right_numbers=int(right_number.sum()),
        right_distances=int(right_distances.sum()),
        right_ids=int(right_ids.sum()),
        certified=int(exact.sum()),
        false_certificates=int((exact & ~(right_distances & right_ids)).sum()),
        recall_sum=float((np.minimum(found, k) / k).sum()) if k else float(len(exact)),
    )


def _found(
    returned: npt.NDArray[np.int64],
    lengths: Counts,
    distances: npt.NDArray[np.uint16],
    ids: Counts,
    truth: npt.NDArray[np.uint16],
) -> Counts:
    """For each query, how many different returned items are as near as the true k-th: int64 (queries,)."""
    hits: Flags = np.zeros(distances.shape, dtype=np.bool_)
    if ids.size:
        rows = np.repeat(np.arange(len(lengths)), lengths)
        columns = np.minimum(np.searchsorted(ids, returned), len(ids) - 1)
        known = ids[columns] == returned
        hits[rows[known], columns[known]] = True
        hits &= distances <= truth[:, -1:]
    found: Counts = hits.sum(axis=1)
    return found
