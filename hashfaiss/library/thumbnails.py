"""A small picture of an image's file, as it is now."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from PIL import Image

from hashfaiss.errors import ImageError
from hashfaiss.images.decoding import decode_image, read_bytes

SIDE = 160  # pixels of a thumbnail's longest side
QUALITY = 82  # of its JPEG
MOST_THREADS = 8  # each may hold a decoded image


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """What a file shows now, or the trouble with it.

    Attributes:
        jpeg: the bytes of a JPEG file of `size`; empty where there is trouble.
        size: its width and height.
        of: those of the image itself, if it can be read.
        bytes: of the file, if there is one.
        trouble: why there is no picture.
    """

    jpeg: bytes = b""
    size: tuple[int, int] = (0, 0)
    of: tuple[int, int] | None = None
    bytes: int | None = None
    trouble: str = ""


def thumbnail(path: str | None, side: int = SIDE) -> Thumbnail:
    """The image at `path`, whose longest side becomes `side`; None is an image that was in memory.

    Little ones are enlarged by whole pixels, so that they can be seen.
    """
    size: int | None = None
    try:
        if path is None:
            raise ImageError(None, "in memory")
        data = read_bytes(path)
        size = len(data)
        image = Image.fromarray(decode_image(data, path).permute(1, 2, 0).numpy())
    except ImageError as error:  # it may have gone since it was indexed
        return Thumbnail(bytes=size, trouble=error.reason)
    small = fitted(image, side)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return Thumbnail(buffer.getvalue(), small.size, image.size, size)


def thumbnails(paths: Sequence[str | None], side: int = SIDE) -> Iterator[Thumbnail]:
    """Those of several images, in their order, made in threads."""
    pool = ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1))
    try:
        yield from pool.map(partial(thumbnail, side=side), paths)
    finally:
        pool.shutdown(cancel_futures=True)


def fitted(image: Image.Image, side: int) -> Image.Image:
    """`image`, whose longest side becomes `side`; little ones by whole pixels."""
    scale = side / max(image.size)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
        Image.Resampling.NEAREST if scale > 3 else Image.Resampling.LANCZOS,
        reducing_gap=3.0,
    )
