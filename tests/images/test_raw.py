"""Raw photographs are refused by name, whatever Pillow would find in them."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import NOISE, encoded, reason
from PIL import Image

from hashfaiss.images.decoding import decode_image, open_image, read_bytes, read_image
from hashfaiss.images.finding import ImageFile, find_images
from hashfaiss.images.raw import DIRECTORIES
from hashfaiss.images.sniffing import RAW
from hashfaiss.images.typical import LARGE, typical_size

SHORT, LONG, ASCII = 3, 4, 2
THUMBNAIL = NOISE[:8, :8]
MAKE, SUB_DIRECTORIES, PHOTOMETRIC, COMPRESSION, DNG_VERSION = 271, 330, 262, 259, 50706


def directory(order: str, at: int, entries: dict[int, tuple[int, Any]], following: int = 0) -> bytes:
    """A TIFF directory that lies at `at`, what does not fit into its entries behind it."""
    behind, table = b"", struct.pack(f"{order}H", len(entries))
    end = at + 2 + 12 * len(entries) + 4
    for tag, (kind, value) in sorted(entries.items()):
        values = value if isinstance(value, (tuple, bytes)) else (value,)
        data = values if isinstance(values, bytes) else struct.pack(f"{order}{len(values)}{'HI'[kind - 3]}", *values)
        if len(data) > 4:
            table += struct.pack(f"{order}HHII", tag, kind, len(values), end + len(behind))
            behind += data + bytes(len(data) % 2)
        else:
            table += struct.pack(f"{order}HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    return table + struct.pack(f"{order}I", following) + behind


def tiff(order: str, below: dict[int, tuple[int, Any]], **more: Any) -> bytes:
    """A TIFF file that Pillow opens as a thumbnail of 8 x 8, whose first directory leads to another."""
    head, pixels = (b"II*\0" if order == "<" else b"MM\0*"), THUMBNAIL.tobytes()
    first = 8 + len(pixels)
    entries = {
        256: (SHORT, 8),
        257: (SHORT, 8),
        258: (SHORT, (8, 8, 8)),
        COMPRESSION: (SHORT, 1),
        PHOTOMETRIC: (SHORT, 2),
        273: (LONG, 8),
        277: (SHORT, 3),
        278: (SHORT, 8),
        279: (LONG, len(pixels)),
        **more.get("entries", {}),
    }
    second = first + 400
    entries[SUB_DIRECTORIES] = (LONG, second)
    data = (head + struct.pack(f"{order}I", first) + pixels + directory(order, first, entries)).ljust(second, b"\0")
    return data + directory(order, second, below)


def made_by(name: bytes) -> dict[str, Any]:
    return {"entries": {MAKE: (ASCII, name + b"\0")}}


SENSOR = {PHOTOMETRIC: (SHORT, 32803)}
KINDS = {
    "Nikon NEF": tiff(">", {PHOTOMETRIC: (SHORT, 32803), COMPRESSION: (SHORT, 34713)}, **made_by(b"NIKON CORPORATION")),
    "Sony ARW": tiff("<", {COMPRESSION: (SHORT, 32767)}, **made_by(b"SONY")),
    "Pentax PEF": tiff(">", SENSOR, **made_by(b"PENTAX Corporation")),
    "Samsung SRW": tiff("<", SENSOR, **made_by(b"SAMSUNG")),
    "of a maker not known here": tiff("<", SENSOR),
    "DNG": tiff("<", {PHOTOMETRIC: (SHORT, 34892)}, entries={DNG_VERSION: (1, b"\1\4\0\0")}),
    "Canon CR2": b"II*\0\x10\0\0\0CR\2\0" + bytes(64),
    "Canon CR3": struct.pack(">I", 24) + b"ftypcrx \0\0\0\1crx isom" + bytes(64),
    "Olympus ORF": b"IIRO\x08\0\0\0" + bytes(64),
    "Panasonic RW2": b"IIU\0\x18\0\0\0" + bytes(64),
    "Fujifilm RAF": b"FUJIFILMCCD-RAW 0201" + bytes(64),
    "Phase One IIQ": b"II*\0\x10\0\0\0IIII" + bytes(64),
    "Minolta MRW": b"\0MRM" + bytes(64),
    "Sigma X3F": b"FOVb" + bytes(64),
    "Canon CRW": b"II\x1a\0\0\0HEAPCCDR" + bytes(64),
}


@pytest.mark.parametrize("kind", KINDS)
def test_raw_photographs_are_refused_by_their_bytes(kind: str, tmp_path: Path) -> None:
    said = f"a raw photograph ({kind}), which is not developed here: save it, or the preview in it, as JPEG"
    assert reason(lambda: decode_image(KINDS[kind])) == said
    for name in ("plain.jpg", "a.NEF"):
        path = tmp_path / name
        path.write_bytes(KINDS[kind])
        assert reason(lambda path=path: read_image(path)) == said
        assert reason(lambda path=path: open_image(str(path))) == said


def test_without_this_pillow_takes_the_thumbnail_for_the_picture() -> None:
    for kind in ("Nikon NEF", "Sony ARW", "DNG"):
        assert (np.array(Image.open(io.BytesIO(KINDS[kind]))) == THUMBNAIL).all()


def test_a_tiff_that_is_no_raw_photograph_is_read(tmp_path: Path) -> None:
    plain = tiff("<", {PHOTOMETRIC: (SHORT, 2)}, **made_by(b"NIKON CORPORATION"))
    assert (decode_image(plain).permute(1, 2, 0).numpy() == THUMBNAIL).all()
    pages = [Image.fromarray(NOISE)] * (DIRECTORIES + 4)
    many = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert (decode_image(many).permute(1, 2, 0).numpy() == NOISE).all()
    (tmp_path / "named.nef").write_bytes(plain)  # raw by its name, as no more is known of it
    assert reason(lambda: read_image(tmp_path / "named.nef")).startswith("a raw photograph (NEF)")
    (tmp_path / "jpeg.cr2").write_bytes(encoded(NOISE, "JPEG"))
    assert tuple(read_image(tmp_path / "jpeg.cr2").shape) == (3, 24, 32)


def test_directories_in_a_circle_and_beyond_the_end_come_to_an_end() -> None:
    round_and_round = b"II*\0\x08\0\0\0" + directory("<", 8, {SUB_DIRECTORIES: (LONG, (8, 8, 1 << 31))}, following=8)
    assert "raw" not in reason(lambda: decode_image(round_and_round))
    for cut in range(8, 500, 7):
        assert reason(lambda cut=cut: decode_image(KINDS["Sony ARW"][:cut]))


def test_a_raw_photograph_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.arw"
    path.write_bytes(KINDS["Sony ARW"])
    os.truncate(path, 1 << 28)  # a hole
    assert reason(lambda: read_bytes(path)).startswith("a raw photograph (Sony ARW)")


def test_raw_photographs_are_found_to_be_told_of_and_give_no_size(tmp_path: Path) -> None:
    for suffix in RAW:
        (tmp_path / f"x{suffix}").write_bytes(KINDS["Nikon NEF"])
    (tmp_path / "y").write_bytes(KINDS["DNG"])
    assert len(list(find_images(tmp_path))) == len(RAW) + 1
    files = [ImageFile(str(tmp_path / "x.nef"), 0, 0), ImageFile(str(tmp_path / "y"), 0, 0)]
    assert typical_size(files) == LARGE
