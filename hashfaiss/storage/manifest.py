"""The manifest of an index folder: which files are the committed generation, and who may replace it.

It lies there twice. `manifest.json` is replaced first, and that is the commit; its copy takes its place where a bit of
it flipped, or where an older one was put back.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from hashfaiss.codes import check_bits
from hashfaiss.errors import CorruptIndexError, IndexFolderError, IndexLockedError, NewerFormatError
from hashfaiss.files import check_regular, write_atomic
from hashfaiss.storage.paths import Int64

FORMAT = "hashfaiss-index"
VERSION = 2  # 1 knew files by their sha256
MANIFEST, COPY = "manifest.json", "manifest.copy.json"
HOST_NAME, MOST_TOLD = 64, 1 << 10  # letters of a host's name, and of what a lock tells
MOST_GONE = 1 << 27  # ids taken out that a manifest may tell of: 1 GB
OWN = {"codes": r"\d{6,}-\d{2,}-[0-9a-f]{4}\.h5", "faiss": r"\d{6,}\.index"}  # what we name so, we may delete


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
            f"another process is writing to {str(folder)!r}{_holder(lock.lock_file)}: wait for it to end, or write to "
            "another index"
        ) from None
    except OSError as error:
        raise IndexFolderError(f"cannot write to the index {str(folder)!r}: {error.strerror or error}") from None
    with contextlib.suppress(OSError):  # for others to tell; Windows keeps it locked
        about = {"process": os.getpid(), "host": socket.gethostname()[:HOST_NAME], "since": int(time.time())}
        Path(lock.lock_file).write_text(json.dumps(about))
    try:
        yield
    finally:
        lock.release()


def _holder(lock: str) -> str:
    """Who holds a lock, and since when, as it tells; nothing where it tells nothing that can be read."""
    try:
        with open(lock, encoding="utf-8") as file:
            about = json.loads(file.read(MOST_TOLD))
        number, host, since = int(about["process"]), str(about["host"]), time.localtime(int(about["since"]))
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return ""
    shown = "".join(letter for letter in host if letter.isprintable())[:HOST_NAME]
    return f" (process {number} on {shown!r}, since {time.strftime('%Y-%m-%d %H:%M:%S', since)})"


def index_at(folder: Path) -> bool:
    """Whether there is an index at `folder`, sound or not."""
    return (folder / MANIFEST).exists() or (folder / COPY).exists()


def check_free(folder: Path) -> None:
    """IndexFolderError unless an index can be made at `folder`: nothing there, an empty folder, or one begun."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise IndexFolderError(f"{str(folder)!r} is a file: give a folder for the index")
    if index_at(folder):
        raise IndexFolderError(f"{str(folder)!r} is an index already: open it, or give another folder")
    if any((folder / "codes").glob("*.h5")):
        raise IndexFolderError(
            f"{str(folder)!r} holds codes, but its {MANIFEST} is gone: restore it, or give another folder for the index"
        )
    strange = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    strange -= {"codes", "faiss", "lock", "encoder.pt", "skipped.jsonl", "shards"}
    if strange:
        raise IndexFolderError(
            f"{str(folder)!r} holds other things, such as {min(strange)!r}: give an empty or new folder for the index"
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The committed generation, from the manifest or its copy, whichever is sound and newer.

    Raises:
        IndexFolderError: there is no index at `folder`, or it cannot be read now.
        NewerFormatError: one of the two is of a later format, whatever the other is.
        CorruptIndexError: both are damaged.
    """
    copy: dict[str, Any] | None = None
    try:
        copy = _read(folder / COPY)
    except NewerFormatError:
        raise
    except (IndexFolderError, OSError):
        pass  # the manifest itself is what counts
    try:
        manifest = _read(folder / MANIFEST)
    except NewerFormatError:
        raise
    except (IndexFolderError, FileNotFoundError) as error:
        if copy is not None:
            return copy
        if isinstance(error, IndexFolderError):
            raise
        raise IndexFolderError(
            f"there is no index at {str(folder)!r}: make one with `hashfaiss build`, or give its folder with --index"
        ) from None
    except OSError as error:  # which may pass, and says nothing of what was written
        raise IndexFolderError(f"cannot read {str(folder / MANIFEST)!r}: {error.strerror or error}") from None
    return copy if copy is not None and copy["generation"] > manifest["generation"] else manifest


def manifest_trouble(folder: Path, name: str, manifest: dict[str, Any]) -> str | None:
    """What is wrong with the manifest file of this name, or None; `manifest` is what was committed."""
    try:
        found = _read(folder / name)
    except FileNotFoundError:
        return "it is gone; the next build writes it anew"
    except (IndexFolderError, OSError) as error:
        return str(error)
    behind = manifest["generation"] - found["generation"]
    if found == manifest and (later := _later_file(folder, manifest["generation"])):
        return f"it is of generation {found['generation']}, and {later} of a later one: an older one was put back"
    if found == manifest or (name == COPY and behind == 1):  # a writer that was killed between the two is no damage
        return None
    return f"it is of generation {found['generation']}, not {manifest['generation']}; the next build writes it anew"


def _later_file(folder: Path, generation: int) -> str | None:
    """A file that none wrote who had this generation before him: a writer that was killed leaves those of the next."""
    for room, own in OWN.items():
        for file in sorted((folder / room).glob("*")):
            if re.fullmatch(own, file.name) and int(re.split(r"\W", file.name)[0]) > generation + 1:
                return f"{room}/{file.name}"
    return None


def _read(path: Path) -> dict[str, Any]:
    """A manifest from its file; OSError, IndexFolderError or CorruptIndexError."""
    folder = path.parent
    try:
        check_regular(path)
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except (ValueError, RecursionError) as error:
        raise CorruptIndexError(f"{str(path)!r} cannot be read ({error}): {_ADVICE}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise IndexFolderError(f"{str(folder)!r} is not a hashfaiss index: its {MANIFEST} is something else's")
    if manifest.get("version") not in (1, VERSION):
        rest = {name: value for name, value in manifest.items() if name != "sha256"}
        written = manifest.get("sha256") == digest_of(rest)  # else a bit of it flipped
        raise (NewerFormatError if written else CorruptIndexError)(
            f"the index {str(folder)!r} has format version {manifest.get('version')!r}, and this hashfaiss reads "
            f"up to {VERSION}: install the hashfaiss that wrote it, or build another index"
        )
    try:
        files = [entry["file"] for entry in manifest["segments"]]
        sound = all(
            _inside(name) and entry["rows"] >= 0 for name, entry in zip(files, manifest["segments"], strict=True)
        )
        sound = sound and all(isinstance(entry.get("xxh3", entry.get("sha256")), str) for entry in manifest["segments"])
        sound = sound and manifest["generation"] >= 0 and 0 <= manifest["next_id"] < 1 << 63
        unpacked_ids(manifest.get("removed", ""), manifest["next_id"])
        check_bits(manifest["bits"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptIndexError(f"{str(path)!r} is incomplete ({error!r}): {_ADVICE}") from None
    if not sound:
        raise CorruptIndexError(f"{str(path)!r} names files outside the index: {_ADVICE}")
    if manifest.pop("sha256", None) != digest_of(manifest):
        raise CorruptIndexError(f"{str(path)!r} is not as it was written: {_ADVICE}")
    return manifest


_ADVICE = "restore it from a copy, or delete the index folder and build again"


def digest_of(manifest: dict[str, Any]) -> str:
    """What a manifest's file is checked by, and a generation known by: sha256 of all else in it, in hexadecimal."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _inside(name: str) -> bool:
    folder, _, file = name.partition("/")
    return folder == "codes" and file not in ("", "..") and os.sep not in file and "/" not in file


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Replace the manifest: what it names is then the committed generation. OSError if it cannot."""
    data = _signed(manifest)
    write_atomic(folder / MANIFEST, data)
    write_atomic(folder / COPY, data)


def mend_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest and its copy anew where they do not say what `manifest` does. OSError if it cannot."""
    data = _signed(manifest)
    for path in (folder / MANIFEST, folder / COPY):
        if not path.is_file() or path.read_bytes() != data:
            write_atomic(path, data)


def _signed(manifest: dict[str, Any]) -> bytes:
    return json.dumps({**manifest, "sha256": digest_of(manifest)}, indent=1).encode()


def packed_ids(ids: Int64) -> str:
    """Ids, ascending, as a text for the manifest."""
    return base64.b64encode(zlib.compress(np.diff(ids, prepend=0).astype("<i8").tobytes(), 1)).decode()


def unpacked_ids(text: str, most: int) -> Int64:
    """The ids of `packed_ids`, `most` of them or fewer; ValueError for what it did not make."""
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), 8 * min(most, MOST_GONE) + 1)
        ids = np.frombuffer(data, "<i8").astype(np.int64).cumsum()
    except (TypeError, zlib.error) as error:
        raise ValueError(str(error)) from None
    if len(ids) > min(most, MOST_GONE) or (np.diff(ids, prepend=-1) < 1).any():
        raise ValueError("ids that do not ascend, or too many")
    return ids


