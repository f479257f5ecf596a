"""Small images as files, and what they are refused for."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hashfaiss.errors import ImageError
from hashfaiss.images.decoding import decode_image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX file names and links")
NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
ORIENTATION = 274
WORDS = np.random.default_rng(1).integers(0, 1 << 16, (24, 32, 4)).astype(np.uint16)
SMOOTH = np.array(Image.fromarray(NOISE[::6, ::6]).resize((32, 24)))


def encoded(image: Image.Image | Pixels, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(ImageError) as caught:
        call()
    assert caught.value.reason in str(caught.value)
    assert "\n" not in caught.value.reason
    assert 0 < len(caught.value.reason) <= 210
    assert caught.value.__cause__ is None
    return caught.value.reason


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand, for what Pillow does not write."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)), *extra]
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in [*chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]:
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return data


def png_rows(values: Any) -> bytes:
    return b"".join(b"\0" + row.astype(values.dtype.newbyteorder(">")).tobytes() for row in values)


def decoded(data: bytes) -> Any:
    """Decode, check the contract, and give (height, width, 3) as int."""
    image = decode_image(data)
    assert image.dtype == torch.uint8
    assert image.dim() == 3
    assert image.shape[0] == 3
    return image.permute(1, 2, 0).numpy().astype(int)


def over_white(rgba: Any) -> Any:
    colour, alpha = rgba[..., :3].astype(float), rgba[..., 3:].astype(float) / 255
    return colour * alpha + 255 * (1 - alpha)


def profile(gamma: float) -> bytes:
    """A profile of sRGB's primaries with another gamma, as a minimal ICC file."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 6) + b"other\0" + bytes(79),
        b"cprt": b"text" + bytes(4) + b"none\0\0\0\0",
    }
    tags[b"wtpt"] = b"XYZ " + bytes(4) + fixed(0.9642) + fixed(1) + fixed(0.8249)
    primaries = {
        b"rXYZ": (0.4361, 0.2225, 0.0139),
        b"gXYZ": (0.3851, 0.7169, 0.0971),
        b"bXYZ": (0.1431, 0.0606, 0.7141),
    }
    for name, colour in primaries.items():
        tags[name] = b"XYZ " + bytes(4) + b"".join(map(fixed, colour))
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        tags[name] = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s12x4s", at + len(body), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    head += bytes(28) + fixed(0.9642) + fixed(1) + fixed(0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
