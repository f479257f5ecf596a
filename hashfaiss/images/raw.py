"""Raw photographs, told by their bytes: they hold no picture but small previews, which would be taken for it.

Many are TIFF files whose first directory is a thumbnail and leads to the sensor's values: they are told by what their
directories say of these (TIFF/EP's photometric interpretations, DNG's version, the makers' own compressions).
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from hashfaiss.errors import ImageError
from hashfaiss.images.sniffing import RAW, brands

LOOKED_AT = 64  # bytes
_BEGIN = {
    b"IIRO": "Olympus ORF",
    b"IIRS": "Olympus ORF",
    b"MMOR": "Olympus ORF",
    b"IIU\0": "Panasonic RW2",
    b"FUJIFILMCCD-RAW": "Fujifilm RAF",
    b"\0MRM": "Minolta MRW",
    b"FOVb": "Sigma X3F",
    b"II\x1a\0\0\0HEAPCCDR": "Canon CRW",
}
_AT_8 = {b"CR": "Canon CR2", b"II": "Phase One IIQ", b"MM": "Phase One IIQ"}
_MAKERS = {
    "NIKON": "Nikon NEF",
    "SONY": "Sony ARW",
    "PENTAX": "Pentax PEF",
    "RICOH": "Pentax PEF",
    "SAMSUNG": "Samsung SRW",
    "HASSELBLAD": "Hasselblad 3FR",
    "PHASE ONE": "Phase One IIQ",
    "EPSON": "Epson ERF",
    "SEIKO EPSON": "Epson ERF",
    "KODAK": "Kodak DCR or KDC",
    "EASTMAN KODAK": "Kodak DCR or KDC",
    "LEICA": "Leica RAW",
}
COMPRESSION, PHOTOMETRIC, MAKE, SUB_DIRECTORIES, DNG_VERSION = 259, 262, 271, 330, 50706
SENSOR = {32803, 34892}  # colour filter array, and linear raw: no colours yet
COMPRESSIONS = {32767, 34713, 65000, 65535}  # Sony's, Nikon's, Kodak's and Pentax's own
DIRECTORIES = 16  # that are looked at: files are hostile


def refuse_raw(file: BinaryIO, path: str | None) -> None:
    """ImageError for a raw photograph, told by its bytes; a TIFF file may also be one by the suffix of its name."""
    file.seek(0)
    head = file.read(LOOKED_AT)
    tiff = head[:4] in (b"II*\0", b"MM\0*")
    kind = _kind(head)
    if kind is None and tiff:
        kind = _AT_8.get(head[8:10]) or _kind_of_tiff(file, head)
    if kind is None and tiff and path is not None and path.lower().endswith(tuple(RAW)):
        kind = path.rpartition(".")[2].upper()
    if kind is not None:
        raise ImageError(
            path, f"a raw photograph ({kind}), which is not developed here: save it, or the preview in it, as JPEG"
        )


def _kind(head: bytes) -> str | None:
    for begin, kind in _BEGIN.items():
        if head.startswith(begin):
            return kind
    if b"crx " in brands(head):
        return "Canon CR3"
    return None


def _kind_of_tiff(file: BinaryIO, head: bytes) -> str | None:
    """What the directories of a TIFF file say, those below and those behind the first."""
    make, sensor = "", False
    seen: set[int] = set()
    try:
        directory = ImageFileDirectory_v2(head[:8])
        waiting = [directory.next]
        while waiting and len(seen) < DIRECTORIES:
            at = waiting.pop(0)
            if not at or at in seen:
                continue
            seen.add(at)
            file.seek(at)
            directory.load(file)
            if DNG_VERSION in directory:
                return "DNG"
            make = make or str(directory.get(MAKE, ""))
            sensor = sensor or directory.get(PHOTOMETRIC) in SENSOR or directory.get(COMPRESSION) in COMPRESSIONS
            waiting += [directory.next, *_numbers(directory.get(SUB_DIRECTORIES))]
    except (OSError, ValueError, SyntaxError, TypeError, struct.error):  # reading tells what is wrong with it
        pass
    if not sensor:
        return None
    return next((kind for name, kind in _MAKERS.items() if make.upper().startswith(name)), "of a maker not known here")


def _numbers(value: Any) -> list[int]:
    return [each for each in (value if isinstance(value, tuple) else (value,)) if isinstance(each, int)]
