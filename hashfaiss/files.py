"""What a file's bytes are known by, and writing one so that it is there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

DIGEST_BYTES = 16


def content_digest(data: bytes) -> bytes:
    """What an image is known by beside its path: BLAKE2b, 16 bytes, of its file's bytes."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write aside, fsync, rename, fsync the folder, so that no power cut or full disk leaves half of a file.

    Raises:
        OSError: the disk is full, or the folder cannot be written; what stood at `path` still stands.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
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
