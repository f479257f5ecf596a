"""Images that take much memory to decode: told from their headers before any is taken, and decoded one at a time.

What decoding takes is said in docs/reliability.md, a format at a time; it follows the pixels that a file claims, of
which it may claim many in few bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hashfaiss.errors import ImageError

LARGE = 1 << 25  # pixels from which on
SPARSE = 4096  # pixels in a byte are too many: photographs have less than 100, and an empty page in JPEG or PNG 350
TWICE = "undecodable-*.json"  # in an index folder, notes of what ended two processes
_turn = threading.RLock()  # of this process; one image may be opened while another is


State = tuple[str, int, int]  # path, bytes and mtime_ns of a file


@dataclass(frozen=True)
class Notes:
    """Which large images are being decoded, and which ended a process before.

    Attributes:
        folder: where each process writes.
        avoid: files not to be decoded again as they are.
    """

    folder: Path
    avoid: frozenset[State] = frozenset()

    @property
    def own(self) -> Path:
        """Where this process writes."""
        return self.folder / f"decoding-{os.getpid()}.json"


class Admission:
    """What one file may claim.

    Args:
        path: the file, or None for bytes in memory.
        size: its bytes.
        most: pixels that an image may have.
        advice: how to allow more.
        note: where to write which large image is being decoded, for whoever finds the process ended.
    """

    def __init__(self, path: str | None, size: int, most: int, advice: str, note: Path | None = None) -> None:
        self._path, self._size, self._most, self._advice, self._note = path, size, most, advice, note
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Admission:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def admit(self, width: int, height: int) -> None:
        """Wait for its turn if so many pixels are many; ImageError where they are too many, or in too few bytes."""
        pixels = width * height
        if pixels > self._most:
            raise ImageError(None, f"claims {width:,} x {height:,} pixels, more than {self._most:,}{self._advice}")
        if pixels < LARGE:
            return
        if pixels > SPARSE * self._size:
            raise ImageError(
                None, f"claims {width:,} x {height:,} pixels in {self._size:,} bytes: an empty picture, or a trap"
            )
        self._held.enter_context(_turn)
        if self._note is not None and self._path is not None:
            self._held.enter_context(_noted(self._note, self._path))


@contextlib.contextmanager
def _noted(note: Path, path: str) -> Iterator[None]:
    """Meanwhile the note says which file is being decoded. A folder that cannot be written does without."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        note.write_text(json.dumps({"path": path, "size": status.st_size, "mtime_ns": status.st_mtime_ns}))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            note.unlink()


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP file, which Pillow makes room for as it opens it; None for another file."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
