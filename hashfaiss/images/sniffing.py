"""What a file is by its first bytes, whatever it is called."""

from __future__ import annotations

import os
import re
import stat

# fmt: off
SUFFIXES = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
        ".avif", ".avifs", ".heic", ".heics", ".heif", ".heifs", ".hif", ".jp2", ".j2k", ".jpc", ".j2c",
        ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".pcx", ".jxl",
    )
)
RAW = frozenset(
    (
        ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".orf", ".rw2", ".pef", ".raf",
        ".3fr", ".iiq", ".erf", ".kdc", ".dcr", ".mrw", ".srw", ".crw", ".x3f", ".rwl",
    )
)
# fmt: on
DRAWN_SUFFIX = ".png"
LOOKED_AT = 256  # bytes
DRAWN = "drawn by hashfaiss"
DRAWN_BY = {"Software": DRAWN}  # which PNG files that hashfaiss draws say of themselves

_PNM = re.compile(rb"P[1-6]\s(#[^\n]*\n|\s)*[0-9]{1,6}\s+[0-9]{1,6}\s")
_BEGIN = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF
    b"MM\0*",
    b"\0\0\0\x0cjP  \r\n\x87\n",  # JPEG 2000
    b"\xff\x4f\xff\x51",
)
_MEDIA_TYPES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG", "image/png"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"\0\0\0\x0cjP", "image/jp2"),
)
ISO_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2")
)
AVIF_BRANDS = frozenset((b"avif", b"avis"))


def brands(head: bytes) -> set[bytes]:
    """The brands that an ISO base media file says it is of; none for another file."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}


def looks_like_image(head: bytes) -> bool:
    """Whether a file that begins so is an image of a format that is told by its bytes."""
    if head.startswith(_BEGIN) or _PNM.match(head):
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[:2] == b"BM":
        return head[6:10] == bytes(4) and head[14:18] in (b"\x0c\0\0\0", b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0")
    return bool(brands(head) & (ISO_BRANDS | AVIF_BRANDS))


def media_type(head: bytes) -> str | None:
    """The media type of an image that begins so; None for what is no image, or of a format not told by its bytes."""
    if not looks_like_image(head):
        return None
    if found := brands(head):
        return "image/avif" if found & AVIF_BRANDS else "image/heic"
    return next((kind for begin, kind in _MEDIA_TYPES if head.startswith(begin)), "application/octet-stream")


def trouble(path: str) -> str | None:
    """Why a file is no image to be looked at, by its first bytes; None where it is one, or where reading tells why."""
    named = os.path.splitext(path)[1].lower() in SUFFIXES | RAW
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
            return None if named else "no file"
        with open(path, "rb") as file:
            head = file.read(LOOKED_AT)
    except (OSError, ValueError):
        return None if named else "cannot be read"
    if DRAWN.encode() in head:
        return DRAWN
    return None if named or looks_like_image(head) else "no image"
