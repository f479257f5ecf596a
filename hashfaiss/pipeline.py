"""A stream of images → a stream of codes.

Files are read, decoded and resized in threads (torchcodec releases the GIL) while the network works on the batch
before; a bounded window lies between, so memory is the same however many images come.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image
from torch import Tensor

from hashfaiss.codes import Codes, pack_tensor
from hashfaiss.encoder import Encoder
from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.files import content_digest
from hashfaiss.images import ImageFile, decode_image, find_images, from_pillow, from_tensor, image_file, read_bytes
from hashfaiss.labels import Labels

if TYPE_CHECKING:
    from hashfaiss.encoder import Images


MOST_SKIPPED = 1024  # a batch tells of no more unreadable images than this


@dataclass(frozen=True, slots=True)
class Item:
    """One image to encode: a file, or an image in memory."""

    source: ImageFile | Image | Tensor
    labels: Labels = ()

    @property
    def file(self) -> ImageFile | None:
        """The file, or None for an image in memory."""
        return self.source if isinstance(self.source, ImageFile) else None

    @property
    def path(self) -> str | None:
        """The file's path, or None for an image in memory."""
        return self.file.path if self.file else None


@dataclass(slots=True)
class Batch:
    """Images encoded together, and those left out since the batch before.

    Attributes:
        items: the images, in the order they came.
        digests: of each file's bytes (or an image's pixels): BLAKE2b, 16 bytes.
        codes: uint8 (len(items), ceil(K/8)).
        skipped: items that cannot be read, with the reason.
        outputs: the network's, float32 (len(items), K), where they were asked for.
    """

    items: list[Item]
    digests: list[bytes]
    codes: Codes
    skipped: list[tuple[Item, str]] = field(default_factory=list)
    outputs: npt.NDArray[np.float32] | None = None


def as_items(images: Images) -> Iterator[Item]:
    """A folder, a path or paths, Pillow images or a tensor batch, as items.

    Raises:
        ArgumentError: anything else.
        ImageError: as they are read, a folder that cannot be listed.
    """
    if isinstance(images, (str, os.PathLike)):
        if os.path.isdir(images):
            return (Item(file) for file in find_images(images, _refuse))
        images = [images]
    elif isinstance(images, Image):
        images = [images]
    elif isinstance(images, Tensor):
        return (Item(image) for image in from_tensor(images))
    try:
        return map(_as_item, images)
    except TypeError:
        return iter([_as_item(images)])


def _refuse(path: str, reason: str) -> None:
    raise ImageError(path, reason)


def _as_item(image: object) -> Item:
    if isinstance(image, (str, os.PathLike)):
        return Item(image_file(os.path.abspath(os.fspath(image))))
    if isinstance(image, Image):
        return Item(image)
    raise ArgumentError(
        f"a {type(image).__name__} was given as an image: give paths, Pillow images or a tensor (n, 3, height, width)"
    )


def encode_stream(
    encoder: Encoder,
    items: Iterable[Item],
    batch_size: int = 64,
    workers: int | None = None,
    learned: bool = False,
    outputs: bool = False,
) -> Iterator[Batch]:
    """Encode `items` in their order, a batch at a time.

    With `learned`, images the encoder has learned codes for get those, as a database takes them; a query gets the
    network's. With `outputs`, batches hold the network's outputs too. Neither `batch_size` nor `workers` (decoding
    threads; default: one a processor) changes a code.
    """
    if batch_size < 1 or (workers is not None and workers < 1):
        raise ArgumentError(f"batch_size is {batch_size} and workers {workers}: give 1 or more of each")
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="decode")
    try:
        for batch in _batches(encoder, _prepared(pool, encoder, iter(items), 2 * batch_size), batch_size, outputs):
            if learned and encoder.learned is not None:
                batch.codes = encoder.learned.replace(batch.digests, batch.codes)
            yield batch
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


Prepared = tuple[Tensor, bytes] | str
_PILLOW = threading.Lock()  # a Pillow image reads its file late, and may be given more than once


def _prepared(
    pool: ThreadPoolExecutor, encoder: Encoder, items: Iterator[Item], window: int
) -> Iterator[tuple[Item, Prepared]]:
    """Keep `window` images being prepared; yield them in order, with pixels and digest or the reason they failed."""
    waiting: deque[tuple[Item, Future[Prepared]]] = deque()
    for item in islice(items, window):
        waiting.append((item, pool.submit(_prepare, encoder, item)))
    while waiting:
        item, future = waiting.popleft()
        prepared = future.result()
        for following in islice(items, 1):
            waiting.append((following, pool.submit(_prepare, encoder, following)))
        yield item, prepared


def _prepare(encoder: Encoder, item: Item) -> Prepared:
    try:
        if isinstance(item.source, ImageFile):
            data = read_bytes(item.source.path)
            image = decode_image(data, item.source.path)
        else:
            image = _from_memory(item.source)
            data = np.ascontiguousarray(image.cpu().numpy()).tobytes()
        return encoder.preprocessing.resize(image), content_digest(data)
    except ImageError as error:
        return error.reason


def _from_memory(source: Image | Tensor) -> Tensor:
    if isinstance(source, Tensor):
        return source
    with _PILLOW:
        return from_pillow(source)


def _batches(
    encoder: Encoder, prepared: Iterator[tuple[Item, Prepared]], batch_size: int, outputs: bool
) -> Iterator[Batch]:
    items: list[Item] = []
    pixels: list[Tensor] = []
    digests: list[bytes] = []
    skipped: list[tuple[Item, str]] = []

    def batch() -> Batch:
        if not pixels:
            return Batch(items, digests, encoder.no_codes(), skipped)
        real = encoder.outputs(torch.stack(pixels))
        kept = real.cpu().numpy() if outputs else None
        return Batch(items, digests, pack_tensor(real).cpu().numpy(), skipped, kept)

    for item, result in prepared:
        if isinstance(result, str):
            skipped.append((item, result))
        else:
            items.append(item)
            pixels.append(result[0])
            digests.append(result[1])
        if len(items) == batch_size or len(skipped) == MOST_SKIPPED:
            yield batch()
            items, pixels, digests, skipped = [], [], [], []
    if items or skipped:
        yield batch()
