"""Formats: less common kinds, 16 bits, HEIC, colour profiles, and what is not opened at all."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from pictures import NOISE, ORIENTATION, SMOOTH, WORDS, decoded, encoded, png, png_rows, profile, reason
from PIL import Image, ImageCms, ImageOps

from hashfaiss.errors import ArgumentError
from hashfaiss.images import decoding
from hashfaiss.images.decoding import decode_image, read_image


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bits_of_which_fewer_are_used_are_scaled_by_these(bits: int) -> None:
    words = (WORDS >> (16 - bits)).astype(np.uint16)
    words[0, 0] = (1 << bits) - 1
    eight = (words >> (bits - 8)).astype(int)
    for kind in ("PNG", "TIFF", "PPM"):
        assert (decoded(encoded(Image.fromarray(words[..., 0]), kind)) == eight[..., :1]).all()
    assert (decoded(png(32, 24, 16, 2, png_rows(words[..., :3]))) == eight[..., :3]).all()
    words[..., 3] = 65535
    assert (decoded(png(32, 24, 16, 6, png_rows(words))) == eight[..., :3]).all()


@pytest.mark.parametrize("kind", ["JPEG2000", "PPM", "TGA", "PCX", "DIB", "AVIF"])
def test_kinds_that_are_less_common(kind: str) -> None:
    options = {"quality": 95} if kind == "AVIF" else {}
    assert abs(decoded(encoded(SMOOTH, kind, **options)) - SMOOTH).mean() < (6 if kind == "AVIF" else 1)


def heic(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=95, **options)
    return buffer.getvalue()


def test_heic_gives_the_primary_picture_upright_over_white() -> None:
    smooth = Image.fromarray(SMOOTH)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    assert abs(decoded(heic(smooth)) - SMOOTH).mean() < 12
    turned = decoded(heic(smooth, exif=exif.tobytes()))
    assert abs(turned - np.array(ImageOps.exif_transpose(with_exif(smooth, exif)))).mean() < 12
    clear = smooth.copy()
    clear.putalpha(Image.new("L", smooth.size, 0))
    assert decoded(heic(clear)).min() > 240
    several = pillow_heif.from_pillow(Image.new("RGB", (64, 64), "red"))
    several.add_from_pillow(Image.new("RGB", (64, 64), "blue"))
    buffer = io.BytesIO()
    several.save(buffer, primary_index=1)
    assert abs(decoded(buffer.getvalue()) - (0, 0, 255)).max() < 12
    for cut in (30, 200, 400):
        assert reason(lambda cut=cut: decode_image(heic(smooth)[:cut])).startswith(("damaged", "not an image"))


def with_exif(image: Image.Image, exif: Image.Exif) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "PNG", exif=exif)))


def test_heic_without_its_library_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(Image.fromarray(SMOOTH))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert reason(lambda: decode_image(data)) == (
        "HEIC, for which pillow-heif (libheif) is missing: pip install pillow-heif"
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_colours_are_those_that_a_profile_says(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    linear = decoded(encoded(SMOOTH, kind, icc_profile=profile(1.0), **options))
    part = SMOOTH / 255
    expected = 255 * np.where(part <= 0.0031308, 12.92 * part, 1.055 * part ** (1 / 2.4) - 0.055)
    assert abs(linear - expected).mean() < 3
    rgba = np.dstack([SMOOTH, np.full(SMOOTH.shape[:2], 255, np.uint8)])
    rgba[:4, :, 3] = 0
    if kind in ("PNG", "WEBP"):
        clear = decoded(
            encoded(rgba, kind, icc_profile=profile(1.0), **options, **({"exact": True} if kind == "WEBP" else {}))
        )
        assert (clear[:4] == 255).all()
        assert abs(clear[4:] - expected[4:]).mean() < 3
    plain = decoded(encoded(SMOOTH, kind, **options))
    standard = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for same in (standard, b"no profile", standard[:200]):
        assert (decoded(encoded(SMOOTH, kind, icc_profile=same, **options)) == plain).all()


def test_what_would_start_another_program_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*arguments: Any, **options: Any) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(subprocess, "check_call", started)
    monkeypatch.setattr(subprocess, "Popen", started)
    data = encoded(NOISE, "EPS")
    (tmp_path / "photo.jpg").write_bytes(data)
    assert reason(lambda: read_image(tmp_path / "photo.jpg")).startswith("not an image")
    for kind in ("PDF", "ICNS", "SGI", "DDS", "IM"):
        data = encoded(NOISE, kind)
        assert reason(lambda data=data: decode_image(data)).startswith("not an image")
    assert "JPEG XL" in reason(lambda: decode_image(b"\xff\x0a" + bytes(30)))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_most_pixels_are_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    data = encoded(Image.new("L", (1200, 1000)), "PNG")
    monkeypatch.setenv("HASHFAISS_MAX_MEGAPIXELS", "1")
    assert reason(lambda: decode_image(data)).startswith("claims 1,200 x 1,000 pixels, more than 1,000,000 (")
    monkeypatch.setenv("HASHFAISS_MAX_MEGAPIXELS", "400")
    assert decode_image(data).shape == (3, 1000, 1200)
    large = encoded(Image.new("1", (20000, 19000)), "PNG")
    assert decoding.open_image(io.BytesIO(large)).size == (20000, 19000)  # Pillow does not refuse it either
    for bad in ("0", "-1", "x", "1.5", "99999"):
        monkeypatch.setenv("HASHFAISS_MAX_MEGAPIXELS", bad)
        with pytest.raises(ArgumentError, match="give a whole number from 1 to 10,000"):
            decode_image(data)
