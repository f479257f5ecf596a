"""What a kind of FAISS index is: its name, what it can do and promises as data, how it is built, searched and saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes
from hashfaiss.errors import ArgumentError

Arrays = dict[str, npt.NDArray[np.generic]]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

POSITION_BITS = 40  # of a sorting key: a trillion codes, and K up to 2**23 above them
POSITION_MASK = (1 << POSITION_BITS) - 1
NOWHERE = np.iinfo(np.int64).max
SPARE = 6  # nearest codes asked for beyond k, so that most that tie with the k-th are among them


@dataclass(frozen=True)
class Abilities:
    """What a kind can do.

    Attributes:
        summary: the kind in one line.
        guarantee: what its answers promise.
        bytes_per_code: memory FAISS takes for a distinct code, in words.
        parameters: name → meaning, of what may be set.
        radius: whether FAISS itself answers radius searches; where not, a flat scan does.
        exact: how `exact` is reached, in words.
    """

    summary: str
    guarantee: str
    bytes_per_code: str
    parameters: dict[str, str]
    radius: bool
    exact: str


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
        # most answers are short: one sort of (query, distance, position) in one number is the quickest
        row = np.repeat(np.arange(len(counts)), counts)
        near = distances.astype(np.int64)
        width = int(positions.max(initial=0)).bit_length(), int(near.max(initial=0)).bit_length()
        if sum(width) + len(counts).bit_length() < 63:
            keys = np.sort((row << sum(width)) | (near << width[0]) | positions)
            ordered, levels = keys & ((1 << width[0]) - 1), (keys >> width[0]) & ((1 << width[1]) - 1)
            return cls(offsets, ordered, levels.astype(np.int32), complete)
        order = np.lexsort((positions, near, row))
        return cls(offsets, positions[order], near[order].astype(np.int32), complete)

    @classmethod
    def of_nearest(cls, distances: Int32, positions: Int64, k: int, complete: Int32) -> Found:
        """What FAISS's search returned, (queries, k or more), -1 where there was nothing; the first k are kept."""
        there = positions >= 0
        keys = np.where(there, (distances.astype(np.int64) << POSITION_BITS) | positions, NOWHERE)
        keys.sort(axis=1)
        kept = keys[:, :k] != NOWHERE
        flat = keys[:, :k][kept]
        offsets = np.concatenate([[0], kept.sum(axis=1).cumsum()])
        return cls(offsets, flat & POSITION_MASK, (flat >> POSITION_BITS).astype(np.int32), complete)

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


class Kind(ABC):
    """A kind of FAISS binary index with its parameters set.

    Attributes:
        bits: K.
        parameters: every parameter of the kind; those not given are chosen for `distinct` codes.
        faiss: the `faiss.IndexBinary`, once `build` or `restore` was called.

    A subclass checks its parameters when it is made, before C++ sees them: FAISS hangs or reads out of bounds on some.
    """

    name: ClassVar[str]
    abilities: ClassVar[Abilities]
    faiss: Any  # faiss.IndexBinary of the kind's own class, which FAISS's stubs know little of

    def __init__(self, bits: int, distinct: int, parameters: dict[str, int]) -> None:
        self.bits = bits
        self.parameters = self.complete(distinct, parameters)

    def complete(self, distinct: int, given: dict[str, int]) -> dict[str, int]:
        """All parameters, from those given; ArgumentError for a value outside its range."""
        return dict(given)

    @abstractmethod
    def build(self, codes: Codes) -> None:
        """Make the FAISS index over `codes` (n, bytes), in their order."""

    @abstractmethod
    def accepts(self, index: Any) -> bool:
        """Whether a loaded FAISS index is of this kind with these parameters."""

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

    def probe_more(self) -> bool:
        """Turn the parameter up that buys recall for time, on the built index; False where it is at its end."""
        return False

    def cost(self, queries: Codes, radii: Int32) -> Floats:
        """What `ball` would take for each query with its own radius, in codes that a flat scan compares meanwhile."""
        return np.full(len(queries), np.inf)

    def ball(self, queries: Codes, radius: int) -> Found:
        """All codes within `radius`, however many probes that takes; asked only where `cost` is finite."""
        raise NotImplementedError(self.name)

    def reach(self, limit: float) -> int:
        """The greatest radius that `ball` can search for a cost below `limit`, whatever the query; -1 for none."""
        return -1

    @property
    @abstractmethod
    def work(self) -> float:
        """What one query takes, in codes that a flat scan compares meanwhile."""

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


def ranges(starts: Int64, lengths: Int64) -> Int64:
    """starts[0], starts[0] + 1, … (lengths[0] of them), starts[1], …"""
    ends = lengths.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    shifted: Int64 = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return shifted
