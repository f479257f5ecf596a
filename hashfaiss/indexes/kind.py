"""What a kind of FAISS index is: its name, what it can do and promises as data, how it is built, searched and saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, code_bytes
from hashfaiss.errors import ArgumentError

Arrays = dict[str, npt.NDArray[np.generic]]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SAMPLE = 64  # codes of the index that are asked for
NEAREST = 10  # neighbours, to learn what share of answers the probes prove.
# FAISS compares codes of these many bytes two to five times faster than those between (measured, 1.15.1); beyond, words
# of 8 are best.
FAST_BYTES = (4, 8, 16, 20, 32)
SLACK = 1.25  # of vectors that grew; this and the other sizes fit what mallinfo2 says of 10^6 codes
SPARE = 6  # nearest codes asked for beyond k, so that most that tie with the k-th are among them


@dataclass(frozen=True)
class Abilities:
    """What a kind can do, in words that errors and `hashfaiss info` show.

    Attributes:
        summary: the kind in one line.
        guarantee: what its answers promise.
        exact: how `exact` is reached.
        bytes_per_code: memory FAISS takes for a distinct code; W are the bytes of a code there.
        parameters: name → meaning, of what may be set.
        certifies: whether its answers can be certified exact at all.
        radius, removal, filter: who answers within a radius, takes images out, and searches among some.
    """

    summary: str
    guarantee: str
    exact: str
    bytes_per_code: str
    parameters: dict[str, str]
    certifies: bool = True
    radius: str = "by the same probes; complete where they prove it"
    removal: str = "the index is built anew over the codes that stay"
    filter: str = "a flat scan of what the filter leaves, always exact"


@dataclass(frozen=True)
class Found:
    """Distinct codes found for a batch of queries, each query's sorted by (distance, position).

    Attributes:
        offsets: int64 (queries + 1,); query q's codes are at offsets[q] to offsets[q + 1].
        positions: int64 (found,).
        distances: int32 (found,).
        complete: int32 (queries,); no code within this distance was missed, but for some farther than all those found
            or beyond the number asked for. -1 promises nothing.
    """

    offsets: Int64
    positions: Int64
    distances: Int32
    complete: Int32

    @classmethod
    def of_ball(
        cls, limits: npt.NDArray[np.integer[Any]], distances: Int32, positions: Int64, complete: Int32
    ) -> Found:
        """What FAISS's range_search returned, in any order."""
        offsets = limits.astype(np.int64)
        counts = np.diff(offsets)
        row = np.repeat(np.arange(len(counts)), counts)
        return cls(offsets, *in_order(row, distances, positions), complete)

    @classmethod
    def of_nearest(cls, distances: Int32, positions: Int64, k: int, complete: Int32) -> Found:
        """What FAISS's search returned, (queries, k or more), -1 where there was nothing; the first k are kept."""
        asked = positions.shape[1]
        counts = np.full(len(positions), asked)
        if positions.min(initial=0) < 0:
            there = positions >= 0
            counts = there.sum(axis=1)
            positions, distances = positions[there], distances[there]
        queries = np.repeat(np.arange(len(counts)), counts)
        ids, near = in_order(queries, distances.ravel(), positions.ravel())
        kept = np.minimum(counts, k)
        offsets = np.concatenate([[0], kept.cumsum()])
        if kept.sum() < len(ids):
            chosen = ranges(counts.cumsum() - counts, kept)
            ids, near = ids[chosen], near[chosen]
        return cls(offsets, ids, near, complete)

    @property
    def last(self) -> Int32:
        """Distance of the farthest code found for each query; -1 where none was."""
        padded: Int32 = np.concatenate([self.distances, [-1]])  # also what offsets - 1 = -1 reads
        return np.where(np.diff(self.offsets) > 0, padded[self.offsets[1:] - 1], -1)

    def rows(self, rows: Int64) -> Found:
        """What was found for these queries."""
        counts = np.diff(self.offsets)[rows]
        taken = ranges(self.offsets[:-1][rows], counts)
        offsets = np.concatenate([[0], counts.cumsum()])
        return Found(offsets, self.positions[taken], self.distances[taken], self.complete[rows])

    def put(self, rows: Int64, better: Found) -> Found:
        """The same with what was found for the queries `rows` replaced."""
        counts, starts = np.diff(self.offsets), self.offsets[:-1].copy()
        counts[rows], starts[rows] = np.diff(better.offsets), better.offsets[:-1] + len(self.positions)
        offsets = np.concatenate([[0], counts.cumsum()])
        taken = ranges(starts, counts)
        complete = self.complete.copy()
        complete[rows] = better.complete
        return Found(
            offsets,
            np.concatenate([self.positions, better.positions])[taken],
            np.concatenate([self.distances, better.distances])[taken],
            complete,
        )

    @classmethod
    def nothing(cls, queries: int, complete: int) -> Found:
        """For each query nothing."""
        return cls(
            np.zeros(queries + 1, np.int64),
            np.empty(0, np.int64),
            np.empty(0, np.int32),
            np.full(queries, complete, np.int32),
        )


