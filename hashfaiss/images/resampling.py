"""Antialiased resizing of 8-bit images, bit for bit as torch's, without torch.

torch scales uint8 images (`interpolate(..., antialias=True)` on a CPU with AVX2 or NEON) along x, then along y, by
whole-number weights: a filter as wide as a pixel of the result, rounded to as many bits as int16 holds.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

SUPPORT = {"bilinear": 1, "bicubic": 2}  # pixels of the result that a filter reaches to each side
CUBIC = -0.5  # the slope of the bicubic filter at 1, as in Pillow
MOST_BITS = 22  # of a weight's fraction


def resample(image: npt.NDArray[np.uint8], side: int, interpolation: str) -> npt.NDArray[np.uint8]:
    """Scale an image (3, h, w) to (3, side, side)."""
    across = _along_first(np.ascontiguousarray(image.transpose(2, 0, 1)), side, interpolation)  # (side, 3, h)
    down = _along_first(np.ascontiguousarray(across.transpose(2, 1, 0)), side, interpolation)  # (side, 3, side)
    return np.ascontiguousarray(down.transpose(1, 0, 2))


def _along_first(lines: npt.NDArray[np.uint8], side: int, interpolation: str) -> npt.NDArray[np.uint8]:
    if len(lines) == side:
        return lines
    first, weights, bits = filters(len(lines), side, interpolation)
    total = np.full((side, *lines.shape[1:]), 1 << (bits - 1), np.int32)  # a half, for rounding
    for tap, weight in enumerate(weights.T):
        total += lines[np.minimum(first + tap, len(lines) - 1)] * weight[:, None, None]
    scaled: npt.NDArray[np.uint8] = np.clip(total >> bits, 0, 255).astype(np.uint8)
    return scaled


@lru_cache(maxsize=16)
def filters(size: int, side: int, interpolation: str) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32], int]:
    """Of each of `side` pixels: the first it is made of, weights (side, taps), and the bits of their fractions.

    Taps beyond the image weigh nothing.
    """
    scale = size / side
    wide = max(scale, 1.0)
    reach = SUPPORT[interpolation] * wide
    centres = scale * (np.arange(side) + 0.5)
    first = np.maximum((centres - reach + 0.5).astype(np.intp), 0)
    after = np.minimum((centres + reach + 0.5).astype(np.intp), size)
    taps = min(size, 2 * math.ceil(reach) + 1)
    places = first[:, None] + np.arange(taps)
    x = (places - centres[:, None] + 0.5) * (1.0 / wide)
    real = np.where(places < after[:, None], _hat(x) if interpolation == "bilinear" else _cubic(x), 0.0)
    real /= np.cumsum(real, axis=1)[:, -1:]  # summed one after the other, as there
    bits = 0
    while bits < MOST_BITS and int(0.5 + real.max() * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    scaled = real * (1 << bits)
    return first, np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32), bits


def _hat(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    x = np.abs(x)
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
