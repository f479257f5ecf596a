"""Asking a kind with codes that are not in it: what share of the nearest it finds, and how fast.

Recall is by distance: of the k answers those that are no farther than the k-th of the exact ranking, at most k of them
(ties with the k-th are as many answers as one likes, and no more right), divided by k. Recall by id would call one of
two equal codes wrong.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, widened
from hashfaiss.indexes.flat import Flat
from hashfaiss.indexes.kind import Floats, Int32, Kind

MEASURED = (1, 10, 100)  # nearest of which recall is measured, and held
SPEED_AT = 10  # nearest that are asked for when it is timed
SINGLE = 50  # queries asked one by one
SECONDS = 0.1  # a batch is asked again until so much time is measured
ONE_SIDED_95 = 1.645  # standard errors
PER_CALL = 128  # queries compared with all codes at once: a call into FAISS cannot be interrupted


@dataclass(frozen=True)
class Trial:
    """What a kind gave on the codes at hand.

    Attributes:
        kind: with its parameters, as `--kind` takes it.
        recall: nearest asked for → recall by distance, mean over the queries of the first sample.
        at_least: the lowest of their lower bounds, see `at_least`.
        confirmed: the same on the second sample; None where it was not asked.
        unlike: recall of the 10 nearest for queries unlike the codes, the worst of several degrees, with far answers
            answered again; None where they were not asked.
        certified: share of answers certified exact.
        again: share of answers that are answered again, exactly, because they are far.
        batch_rate, single_rate: queries a second, all at once (with what is answered again) and one by one (median), on
            one thread.
        bytes_per_code: memory of FAISS's own structure, for each distinct code, about.
        build_seconds: to make it.
    """

    kind: str
    recall: dict[int, float]
    at_least: float
    certified: float
    batch_rate: float
    single_rate: float
    bytes_per_code: float
    build_seconds: float
    confirmed: float | None = None
    unlike: float | None = None
    again: float = 0.0


@dataclass(frozen=True)
class Shares:
    """Answers to some queries.

    Attributes:
        found: float (queries,), recall of each.
        last: int (queries,), distance of the last answer.
        sure: bool (queries,), certified exact.
        short: bool (queries,), fewer answers than asked for.
    """

    found: Floats
    last: Int32
    sure: npt.NDArray[np.bool_]
    short: npt.NDArray[np.bool_]

    def again(self, farthest: int) -> npt.NDArray[np.bool_]:
        """Whose answer is not believed: neither certified nor as near as that."""
        return ~self.sure & (self.short | (self.last > farthest))

    def answered_again(self, farthest: int) -> Floats:
        """Recall of each query where what is not believed is answered again, exactly."""
        return np.where(self.again(farthest), 1.0, self.found)

    def believed_to(self, recall: float) -> int:
        """The greatest distance to believe at which recall is surely kept (-1: none)."""
        for farthest in np.unique(self.last[~self.sure & ~self.short])[::-1].tolist():
            if at_least(self.answered_again(farthest)) >= recall:
                return int(farthest)
        return -1


class Sample:
    """Codes to ask with, none of them in the index asked, and how far the nearest of all are."""

    def __init__(self, flat: Flat, codes: Codes) -> None:
        self.codes = codes
        total = flat.faiss.ntotal
        self.ks = tuple(sorted({min(k, total) for k in MEASURED}))
        parts = [codes[start : start + PER_CALL] for start in range(0, len(codes), PER_CALL)]
        near = [flat.nearest(part, self.ks[-1]).distances.reshape(len(part), -1) for part in parts]
        self._last = {k: np.concatenate([rows[:, k - 1] for rows in near]) for k in self.ks if near}

    def __len__(self) -> int:
        return len(self.codes)

    def ask(self, kind: Kind, k: int) -> Shares:
        """What `kind` finds of the k nearest."""
        found = kind.nearest(self.codes, k)
        counts = np.diff(found.offsets)
        row = np.repeat(np.arange(len(counts)), counts)
        right = np.bincount(row[found.distances <= self._last[k][row]], minlength=len(counts))
        short = counts < k
        return Shares(np.minimum(right, k) / k, found.last, ~short & (found.last <= found.complete), short)

    def surely(self, kind: Kind) -> float:
        """What the recall of `kind` is at least, of the number of nearest for which it is lowest."""
        return _surely(kind, [self.ask(kind, k) for k in self.ks])

    def trial(self, kind: Kind, seconds: float) -> Trial:
        """All there is to tell of `kind`, which took `seconds` to build."""
        if not len(self):
            return Trial(str(kind), {}, 1.0, 1.0, 0.0, 0.0, 0.0, seconds)
        asked = {k: self.ask(kind, k) for k in self.ks}
        usual = asked[min(SPEED_AT, self.ks[-1])]
        batch, single = rates(kind, self.codes, min(SPEED_AT, self.ks[-1]))
        return Trial(
            kind=str(kind),
            recall={k: float(shares.found.mean()) for k, shares in asked.items()},
            at_least=_surely(kind, list(asked.values())),
            certified=float(usual.sure.mean()),
            batch_rate=batch,
            single_rate=single,
            bytes_per_code=kind.held_bytes / kind.faiss.ntotal,
            build_seconds=seconds,
        )


def _surely(kind: Kind, asked: list[Shares]) -> float:
    return 1.0 if isinstance(kind, Flat) else min(at_least(shares.found) for shares in asked)


def at_least(shares: Floats) -> float:
    """What the mean of shares, each of 0 to 1, is at least: a one-sided lower bound, 95 % sure.

    Normal, with one query added that found nothing, so that a sample without a miss proves no more than its size does:
    264 queries for 0.99, about as many as Wilson's bound of a share asks.
    """
    n = len(shares) + 1
    mean = float(shares.sum()) / n
    squares = float(np.square(shares).sum()) / n
    return mean - ONE_SIDED_95 * float(np.sqrt(max(0.0, squares - mean * mean) / n))


def unlike(codes: Codes, bits: int, share: float, seed: int) -> Codes:
    """Codes (n, bytes) with this share of their bits flipped; half of them is a random code."""
    random = np.random.default_rng(seed)
    flips = np.packbits(random.random((len(codes), bits), dtype=np.float32) < share, axis=1, bitorder="little")
    return codes ^ widened(flips, codes.shape[1])


def rates(kind: Kind, codes: Codes, k: int) -> tuple[float, float]:
    """Queries a second on one thread: all at once, and one by one (median)."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        batch, alone = list[float](), list[float]()
        while sum(batch) < SECONDS:
            started = time.perf_counter()
            kind.nearest(codes, k)
            batch.append(time.perf_counter() - started)
        for row in range(min(SINGLE, len(codes))):
            started = time.perf_counter()
            kind.nearest_one(codes[row : row + 1], k)
            alone.append(time.perf_counter() - started)
    finally:
        faiss.omp_set_num_threads(threads)
    return len(codes) / min(batch), 1 / float(np.median(alone))  # the one least disturbed
