"""A snapshot: codes and a kind over them, and how queries are answered. It never changes once made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from math import log, log2
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, check_codes, widened
from hashfaiss.ending import native
from hashfaiss.indexes.answers import Answers, whole_number
from hashfaiss.indexes.beside import Beside, Built
from hashfaiss.indexes.distinct import FEW, Distinct
from hashfaiss.indexes.flat import Flat, scan_work
from hashfaiss.indexes.kind import Arrays, Found, Int32, Int64, Kind, Searcher
from hashfaiss.indexes.kinds import parse_kind
from hashfaiss.indexes.structure import check_structure
from hashfaiss.indexes.trust import Trust

# One call into FAISS cannot be interrupted, so its work is bounded. The unit of work is to compare 64 bits, half a
# nanosecond of one core (measured for K from 40 to 1024 and k up to 500,000): the bound is about 0.15 s, and half a
# second where other programs keep the cores busy ...
WORK_PER_CALL = 1 << 28
WORK_PER_LEVEL = 20  # to move an answer one level up or down the heap of the k nearest
# ... and returns at most this many answers, or, where their number is not known before, may return at most so many:
# memory does not follow the number of queries.
ANSWERS_PER_CALL = 1 << 22
MOST_PER_CALL = 1 << 26
TRY = 0.08  # of a flat scan is risked on probes that may spare it,
CHEAPER = 0.8  # and probes that surely do are preferred below this share of it.
# What one query pays for its proof, and for widening where there is none, in codes that FAISS's flat scan compares
# meanwhile: a batch shares these.
PROOF, WIDENING = 100_000, 400_000

Question = Callable[..., Answers]  # of a snapshot, and what else is given

READER: Any = getattr(faiss, "ZeroCopyIOReader")  # noqa: B009, FAISS's stubs lack it


class Snapshot:
    """Distinct codes, a kind of FAISS index over them, and answers.

    Attributes:
        bits: K.
        distinct: the codes, and the ids that have them.
        kind: the kind of FAISS index, with its parameters, and the index itself.
        trust: how far answers that are not certified are believed; None believes all.
        built: of what the kind was built, where that is not `distinct`.
    """

    def __init__(
        self, bits: int, distinct: Distinct, kind: Kind, trust: Trust | None = None, built: Built | None = None
    ) -> None:
        self.bits, self.distinct, self.kind, self.trust = bits, distinct, kind, trust
        self.built = Built(distinct.starts, distinct.ids) if built is None else built

    def __len__(self) -> int:
        return len(self.distinct.ids)

    @cached_property
    def flat(self) -> Kind:
        """A flat index over the same codes: what every kind falls back to. Made when first needed."""
        if isinstance(self.kind, Flat) or (isinstance(self.kind, Beside) and self.kind.complete_scan):
            return self.kind
        flat = Flat(self.bits, len(self.distinct), {})
        flat.build(widened(self.distinct.codes, flat.width))
        return flat

    def search(self, queries: Codes, k: int = 10, exact: bool = False) -> Answers:
        """The k nearest of each query (n, ceil(bits/8)): min(k, len(self)) of them where `exact`, else maybe fewer.

        A kind that tuning chose keeps the recall that was asked of it, whatever the query: an answer that is neither
        certified nor as near as tuning believes it, and every one beyond the k that was tuned for, is as with `exact`.

        Args:
            exact: probe further, or compare with all codes where that is cheaper, until every answer is certified.
        """
        k = min(whole_number("k", k, 1), max(1, len(self)))
        queries = widened(check_codes(queries, self.bits, "queries"), self.kind.width)
        if not len(queries):
            return _nothing(0)
        found = min(k, len(self.distinct))
        farthest = -1 if exact or not found else self.trust.farthest(found) if self.trust else None
        kind = self._first(farthest == -1, len(queries))
        if found and k <= FEW and len(queries) == 1:
            return self._one(kind, queries, k, found, farthest)
        return self._batched(
            queries,
            min(k, len(self)),
            self._work(kind, found),
            lambda batch: self._nearest(batch, kind, k, found, farthest),
        )

    def within(self, queries: Codes, radius: int, exact: bool = False) -> Answers:
        """All within Hamming distance `radius` (distance <= radius) of each query; all of them where `exact`.

        Args:
            exact: probe further, or compare with all codes where that is cheaper, until every answer is certified.
        """
        radius = min(whole_number("radius", radius, 0), self.bits)
        queries = widened(check_codes(queries, self.bits, "queries"), self.kind.width)
        if not len(queries):
            return _nothing(0)
        kind = self._first(exact, len(queries), radius)
        work, answers = self._work(kind, 0), len(self) * ANSWERS_PER_CALL // MOST_PER_CALL
        return self._batched(queries, answers, work, lambda batch: self._within(batch, kind, radius, exact))

    def ask(self, question: Question, *given: Any) -> list[Answers]:
        """As `Parts.ask`: it is the one part."""
        return [question(self, *given)]

    @native()
    def codes_within(self, queries: Codes, radius: int, exact: bool = False) -> Found:
        """As `within`, the distinct codes themselves: their positions in `distinct`."""
        queries = widened(check_codes(queries, self.bits, "queries"), self.kind.width)
        with _threads(1 if len(queries) == 1 else None):
            return self._codes_within(queries, self._first(exact, len(queries), radius), min(radius, self.bits), exact)

    def _first(self, exact: bool, queries: int, radius: int | None = None) -> Searcher:
        """Who is asked first: to be exact, the kind only where its probes are cheap or rarely in vain."""
        kind, flat = self.kind, scan_work(len(self.distinct), self.kind.width)
        if not exact:
            return kind
        if (certain := kind.certain) is not None:
            work = certain.work if radius is None else certain.work_within(min(radius, self.bits))
            return certain if work < flat else self.flat
        if not kind.abilities.certifies or kind.work > max(TRY, CHEAPER * kind.certified) * flat:
            return self.flat
        if queries == 1 and kind.work + PROOF + (1 - kind.certified) * WIDENING > flat:
            return self.flat
        return kind

    def _work(self, kind: Searcher, found: int) -> int:
        """Work of one query that keeps the `found` nearest codes; 0 is for a radius, which needs no heap."""
        seen, width = max(1.0, kind.work), (self.bits + 63) // 64
        heap = 0.0
        if found:  # codes that come in any order enter the heap found * (1 + ln(n / found)) times
            heap = WORK_PER_LEVEL * found * (1 + log(max(1.0, seen / found))) * log2(2 * found)
        return width * int(seen) + int(heap)

    def _batched(self, queries: Codes, answers: int, work: int, search: Callable[[Codes], Answers]) -> Answers:
        slices = _slices(len(queries), answers, work)
        with _threads(1 if len(queries) == 1 or len(slices) == len(queries) else None):
            parts = [native()(search)(queries[rows]) for rows in slices]
        return parts[0] if len(parts) == 1 else Answers.join(parts)

    @native()
    def _one(self, kind: Searcher, query: Codes, k: int, found: int, farthest: int | None) -> Answers:
        """The answer to one query, on one thread; `_nearest` without what only batches need."""
        before = 0 if kind.alone else faiss.omp_get_max_threads()
        if before:
            faiss.omp_set_num_threads(1)
        try:
            one = kind.nearest_one(query, found)
            ids, distances = self.distinct.expand_one(one, k)
            certain = len(ids) == min(k, len(self)) and bool(distances[-1] <= one.complete)
            believed = farthest is None or (len(one.positions) == found and one.distances[-1] <= farthest)
            if not certain and not believed:
                return self._nearest(query, kind, k, found, farthest)
        finally:
            if before:
                faiss.omp_set_num_threads(before)
        complete = np.array([one.complete], np.int32)
        return Answers(np.array([0, len(ids)]), ids, distances, np.array([certain]), complete=complete)

    def _nearest(self, queries: Codes, kind: Searcher, k: int, found: int, farthest: int | None) -> Answers:
        """Answers; those not certified, with fewer than `found` codes or the last beyond `farthest`, asked again."""
        if not found:
            return _nothing(len(queries))
        best = kind.nearest(queries, found)
        answers = self._answers(best, k)
        if farthest is None or answers.exact.all():
            return answers
        rows = np.flatnonzero(~answers.exact & ((best.last > farthest) | (np.diff(best.offsets) < found)))
        if not len(rows):
            return answers
        counts = np.diff(answers.offsets)[rows]
        last = np.append(answers.distances, 0)[answers.offsets[rows + 1] - 1]
        radii = np.where(counts == min(k, len(self)), last, self.bits).astype(np.int32)
        return self._answers(self._widened(queries, best, rows, radii, found), k)

    def _within(self, queries: Codes, kind: Searcher, radius: int, exact: bool) -> Answers:
        best = self._codes_within(queries, kind, radius, exact)
        offsets, ids, distances = self.distinct.expand(best.offsets, best.positions, best.distances, None)
        return Answers(offsets, ids, distances, best.complete >= radius, complete=best.complete)

    def _codes_within(self, queries: Codes, kind: Searcher, radius: int, exact: bool) -> Found:
        if not len(self):
            return Found.nothing(len(queries), self.bits)
        best = kind.within(queries, radius)
        rows = np.flatnonzero(best.complete < radius)
        if exact and len(rows):
            best = self._widened(queries, best, rows, np.full(len(rows), radius, np.int32), 0)
        return best

    def _answers(self, best: Found, k: int) -> Answers:
        """Of the codes found the k first images, certified where no code up to the last one's distance was missed."""
        offsets, ids, distances = self.distinct.expand(best.offsets, best.positions, best.distances, k)
        full = np.diff(offsets) == min(k, len(self))
        last = np.append(distances, 0)[offsets[1:] - 1]
        return Answers(offsets, ids, distances, full & (last <= best.complete), complete=best.complete)

    def _widened(self, queries: Codes, best: Found, rows: Int64, radii: Int32, found: int) -> Found:
        """Answer queries `rows` again, completely: all codes within `radii`, or the `found` nearest of all codes."""
        if self.kind.certain is not None:
            complete = self._first(True, len(rows), None if found else int(radii[0]))
            return self._again(complete, queries, best, rows, radii, found)
        flat, flat_work = self.flat.work, self._work(self.flat, found)
        dear = rows
        for part in _slices(len(rows), 1, flat_work):
            done, answered = self.kind.balls(queries[rows[part]], radii[part], CHEAPER * flat)
            best, dear = best.put(rows[part][done], answered), np.setdiff1d(dear, rows[part][done])
        reach = self.kind.reach(TRY * flat) if found and len(dear) else -1
        if reach >= 0:  # the k-th answer so far may be far away only because nearer ones were not seen
            untried = dear[best.complete[dear] < reach]
            done, tried = self.kind.balls(queries[untried], np.full(len(untried), reach, np.int32), np.inf)
            enough = np.flatnonzero(np.diff(tried.offsets) >= found)
            best = best.put(untried[done[enough]], tried.rows(enough))
            dear = np.setdiff1d(dear, untried[done[enough]])
        return self._again(self.flat, queries, best, dear, radii, found)

    def _again(self, complete: Searcher, queries: Codes, best: Found, rows: Int64, radii: Int32, found: int) -> Found:
        """Queries `rows` answered by who answers completely: the `found` nearest, or all within their one radius."""
        most = found or len(self.distinct) * ANSWERS_PER_CALL // MOST_PER_CALL
        for part in _slices(len(rows), most, self._work(complete, found)):
            asked = queries[rows[part]]
            answered = complete.nearest(asked, found) if found else complete.within(asked, int(radii[0]))
            best = best.put(rows[part], answered)
        return best


