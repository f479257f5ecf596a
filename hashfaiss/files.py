"""What a file's bytes are known by, and writing one so that it is there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

DIGEST_BYTES = 16
PIECE = 1 << 24  # bytes


def content_digest(data: bytes) -> bytes:
    """What an image is known by beside its path: BLAKE2b, 16 bytes, of its file's bytes."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def large_digest(data: Buffer) -> str:
    """What a large file is known by: the sha256 of the sha256 of its pieces, which all processors work out together."""
    view = memoryview(data).cast("B")
    starts = range(0, len(view), PIECE)
    with ThreadPoolExecutor(min(len(starts), os.cpu_count() or 1) or 1) as pool:
        pieces = pool.map(lambda start: hashlib.sha256(view[start : start + PIECE]).digest(), starts)
        return hashlib.sha256(b"".join(pieces)).hexdigest()


def write_atomic(path: Path, data: bytes | memoryview, read_only: bool = False) -> None:
    """Write aside, fsync, rename, fsync the folder, so that no power cut or full disk leaves half of a file.

    Args:
        read_only: nobody may write into the file later, who forgets that others have it mapped.

    Raises:
        OSError: the disk is full, or the folder cannot be written; what stood at `path` still stands.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if read_only and os.name == "posix":
            aside.chmod(0o444)
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable, where the system can open folders (not on Windows)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
