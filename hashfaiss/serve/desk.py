"""The index behind a service: the generation that answers now, and what it is asked."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
        self._seen = self._manifest()
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
        _ = index.codes, index.encoder  # what takes time, before anybody waits for it
        return index

    def renew(self) -> bool:
        """Take up what was committed since. False where there is nothing new.

        Raises:
            HashfaissError: it cannot be opened; the generation before goes on answering.
        """
        found = self._manifest()
        if found == self._seen or found is None:
            return False
        self._seen = found
        self.index = self._open(self.index.encoder)
        log.info("generation %d: %s images", self.generation, f"{len(self.index):,}")
        return True

    @property
    def generation(self) -> int:
        """Of the index that answers."""
        return int(self.index.store.manifest["generation"])

    def prepare(self, data: bytes) -> Prepared | Codes:
        """The bytes of an image file → what the network sees, or its code (ceil(K/8),) where that is known.

        Raises:
            ImageError: they are no image, or too large a one.
        """
        encoder = self.index.encoder
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
        return self._pictures.get(image_id, path, side)


class _Pictures:
    """Small pictures, those that were asked for last, by image, side, and what the file was like."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._kept: OrderedDict[tuple[object, ...], Thumbnail] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, image_id: int, path: str | None, side: int) -> Thumbnail:
        key = (image_id, side, *_state(path))
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


class Duplicates:
    """Groups of near-duplicates, found once for each generation and radius, in a thread of their own.

    Args:
        most_groups, most_images: of a result; there may be more.
    """

    def __init__(self, most_groups: int, most_images: int) -> None:
        self._most_groups, self._most_images = most_groups, most_images
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="near")
        self._key: tuple[int, int] | None = None
        self._finding: asyncio.Future[dict[str, Any]] | None = None
        self.progress = (0, 0)

    async def find(self, index: ImageIndex, radius: int, seconds: float) -> dict[str, Any] | None:
        """The groups, or None where they, or those that were asked for before, are not found in so many seconds."""
        key = (int(index.store.manifest["generation"]), radius)
        if self._finding is None or self._key != key or (self._finding.done() and self._finding.exception()):
            if self._finding is not None and not self._finding.done():
                await asyncio.wait([self._finding], timeout=seconds)
                return None
            self._key, self.progress = key, (0, 0)
            loop = asyncio.get_running_loop()
            self._finding = loop.run_in_executor(
                self._thread, lambda: self._groups(index.duplicates(radius, self._tell))
            )
        done, _ = await asyncio.wait([self._finding], timeout=seconds)
        return self._finding.result() if done else None

    def close(self) -> None:
        """End the thread, when it is done."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _tell(self, done: int, of: int) -> None:
        self.progress = (done, of)

    def _groups(self, groups: Iterator[tuple[Hit, ...]]) -> dict[str, Any]:
        shown = [
            {"images": len(group), "hits": [hit_of(hit) for hit in group[: self._most_images]]}
            for group in islice(groups, self._most_groups)
        ]
        more = sum(1 for _ in groups)
        return {"groups": shown, "more_groups": more}


def hit_of(hit: Hit) -> dict[str, Any]:
    """A hit as JSON has it."""
    return {"id": hit.id, "path": hit.path, "distance": hit.distance, "labels": list(hit.labels)}


def log_trouble(error: HashfaissError) -> None:
    """A generation that could not be taken up."""
    log.warning("a newer generation cannot be opened, the one before goes on answering: %s", error)
