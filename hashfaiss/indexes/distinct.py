"""Distinct codes and their postings.

Trained codes repeat: classes collapse onto few codes. FAISS holds each distinct code once, in order of its smallest
id, so that (distance, position) order is (distance, smallest id) order and the k nearest distinct codes always
contain the k nearest images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, words

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Distinct:
    """Each code once, and who has it.

    Attributes:
        codes: uint8 (distinct, bytes), in order of smallest id.
        starts: int64 (distinct + 1,); the ids of code c are ids[starts[c]:starts[c + 1]], ascending.
        ids: int64 (images,).
    """

    codes: Codes
    starts: Int64
    ids: Int64

    @classmethod
    def of(cls, codes: Codes, ids: Int64) -> Distinct:
        """Group `codes` (n, bytes); `ids` (n,) ascend."""
        n = len(codes)
        keys = words(codes)
        by_code = np.lexsort(keys.T)  # stable: equal codes stay in order of id
        ordered = keys[by_code]
        heads = np.flatnonzero(np.concatenate([np.ones(min(n, 1), bool), (ordered[1:] != ordered[:-1]).any(axis=1)]))
        first = by_code[heads]
        by_id = np.argsort(first)
        lengths = np.diff(np.append(heads, n))[by_id]
        starts = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
        rows = by_code[_ranges(heads[by_id], lengths)]
        return cls(np.ascontiguousarray(codes[first[by_id]]), starts, ids[rows])

    def __len__(self) -> int:
        return len(self.codes)

    def expand(
        self, counts: Int64, positions: Int64, distances: npt.NDArray[np.int32], k: int | None
    ) -> tuple[Int64, Int64, npt.NDArray[np.int32]]:
        """From distinct codes to images.

        Args:
            counts: codes found for each query (queries,).
            positions, distances: the codes found, query by query, each sorted by (distance, position).
            k: keep the first k images of a query; None keeps all.

        Returns:
            offsets (queries + 1,), ids and distances of the images, each query sorted by (distance, id).
        """
        queries = np.repeat(np.arange(len(counts)), counts)
        lengths = self.starts[positions + 1] - self.starts[positions]
        if len(self.ids) == len(self.codes) and (k is None or (counts <= k).all()):
            return _offsets(counts), self.ids[positions], distances
        if k is not None:
            wanted = _before_level(queries, distances, lengths) < k
            queries, positions, distances = queries[wanted], positions[wanted], distances[wanted]
            lengths = np.minimum(lengths[wanted], k)  # within one code, ids ascend: the first k suffice
        ids = self.ids[_ranges(self.starts[positions], lengths)]
        queries, distances = np.repeat(queries, lengths), np.repeat(distances, lengths)
        order = np.lexsort((ids, distances, queries))
        found = np.bincount(queries, minlength=len(counts))
        if k is not None:
            rank = np.arange(len(ids)) - np.repeat(_offsets(found)[:-1], found)
            order = order[rank < k]
            found = np.minimum(found, k)
        return _offsets(found), ids[order], distances[order]


def _before_level(queries: Int64, distances: npt.NDArray[np.int32], lengths: Int64) -> Int64:
    """For each code found: how many images of its query are strictly nearer."""
    before = np.cumsum(lengths) - lengths
    new_query = np.ones(len(queries), bool)
    new_query[1:] = queries[1:] != queries[:-1]
    new_level = new_query.copy()
    new_level[1:] |= distances[1:] != distances[:-1]
    # `before` ascends, so a running maximum carries each head's value over what follows it
    at_level: Int64 = np.maximum.accumulate(np.where(new_level, before, 0))
    at_query: Int64 = np.maximum.accumulate(np.where(new_query, before, 0))
    return at_level - at_query


def _offsets(counts: Int64) -> Int64:
    return np.concatenate([[0], counts.cumsum()]).astype(np.int64)


def _ranges(starts: Int64, lengths: Int64) -> Int64:
    """starts[0], starts[0] + 1, … (lengths[0] of them), starts[1], …"""
    ends = lengths.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    shifted: Int64 = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return shifted
