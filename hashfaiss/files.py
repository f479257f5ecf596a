"""What a file's bytes are known by, and writing one so that it is there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    from typing_extensions import Buffer

DIGEST_BYTES = 16


def content_digest(data: bytes) -> bytes:
    """What an image is known by beside its path: BLAKE2b, 16 bytes, of its file's bytes."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def fast_digest(data: Buffer) -> str:
    """What a file of an index is known by: XXH3, 128 bits, in hexadecimal.

    It sees every accident at the speed of memory. Whoever may write into the folder could write any digest too, so
    that sha256, many times slower, would promise no more.
    """
    return xxhash.xxh3_128_hexdigest(data)


def check_regular(path: str | os.PathLike[str]) -> None:
    """OSError unless a file of bytes lies at `path`: to open a pipe, say, could wait for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))


def file_unaltered(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a file has the digest that `entry` names: "xxh3", or in an older manifest "sha256". OSError if unread."""
    check_regular(path)
    with path.open("rb") as file:
        if "xxh3" in entry:
            return bool(hashlib.file_digest(file, xxhash.xxh3_128).hexdigest() == entry["xxh3"])
        return bool(hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"])


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
