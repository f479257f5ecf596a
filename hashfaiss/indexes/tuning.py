"""Choosing a kind by measuring, on the codes at hand, what each gives and takes.

Queries are codes of the index, each asking for its neighbours without itself: what a query of the same distribution
would find. Recall is by distance: the share of the k answers that are no farther than the k-th of the exact ranking.
Recall by id would call one of two equal codes wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes
from hashfaiss.errors import ArgumentError
from hashfaiss.indexes.flat import Flat
from hashfaiss.indexes.kind import Found, Kind
from hashfaiss.indexes.kinds import parse_kind

FLAT_UP_TO = 50_000  # distinct codes that a flat scan compares in less than other kinds take to start
GRAPH_UP_TO = 200_000  # distinct codes of which a graph is built in reasonable time
RECALL = 0.99
NEAREST = 10
QUERIES = 200
SINGLE = 30  # queries asked one by one
SEED = 1234

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """What a kind gave on the codes at hand.

    Attributes:
        kind: with its parameters, as `--kind` takes it.
        recall: by distance, of the 10 nearest.
        certified: share of answers certified exact.
        batch_rate, single_rate: queries a second, all at once and one by one (median), on one thread.
        bytes_per_code: of FAISS's own structure, for each distinct code.
        build_seconds: to make it.
    """

    kind: str
    recall: float
    certified: float
    batch_rate: float
    single_rate: float
    bytes_per_code: float
    build_seconds: float


@dataclass(frozen=True)
class Tuning:
    """Trials, the kind chosen and why."""

    kind: str
    why: str
    trials: tuple[Trial, ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def tune(
    codes: Codes,
    bits: int,
    recall: float = RECALL,
    memory: int | None = None,
    notice: Notice = lambda _: None,
) -> tuple[Kind, Tuning]:
    """The fastest kind, built over distinct `codes` (n, bytes), that reaches `recall` and fits into `memory` bytes.

    Args:
        notice: told what is being measured.

    Raises:
        ArgumentError: a recall outside 0 to 1, a memory that nothing fits.
    """
    if not 0 < recall <= 1:
        raise ArgumentError(f"recall is {recall}: give a share above 0, at most 1")
    flat = Flat(bits, len(codes), {})
    flat.build(codes)
    if memory is not None and codes.nbytes > memory:
        raise ArgumentError(
            f"a memory of {memory:,} bytes was asked for, and the {len(codes):,} distinct codes alone take "
            f"{codes.nbytes:,}: give more, or make shorter codes"
        )
    questions = _Questions(flat, codes)
    best: Kind = flat
    chosen = questions.trial(flat, 0.0)
    trials = [chosen]
    notice(_told(chosen))
    for kind, seconds in _candidates(codes, bits):
        for trial in questions.trials(kind, seconds, recall, trials[0].batch_rate):
            trials.append(trial)
            notice(_told(trial))
            fits = memory is None or trial.bytes_per_code * len(codes) <= memory
            if fits and trial.recall >= recall and trial.batch_rate > chosen.batch_rate:
                best, chosen = kind, trial
    built = best if str(best) == chosen.kind else _turned(best, parse_kind(chosen.kind, bits, len(codes)))
    if best is flat:
        why = f"of {len(trials) - 1} others measured none is faster and reaches recall {recall:g}"
    else:
        faster = chosen.batch_rate / trials[0].batch_rate
        why = f"recall {chosen.recall:.3f} at {faster:.0f} times the speed of flat; {len(trials)} were measured"
    return built, Tuning(chosen.kind, why, tuple(trials))


def _told(trial: Trial) -> str:
    return f"{trial.kind}: recall {trial.recall:.3f}, {trial.batch_rate:,.0f} queries/s"


def _candidates(codes: Codes, bits: int) -> Iterator[tuple[Kind, float]]:
    """Structures to measure, each built, with the seconds it took; their probes are turned up later."""
    n = len(codes)
    prefix = min(bits, 32, max(4, n.bit_length() - 4))
    texts = ["ivf:probes=1", f"hash:b={prefix},flips=0"]
    if bits >= 2 * prefix:
        texts.append(f"multihash:tables={min(4, bits // prefix)},b={prefix},flips=0")
    if n <= GRAPH_UP_TO:
        texts.append("hnsw:ef=16")
    if n < 2:
        return
    for text in texts:
        kind = parse_kind(text, bits, n)
        started = time.monotonic()
        kind.build(codes)
        yield kind, time.monotonic() - started


class _Questions:
    """Codes to ask with, and what flat answers."""

    def __init__(self, flat: Flat, codes: Codes) -> None:
        n = len(codes)
        random = np.random.default_rng(SEED)
        self.rows = np.sort(random.choice(n, min(n, QUERIES), replace=False))
        self.codes = codes[self.rows]
        self.k = min(NEAREST + 1, n)  # itself included
        self.truth = self._others(flat.nearest(self.codes, self.k)) if n else None

    def _others(self, found: Found) -> list[npt.NDArray[np.int32]]:
        """Distances of each query's answers but itself."""
        parts = zip(found.offsets[:-1], found.offsets[1:], self.rows, strict=True)
        return [found.distances[a:b][found.positions[a:b] != row] for a, b, row in parts]

    def trial(self, kind: Kind, seconds: float) -> Trial:
        """Ask them of `kind`."""
        size = float(len(faiss.serialize_index_binary(kind.faiss))) / max(1, kind.faiss.ntotal)
        if self.truth is None:
            return Trial(str(kind), 1.0, 1.0, 0.0, 0.0, 0.0, seconds)
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            kind.nearest(self.codes[:1], self.k)
            started = time.perf_counter()
            found = kind.nearest(self.codes, self.k)
            batch = time.perf_counter() - started
            alone = []
            for row in range(min(SINGLE, len(self.codes))):
                started = time.perf_counter()
                kind.nearest(self.codes[row : row + 1], self.k)
                alone.append(time.perf_counter() - started)
        finally:
            faiss.omp_set_num_threads(threads)
        near = [
            (min(np.count_nonzero(got <= true[-1]), len(true)), len(true))  # ties may come on top
            for got, true in zip(self._others(found), self.truth, strict=True)
            if len(true)
        ]
        hits, wanted = (sum(column) for column in zip(*near, strict=True)) if near else (1, 1)
        full = np.diff(found.offsets) >= self.k
        return Trial(
            kind=str(kind),
            recall=hits / wanted,
            certified=float((full & (found.last <= found.complete)).mean()),
            batch_rate=len(self.codes) / batch,
            single_rate=1 / float(np.median(alone)),
            bytes_per_code=size,
            build_seconds=seconds,
        )

    def trials(self, kind: Kind, seconds: float, recall: float, slowest: float) -> Iterator[Trial]:
        """Turn its probes up until the recall is reached, or fewer than `slowest` queries a second are left."""
        while True:
            trial = self.trial(kind, seconds)
            yield trial
            if trial.recall >= recall or trial.batch_rate < slowest or not kind.probe_more():
                return


def _turned(kind: Kind, asked: Kind) -> Kind:
    asked.restore(kind.faiss, kind.arrays())
    return asked
