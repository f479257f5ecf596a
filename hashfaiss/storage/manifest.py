"""The manifest of an index folder: which files are the committed generation, and who may replace it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hashfaiss.codes import check_bits
from hashfaiss.errors import CorruptIndexError, IndexFolderError, IndexLockedError
from hashfaiss.files import write_atomic

FORMAT = "hashfaiss-index"
VERSION = 2  # 1 knew files by their sha256
MANIFEST = "manifest.json"


@contextlib.contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """The right to write to `folder`, for one process at a time; it ends with the process, however that ends.

    Raises:
        IndexLockedError: another process has it.
        IndexFolderError: the folder cannot be written.
    """
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise IndexLockedError(
            f"another process is writing to {str(folder)!r}: wait for it to end, or write to another index"
        ) from None
    except OSError as error:
        raise IndexFolderError(f"cannot write to the index {str(folder)!r}: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()


def check_free(folder: Path) -> None:
    """IndexFolderError unless an index can be made at `folder`: nothing there, an empty folder, or one begun."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise IndexFolderError(f"{str(folder)!r} is a file: give a folder for the index")
    if (folder / MANIFEST).exists():
        raise IndexFolderError(f"{str(folder)!r} is an index already: open it, or give another folder")
    if any((folder / "codes").glob("*.h5")):
        raise IndexFolderError(
            f"{str(folder)!r} holds codes, but its {MANIFEST} is gone: restore it, or give another folder for the index"
        )
    strange = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    strange -= {"codes", "faiss", "lock", "encoder.pt", "skipped.jsonl"}
    if strange:
        raise IndexFolderError(
            f"{str(folder)!r} holds other things, such as {min(strange)!r}: give an empty or new folder for the index"
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The committed generation.

    Raises:
        IndexFolderError: there is no index at `folder`, or one of another format version.
        CorruptIndexError: the manifest is damaged.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise IndexFolderError(
            f"there is no index at {str(folder)!r}: make one with `hashfaiss build`, or give its folder with --index"
        ) from None
    except (OSError, ValueError) as error:
        raise CorruptIndexError(f"{str(folder / MANIFEST)!r} cannot be read ({error}): {_ADVICE}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise IndexFolderError(f"{str(folder)!r} is not a hashfaiss index: its {MANIFEST} is something else's")
    if manifest.get("version") not in (1, VERSION):
        raise IndexFolderError(
            f"the index {str(folder)!r} has format version {manifest.get('version')!r}, and this hashfaiss reads "
            f"up to {VERSION}: install the hashfaiss that wrote it, or build again"
        )
    try:
        files = [entry["file"] for entry in manifest["segments"]]
        sound = all(
            _inside(name) and entry["rows"] >= 0 for name, entry in zip(files, manifest["segments"], strict=True)
        )
        sound = sound and all(isinstance(entry.get("xxh3", entry.get("sha256")), str) for entry in manifest["segments"])
        sound = sound and manifest["generation"] >= 0 and manifest["next_id"] >= 0
        check_bits(manifest["bits"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptIndexError(f"{str(folder / MANIFEST)!r} is incomplete ({error!r}): {_ADVICE}") from None
    if not sound:
        raise CorruptIndexError(f"{str(folder / MANIFEST)!r} names files outside the index: {_ADVICE}")
    if manifest.pop("sha256", None) != _digest(manifest):
        raise CorruptIndexError(f"{str(folder / MANIFEST)!r} is not as it was written: {_ADVICE}")
    return manifest


_ADVICE = "restore it from a copy, or delete the index folder and build again"


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _inside(name: str) -> bool:
    folder, _, file = name.partition("/")
    return folder == "codes" and file not in ("", "..") and os.sep not in file and "/" not in file


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Replace the manifest: what it names is then the committed generation. OSError if it cannot."""
    signed = {**manifest, "sha256": _digest(manifest)}
    write_atomic(folder / MANIFEST, json.dumps(signed, indent=1).encode())


def clear_leftovers(folder: Path, manifest: dict[str, Any]) -> None:
    """Delete what a writer that was killed, or a generation that was replaced, left behind.

    What cannot be deleted now, as a file that a reader has open on Windows, is left for the next writer.
    """
    named = {entry["file"] for entry in manifest["segments"]}
    named.add((manifest.get("index") or {}).get("file", ""))
    files = [file for room in ("codes", "faiss") for file in (folder / room).glob("*")]
    left = [file for file in files if f"{file.parent.name}/{file.name}" not in named]
    for file in chain(left, folder.glob(".*.tmp")):
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