def restored(
    arrays: Arrays, built: Built | None, codes: Codes, ids: Int64, bits: int, kind: str, in_place: bool = False
) -> Snapshot:
    """A snapshot from the arrays that were kept of a built index, for codes and ids, which ascend.

    Codes that came or went since it was built lie beside it. Where no FAISS index was kept, it is built.

    Args:
        built: of `arrays` and `ids`.
        in_place: use FAISS's bytes where they lie; they must not change.

    Raises:
        ValueError, TypeError, KeyError, IndexError: these are arrays of something else.
        RuntimeError: FAISS cannot read its part.
    """
    changed = built is not None and built.differs(ids)
    part = arrays.get("faiss", np.empty(0, np.uint8)).astype(np.uint8, copy=False)
    if built is not None and not changed:
        built.check(codes, ids)
    distinct = Distinct.of(codes, ids) if changed or built is None else Distinct(codes, built.starts, built.ids)
    count = len(distinct) if built is None else len(built)
    made = parse_kind(kind, bits, count if part.size else len(distinct))
    trust = Trust.of(arrays.get("trust", np.empty((0, 2))).tolist())
    if not part.size:
        made.build(widened(distinct.codes, made.width))
        return Snapshot(bits, distinct, made, trust)
    if built is None or not changed:
        _read_faiss(part, made, arrays, distinct.codes, None, in_place)
        return Snapshot(bits, distinct, made, trust)
    places, displaced = built.places(ids, distinct)
    _read_faiss(part, made, arrays, distinct.codes, places, in_place)
    return Snapshot(bits, distinct, Beside(made, places, displaced, distinct.codes), trust, built)


