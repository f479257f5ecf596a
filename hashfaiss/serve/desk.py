"""The index behind a service: the generation that answers now, and what it is asked."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor, stack

from hashfaiss.codes import Codes
from hashfaiss.encoding.pipeline import prepare_bytes
from hashfaiss.errors import EncoderMismatchError, HashfaissError
from hashfaiss.library.hits import Hit
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.thumbnails import Thumbnail, thumbnail

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder

AGAIN = 30.0  # seconds until a generation that cannot be opened is tried again: its files may come after its manifest

log = logging.getLogger("hashfaiss.serve")


class Prepared(NamedTuple):
    """An image as the network sees it, uint8 (3, size, size), and which encoder that is for."""

    encoder: Encoder
    image: Tensor


class Desk:
    """One index folder, as it was committed last.

    Each request keeps the index it began with; a newer generation takes its place whole.

    Args:
        folder: of the index.
        device: of the network.
        thumbnail_bytes: of small pictures kept.
    """

    def __init__(self, folder: Path, device: str, thumbnail_bytes: int) -> None:
        self.folder, self._device = folder, device
        self._seen, self._again = self._manifest(), math.inf
        self.index = self._open(None)
        self._pictures = _Pictures(thumbnail_bytes)

    def _manifest(self) -> tuple[int, ...] | None:
        try:
            status = os.stat(self.folder / "manifest.json")
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _open(self, encoder: Encoder | None) -> ImageIndex:
        try:
            index = ImageIndex.open(self.folder, encoder, self._device)
        except EncoderMismatchError:  # another index was put in its place
            index = ImageIndex.open(self.folder, None, self._device)
        _ = index.codes, index.has_encoder and index.encoder  # what takes time, before anybody waits for it
        return index

    def renew(self) -> bool:
        """Take up what was committed since. False where there is nothing new.

        Raises:
            HashfaissError: it cannot be opened; the generation before goes on answering.
        """
        found = self._manifest()
        if found is None or (found == self._seen and time.monotonic() < self._again):
            return False
        self._seen, self._again = found, time.monotonic() + AGAIN
        self.index = self._open(self.index.encoder if self.index.has_encoder else None)
        self._again = math.inf
        log.info("generation %d: %s images", self.generation, f"{len(self.index):,}")
        return True

    @property
    def generation(self) -> int:
        """Of the index that answers."""
        return int(self.index.store.manifest["generation"])

    def prepare(self, index: ImageIndex, data: bytes) -> Prepared | Codes:
        """The bytes of an image file → what the network of `index` sees, or its code (ceil(K/8),) where that is known.

        Raises:
            ImageError: they are no image, or too large a one.
        """
        encoder = index.encoder
        made = prepare_bytes(encoder, data)
        return Prepared(encoder, made) if isinstance(made, Tensor) else np.frombuffer(bytes(made), np.uint8)

    def encode(self, images: Sequence[Prepared]) -> list[Codes]:
        """Codes of images: each by its encoder, those of one together."""
        codes: dict[int, Codes] = {}
        for encoder in {id(one.encoder): one.encoder for one in images}.values():
            places = [place for place, one in enumerate(images) if one.encoder is encoder]
            together = encoder.encode_resized(stack([images[place].image for place in places]))
            codes |= dict(zip(places, together, strict=True))
        return [codes[place] for place in range(len(images))]

    def info(self) -> dict[str, Any]:
        """Facts of the index, and its labels."""
        index = self.index
        return {**index.info(), "label_names": sorted(index.store.labels())}

    def images(self, first: int, most: int) -> tuple[list[Hit], int]:
        """Images in the order of their ids, from the first-th, and how many there are."""
        index = self.index
        ids = index.store.ids()
        return [index.hit(int(image), 0) for image in ids[first : first + most]], len(ids)

    def thumbnail(self, image_id: int, side: int) -> Thumbnail | None:
        """A small picture of an image of the index; None where there is no such image."""
        index = self.index
        try:
            path = index.hit(image_id, 0).path
        except KeyError:
            return None
        return self._pictures.get(path, side)


class _Pictures:
    """Small pictures, those that were asked for last, by file, side, and what the file was like."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._kept: OrderedDict[tuple[object, ...], Thumbnail] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str | None, side: int) -> Thumbnail:
        key = (path, side, *_state(path))
        with self._lock:
            if (known := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return known
        made = thumbnail(path, side)
        if not made.trouble:
            with self._lock:
                before = self._kept.pop(key, None)
                self._bytes += len(made.jpeg) - (len(before.jpeg) if before else 0)
                self._kept[key] = made
                while self._bytes > self._most:
                    self._bytes -= len(self._kept.popitem(last=False)[1].jpeg)
        return made


def _state(path: str | None) -> tuple[int, ...]:
    try:
        status = os.stat(path) if path is not None else None
    except OSError:
        return ()
    return (status.st_size, status.st_mtime_ns) if status else ()


Key = tuple[weakref.ref[ImageIndex], int]  # an index replaced by another may have the same generation


class Duplicates:
    """Groups of near-duplicates, found once for each generation and radius, one after another.

    Args:
        most_groups, most_images: of a result; there may be more.
    """

    def __init__(self, most_groups: int, most_images: int) -> None:
        self._most_groups, self._most_images = most_groups, most_images
        self._found: tuple[Key, dict[str, Any]] | None = None
        self._finding: tuple[Key, asyncio.Future[dict[str, Any]]] | None = None
        self._over = False
        self.progress = (0, 0)

    async def find(self, index: ImageIndex, radius: int, seconds: float) -> dict[str, Any] | None:
        """The groups, or None where these or others are still being found after this time: ask again."""
        key = (weakref.ref(index), radius)
        if self._found is not None and self._found[0] == key:
            return self._found[1]
        if self._finding is None:
            self._finding = key, self._begin(index, radius)
        of, finding = self._finding
        done, _ = await asyncio.wait([finding], timeout=seconds)
        if not done:
            return None
        if self._finding is not None and self._finding[1] is finding:
            self._finding = None
            if finding.exception() is None:
                self._found = of, finding.result()
        return finding.result() if of == key else None

    def close(self) -> None:
        """Let go of what is being found."""
        self._over = True

    def _begin(self, index: ImageIndex, radius: int) -> asyncio.Future[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        finding: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.progress = (0, 0)

        def work() -> None:
            tell: Callable[[Any], None] = finding.set_result
            made: Any
            try:
                made = self._groups(index.duplicates(radius, self._tell))
            except Exception as error:
                tell, made = finding.set_exception, error
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(tell, made)

        # it may take minutes, which the end of the service does not wait for
        threading.Thread(target=work, name="duplicates", daemon=True).start()
        return finding

    def _tell(self, done: int, of: int) -> None:
        self.progress = (done, of)
        self._go_on()

    def _go_on(self) -> bool:
        if self._over:
            raise HashfaissError("the service ends")
        return True

    def _groups(self, groups: Iterator[tuple[Hit, ...]]) -> dict[str, Any]:
        shown = [
            {"images": len(group), "hits": [hit_of(hit) for hit in group[: self._most_images]]}
            for group in islice(groups, self._most_groups)
        ]
        more = sum(1 for _ in groups if self._go_on())
        return {"groups": shown, "more_groups": more}


def hit_of(hit: Hit) -> dict[str, Any]:
    """A hit as JSON has it."""
    return {"id": hit.id, "path": hit.path, "distance": hit.distance, "labels": list(hit.labels)}


def log_trouble(error: Exception) -> None:
    """A generation that could not be taken up."""
    log.warning("a newer generation cannot be opened, the one before goes on answering: %s", error)
