"""TIFF files of 16 bits a channel, of which Pillow keeps the upper 8: here all of them are kept."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin

from hashfaiss.errors import ImageError

BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR = 258, 262, 284
# How values lie in the file, as Pillow calls it: of each it takes the upper byte, or with the other name the other one.
OTHER_BYTE = {";16L": ";16B", ";16B": ";16L", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}


def is_deep(image: Image.Image) -> bool:
    """Whether an image that is opened is a TIFF file of 16 bits a channel in RGB, one pixel after another.

    Raises:
        ImageError: its channels lie one after another, and Pillow would take each byte for a value.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.mode not in ("RGB", "RGBA", "CMYK"):
        return False
    if set(image.tag_v2.get(BITS_PER_SAMPLE, ())) != {16}:
        return False
    if not all(layout[-4:] in OTHER_BYTE for layout in _layouts(image)):
        raise ImageError(None, "16 bits in planes that are not compressed, which is not read here: save it compressed")
    return image.mode != "CMYK" and image.tag_v2.get(PLANAR, 1) == 1


def is_negative(image: Image.Image) -> bool:
    """Whether 0 is white in a TIFF file of 16 bits, as of X-rays: Pillow turns those of 8 bits alone."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == 0


def read_deep(data: bytes, opened: Callable[[io.BytesIO], Image.Image]) -> npt.NDArray[np.uint16]:
    """The pixels of such a file, upright: uint16 (4, height, width), colours and alpha."""
    image = opened(io.BytesIO(data))
    times_alpha = any(layout.startswith("RGBa") for layout in _layouts(image))
    words = _bytes_of(image, False).astype(np.uint16) << 8 | _bytes_of(opened(io.BytesIO(data)), True)
    if words.shape[2] == 3:
        words = np.dstack([words, np.full(words.shape[:2], 65535, np.uint16)])
    elif times_alpha:
        alpha = np.maximum(words[..., 3:], 1).astype(np.uint64)
        words[..., :3] = np.minimum(words[..., :3] * np.uint64(65535) // alpha, 65535)
    pixels: npt.NDArray[np.uint16] = words.astype(np.uint16, copy=False).transpose(2, 0, 1)
    return pixels


def _layouts(image: Any) -> list[str]:
    return [tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in image.tile]


def _bytes_of(image: Any, other: bool) -> npt.NDArray[np.uint8]:
    """The upper byte of each value, or the other one."""
    tiles = []
    for tile, layout in zip(image.tile, _layouts(image), strict=True):
        layout = layout.replace("RGBa", "RGBA")  # Pillow would divide by alpha, in 8 bits
        layout = layout[:-4] + OTHER_BYTE[layout[-4:]] if other else layout
        tiles.append((*tile[:3], layout if isinstance(tile[3], str) else (layout, *tile[3][1:])))
    image.tile = tiles
    return np.array(ImageOps.exif_transpose(image))
