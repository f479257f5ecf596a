"""How whatever holds codes of images is asked: with images, or with codes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.library.answering import How, Search, as_list, hits_of_codes, stream_hits
from hashfaiss.library.hits import Hit, Hits
from hashfaiss.library.queries import Queries

if TYPE_CHECKING:
    from PIL.Image import Image

    from hashfaiss.codes import Codes

    One = str | os.PathLike[str] | Image | int
    Many = list[str] | list[Path] | list[Image] | list[int] | tuple[One, ...]


class Asked:
    """What can be asked; `Searching` is one index, `Several` are some of one encoder."""

    def _queries(self) -> Queries:
        raise NotImplementedError

    def _searcher(self, asked: dict[str, Any], how: How, combined: bool = False) -> Search:
        raise NotImplementedError

    def hit(self, image_id: int, distance: int, score: float | None = None) -> Hit:
        """The image of an id the codes were searched for."""
        raise NotImplementedError

    @overload
    def query(self, images: One, k: int = 10, **how: Unpack[How]) -> Hits: ...
    @overload
    def query(self, images: Many, k: int = 10, **how: Unpack[How]) -> list[Hits]: ...
    def query(self, images: One | Many, k: int = 10, **how: Unpack[How]) -> Hits | list[Hits]:
        """The k images nearest to one image, or to each of several: certified exact.

        Args:
            images: a path, a Pillow image, or the id of an image of the index, which is asked with its stored code; so
                is the path of one whose file is gone.
            how: see `How`; `exact=False` is for batches and very large indexes.

        Raises:
            ImageError: a query cannot be read.
            ArgumentError: `k` is below 1, or no image of the index is what `how` asks for, or has such an id.
        """
        return self._answer(images, self._searcher({"k": k}, how))

    @overload
    def within(self, images: One, radius: int, **how: Unpack[How]) -> Hits: ...
    @overload
    def within(self, images: Many, radius: int, **how: Unpack[How]) -> list[Hits]: ...
    def within(self, images: One | Many, radius: int, **how: Unpack[How]) -> Hits | list[Hits]:
        """All images within Hamming distance `radius` of one image, or of each of several: exact, as `query`."""
        return self._answer(images, self._searcher({"radius": radius}, how))

    def stream(
        self, images: Iterable[One], k: int | None = None, radius: int | None = None, **how: Unpack[How]
    ) -> Iterator[Hits | ImageError]:
        """Hits for each of many images, or why it cannot be read, in their order; give `k` or `radius`."""
        if (k is None) == (radius is None):
            raise ArgumentError("give either k or radius")
        asked = {"k": k} if k is not None else {"radius": radius}
        return stream_hits(self._queries(), images, self._searcher(asked, how))

    def search(self, codes: Codes, k: int | None = None, radius: int | None = None, **how: Unpack[How]) -> list[Hits]:
        """Hits for each of several packed codes, uint8 (n, ceil(K/8)); give `k` or `radius`.

        Raises:
            ArgumentError: codes of another shape or type, and as `query`; codes have no real outputs to `rerank` by.
        """
        if (k is None) == (radius is None):
            raise ArgumentError("give either k or radius")
        search = self._searcher({"k": k} if k is not None else {"radius": radius}, how)
        if search.outputs:
            raise ArgumentError("rerank needs the network's outputs, and codes have none: leave it out")
        return hits_of_codes(self.hit, codes, search)

    def _answer(self, images: One | Many, search: Search) -> Hits | list[Hits]:
        answers: list[Hits] = []
        for result in stream_hits(self._queries(), as_list(images), search):
            if isinstance(result, ImageError):
                raise result
            answers.append(result)
        return answers if isinstance(images, (list, tuple)) else answers[0]
