"""What can be asked with images and with codes: one index, or several."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from hashfaiss.codes import Comparison, compare_codes
from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.indexes import CodeIndex, Parts
from hashfaiss.library.answering import (
    How,
    Search,
    Wanted,
    as_list,
    check_how,
    codes_of,
    combined_hits,
    hits_of_codes,
    searcher,
    stream_hits,
)
from hashfaiss.library.hits import Hit, Hits
from hashfaiss.library.queries import Queries

if TYPE_CHECKING:
    from PIL.Image import Image

    from hashfaiss.codes import Codes

    One = str | os.PathLike[str] | Image | int
    Many = list[str] | list[Path] | list[Image] | list[int] | tuple[One, ...]


class Asked(ABC):
    """What can be asked; `Searching` is one index, `Several` are some of one encoder."""

    def __init__(self) -> None:
        self._part: tuple[Wanted, CodeIndex | Parts] | None = None

    @property
    @abstractmethod
    def bits(self) -> int:
        """K."""

    @abstractmethod
    def label_names(self) -> set[str]:
        """Every label that an image has."""

    @abstractmethod
    def hit(self, image_id: int, distance: int, score: float | None = None) -> Hit:
        """The image of an id the codes were searched for."""

    @abstractmethod
    def _queries(self) -> Queries:
        """Tells what is to be encoded."""

    @abstractmethod
    def _all(self) -> CodeIndex | Parts:
        """The codes of all images."""

    @abstractmethod
    def _only(self, wanted: Wanted) -> CodeIndex | Parts:
        """Those of some; ArgumentError where there are none."""

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

    def combined(
        self,
        images: One | Many,
        unlike: One | Many = (),
        k: int | None = None,
        radius: int | None = None,
        **how: Unpack[How],
    ) -> Hits:
        """The images nearest to several together, and away from those they shall be unlike: see `combine_outputs`.

        Hits are ordered by the asymmetric distance from what comes of it (see `hashfaiss.indexes.rerank`): the k of
        least (default 10) of all there are, or those within Hamming distance `radius` of its signs.

        Args:
            images, unlike: as for `query`.

        Raises:
            ImageError: one of them cannot be read.
            ArgumentError: as `query`, and no image to be like.
        """
        if k is not None and radius is not None:
            raise ArgumentError("give either k or radius")
        asked: dict[str, Any] = {"radius": radius} if radius is not None else {"k": 10 if k is None else k}
        search = self._searcher(asked, how, combined=True)
        return combined_hits(self._queries(), as_list(images), as_list(unlike), search)

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

    def compare(self, one: One, other: One) -> Comparison:
        """The bits in which the codes of two images differ, and how many: their Hamming distance.

        Each may be what a query may be: an image of the index, by id, or one whose file is gone has its stored code.

        Raises:
            ImageError: one of them cannot be read.
            ArgumentError: no image of the index has the id.
        """
        return compare_codes(codes_of(self._queries(), [one, other]), self.bits)

    def _searcher(self, asked: dict[str, Any], how: How, combined: bool = False) -> Search:
        """What answers a batch of queries; wrong arguments are told before any image is read."""
        check_how(how)
        return searcher(self._among(Wanted.of(how)), asked, how, combined)

    def _among(self, wanted: Wanted) -> CodeIndex | Parts:
        """The codes of the images that are asked for; those of the last filter are kept."""
        every = self._all()
        if wanted == (None, None):
            return every
        part = self._part
        if part is None or part[0] != wanted:
            self._part = part = wanted, self._only(wanted)
        return part[1]

    def _answer(self, images: One | Many, search: Search) -> Hits | list[Hits]:
        answers: list[Hits] = []
        for result in stream_hits(self._queries(), as_list(images), search):
            if isinstance(result, ImageError):
                raise result
            answers.append(result)
        return answers if isinstance(images, (list, tuple)) else answers[0]
