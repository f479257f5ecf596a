"""JPEG files decoded at reduced size: how far, what stays as it is, and that nothing else is reduced."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import altered
from hypothesis import given
from hypothesis import strategies as st
from pictures import ORIENTATION, decoded, encoded, profile
from PIL import Image

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.images.decoding import decode_image, read_image
from hashfaiss.images.preprocessing import Preprocessing

BLOBS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8))
SMOOTH = BLOBS.resize((320, 240), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image = SMOOTH, **options: Any) -> bytes:
    return encoded(image, "JPEG", quality=95, **options)


def shape(data: bytes, least: int | None) -> tuple[int, ...]:
    return tuple(decode_image(data, None, least).shape[1:])


@pytest.mark.parametrize(
    ("least", "scale"), [(None, 1), (241, 1), (120, 1), (61, 1), (60, 4), (31, 4), (30, 8), (1, 8)]
)
def test_the_smallest_size_that_leaves_enough(least: int | None, scale: int) -> None:
    assert shape(jpeg(), least) == (240 // scale, 320 // scale)
    odd = jpeg(SMOOTH.resize((317, 239)))
    reduced = shape(odd, least)
    if least is not None and scale > 1 and least <= 239 // scale:
        assert reduced == (-(-239 // scale), -(-317 // scale))


def test_it_shows_the_same(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    sharp = {"subsampling": 0}
    kinds = {
        "plain": jpeg(**sharp),
        "turned": jpeg(exif=exif, **sharp),
        "grey": jpeg(SMOOTH.convert("L")),
        "inks": jpeg(SMOOTH.convert("CMYK"), **sharp),
        "progressive": jpeg(progressive=True, **sharp),
        "profile": jpeg(icc_profile=profile(1.0), **sharp),
    }
    for kind, data in kinds.items():
        whole, small = decode_image(data), decode_image(data, None, 60)
        assert small.dtype == torch.uint8
        assert small.shape == (3, whole.shape[1] // 4, whole.shape[2] // 4), kind
        boxes = whole.float().unflatten(1, (-1, 4)).unflatten(3, (-1, 4)).mean(dim=(2, 4))  # means of 4 x 4 pixels
        assert (boxes - small).abs().mean() < 2.5, kind
    (tmp_path / "x.jpg").write_bytes(kinds["turned"])
    assert tuple(read_image(tmp_path / "x.jpg", 60).shape) == (3, 80, 60)


def test_what_is_small_or_of_another_kind_is_decoded_as_ever() -> None:
    assert torch.equal(decode_image(jpeg(), None, 61), decode_image(jpeg()))
    for kind in ("PNG", "WEBP", "TIFF", "AVIF"):
        data = encoded(SMOOTH, kind)
        assert (decode_image(data, None, 8).permute(1, 2, 0).numpy() == decoded(data)).all()


@given(st.integers(8, 600), st.floats(0.05, 1), st.sampled_from(["crop", "stretch"]), st.integers(1, 9), st.booleans())
def test_at_least_twice_what_the_network_sees_is_left(
    size: int, crop: float, fit: Any, more: int, margin: bool
) -> None:
    how = Preprocessing(size, fit, crop=crop, reduced=True)
    assert how.least_side is not None
    side = how.least_side * more // 2 + 1  # of a file, a square
    left = max((side // scale for scale in (8, 4) if side // scale >= how.least_side), default=side)
    if left < side:
        seen = how.margin_size if margin else size
        kept = left if margin or fit == "stretch" else round(left * crop)
        assert kept >= 2 * seen - 1
    assert Preprocessing(size, fit, crop=crop).least_side is None


def test_it_is_part_of_the_encoder_and_every_way_to_the_network_keeps_to_it(encoder: Encoder, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    files = [tmp_path / f"{number}.jpg" for number in range(9)]
    for file in files:
        noise = Image.fromarray(rng.integers(0, 256, (800, 820, 3)).astype(np.uint8))
        file.write_bytes(encoded(noise, "JPEG", quality=70))
    own = altered(encoder)
    before, identity = own.encode(files), own.identity
    own.reduce_decoding()
    assert own.identity != identity
    own.save(tmp_path / "m.pt")
    again = Encoder.load(tmp_path / "m.pt", device="cpu")
    assert again.preprocessing.reduced
    assert again.identity == own.identity
    codes = again.encode(files)
    assert (codes != before).any()
    least = own.preprocessing.least_side
    seen = torch.stack([own.preprocessing.resize(decode_image(file.read_bytes(), None, least)) for file in files])
    assert (codes == own.encode_resized(seen)).all()
    assert (codes == own.encode(files, batch_size=2, workers=3)).all()
    assert (own.encode([Image.open(io.BytesIO(file.read_bytes())) for file in files]) == before).all()
