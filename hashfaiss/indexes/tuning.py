"""Choosing a kind by measuring, on the codes at hand, what each gives and takes.

Queries are codes that are held out: the indexes measured are made of the others, and the one chosen of all. Recall is
by distance: the share of the k answers that are no farther than the k-th of the exact ranking. Recall by id would call
one of two equal codes wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from types import NoneType
from typing import Any

import faiss
import numpy as np

from hashfaiss.codes import Codes, widened
from hashfaiss.errors import ArgumentError
from hashfaiss.indexes.flat import Flat
from hashfaiss.indexes.kind import Found, Kind, faiss_bytes
from hashfaiss.indexes.kinds import parse_kind

FLAT_UP_TO = 50_000  # distinct codes that a flat scan compares in less than other kinds take to start
GRAPH_UP_TO = 200_000  # distinct codes of which a graph is built in reasonable time
RECALL = 0.99
NEAREST = 10
QUERIES = 1000
HELD_OUT = 5  # one code in so many asks, at most
SINGLE = 50  # queries asked one by one
SECONDS = 0.1  # a batch is asked again until so much time is measured
FINE = 8  # a knob is set to an eighth of its value
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
        bytes_per_code: memory of FAISS's own structure, for each distinct code, about.
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
    if not isinstance(recall, (int, float)) or not 0 < recall <= 1:
        raise ArgumentError(f"recall is {recall!r}: give a share above 0, at most 1")
    if not isinstance(memory, (int, NoneType)):
        raise ArgumentError(f"memory is {memory!r}: give a number of bytes, or None")
    codes = widened(codes, faiss_bytes(bits))
    if memory is not None and 2 * codes.nbytes > memory:
        raise ArgumentError(
            f"a memory of {memory:,} bytes was asked for, and {len(codes):,} distinct codes with the smallest index "
            f"take {2 * codes.nbytes:,}: give more, or make shorter codes"
        )
    n = len(codes)
    asked = np.sort(np.random.default_rng(SEED).choice(n, min(QUERIES, n // HELD_OUT), replace=False))
    others = np.delete(codes, asked, axis=0)
    flat = Flat(bits, len(others), {})
    flat.build(others)
    questions = _Questions(flat, codes[asked])
    chosen = questions.trial(flat, 0.0)
    trials = [chosen]
    notice(_told(chosen))
    for kind, seconds in _candidates(others, bits) if len(asked) else ():
        fits = memory is None or codes.nbytes + kind.held_bytes * n / len(others) <= memory
        for trial in questions.trials(kind, seconds, recall, trials[0].batch_rate):
            trials.append(trial)
            notice(_told(trial))
            if fits and trial.recall >= recall and trial.batch_rate > chosen.batch_rate:
                chosen = trial
    if chosen is trials[0]:
        why = f"of {len(trials) - 1} others measured none is faster, reaches recall {recall:g} and fits"
    else:
        faster = chosen.batch_rate / trials[0].batch_rate
        why = f"recall {chosen.recall:.3f} at {faster:.0f} times the speed of flat; {len(trials)} were measured"
    best = parse_kind(chosen.kind, bits, n)
    best.build(codes)
    return best, Tuning(chosen.kind, why, tuple(trials))


def _told(trial: Trial) -> str:
    return f"{trial.kind}: recall {trial.recall:.3f}, {trial.batch_rate:,.0f} queries/s"


def _candidates(codes: Codes, bits: int) -> Iterator[tuple[Kind, float]]:
    """Structures to measure, each built, with the seconds it took; their probes are turned up later."""
    n = len(codes)
    prefix = min(bits, 32, max(4, n.bit_length() - 4))
    lists = parse_kind("ivf", bits, n).parameters["lists"]
    texts = [f"ivf:lists={max(1, number)},probes=1" for number in (lists // 2, lists)] + [f"hash:b={prefix},flips=0"]
    if bits >= 2 * prefix:
        texts.append(f"multihash:tables={min(4, bits // prefix)},b={prefix},flips=0")
    if n <= GRAPH_UP_TO:
        texts.append("hnsw:ef=16")
    if faiss.get_num_gpus():
        texts.append("gpu")
    if n < 2:
        return
    for text in texts:
        kind = parse_kind(text, bits, n)
        started = time.monotonic()
        kind.build(codes)
        yield kind, time.monotonic() - started


class _Questions:
    """Codes to ask with, none of them in the indexes asked, and the distance of the last that flat answers."""

    def __init__(self, flat: Flat, codes: Codes) -> None:
        self.codes = codes
        self.k = min(NEAREST, flat.faiss.ntotal)
        self.last = flat.nearest(codes, self.k).last if len(codes) else np.empty(0, np.int32)

    def trial(self, kind: Kind, seconds: float) -> Trial:
        """Ask them of `kind`."""
        if not len(self.codes):
            return Trial(str(kind), 1.0, 1.0, 0.0, 0.0, 0.0, seconds)
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            found, batch = Found.nothing(0, -1), list[float]()
            while sum(batch) < SECONDS:
                started = time.perf_counter()
                found = kind.nearest(self.codes, self.k)
                batch.append(time.perf_counter() - started)
            one = [self.codes[row : row + 1] for row in range(min(SINGLE, len(self.codes)))]
            alone = []
            for query in one:
                started = time.perf_counter()
                kind.nearest_one(query, self.k)
                alone.append(time.perf_counter() - started)
        finally:
            faiss.omp_set_num_threads(threads)
        last = np.repeat(self.last, np.diff(found.offsets))
        full = np.diff(found.offsets) == self.k
        return Trial(
            kind=str(kind),
            recall=float(np.count_nonzero(found.distances <= last) / (self.k * len(self.codes))),
            certified=float((full & (found.last <= found.complete)).mean()),
            batch_rate=len(self.codes) / min(batch),  # the one least disturbed
            single_rate=1 / float(np.median(alone)),
            bytes_per_code=kind.held_bytes / kind.faiss.ntotal,
            build_seconds=seconds,
        )

    def trials(self, kind: Kind, seconds: float, recall: float, slowest: float) -> Iterator[Trial]:
        """Turn its knob up until the recall is reached or fewer than `slowest` queries a second are left, then down."""
        low = value = kind.parameters.get(kind.knob, 0)
        while True:
            trial = self.trial(kind, seconds)
            yield trial
            if trial.recall >= recall or trial.batch_rate < slowest:
                break
            low, value = value, value + 1 if kind.knob == "flips" else 2 * value
            if not kind.turn(value):
                return
        while trial.recall >= recall and value - low > max(1, value // FINE):
            middle = (low + value) // 2
            kind.turn(middle)
            found = self.trial(kind, seconds)
            yield found
            low, value = (low, middle) if found.recall >= recall else (middle, value)
