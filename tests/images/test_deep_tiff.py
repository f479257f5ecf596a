"""TIFF files of 16 bits a channel, written here byte by byte: no value loses what it holds."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pictures import WORDS, decoded, profile, reason

from hashfaiss.images.decoding import decode_image

GREY_NEGATIVE, GREY, RGB, CMYK = 0, 1, 2, 5
CLEAR, TIMES_ALPHA, ALPHA = 0, 1, 2


def tiff(
    words: np.ndarray[Any, Any],
    photometric: int,
    order: str = "<",
    packed: bool = False,
    extra: Sequence[int] = (),
    planes: bool = False,
    more: Sequence[tuple[int, int, bytes]] = (),
) -> bytes:
    """A file of one strip (of each plane) of uint16 (height, width, channels)."""
    height, width, channels = words.shape
    parts = [words[..., [c]] for c in range(channels)] if planes else [words]
    strips = [np.ascontiguousarray(part.astype(f"{order}u2")).tobytes() for part in parts]
    strips = [zlib.compress(strip) if packed else strip for strip in strips]

    def short(*values: int) -> bytes:
        return struct.pack(f"{order}{len(values)}H", *values)

    def long(*values: int) -> bytes:
        return struct.pack(f"{order}{len(values)}I", *values)

    starts = 1000 + np.cumsum([0, *map(len, strips)])[:-1]
    tags = [
        *((256, 3, short(width)), (257, 3, short(height)), (258, 3, short(*[16] * channels))),
        *((259, 3, short(8 if packed else 1)), (262, 3, short(photometric)), (273, 4, long(*starts))),
        *((277, 3, short(channels)), (278, 3, short(height)), (279, 4, long(*map(len, strips)))),
        (284, 3, short(2 if planes else 1)),
        *([(338, 3, short(*extra))] if extra else []),
        *more,
    ]
    table, beside = short(len(tags)), b""
    for number, kind, value in sorted(tags):
        count = len(value) // {3: 2, 4: 4, 7: 1}[kind]
        table += short(number, kind) + long(count)
        table += value.ljust(4, b"\0") if len(value) <= 4 else long(300 + len(beside))
        beside += value if len(value) > 4 else b""
    head = ((b"II*\0" if order == "<" else b"MM\0*") + long(8) + table + bytes(4)).ljust(300, b"\0") + beside
    assert len(head) <= 1000
    return head.ljust(1000, b"\0") + b"".join(strips)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_all_bits_count(bits: int, order: str, packed: bool) -> None:
    words = (WORDS >> (16 - bits)).astype(np.uint16)
    words[0, 0] = (1 << bits) - 1
    eight = (words >> (bits - 8)).astype(int)
    assert (decoded(tiff(words[..., :3], RGB, order, packed)) == eight[..., :3]).all()
    assert (decoded(tiff(words, RGB, order, packed, [CLEAR])) == eight[..., :3]).all()
    assert (decoded(tiff(words[..., :1], GREY, order, packed)) == eight[..., :1]).all()
    words[..., 3] = 65535
    for how in (ALPHA, TIMES_ALPHA):
        assert (decoded(tiff(words, RGB, order, packed, [how])) == eight[..., :3]).all()


def test_alpha_lies_over_white() -> None:
    words = np.zeros((4, 4, 4), np.uint16)
    words[..., :3], words[..., 3] = 20000, 32768
    plain, times = decoded(tiff(words, RGB, extra=[ALPHA])), decoded(tiff(words, RGB, extra=[TIMES_ALPHA]))
    assert abs(plain - (20000 / 257 + 255) / 2).max() <= 1
    assert abs(times - (20000 / 257 + 255 / 2)).max() <= 1


def test_a_negative_is_turned() -> None:
    words = WORDS[..., :1] >> 4
    words[0, 0] = 4095
    assert (decoded(tiff(words, GREY_NEGATIVE)) == 255 - (words >> 4).astype(int)).all()


def test_orientation_and_profile_count() -> None:
    words = (WORDS[..., :3] >> 6) << 6
    turned = decoded(tiff(words, RGB, more=[(274, 3, struct.pack("<H", 6))]))
    assert (turned == np.rot90(words >> 8, -1)).all()
    lit = decoded(tiff(words, RGB, more=[(34675, 7, profile(1.0))]))
    assert lit.mean() > (words >> 8).mean() + 10


def test_planes_are_read_right_or_refused() -> None:
    packed = tiff(WORDS[..., :3], RGB, packed=True, planes=True)
    assert (decoded(packed) == WORDS[..., :3] >> 8).all()
    for channels, photometric in ((3, RGB), (4, CMYK)):
        data = tiff(WORDS[..., :channels], photometric, planes=True)
        assert reason(lambda data=data: decode_image(data)).startswith("16 bits in planes that are not compressed")
