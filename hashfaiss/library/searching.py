"""What an index of images answers: images, codes, and which images are near each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from hashfaiss.indexes import CodeIndex
from hashfaiss.library.answering import Wanted
from hashfaiss.library.asking import Asked
from hashfaiss.library.faiss_file import load_codes
from hashfaiss.library.hits import Hit, of_different_files
from hashfaiss.library.near_images import Among, near_images
from hashfaiss.library.queries import Queries
from hashfaiss.library.stored_encoder import has_encoder, light_encoder, stored_encoder
from hashfaiss.storage.places import Places
from hashfaiss.storage.store import CodeStore

if TYPE_CHECKING:
    from hashfaiss.cluster.searching import ShardedCodes
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.encoding.light import LightEncoder
    from hashfaiss.library.sync import Progress


class Searching(Asked):
    """An index as it is asked: `ImageIndex` is one that can be made and changed, too.

    What takes time to load (the codes, the encoder) is loaded when it is first needed, once, whichever thread asks.
    """

    def __init__(self, store: CodeStore, encoder: Encoder | None = None, device: str = "auto") -> None:
        super().__init__()
        self.store = store
        self._encoder = encoder
        self._device = device
        self._light: LightEncoder | Literal[False] | None = None
        self._codes: CodeIndex | None = None
        self._loading = threading.RLock()  # threads that ask first load what they need once
        self._places: Places | None = None
        self._shards: tuple[int, str | None] | None = None  # of actors that search, and the address of their cluster
        self._shared: ShardedCodes | None = None

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
        if self._shared is not None:
            self._shared.close()
            self._shared = None

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
        return Queries(self.store, lambda: self.encoder, self._light_encoder, self.hit, self._placed)

    def label_names(self) -> set[str]:
        """Every label that an image has."""
        return self.store.labels()

    def _all(self) -> CodeIndex | ShardedCodes:
        """The codes, here or on the actors that search them."""
        if self._shards is None:
            return self.codes
        with self._loading:
            if self._shared is None:
                from hashfaiss.cluster.searching import ShardedCodes

                self._shared = ShardedCodes(self.store, *self._shards)
            return self._shared

    def _only(self, wanted: Wanted) -> CodeIndex | ShardedCodes:
        return self._all().only(*wanted.ids([self.store]))

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
