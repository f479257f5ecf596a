"""What claims many pixels: refused before memory is taken for them, or decoded in a stated amount, one at a time."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, png, reason
from PIL import Image

from hashfaiss.images import large
from hashfaiss.images.decoding import decode_image

SIDE = 13370
SMALL = np.zeros((16, 16, 3), np.uint8)
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def claiming(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1, data.count(old)
    return data.replace(old, new)


def bombs() -> dict[str, bytes]:
    """Files of a few bytes, each of which claims 179 million pixels, one fewer than are allowed."""
    wide = [struct.pack(order, SIDE) for order in (">H", "<H", ">I", "<I")]
    gif = b"GIF89a" + 2 * wide[1] + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2\x4c\1\0;"
    jpeg = encoded(SMALL, "JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    vp8x = b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + 2 * struct.pack("<I", SIDE - 1)[:3] + b"VP8 \0\0\0\0"
    lossless = b"RIFF\x20\0\0\0WEBPVP8L\x0a\0\0\0\x2f" + struct.pack("<I", SIDE - 1 | (SIDE - 1) << 14) + bytes(9)
    lossy = b"RIFF\x20\0\0\0WEBPVP8 \x0a\0\0\0\x10\0\0\x9d\x01\x2a" + 2 * wide[1] + bytes(9)
    return {
        "GIF": gif,
        "PNG": png(SIDE, SIDE, 8, 2, b""),
        "PNG of 16 bits": png(SIDE, SIDE, 16, 6, b""),
        "JPEG": jpeg[:at] + 2 * wide[0] + jpeg[at + 4 :],
        "WebP, extended": vp8x,
        "WebP, lossless": lossless,
        "WebP": lossy,
        "AVIF": claiming(encoded(SMALL, "AVIF"), 2 * struct.pack(">I", 16), 2 * wide[2]),
        "BMP": claiming(encoded(SMALL, "BMP"), 2 * struct.pack("<I", 16), 2 * wide[3]),
        "JPEG 2000": claiming(encoded(SMALL, "JPEG2000"), b"ihdr" + 2 * struct.pack(">I", 16), b"ihdr" + 2 * wide[2]),
        "TGA": encoded(SMALL, "TGA")[:12] + 2 * wide[1] + encoded(SMALL, "TGA")[16:],
        "PPM": b"P6 13370 13370 255\n" + bytes(99),
        "TIFF": tiff(),
    }


def tiff() -> bytes:
    made = encoded(SMALL, "TIFF", compression="tiff_lzw")
    for tag in (256, 257):
        at = made.index(struct.pack("<H", tag)) + 8
        made = made[:at] + struct.pack("<I", SIDE) + made[at + 4 :]
    return made


LIMITED = """
import pickle, resource, sys
from hashfaiss.errors import ImageError
from hashfaiss.images.decoding import decode_image
from PIL import Image
import torchcodec.decoders, pillow_heif
Image.preinit(), Image.init()
now = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (now + (64 << 20), -1))
for name, data in pickle.load(sys.stdin.buffer).items():
    try:
        decode_image(data)
        print(name, "was decoded")
    except ImageError as error:
        print(name, error.reason, sep=": ")
