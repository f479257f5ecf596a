"""Resizing and decoding without torch: the pixels that torch's give."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import interpolate

from hashfaiss.errors import ImageError
from hashfaiss.images.decoding import decode_alone, decode_image
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.images.resampling import filters, resample

# without AVX2, torch scales 8-bit images by other numbers; nothing else here needs it
whole_numbers = pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="this CPU has no AVX2")
PHOTO = np.random.default_rng(0).integers(0, 256, (11, 16, 3)).astype(np.uint8).repeat(7, 0).repeat(9, 1)


@whole_numbers
@settings(max_examples=300, deadline=None)
@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    side=st.integers(8, 256),
    mode=st.sampled_from(["bilinear", "bicubic"]),
    levels=st.sampled_from([2, 256]),
    seed=st.integers(0, 9),
)
def test_resampling_is_torchs(height: int, width: int, side: int, mode: str, levels: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, levels, (3, height, width)) * (255 // (levels - 1))
    image = values.astype(np.uint8)
    expected = interpolate(torch.from_numpy(image)[None], size=(side, side), mode=mode, antialias=True)[0]
    if height == width == side:
        expected = torch.from_numpy(image)
    assert np.array_equal(resample(image, side, mode), expected.numpy())


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "side"), [(7, 7), (1000, 64), (5, 300), (1, 8), (100_000, 8)])
def test_filters_weigh_one(mode: str, size: int, side: int) -> None:
    first, weights, bits = filters(size, side, mode)
    assert first.min() >= 0
    assert first.max() < size
    assert np.abs(weights.sum(axis=1) / (1 << bits) - 1).max() < 1e-3 * weights.shape[1] ** 0.5
    assert np.abs(weights).max() < 1 << 15


@whole_numbers
@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(60, 80), (33, 200), (200, 33), (32, 32), (37, 37), (1, 9)])
def test_preprocessing_alone(fit: Any, interpolation: Any, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (3, *shape)).astype(np.uint8)
    look = Preprocessing(32, fit, interpolation=interpolation)
    assert np.array_equal(look.resize_alone(image), look.resize(torch.from_numpy(image)).numpy())


def files() -> list[tuple[str, bytes]]:
    made = []
    image = Image.fromarray(PHOTO)
    for subsampling in (0, 1, 2):
        for progressive in (False, True):
            for size in ((144, 77), (143, 76), (17, 9)):
                settings = {"subsampling": subsampling, "progressive": progressive, "quality": 60 + subsampling}
                made.append((f"JPEG {settings} {size}", saved(image.crop((0, 0, *size)), "JPEG", **settings)))
    for mode in ("L", "CMYK"):
        made.append((f"JPEG {mode}", saved(image.convert(mode), "JPEG")))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        made.append((f"JPEG turned {orientation}", saved(image, "JPEG", exif=exif)))
        made.append((f"PNG turned {orientation}", saved(image, "PNG", exif=exif)))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        made.append(
            (f"PNG {mode}", saved(image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode), "PNG"))
        )
    for kind in ("GIF", "WEBP", "BMP", "TIFF"):
        made.append((kind, saved(image, kind)))
    return made


def saved(image: Image.Image, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "data"), files(), ids=lambda value: value if isinstance(value, str) else "")
def test_decoding_alone(name: str, data: bytes) -> None:
    assert np.array_equal(decode_alone(data), decode_image(data).numpy())


def test_sixteen_bits_are_left_to_torchcodec() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (5).to_bytes(4, "big") + (4).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    rows = zlib.compress((b"\0" + bytes(30)) * 4)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert decode_image(data).shape == (3, 4, 5)
    with pytest.raises(ImageError, match="16 bits"):
        decode_alone(data)
