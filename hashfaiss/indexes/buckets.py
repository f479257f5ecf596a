"""What the kinds with hash buckets share: an order of the bits that balances buckets, flips, and what they cost."""

from __future__ import annotations

import threading
from abc import abstractmethod
from math import comb
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, unpack
from hashfaiss.errors import ArgumentError
from hashfaiss.indexes.kind import SPARE, Arrays, Floats, Found, Int32, Int64, Kind, One, by_radius, sampled

# A call into FAISS cannot be interrupted: one query visits at most this many buckets (about 0.2 s),
MAX_BUCKETS = 1 << 20
CODES_PER_ADD = 1 << 18  # and one call adds at most this many codes (about 0.3 s).
BUCKET_BYTES = 128  # of an entry in a hash table with its vectors.
BUCKET = 256.0  # to look for a bucket costs as many comparisons of a flat scan (from FAISS.md, section 4)
SAMPLE = 10_000  # codes from which the order of bits is chosen
SEED = 1234

SHUFFLE: Any = getattr(faiss, "bitvec_shuffle")  # noqa: B009, FAISS's stubs lack these two
STATISTICS: Any = getattr(faiss.cvar, "indexBinaryHash_stats")  # noqa: B009
Order = npt.NDArray[np.int32]


class BucketKind(Kind):
    """Codes in buckets by some of their bits; a query visits every bucket within `flips` of its own.

    Hamming distance does not care about the order of bits, but buckets do: learned bits are skewed and correlated, and
    a prefix of them makes fat buckets. Codes are therefore stored with their bits in an order chosen on a sample.
    """

    knob = "flips"
    tables = 1  # each of them hashes other bits
    candidate = 10.0  # to compare a code from a bucket costs as many comparisons of a flat scan

    @abstractmethod
    def make(self) -> Any:
        """An empty FAISS index with these parameters."""

    @abstractmethod
    def complete_at(self, flips: int) -> int:
        """Every code within this distance is found with that many flips; `bits` means all codes are."""

    def flips_for(self, radius: int) -> int:
        """The fewest flips that find every code within `radius`."""
        return min(self.parameters["b"], (radius + 1 + self.tables - 1) // self.tables - 1)

    def check_flips(self, given: int | None, b: int) -> int:
        """`flips` if FAISS can do them in bounded time, else ArgumentError."""
        flips = self.within_range("flips", min(2, b) if given is None else given, 0, b)  # above b FAISS never returns
        if self.buckets_at(b, flips) > MAX_BUCKETS:
            most = max(fewer for fewer in range(flips) if self.buckets_at(b, fewer) <= MAX_BUCKETS)
            raise ArgumentError(
                f"flips of the {self.name} kind is {flips}: with b={b} give a whole number from 0 to {most}, or a "
                f"query visits more than {MAX_BUCKETS:,} buckets"
            )
        return flips

    def buckets_at(self, b: int, flips: int) -> int:
        """Buckets that a query visits."""
        return self.tables * sum(comb(b, flipped) for flipped in range(min(b, flips) + 1))

    @property
    def buckets(self) -> int:
        """Buckets that a query visits with the flips of the parameters."""
        return self.buckets_at(self.parameters["b"], self.parameters["flips"])

    def build(self, codes: Codes) -> None:
        self._order = balanced_order(codes, self.bits, self.tables, self.parameters["b"])
        index = self.make()
        for start in range(0, len(codes), CODES_PER_ADD):
            index.add(self._ordered(codes[start : start + CODES_PER_ADD]))
        self._take(index)
        sample = sampled(codes)
        self._candidates = self._measured(sample)
        self.measure(sample)

    def arrays(self) -> Arrays:
        return {"order": self._order, "candidates": self._candidates, "sample": self.sample}

    def restore(self, index: Any, arrays: Arrays) -> None:
        order, candidates = arrays["order"], arrays["candidates"]
        if not np.array_equal(np.sort(order), np.arange(8 * self.width)) or candidates.ndim != 1:
            raise ValueError("order")
        self._order, self._candidates = order.astype(np.int32), candidates.astype(np.float64)
        self._take(index)
        self.measure(arrays["sample"].astype(np.uint8).reshape(-1, self.width))

    def _take(self, index: Any) -> None:
        self.faiss = index
        index.nflip = self.parameters["flips"]
        self._lock = threading.Lock()

    def _ordered(self, codes: Codes) -> Codes:
        codes = np.ascontiguousarray(codes)
        ordered, width = np.empty_like(codes), 8 * codes.shape[1]
        pointers = [faiss.swig_ptr(array) for array in (self._order, codes, ordered)]
        SHUFFLE(len(codes), width, width, *pointers)
        return ordered

    def _measured(self, sample: Codes) -> Floats:
        """Codes that a query compares with 0, 1, ... flips, on average over some codes of the index themselves."""
        means: list[float] = []
        n, asked = self.faiss.ntotal, self._ordered(sample)
        for flips in range(self.parameters["b"] + 1):
            visits = self.buckets_at(self.parameters["b"], flips) * BUCKET
            if not len(sample) or visits > n or (means and means[-1] * self.candidate > n):
                break
            STATISTICS.reset()
            self._with_flips(flips, lambda: self.faiss.range_search(asked, 1))
            means.append(STATISTICS.ndis / len(asked))
        return np.array(means, np.float64)

    def _with_flips(self, flips: int, search: object) -> tuple[npt.NDArray[np.uint64], Int32, npt.NDArray[np.int64]]:
        with self._lock:  # FAISS takes the flips from the index
            self.faiss.nflip = flips
            try:
                return search()  # type: ignore[operator, no-any-return]
            finally:
                self.faiss.nflip = self.parameters["flips"]

    def nearest(self, queries: Codes, k: int) -> Found:
        asked = min(k + SPARE, self.faiss.ntotal)
        with self._lock:
            distances, positions = self.faiss.search(self._ordered(queries), asked)
        complete = np.full(len(queries), self.complete_at(self.parameters["flips"]), np.int32)
        return self.settled(queries, distances, positions, k, complete)

    def nearest_one(self, query: Codes, k: int) -> One:
        with self._lock:
            found = self.faiss.search(self._ordered(query), min(k + SPARE, self.faiss.ntotal))
        return self.settled_one(query, found, k, self.complete_at(self.parameters["flips"]))

    def within(self, queries: Codes, radius: int) -> Found:
        return self._ball(queries, radius, self.parameters["flips"])

    def turn(self, value: int) -> bool:
        b = self.parameters["b"]
        if value > b or self.buckets_at(b, value) > MAX_BUCKETS:
            return False
        self.parameters["flips"] = self.faiss.nflip = value
        self.measure(self.sample)
        return True

    def balls(self, queries: Codes, radii: Int32, limit: float) -> tuple[Int64, Found]:
        rows = np.flatnonzero(self._costs()[radii] < limit)

        def search(asked: Codes, _: Int64, radius: int) -> Found:
            return self._ball(asked, radius, max(self.parameters["flips"], self.flips_for(radius)))

        return rows, by_radius(queries[rows], radii[rows], search)

    def reach(self, limit: float) -> int:
        return int(np.searchsorted(self._costs(), limit)) - 1

    def _costs(self) -> Floats:
        """What finding all within radius 0 to K takes, in codes that a flat scan compares meanwhile."""
        flips = [self.flips_for(radius) for radius in range(self.bits + 1)]
        known = np.append(self._candidates, np.inf)[np.minimum(flips, len(self._candidates))]
        visits = [self.buckets_at(self.parameters["b"], number) for number in flips]
        costs: Floats = known * self.candidate + np.array(visits, np.float64) * BUCKET
        return costs

    def _ball(self, queries: Codes, radius: int, flips: int) -> Found:
        ordered = self._ordered(queries)
        found = self._with_flips(flips, lambda: self.faiss.range_search(ordered, radius + 1))
        return Found.of_ball(*found, np.full(len(queries), self.complete_at(flips), np.int32))

    @property
    def work(self) -> float:
        flips = self.parameters["flips"]
        known = self._candidates[flips] if flips < len(self._candidates) else float(self.faiss.ntotal)
        return BUCKET * self.buckets + self.candidate * known


def balanced_order(codes: Codes, bits: int, tables: int, b: int) -> Order:
    """An order of all bits of codes (n, bytes) whose first b (then the next b, for every table) fill buckets evenly.

    Greedy, on a sample: the tables choose in turn, each the bit with the most entropy that correlates least with
    those it has; entropy times one minus the greatest squared correlation decides.
    """
    width = 8 * codes.shape[1]
    if not len(codes):
        return np.arange(width, dtype=np.int32)
    random = np.random.default_rng(SEED)
    rows = random.choice(len(codes), min(len(codes), SAMPLE), replace=False)
    values = unpack(codes[np.sort(rows)], bits).astype(np.float64)
    ones = np.clip((values.mean(axis=0) + 1) / 2, 1e-9, 1 - 1e-9)
    entropy = -(ones * np.log2(ones) + (1 - ones) * np.log2(1 - ones))
    centred = values - values.mean(axis=0)
    spread = np.maximum(centred.std(axis=0), 1e-9)
    squared = ((centred.T @ centred) / len(values) / np.outer(spread, spread)) ** 2
    alike = np.zeros((tables, bits))  # greatest squared correlation of a bit with those the table has
    free = np.ones(bits, bool)
    chosen: list[list[int]] = [[] for _ in range(tables)]
    for turn in range(tables * b):
        table = turn % tables
        score = np.where(free, entropy * (1 - alike[table]), -1.0)
        bit = int(score.argmax())
        free[bit] = False
        chosen[table].append(bit)
        alike[table] = np.maximum(alike[table], np.minimum(squared[bit], 1.0))
    first = [bit for table in chosen for bit in table]
    return np.array([*first, *np.flatnonzero(free), *range(bits, width)], dtype=np.int32)


def bucket_sizes(codes: Codes, bits: Order) -> npt.NDArray[np.int64]:
    """How many codes (n, bytes) lie in each bucket that these bits make, largest first."""
    keys = np.zeros(len(codes), np.int64)
    for place, bit in enumerate(bits.tolist()):
        keys |= ((codes[:, bit // 8] >> (bit % 8)) & 1).astype(np.int64) << place
    sizes: npt.NDArray[np.int64] = np.sort(np.unique(keys, return_counts=True)[1])[::-1]
    return sizes
