"""What a query returns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

from hashfaiss.storage.segments import Labels


@dataclass(frozen=True, slots=True)
class Hit:
    """One image found: its file (None for an image from memory), Hamming distance, labels, and id in the index.

    `score` is the asymmetric distance where hits were ordered by it; `index` the folder of the index, where several
    were asked.
    """

    path: str | None
    distance: int
    labels: Labels
    id: int
    score: float | None = None
    index: str | None = None

    @property
    def missing(self) -> bool:
        """Whether its file is not there now: gone, or away. Looked up each time."""
        return self.path is not None and not os.path.exists(self.path)


def of_different_files(hits: Iterable[Hit]) -> tuple[Hit, ...]:
    """The hits without those whose files are an earlier one's by another name, a link to it, say."""
    seen = set[tuple[int, int]]()
    kept = []
    for hit in hits:
        try:
            status = os.stat(hit.path) if hit.path is not None else None
        except OSError:
            status = None
        if status is None or not status.st_ino or (status.st_dev, status.st_ino) not in seen:
            kept.append(hit)
        if status is not None:
            seen.add((status.st_dev, status.st_ino))
    return tuple(kept)


@dataclass(frozen=True)
class Hits(Sequence[Hit]):
    """The images found for one query, by (distance, id), or (score, distance, id) where they have scores.

    Attributes:
        query: the query's path, or None for an image in memory.
        exact: certified to be what comparing with every code would find.
        missing: what did not answer, of an index whose parts lie on several machines; then nothing is certified.
    """

    query: str | None
    exact: bool
    found: tuple[Hit, ...]
    missing: tuple[str, ...] = ()

    @overload
    def __getitem__(self, place: int) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, place: int | slice) -> Hit | tuple[Hit, ...]:
        return self.found[place]

    def __len__(self) -> int:
        return len(self.found)

    def _repr_html_(self) -> str:
        """How a notebook shows them: the query and the hits with their distances, as thumbnails."""
        from hashfaiss.library.notebook import Tile, hits_html

        return hits_html(self.query, self.exact, [Tile(hit.path, hit.id, hit.distance, hit.labels) for hit in self])