def clear_leftovers(folder: Path, manifest: dict[str, Any]) -> None:
    """Delete what a writer that was killed, or a generation that was replaced, left behind: files with names of ours.

    No link is followed. What cannot be deleted now, as a file that a reader has open on Windows, is left for the next
    writer.
    """
    named = {entry["file"] for entry in manifest["segments"]}
    named.add((manifest.get("index") or {}).get("file", ""))
    identity = str((manifest.get("encoder") or {}).get("identity", ""))[:16]
    named.add(f"engine/{identity}.openvino")
    for room, own in (
        *OWN.items(),
        ("engine", r"[0-9a-f]{16}(-b?f\d\d)?\.openvino"),
        ("", r"(manifest|manifest\.copy|skipped|encoder)\.\w+"),
    ):
        if not (folder / room).is_symlink():
            left = re.compile(rf"{own}|\.{own}\.\d+\.tmp" if room else rf"\.{own}\.\d+\.tmp")
            _clear(folder / room, left, {name.partition("/")[2] for name in named if name.startswith(f"{room}/")})


def _clear(folder: Path, left: re.Pattern[str], named: set[str]) -> None:
    with contextlib.suppress(OSError):
        for file in os.scandir(folder):
            if left.fullmatch(file.name) and file.name not in named:
                with contextlib.suppress(OSError):
                    os.unlink(file)