def _read_faiss(
    part: npt.NDArray[np.uint8], made: Kind, arrays: Arrays, codes: Codes, places: Int64 | None, in_place: bool
) -> None:
    """Give `made` the FAISS index that was kept, of all `codes` or of those at `places`, once it is known to be one."""
    held = widened(codes, made.width)
    known = np.ones(len(held), np.bool_) if places is None else places >= 0
    if places is not None:
        held = held[places] if len(held) else np.zeros((len(places), made.width), np.uint8)
    check_structure(part, made, arrays, held, known)
    loaded = _in_place(part) if in_place else faiss.deserialize_index_binary(part)
    if loaded.d != 8 * made.width or loaded.ntotal != len(held) or not made.accepts(loaded):
        raise ValueError("kind")
    made.restore(loaded, arrays)


def _in_place(data: npt.NDArray[np.uint8]) -> Any:
    loaded: Any = faiss.read_index_binary(READER(faiss.swig_ptr(data), data.size))
    loaded.referenced_objects = [data]  # whoever holds the index holds the memory it looks at
    return loaded


def _slices(queries: int, answers: int, work: int) -> list[slice]:
    """Cut queries so that no call works too long or returns too much."""
    size = max(1, min(WORK_PER_CALL // max(1, work), ANSWERS_PER_CALL // max(1, answers)))
    return [slice(start, start + size) for start in range(0, max(1, queries), size)]


def _nothing(queries: int) -> Answers:
    return Answers(
        np.zeros(queries + 1, np.int64), np.empty(0, np.int64), np.empty(0, np.int32), np.ones(queries, np.bool_)
    )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """FAISS on `count` threads; its OpenMP may be torch's, so the count is put back."""
    with native():
        before = faiss.omp_get_max_threads()
        if count is not None:
            faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        with native():
            faiss.omp_set_num_threads(before)
