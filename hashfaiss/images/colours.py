"""Colours: 16 bits to 8, colour profiles to sRGB, transparency over white."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from hashfaiss.errors import ImageError

BAND = 1 << 20  # pixels
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras, microscopes and X-ray use of 16
PROFILES = 64  # kept by each thread
_kept = threading.local()  # a transform must not be used by two threads at once


def eight_bits(image: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """A 16-bit image with alpha last, uint16 (channels + 1, height, width), as uint8 (channels, ...), over white.

    Its colours are scaled by the bits that they use: of a 12-bit image in 16 bits, the upper 8 of 12 are kept.
    """
    height, width = image.shape[1:]
    parts = list(bands(height, width))
    used = max(int(np.where(image[-1, rows] > 0, image[:-1, rows], 0).max(initial=0)) for rows in parts)
    depth = next(depth for depth in DEPTHS if used < 1 << depth)
    pixels = np.empty((len(image) - 1, height, width), np.uint8)
    for rows in parts:
        pixels[:, rows] = _over_white_words(image[:, rows], depth)
    return pixels


def grey_of_words(values: npt.NDArray[np.integer], clear: object) -> npt.NDArray[np.uint8]:
    """Grey values (height, width) from 0 to 65535, of which `clear` is transparent, as `eight_bits` has them.

    Raises:
        ImageError: other values are among them.
    """
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise ImageError(None, "32-bit values, which are no colours")
    words = np.full((2, *values.shape), 65535, np.uint16)
    words[0] = values
    if isinstance(clear, int):
        words[1][values == clear] = 0
    return np.repeat(eight_bits(words), 3, axis=0)


def _over_white_words(image: npt.NDArray[np.uint16], depth: int) -> npt.NDArray[np.int32]:
    scaled: npt.NDArray[np.int32] = np.minimum(image[:-1] >> (depth - 8), 255).astype(np.int32)
    alpha = image[-1:]
    if alpha.min(initial=65535) < 65535:
        scaled = (scaled * alpha + 255 * (65535 - alpha.astype(np.int32)) + 32767) // 65535
    return scaled


def bands(height: int, width: int) -> Iterator[slice]:
    """Rows of an image, some at a time, so that what is made of them on the way takes little memory."""
    rows = max(1, BAND // max(1, width))
    for start in range(0, max(1, height), rows):
        yield slice(start, min(start + rows, height))


def over_white(image: Image.Image) -> Image.Image:
    """As RGB, what is transparent over white."""
    if image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return image.convert("RGB")


def foreign_profile(image: Image.Image) -> bytes | None:
    """The colour profile of an image, if it has one that can be used and is not sRGB."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile or image.mode not in _SPACES:
        return None
    return profile if _transform(profile, _SPACES[image.mode]) is not None else None


def standard_colours(image: Image.Image) -> Image.Image:
    """An image in the colours of sRGB, by its profile; its transparency stays."""
    profile = foreign_profile(image)
    if profile is None:
        return image
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    mode = _SPACES[image.mode]
    converted = ImageCms.applyTransform(image.convert(mode), _transform(profile, mode))  # type: ignore[arg-type]
    assert converted is not None
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


_SPACES = {"RGB": "RGB", "RGBA": "RGB", "P": "RGB", "PA": "RGB", "CMYK": "CMYK", "L": "L", "LA": "L"}


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What turns colours of a profile into sRGB; None for sRGB itself, and for a profile that is damaged or other."""
    kept: dict[tuple[bytes, str], ImageCms.ImageCmsTransform | None] = _kept.__dict__.setdefault("transforms", {})
    key = (profile, mode)
    if key not in kept:
        if len(kept) >= PROFILES:
            kept.clear()
        kept[key] = _made(profile, mode)
    return kept[key]


def _made(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(given)
        if "srgb" in name.lower() or (mode == "L" and "gamma 2.2" in name.lower()):
            return None
        return ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