"""


@linux
def test_many_pixels_in_few_bytes_take_no_memory() -> None:
    """With 64 MiB more than it has, a process gets through all of them, and tells each."""
    import pickle

    told = subprocess.run([sys.executable, "-c", LIMITED], input=pickle.dumps(bombs()), capture_output=True, check=True)
    lines = told.stdout.decode().splitlines()
    assert len(lines) == len(bombs())
    for line, data in zip(lines, bombs().values(), strict=True):
        assert f"claims 13,370 x 13,370 pixels in {len(data):,} bytes: an empty picture, or a trap" in line


# Bytes a pixel while decoding, as docs/reliability.md has them.
STATED = {
    "PNG RGB": (4, lambda: encoded(Image.new("RGB", (4096, 4096)), "PNG", compress_level=1)),
    "PNG RGBA": (9, lambda: encoded(Image.new("RGBA", (4096, 4096)), "PNG", compress_level=1)),
    "PNG grey, 16 bits": (14, lambda: encoded(np.zeros((4096, 4096), np.uint16), "PNG", compress_level=1)),
    "JPEG": (4, lambda: encoded(Image.new("RGB", (4096, 4096)), "JPEG")),
    "JPEG, progressive": (7, lambda: encoded(Image.new("RGB", (4096, 4096)), "JPEG", progressive=True)),
    "JPEG, CMYK": (9, lambda: encoded(Image.new("CMYK", (4096, 4096)), "JPEG")),
    "GIF": (6, lambda: encoded(Image.new("P", (4096, 4096)), "GIF")),
    "WebP": (30, lambda: encoded(Image.new("RGB", (4096, 4096)), "WEBP", lossless=True, method=0, quality=0)),
    "TIFF": (9, lambda: encoded(Image.new("RGB", (4096, 4096)), "TIFF", compression="tiff_lzw")),
    "BMP": (13, lambda: encoded(Image.new("RGB", (4096, 4096)), "BMP")),
}
MEASURED = """
import pickle, sys
from hashfaiss.images.decoding import decode_image
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) << 10
for name, data in pickle.load(sys.stdin.buffer).items():
    decode_image(data)
    open("/proc/self/clear_refs", "w").write("5")
    before = peak()
    pixels = decode_image(data)
    print(name, (peak() - before) / pixels[0].numel(), sep=": ")
    del pixels
"""


@linux
@pytest.mark.slow
def test_decoding_takes_the_memory_that_is_stated() -> None:
    import pickle

    files = pickle.dumps({name: make() for name, (_, make) in STATED.items()})
    told = subprocess.run([sys.executable, "-c", MEASURED], input=files, capture_output=True, check=True)
    print(told.stdout.decode())
    for line in told.stdout.decode().splitlines():
        name, taken = line.rsplit(": ", 1)
        assert float(taken) <= STATED[name][0] + 2, line


def test_a_large_image_is_decoded_when_it_has_the_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    expected = decode_image(encoded(noise, "PNG"))
    monkeypatch.setattr(large, "LARGE", 1)
    assert (decode_image(encoded(noise, "PNG"), None, None, tmp_path / "note") == expected).all()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(large, "SPARSE", 0)
    assert reason(lambda: decode_image(encoded(noise, "PNG"))).startswith("claims 40 x 30 pixels in ")


def test_large_images_wait_for_one_another(tmp_path: Path) -> None:
    seen: list[int] = []
    inside = 0

    def decode(side: int) -> None:
        nonlocal inside
        with large.Admission(None, 1 << 40, 1 << 40, "") as admission:
            admission.admit(side, side)
            inside += side >= SIDE
            time.sleep(0.02)
            seen.append(inside)
            inside -= side >= SIDE

    threads = [threading.Thread(target=decode, args=(side,)) for side in (SIDE, 10, SIDE, 10, SIDE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(seen) == 1


def test_a_note_tells_which_file_is_being_decoded(tmp_path: Path) -> None:
    picture, note = tmp_path / "a.png", tmp_path / "note"
    picture.write_bytes(b"12345")
    with large.Admission(str(picture), 1 << 40, 1 << 40, "", note) as admission:
        admission.admit(10, 10)
        assert not note.exists()
        admission.admit(SIDE, SIDE)
        assert json.loads(note.read_bytes()) == {
            "path": str(picture),
            "size": 5,
            "mtime_ns": picture.stat().st_mtime_ns,
        }
    assert not note.exists()
    with large.Admission(str(picture), 1 << 40, 1 << 40, "", tmp_path / "gone/note") as admission:
        admission.admit(SIDE, SIDE)  # where nothing can be noted, it is decoded all the same


@pytest.mark.parametrize("mode", ["P", "RGBA", "L", "CMYK", "I;16", "1"])
def test_bands_make_no_difference(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (31, 17, 4)).astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) << 8 | noise[..., 1])
    else:
        image = (
            Image.fromarray(noise, "RGBA").convert("RGB").convert(mode) if mode != "RGBA" else Image.fromarray(noise)
        )
    data = encoded(image, "TIFF" if mode in ("CMYK", "1") else "PNG")
    expected = decode_image(data)
    monkeypatch.setattr("hashfaiss.images.colours.BAND", 40)
    assert (decode_image(data) == expected).all()
    assert io.BytesIO(data).read(2) in (b"\x89P", b"II")