class One(NamedTuple):
    """Distinct codes found for one query: distances and positions, in order, and `Found.complete`."""

    distances: Sequence[int] | Int32
    positions: Sequence[int] | Int64
    complete: int

    @classmethod
    def of(cls, found: Found) -> One:
        """What was found for the first query."""
        return cls(found.distances.tolist(), found.positions.tolist(), int(found.complete[0]))


class Searcher(Protocol):
    """Answers queries as a `Kind` does, which is one."""

    def nearest(self, queries: Codes, k: int) -> Found: ...

    def nearest_one(self, query: Codes, k: int) -> One: ...

    def within(self, queries: Codes, radius: int) -> Found: ...

    @property
    def work(self) -> float: ...

    @property
    def alone(self) -> bool: ...


class Certain(Searcher, Protocol):
    """One whose every answer is complete."""

    def work_within(self, radius: int) -> float: ...


class Kind(ABC):
    """A kind of FAISS binary index with its parameters set.

    Attributes:
        bits: K.
        width: bytes of a code as FAISS holds it, at least ceil(K/8); all codes and queries have this width.
        parameters: every parameter of the kind; those not given are chosen for `distinct` codes.
        faiss: the `faiss.IndexBinary`, once `build` or `restore` was called.
        certified: share of answers that the probes prove, measured on some codes of the index.

    A subclass checks its parameters when it is made, before C++ sees them: FAISS hangs or reads out of bounds on some.
    """

    name: ClassVar[str]
    knob: ClassVar[str] = ""  # the parameter that buys recall for time
    abilities: ClassVar[Abilities]
    certified = 0.0
    faiss: Any  # faiss.IndexBinary of the kind's own class, which FAISS's stubs know little of

    def __init__(self, bits: int, distinct: int, parameters: dict[str, int]) -> None:
        self.bits, self.width = bits, faiss_bytes(bits)
        self.parameters = self.complete(distinct, parameters)

    def complete(self, distinct: int, given: dict[str, int]) -> dict[str, int]:
        """All parameters, from those given; ArgumentError for a value outside its range."""
        return dict(given)

    @abstractmethod
    def build(self, codes: Codes) -> None:
        """Make the FAISS index over `codes` (n, width), in their order."""

    @abstractmethod
    def accepts(self, index: Any) -> bool:
        """Whether a loaded FAISS index is of this kind with these parameters."""

    def measure(self, sample: Codes) -> None:
        """Learn `certified` from codes of the index."""
        self.sample, self.certified = sample, 1.0
        if len(sample):
            found = self.nearest(sample, min(NEAREST + 1, self.faiss.ntotal))
            self.certified = float((found.last <= found.complete).mean())

    @property
    @abstractmethod
    def held_bytes(self) -> float:
        """Memory that FAISS's structure takes, about: vectors are a quarter longer than what they hold."""

    @property
    def can_be_saved(self) -> bool:
        """Whether FAISS reads back what it writes of this index; where not, it is built anew when loaded."""
        return True

    def arrays(self) -> Arrays:
        """What beside FAISS's own file must be kept."""
        return {}

    def restore(self, index: Any, arrays: Arrays) -> None:
        """Take up a loaded index that `accepts` agreed to, with the arrays that were kept with it.

        Raises:
            ValueError, KeyError: the arrays are not those of this index.
        """
        self.faiss = index

    @abstractmethod
    def nearest(self, queries: Codes, k: int) -> Found:
        """The k nearest codes that the probes of the parameters see; k is at most the number of codes."""

    @abstractmethod
    def within(self, queries: Codes, radius: int) -> Found:
        """The codes within `radius` that the probes of the parameters see."""

    def turn(self, value: int) -> bool:
        """Set the knob of the built index; False, and nothing is changed, where it does not go so far."""
        return False

    def balls(self, queries: Codes, radii: Int32, limit: float) -> tuple[Int64, Found]:
        """All codes within each query's own radius, for the queries for which that is cheap.

        Args:
            limit: what a query may take, as `work`.

        Returns:
            rows of the queries answered, and what was found for these, complete within their radii.
        """
        return np.empty(0, np.int64), Found.nothing(0, -1)

    def reach(self, limit: float) -> int:
        """The greatest radius that `balls` can search below `limit`, whatever the query; -1 for none."""
        return -1

    @property
    @abstractmethod
    def work(self) -> float:
        """What one query takes, in codes that FAISS's flat scan compares meanwhile."""

    @property
    def alone(self) -> bool:
        """Whether one query is answered without FAISS, whose threads then need not be counted."""
        return False

    @property
    def certain(self) -> Certain | None:
        """Who answers completely at once, where there is one: better than to try probes and widen them."""
        return None

    def settled(self, queries: Codes, distances: Int32, positions: Int64, k: int, complete: Int32) -> Found:
        """What FAISS's search returned, (queries, k or more), without chance.

        Which codes tied at the last distance FAISS returns is chance. Where the probes made would prove the k nearest
        but for that, all at the k-th distance are asked for; elsewhere nothing is promised of it.
        """
        found = Found.of_nearest(distances, positions, k, complete)
        seen = np.where(positions[:, -1] >= 0, distances.max(axis=1), np.iinfo(np.int32).max)
        last = found.last
        tied = (last == seen) & (last <= complete)
        found = replace(found, complete=np.minimum(complete, seen - 1).astype(np.int32))
        for radius in np.unique(last[tied]):
            rows = np.flatnonzero(tied & (last == radius))
            found = found.put(rows, self.within(queries[rows], int(radius)))
        return found

    def nearest_one(self, query: Codes, k: int) -> One:
        """`nearest` for one query (1, width), which numpy's calls would take longer to arrange than FAISS to find."""
        return One.of(self.nearest(query, k))

    def settled_one(self, query: Codes, found: tuple[Int32, Int64], k: int, complete: int) -> One:
        """`settled` for one query; where `complete` is -1 nothing is to be settled."""
        pairs = sorted(zip(found[0][0].tolist(), found[1][0].tolist(), strict=True))
        if pairs[-1][1] < 0:  # FAISS ran out of codes
            pairs = [pair for pair in pairs if pair[1] >= 0]
        elif complete >= 0:
            last, seen = pairs[k - 1][0], pairs[-1][0]
            if last == seen and last <= complete:
                return One.of(self.within(query, last))
            complete = min(complete, seen - 1)
        return One([distance for distance, _ in pairs[:k]], [position for _, position in pairs[:k]], complete)

    def __str__(self) -> str:
        settings = ",".join(f"{name}={value}" for name, value in self.parameters.items())
        return f"{self.name}:{settings}" if settings else self.name

    def within_range(self, name: str, value: int, low: int, high: int) -> int:
        """Return `value` if it lies from `low` to `high`, else raise ArgumentError."""
        if not low <= value <= high:
            raise ArgumentError(
                f"{name} of the {self.name} kind is {value!r}: give a whole number from {low} to {high}"
            )
        return value


