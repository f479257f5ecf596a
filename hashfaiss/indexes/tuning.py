"""Choosing a kind by measuring, on the codes at hand, what each gives and takes.

Queries are codes that are held out: the indexes measured are made of the others, and the one chosen of all. A kind is
taken for what it surely gives: the lower bound of its recall (`hashfaiss.indexes.trials.at_least`), for the 1, 10 and
100 nearest, has to reach what is asked, on one sample of queries, by which it is chosen, and on a second, because the
fastest of many that passed once has often passed by luck. For queries unlike the codes there is `Trust`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from types import NoneType
from typing import Any

import faiss
import numpy as np

from hashfaiss.codes import Codes, widened
from hashfaiss.errors import ArgumentError
from hashfaiss.indexes.flat import Flat
from hashfaiss.indexes.kind import Kind, faiss_bytes
from hashfaiss.indexes.kinds import parse_kind
from hashfaiss.indexes.trials import SPEED_AT, Sample, Trial, unlike
from hashfaiss.indexes.trust import Trust

FLAT_UP_TO = 50_000  # distinct codes that a flat scan compares in less than other kinds take to start
MEASURE_AGAIN = 2  # `auto` measures again when there are this many times as many codes
GRAPH_UP_TO = 200_000  # distinct codes of which a graph is built in reasonable time
RECALL = 0.99
QUERIES = 1000  # in each of two samples,
QUERIES_FOR = 10.0  # or so many over the share that may be missed, a quarter of which suffice where none is missed,
MOST_QUERIES = 10_000  # but no more than this,
HELD_OUT = 5  # and one code in so many for both.
UNLIKE = (0.15, 0.3, 0.5)  # shares of bits flipped in queries unlike the codes
FINE = 8  # a knob is set to an eighth of its value
SEED = 1234

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Tuning:
    """Trials, the kind chosen and why.

    Attributes:
        kind, why: the choice.
        trials: all that was measured.
        recall: what was asked for.
        queries: codes held out, in each of two samples.
        trust: up to how many nearest and what distance answers that are not certified are believed; None where all
            answers are exact.
    """

    kind: str
    why: str
    trials: tuple[Trial, ...]
    recall: float = RECALL
    queries: int = 0
    trust: Trust | None = None

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
    """The fastest kind, built over distinct `codes` (n, bytes), that surely reaches `recall` and fits into `memory`.

    Args:
        recall: mean share of the nearest, by distance, that is found: of the 1, of the 10 and of the 100 nearest.
        memory: bytes that codes and FAISS index may take.
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
    first, second = _held_out(n, recall)
    others = np.delete(codes, np.concatenate([first, second]), axis=0)
    flat = Flat(bits, len(others), {})
    flat.build(others)
    judge = _Judge(flat, codes[first], codes[second], recall, bits)
    trials = [judge.flat]
    chosen, trust = judge.flat, None
    notice(_told(judge.flat))
    for kind, seconds in _candidates(others, bits) if len(first) else ():
        fits = memory is None or codes.nbytes + kind.held_bytes * n / len(others) <= memory
        for trial, believed in judge.trials(kind, seconds, fits):
            trials.append(trial)
            notice(_told(trial))
            if believed is not None and trial.batch_rate > chosen.batch_rate:
                chosen, trust = trial, believed
    best = parse_kind(chosen.kind, bits, n)
    best.build(codes)
    trust = None if isinstance(best, Flat) else trust  # all it answers is exact
    return best, Tuning(chosen.kind, judge.why(chosen, len(trials) - 1), tuple(trials), recall, len(first), trust)


def _held_out(n: int, recall: float) -> tuple[np.ndarray, np.ndarray]:
    """Places, ascending, of two samples of n codes."""
    wanted = QUERIES if recall == 1 else min(MOST_QUERIES, max(QUERIES, round(QUERIES_FOR / (1 - recall))))
    size = min(wanted, n // (2 * HELD_OUT))
    places = np.random.default_rng(SEED).choice(n, 2 * size, replace=False)
    return np.sort(places[:size]), np.sort(places[size:])


def _told(trial: Trial) -> str:
    return f"{trial.kind}: recall at least {trial.at_least:.3f}, {trial.batch_rate:,.0f} queries/s"


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


class _Judge:
    """Asks kinds with the first sample, and those that pass with the second and with queries unlike the codes."""

    def __init__(self, flat: Flat, first: Codes, second: Codes, recall: float, bits: int) -> None:
        self.first, self.second = Sample(flat, first), Sample(flat, second)
        self.recall = recall
        self.flat = self.first.trial(flat, 0.0)
        self._unlike = [
            [Sample(flat, unlike(sample, bits, share, SEED + number)) for share in UNLIKE]
            for number, sample in enumerate((first, second))
        ]

    def trials(self, kind: Kind, seconds: float, fits: bool) -> Iterator[tuple[Trial, Trust | None]]:
        """All that was measured of a kind; with `Trust` where it passes."""
        for value, trial in list(self._turned(kind, seconds)):
            if not fits or trial.at_least < self.recall or trial.batch_rate <= self.flat.batch_rate:
                yield trial, None
                continue
            if kind.parameters.get(kind.knob, value) != value:
                kind.turn(value)
            yield self._judged(kind, trial)

    def _turned(self, kind: Kind, seconds: float) -> Iterator[tuple[int, Trial]]:
        """Turn its knob up until the recall is reached or it is slower than flat, then down."""
        low = value = kind.parameters.get(kind.knob, 0)
        while True:
            trial = self.first.trial(kind, seconds)
            yield value, trial
            if trial.at_least >= self.recall or trial.batch_rate < self.flat.batch_rate:
                break
            low, value = value, value + 1 if kind.knob == "flips" else 2 * value
            if not kind.turn(value):
                return
        while trial.at_least >= self.recall and value - low > max(1, value // FINE):
            middle = (low + value) // 2
            kind.turn(middle)
            found = self.first.trial(kind, seconds)
            yield middle, found
            low, value = (low, middle) if found.at_least >= self.recall else (middle, value)

    def _judged(self, kind: Kind, trial: Trial) -> tuple[Trial, Trust | None]:
        """The trial, completed; `Trust` where the kind passes the second sample too."""
        ks = self.second.ks
        confirmed = self.second.surely(kind)
        trial = replace(trial, confirmed=confirmed)
        if confirmed < self.recall:
            return trial, None
        believed, worst = [], 1.0
        usual = min(SPEED_AT, ks[-1])
        for k in ks:
            strange = [[sample.ask(kind, k) for sample in samples] for samples in self._unlike]
            farthest = min(shares.believed_to(self.recall) for samples in strange for shares in samples)
            believed.append((k, farthest))
            if k == usual:
                worst = min(float(shares.answered_again(farthest).mean()) for shares in strange[1])
        again = float(self.first.ask(kind, usual).again(dict(believed)[usual]).mean())
        rate = 1 / (1 / trial.batch_rate + again / self.flat.batch_rate)
        return replace(trial, unlike=worst, again=again, batch_rate=rate), Trust(tuple(believed))

    def why(self, chosen: Trial, others: int) -> str:
        """Why this one."""
        if chosen is self.flat:
            return f"of {others} others measured none is faster, surely reaches recall {self.recall:g} and fits"
        faster = chosen.batch_rate / self.flat.batch_rate
        least = min(chosen.at_least, chosen.confirmed or 0.0)
        return (
            f"recall of up to {self.first.ks[-1]} nearest at least {least:.3f} (95 % sure, twice {len(self.first):,} "
            f"queries) at {faster:.0f} times the speed of flat; {others + 1} were measured"
        )
