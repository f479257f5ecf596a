"""Several indexes of one encoder, asked as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hashfaiss.codes import Codes
from hashfaiss.errors import ArgumentError, EncoderMismatchError
from hashfaiss.indexes import Answers
from hashfaiss.library.answering import How, Outputs, Search
from hashfaiss.library.asking import Asked
from hashfaiss.library.hits import Hit
from hashfaiss.library.queries import Queries
from hashfaiss.library.searching import Searching


class Several(Asked):
    """Indexes whose codes one encoder made, as one: hits are in order of (distance, place of the index, id).

    A hit's `id` is the one that it has in its `index`.

    Raises:
        ArgumentError: there are none.
        EncoderMismatchError: another encoder made one of them.
    """

    def __init__(self, indexes: Sequence[Searching]) -> None:
        if not indexes:
            raise ArgumentError("no index was given: give one or more")
        first = indexes[0]
        for other in indexes:
            if other.store.manifest["encoder"]["identity"] != first.store.manifest["encoder"]["identity"]:
                raise EncoderMismatchError(
                    f"{str(first.path)!r} and {str(other.path)!r} are of different models, whose codes cannot be "
                    "compared: ask each alone"
                )
        self.indexes = list(indexes)
        ends = np.cumsum([index.store.manifest["next_id"] for index in indexes])
        self._starts: list[int] = [0, *ends[:-1].tolist()]  # ids of one after those of another

    def __len__(self) -> int:
        return sum(len(index.store) for index in self.indexes)

    def hit(self, image_id: int, distance: int, score: float | None = None) -> Hit:
        """The image of an id that the searches here tell, which tells the index too."""
        place = bisect_right(self._starts, image_id) - 1
        index = self.indexes[place]
        hit = index.hit(image_id - self._starts[place], distance, score)
        return replace(hit, index=str(index.path) if index.path else f"index {place + 1}, in memory")

    def _queries(self) -> Queries:
        return self.indexes[0]._queries(self.hit)

    def _searcher(self, asked: dict[str, Any], how: How, combined: bool = False) -> Search:
        if combined or how.get("rerank") is not None:
            raise ArgumentError("rerank and combined queries are of one index: give one, or leave them out")
        searches: list[tuple[int, Search]] = []
        nothing: ArgumentError | None = None
        for start, index in zip(self._starts, self.indexes, strict=True):
            try:
                searches.append((start, index._searcher(asked, how)))
            except ArgumentError as error:  # one may have no image that is asked for
                nothing = error
        if not searches:
            assert nothing is not None
            raise nothing

        def search(queries: Codes, outputs: Outputs | None) -> Answers:
            found = [(start, each.search(queries, None)) for start, each in searches]
            return Answers.merge([replace(part, ids=part.ids + start) for start, part in found], asked.get("k"))

        return Search(search, False, self.indexes[0].bits)