def in_order(queries: Int64, distances: Int32, ids: Int64) -> tuple[Int64, Int32]:
    """Ids and distances in order of (query, distance, id), all of them 0 or more."""
    near = distances.astype(np.int64)
    width = int(ids.max(initial=0)).bit_length(), int(near.max(initial=0)).bit_length()
    if sum(width) + int(queries.max(initial=0)).bit_length() < 63:  # one number is sorted much faster than three
        keys = np.sort((queries << sum(width)) | (near << width[0]) | ids)
        return keys & ((1 << width[0]) - 1), ((keys >> width[0]) & ((1 << width[1]) - 1)).astype(np.int32)
    order = np.lexsort((ids, near, queries))
    return ids[order], near[order].astype(np.int32)


def faiss_bytes(bits: int) -> int:
    """Bytes at which FAISS compares codes of `bits` bits fastest."""
    least = code_bytes(bits)
    return next((width for width in FAST_BYTES if width >= least), (least + 7) // 8 * 8)


def by_radius(queries: Codes, radii: Int32, search: Callable[[Codes, Int64, int], Found]) -> Found:
    """Search each query with its own radius; FAISS takes one radius a call. `search` also gets the queries' rows."""
    found = Found.nothing(len(queries), -1)
    for radius in np.unique(radii).tolist():
        rows = np.flatnonzero(radii == radius)
        found = found.put(rows, search(queries[rows], rows, radius))
    return found


def sampled(codes: Codes) -> Codes:
    """Some codes, spread over all."""
    return codes[:: max(1, len(codes) // SAMPLE)][:SAMPLE].copy()


def ranges(starts: Int64, lengths: Int64) -> Int64:
    """starts[0], starts[0] + 1, … (lengths[0] of them), starts[1], …"""
    ends = lengths.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    shifted: Int64 = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return shifted
