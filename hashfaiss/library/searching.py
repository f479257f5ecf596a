"""What an index of images answers: images, codes, and which images are near each other."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from hashfaiss.codes import Comparison, compare_codes
from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.indexes import CodeIndex
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
from hashfaiss.library.faiss_file import load_codes
from hashfaiss.library.hits import Hit, Hits, of_different_files
from hashfaiss.library.near_images import Among, near_images
from hashfaiss.library.queries import Queries
from hashfaiss.library.stored_encoder import has_encoder, light_encoder, stored_encoder
from hashfaiss.storage.places import Places
from hashfaiss.storage.store import CodeStore

if TYPE_CHECKING:
    from PIL.Image import Image

    from hashfaiss.codes import Codes
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.encoding.light import LightEncoder
    from hashfaiss.library.sync import Progress

    One = str | os.PathLike[str] | Image | int
    Many = list[str] | list[Path] | list[Image] | list[int] | tuple[One, ...]


class Searching:
    """An index as it is asked: `ImageIndex` is one that can be made and changed, too.

    What takes time to load (the codes, the encoder) is loaded when it is first needed, once, whichever thread asks.
    """

    def __init__(self, store: CodeStore, encoder: Encoder | None = None, device: str = "auto") -> None:
        self.store = store
        self._encoder = encoder
        self._device = device
        self._light: LightEncoder | Literal[False] | None = None
        self._codes: CodeIndex | None = None
        self._loading = threading.RLock()  # threads that ask first load what they need once
        self._part: tuple[Wanted, CodeIndex] | None = None
        self._places: Places | None = None

    @property
    def path(self) -> Path | None:
        """The folder, or None in memory."""
        return self.store.path

    @property
    def bits(self) -> int:
        """K."""
        return self.store.bits

    @property
    def has_encoder(self) -> bool:
        """Whether it can be asked with images; one of imported codes cannot."""
        return has_encoder(self.store.manifest)

    @property
    def encoder(self) -> Encoder:
        """The encoder that made the codes.

        Raises:
            CorruptIndexError: the index's own encoder is damaged or gone.
            EncoderMismatchError: it has none, see `has_encoder`.
        """
        with self._loading:
            if self._encoder is None:
                self._encoder = stored_encoder(self.store, self._device)
            return self._encoder

    def _light_encoder(self) -> LightEncoder | None:
        """What stands in for the encoder until that is loaded, if there is one."""
        with self._loading:
            if self._encoder is not None or self._device != "auto":
                return None
            if self._light is None:
                self._light = light_encoder(self.store) or False
            return self._light or None

    @property
    def codes(self) -> CodeIndex:
        """The codes, searchable without images; FAISS's own index is taken from its file where that is sound."""
        with self._loading:
            found = self._codes
            if found is None:
                self._codes = found = load_codes(self.store)
            return found

    @property
    def faiss(self) -> Any:
        """FAISS's index itself, as it was built; its ids are numbers in `index.codes.faiss_positions`.

        It may lie in a file that is mapped, where changing it ends the process.
        """
        return self.codes.faiss

    def _forget(self) -> None:
        """What is held of the codes is of a generation that was replaced."""
        self._codes = self._part = self._places = None

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

    def find(self, path: str) -> int | None:
        """The id of the image at this path, as it was when it was indexed; None if there is none. Looks at no file."""
        places = self._placed()
        try:
            at = places.at(self.store.stored_path(path))
        except UnicodeEncodeError:  # no file can be called so
            return None
        return int(places.ids[at[-1]]) if len(at) else None

    def _placed(self) -> Places:
        with self._loading:
            if self._places is None:
                self._places = self.store.places()
            return self._places

    def _queries(self) -> Queries:
        return Queries(
            self.store, lambda: self.encoder, self._light_encoder, lambda: self.codes, self.hit, self._placed
        )

    def _searcher(self, asked: dict[str, Any], how: How, combined: bool = False) -> Search:
        """What answers a batch of queries; wrong arguments are told before any image is read."""
        check_how(how)
        return searcher(self._among(Wanted.of(how)), asked, how, combined)

    def _among(self, wanted: Wanted) -> CodeIndex:
        """The codes of the images that are asked for; those of the last filter are kept."""
        if wanted == (None, None):
            return self.codes
        part = self._part
        if part is None or part[0] != wanted:
            self._part = part = wanted, self.codes.only(wanted.ids(self.store))
        return part[1]

    def _answer(self, images: One | Many, search: Search) -> Hits | list[Hits]:
        answers: list[Hits] = []
        for result in stream_hits(self._queries(), as_list(images), search):
            if isinstance(result, ImageError):
                raise result
            answers.append(result)
        return answers if isinstance(images, (list, tuple)) else answers[0]

    def hit(self, image_id: int, distance: int, score: float | None = None) -> Hit:
        """The image of an id the codes were searched for."""
        row = self.store.row(image_id)
        return Hit(self.store.full_path(row), distance, row.labels, image_id, score)

    def duplicates(
        self, radius: int = 0, progress: Progress | None = None, **among: Unpack[Among]
    ) -> Iterator[tuple[Hit, ...]]:
        """Groups of images whose codes lie within `radius` of each other, directly or through others.

        A hit's distance is that of its code from the group's first image. A file that has several names comes once.

        Args:
            progress: called with (distinct codes compared, distinct codes), or with (images read, images).
            among: other links, only across two folders, near a folder's images, or turned images too: see `Among`.

        Raises:
            ArgumentError: a radius outside 0 to K, or what `near_images` tells.
        """
        for ids, distances in near_images(self.store, self.codes, radius, among, lambda: self.encoder, progress):
            group = of_different_files(map(self.hit, ids.tolist(), distances.tolist()))
            if len(group) > 1:
                yield group
