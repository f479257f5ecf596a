"""Distinct codes and their postings.

Trained codes repeat: classes collapse onto few codes. FAISS holds each distinct code once, in order of its smallest
id, so that (distance, position) order is (distance, smallest id) order and the k nearest distinct codes always
contain the k nearest images.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, words
from hashfaiss.errors import ArgumentError
from hashfaiss.indexes.kind import Arrays, Int32, Int64, One, in_order, ranges
from hashfaiss.indexes.saved import packed_ids

FEW = 1024  # answers to one query that are arranged faster without numpy


class Distinct:
    """Each code once, and who has it.

    Attributes:
        starts: int64 (distinct + 1,); the ids of code c are ids[starts[c]:starts[c + 1]], ascending. None where no
            code repeats: code c has ids[c] alone.
        ids: int64 (images,).
    """

    def __init__(self, given: Codes, starts: Int64 | None, ids: Int64) -> None:
        """`given` are the codes of all images, in order of their ids."""
        self._given = given
        self.starts, self.ids = starts, ids

    @classmethod
    def of(cls, codes: Codes, ids: Int64) -> Distinct:
        """Group `codes` (n, bytes); `ids` (n,) ascend."""
        n = len(codes)
        by_code, heads = _grouped(words(codes))
        if len(heads) == n:
            return cls(codes, None, ids)
        first = by_code[heads]
        by_id = np.argsort(first)
        lengths = np.diff(np.append(heads, n))[by_id]
        starts = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
        distinct = np.ascontiguousarray(codes[first[by_id]])
        made = cls(distinct, starts, ids[by_code[ranges(heads[by_id], lengths)]])
        made.codes = distinct
        return made

    @cached_property
    def codes(self) -> Codes:
        """uint8 (distinct, bytes), in order of smallest id. FAISS has them too: made when first asked for."""
        if self.starts is None:
            return self._given
        rows = np.searchsorted(np.sort(self.ids), self.ids[self.starts[:-1]])
        return np.ascontiguousarray(self._given[rows])

    def arrays(self) -> Arrays:
        """Which ids have which code; ids that each have a code of their own as (begins, lengths) of runs of them."""
        if self.starts is not None:
            return {"starts": self.starts, "ids": self.ids}
        return {"runs": packed_ids(self.ids)}

    def __len__(self) -> int:
        return len(self.ids) if self.starts is None else len(self.starts) - 1

    def lengths(self, positions: Int64) -> Int64:
        """How many images have each of these codes."""
        if self.starts is None:
            return np.ones(len(positions), np.int64)
        return self.starts[positions + 1] - self.starts[positions]

    @property
    def least(self) -> Int64:
        """The smallest id of each code: int64 (distinct,), ascending."""
        return self.ids if self.starts is None else self.ids[self.starts[:-1]]

    @cached_property
    def _ascending(self) -> Int64 | None:
        """The order in which ids ascend, where it is not theirs."""
        return None if self.starts is None else np.argsort(self.ids)

    def rows(self) -> tuple[Codes, Int64]:
        """Codes (images, bytes) and ids (images,) of all images, by ascending id."""
        order = self._ascending
        return (self.codes, self.ids) if order is None else (self.codes[self.of_row()], self.ids[order])

    def of_row(self) -> Int64:
        """The position of each image's code, by ascending id: int64 (images,)."""
        return self.of_code() if self._ascending is None else self.of_code()[self._ascending]

    def codes_of(self, ids: Int64) -> Codes:
        """The codes (n, bytes) of these ids.

        Raises:
            ArgumentError: there is no such id.
        """
        order = self._ascending
        at = np.searchsorted(self.ids, ids, sorter=order)
        rows = np.minimum(at, len(self.ids) - 1) if order is None else np.append(order, -1)[at]
        missing = ids != self.ids[rows] if len(self.ids) else np.ones(len(ids), np.bool_)
        if missing.any():
            raise ArgumentError(f"the index has no id {ids[missing][0]}: give ids of its own")
        return self.codes[rows if self.starts is None else np.searchsorted(self.starts, rows, side="right") - 1]

    def of_code(self) -> Int64:
        """The position of each image's code, in the order of `ids`: int64 (images,)."""
        positions = np.arange(len(self))
        return np.repeat(positions, self.lengths(positions))

    def expand(self, offsets: Int64, positions: Int64, distances: Int32, k: int | None) -> tuple[Int64, Int64, Int32]:
        """From distinct codes to images.

        Args:
            offsets: (queries + 1,), where each query's codes begin and end.
            positions, distances: the codes found, query by query, each sorted by (distance, position).
            k: keep the first k images of a query; None keeps all.

        Returns:
            offsets (queries + 1,), ids and distances of the images, each query sorted by (distance, id).
        """
        counts = np.diff(offsets)
        if self.starts is None:
            if k is not None and (counts > k).any():
                kept = np.minimum(counts, k)
                chosen = ranges(offsets[:-1], kept)
                offsets, positions, distances = _offsets(kept), positions[chosen], distances[chosen]
            return offsets, self.ids[positions], distances
        queries = np.repeat(np.arange(len(counts)), counts)
        lengths = self.starts[positions + 1] - self.starts[positions]
        if k is not None:
            wanted = _before_level(queries, distances, lengths) < k
            queries, positions, distances = queries[wanted], positions[wanted], distances[wanted]
            lengths = np.minimum(lengths[wanted], k)  # within one code, ids ascend: the first k suffice
        ids = self.ids[ranges(self.starts[positions], lengths)]
        queries, distances = np.repeat(queries, lengths), np.repeat(distances, lengths)
        found = np.bincount(queries, minlength=len(counts))
        ids, distances = in_order(queries, distances, ids)
        if k is not None:
            kept = np.minimum(found, k)
            chosen = ranges(_offsets(found)[:-1], kept)
            found, ids, distances = kept, ids[chosen], distances[chosen]
        return _offsets(found), ids, distances

    def expand_one(self, found: One, k: int) -> tuple[Int64, Int32]:
        """Ids and distances of the k first images of one query; k is at most `FEW`."""
        if isinstance(found.positions, np.ndarray):
            heads = self._heads[found.positions]  # `take` lets other threads run, which costs more than it does
            if len(heads) and heads.min() >= 0:
                return heads[:k], np.asarray(found.distances[:k], np.int32)
            return self._merged(heads.tolist(), np.asarray(found.distances).tolist(), k)
        read: Any = memoryview(self._heads)  # type: ignore[arg-type]  # number by number, several times faster than an array
        return self._merged([read[position] for position in found.positions], list(found.distances), k)

    def _merged(self, heads: list[int], near: list[int], k: int) -> tuple[Int64, Int32]:
        if min(heads, default=0) < 0:
            images: list[tuple[int, int]] = []
            for distance, head in zip(near, heads, strict=True):
                if len(images) >= k and distance > images[-1][0]:
                    break
                if head >= 0:
                    images.append((distance, head))
                else:  # ids of a code ascend: the first k suffice
                    start, count = divmod(-head, 2 * FEW)
                    images += [(distance, number) for number in self.ids[start : start + min(count, k)].tolist()]
            images.sort()
            near, heads = [distance for distance, _ in images], [number for _, number in images]
        return np.array(heads[:k], np.int64), np.array(near[:k], np.int32)

    @cached_property
    def _heads(self) -> Int64:
        """The id of each code's image; where several have it, -(start * 2 FEW + how many, or FEW if more)."""
        if self.starts is None:
            return self.ids
        starts, counts = self.starts[:-1], np.minimum(np.diff(self.starts), FEW)
        return np.where(counts == 1, self.ids[starts], -(starts * (2 * FEW) + counts))


def _grouped(keys: npt.NDArray[np.uint64]) -> tuple[Int64, Int64]:
    """Rows of `keys` (n, words) with equal ones together, each group's ascending; and where each group begins."""
    n = len(keys)
    by_code: Int64 = np.argsort(keys[:, 0]) if keys.shape[1] == 1 else np.lexsort(keys.T)
    ordered = keys[by_code]
    begins = np.ones(n, bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    heads = np.flatnonzero(begins)
    if keys.shape[1] == 1 and len(heads) < n:  # several times faster than a sort that keeps the order of equals
        width = n.bit_length()
        by_code = np.sort((begins.cumsum() << width) | by_code) & ((1 << width) - 1)
    return by_code, heads


def _before_level(queries: Int64, distances: Int32, lengths: Int64) -> Int64:
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
