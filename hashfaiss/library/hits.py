"""What a query returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from hashfaiss.storage.segments import Labels


@dataclass(frozen=True, slots=True)
class Hit:
    """One image found: its file (None for an image from memory), Hamming distance, labels, and id in the index.

    `score` is the asymmetric distance where hits were ordered by it.
    """

    path: str | None
    distance: int
    labels: Labels
    id: int
    score: float | None = None


@dataclass(frozen=True)
class Hits(Sequence[Hit]):
    """The images found for one query, by (distance, id), or (score, distance, id) where they have scores.

    Attributes:
        query: the query's path, or None for an image in memory.
        exact: certified to be what comparing with every code would find.
    """

    query: str | None
    exact: bool
    found: tuple[Hit, ...]

    @overload
    def __getitem__(self, place: int) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, place: int | slice) -> Hit | tuple[Hit, ...]:
        return self.found[place]

    def __len__(self) -> int:
        return len(self.found)
