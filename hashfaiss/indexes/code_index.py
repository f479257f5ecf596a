"""CodeIndex: codes and ids in, answers out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import log, log2
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, check_bits, check_codes, code_bytes
from hashfaiss.errors import ArgumentError, CorruptIndexError
from hashfaiss.indexes.answers import Answers
from hashfaiss.indexes.distinct import Distinct, Int64
from hashfaiss.indexes.kinds import parse_kind

Distances = npt.NDArray[np.int32]

# One call into FAISS cannot be interrupted, so its work is bounded. The unit of work is about a nanosecond of one
# core at most (measured for K from 40 to 1024 and k up to 500,000): the bound is about 0.15 s, and half a second where
# other programs keep the cores busy ...
WORK_PER_CALL = 1 << 27
WORK_PER_PAIR = 2  # to compare two codes, besides one for each of their 64-bit words
WORK_PER_BUCKET = 256  # to look for a bucket
WORK_PER_LEVEL = 10  # to move an answer one level up or down the heap of the k nearest
# ... and returns at most this many answers, so that memory does not follow the number of queries.
ANSWERS_PER_CALL = 1 << 22


class CodeIndex:
    """A FAISS binary index over distinct codes.

    Attributes:
        bits: K.
        kind: the kind of FAISS index, with its parameters.
        distinct: the codes FAISS holds, and the ids that have them.
        faiss: the `faiss.IndexBinary`; its ids are positions in `distinct.codes`.
    """

    def __init__(self, codes: Codes, ids: npt.ArrayLike, bits: int, kind: str = "auto") -> None:
        """Index `codes` (n, ceil(bits/8)) under `ids` (n,): whole numbers >= 0, each once.

        Raises:
            ArgumentError: codes of another shape or dtype, ids that repeat or are negative, an unknown kind.
        """
        self.bits = check_bits(bits)
        self.distinct = Distinct.of(*_by_id(check_codes(codes, bits), ids))
        self.kind = parse_kind(kind, bits, len(self.distinct))
        self.faiss = self.kind.build(self.distinct.codes)

    @classmethod
    def load(cls, data: bytes, codes: Codes, ids: npt.ArrayLike, bits: int, kind: str) -> CodeIndex:
        """Take the FAISS index from `data` (of `dump`), for the same codes, ids and kind it was made of.

        `data` must be known to be what `dump` returned (by its digest): FAISS checks little of what it reads.

        Raises:
            CorruptIndexError: `data` is an index of something else.
        """
        index = cls.__new__(cls)
        index.bits = bits
        index.distinct = Distinct.of(*_by_id(check_codes(codes, bits), ids))
        index.kind = parse_kind(kind, bits, len(index.distinct))
        try:
            loaded = faiss.deserialize_index_binary(np.frombuffer(data, dtype=np.uint8))
        except RuntimeError as error:
            raise CorruptIndexError(f"the FAISS index cannot be read ({error}): delete it, it is rebuilt") from None
        if loaded.d != 8 * code_bytes(bits) or loaded.ntotal != len(index.distinct) or not index.kind.accepts(loaded):
            raise CorruptIndexError("the FAISS index is of other codes or another kind: delete it, it is rebuilt")
        index.faiss = loaded
        return index

    def dump(self) -> bytes:
        """The FAISS index in FAISS's own file format."""
        data: bytes = faiss.serialize_index_binary(self.faiss).tobytes()
        return data

    def __len__(self) -> int:
        return len(self.distinct.ids)

    def search(self, queries: Codes, k: int = 10) -> Answers:
        """The k nearest of each query (n, ceil(bits/8)): min(k, len(self)) of them where `exact`, else maybe fewer."""
        k = min(_whole("k", k, 1), max(1, len(self)))
        queries = check_codes(queries, self.bits, "queries")
        found = min(k, len(self.distinct))
        answers = min(k, len(self))
        return self._batched(queries, answers, self._work(found), lambda batch: self._nearest(batch, k, found))

    def within(self, queries: Codes, radius: int) -> Answers:
        """All within Hamming distance `radius` (distance <= radius) of each query; all of them where `exact`."""
        radius = _whole("radius", radius, 0)
        queries = check_codes(queries, self.bits, "queries")
        within = min(radius, self.bits)
        return self._batched(queries, len(self), self._work(0), lambda batch: self._within(batch, within))

    def _work(self, found: int) -> int:
        """Work of one query that keeps the `found` nearest codes; 0 is for a radius, which needs no heap."""
        n, width = len(self.distinct), (self.bits + 63) // 64
        heap = 0.0
        if found:  # codes that come in any order enter the heap found * (1 + ln(n / found)) times
            heap = WORK_PER_LEVEL * found * (1 + log(n / found)) * log2(2 * found)
        return (width + WORK_PER_PAIR) * n + WORK_PER_BUCKET * self.kind.buckets + int(heap)

    def _batched(self, queries: Codes, answers: int, work: int, search: Callable[[Codes], Answers]) -> Answers:
        size = max(1, min(WORK_PER_CALL // max(1, work), ANSWERS_PER_CALL // max(1, answers)))
        with _threads(1 if len(queries) == 1 else None):
            return Answers.join([search(queries[start : start + size]) for start in range(0, len(queries), size)])

    def _nearest(self, queries: Codes, k: int, found: int) -> Answers:
        if not found:
            return _nothing(len(queries))
        distances, positions = self.faiss.search(queries, found)
        complete = self.kind.complete_radius
        if self.kind.lowest_first:
            counts = np.full(len(queries), found)
            flat_positions, flat_distances = positions.ravel(), distances.ravel()
        else:
            counts, flat_positions, flat_distances = self._settle_ties(queries, distances, positions)
        offsets, ids, reached = self.distinct.expand(counts, flat_positions, flat_distances, k)
        full = np.diff(offsets) == min(k, len(self))
        last = np.zeros(len(queries), np.int32)
        last[full] = reached[offsets[1:][full] - 1]
        exact = full & ((last <= complete) | (counts == len(self.distinct)))
        return Answers(offsets, ids, reached, exact)

    def _settle_ties(self, queries: Codes, distances: Distances, positions: Int64) -> tuple[Int64, Int64, Distances]:
        """Which codes tied at the last place FAISS returns is chance; take all at that distance it can see."""
        results: list[tuple[Int64, Distances]] = [(positions[0][:0], distances[0][:0])] * len(queries)
        short = positions[:, -1] < 0  # all that the buckets visited hold
        for row in np.flatnonzero(short):
            there = positions[row] >= 0
            results[row] = (positions[row][there], distances[row][there])
        for last in np.unique(distances[~short, -1]):
            rows = np.flatnonzero(~short & (distances[:, -1] == last))
            limits, near, where = self.faiss.range_search(queries[rows], int(last) + 1)
            for row, start, end in zip(rows, limits[:-1], limits[1:], strict=True):
                results[row] = (where[start:end], near[start:end])
        counts = np.array([len(found) for found, _ in results], dtype=np.int64)
        flat_positions = np.concatenate([found for found, _ in results])
        flat_distances = np.concatenate([found for _, found in results]).astype(np.int32)
        order = np.lexsort((flat_positions, flat_distances, np.repeat(np.arange(len(counts)), counts)))
        return counts, flat_positions[order], flat_distances[order]

    def _within(self, queries: Codes, radius: int) -> Answers:
        if not len(self):
            return _nothing(len(queries))
        limits, distances, positions = self.faiss.range_search(queries, radius + 1)  # FAISS's radius is strict
        counts: Int64 = np.diff(limits).astype(np.int64)
        order = np.lexsort((positions, distances, np.repeat(np.arange(len(counts)), counts)))
        offsets, ids, reached = self.distinct.expand(counts, positions[order], distances[order].astype(np.int32), None)
        return Answers(offsets, ids, reached, np.full(len(queries), radius <= self.kind.complete_radius))


def _nothing(queries: int) -> Answers:
    return Answers(
        np.zeros(queries + 1, np.int64), np.empty(0, np.int64), np.empty(0, np.int32), np.ones(queries, np.bool_)
    )


def _by_id(codes: Codes, ids: npt.ArrayLike) -> tuple[Codes, Int64]:
    values = np.asarray(ids)
    if values.shape != (len(codes),) or not (np.issubdtype(values.dtype, np.integer) or values.size == 0):
        raise ArgumentError(
            f"ids have shape {values.shape} and type {values.dtype}: give {len(codes)} whole numbers, one for each code"
        )
    checked = values.astype(np.int64)
    if (checked[1:] <= checked[:-1]).any():
        order = np.argsort(checked, kind="stable")
        checked, codes = checked[order], codes[order]
        repeated = np.flatnonzero(checked[1:] == checked[:-1])
        if len(repeated):
            raise ArgumentError(f"id {checked[repeated[0]]} stands twice: give each code its own id")
    if len(checked) and (checked[0] < 0 or (values.dtype == np.uint64 and values.max() > np.iinfo(np.int64).max)):
        raise ArgumentError("ids are outside 0 to 2**63 - 1: give ids from that range")
    return codes, checked


def _whole(name: str, value: Any, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise ArgumentError(f"{name} is {value!r}: give a whole number of {low} or more")
    return int(value)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """FAISS on `count` threads; its OpenMP may be torch's, so the count is put back."""
    before = faiss.omp_get_max_threads()
    if count is None or count == before:
        yield
        return
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
