"""Segments that cannot be used: told apart from those that can, and from what a system refuses for now."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hashfaiss.errors import CorruptIndexError, HashfaissError, IndexFolderError
from hashfaiss.files import file_unaltered
from hashfaiss.storage.manifest import clear_leftovers, mend_manifest
from hashfaiss.storage.segments import ADVICE, Segment

ASIDE = "damaged"  # a folder for what is not used any more, but may be mended by who knows how


class Damaged(NamedTuple):
    """A segment that cannot be used: its file, by its name in the folder, how many rows it had, and what is wrong."""

    file: str
    rows: int
    trouble: str


def open_segment(folder: Path, bits: int, entry: Mapping[str, Any]) -> Segment | Damaged:
    """The segment that the manifest has this entry of; IndexFolderError where it cannot be read now."""
    try:
        segment = Segment(folder / entry["file"], bits, entry)
        if len(segment) == entry["rows"]:
            return segment
        trouble = f"{segment.name} holds {len(segment)} rows, not {entry['rows']}: {ADVICE}"
    except FileNotFoundError:
        trouble = f"{folder / entry['file']} is gone: {ADVICE}"
    except CorruptIndexError as error:
        trouble = str(error)
    return Damaged(entry["file"], entry["rows"], trouble)


def corrupt(damaged: Sequence[Damaged]) -> CorruptIndexError:
    """The error that tells of the first, and how many more there are."""
    more = f" ({len(damaged) - 1} more of its files are damaged: `hashfaiss verify` names them)"
    return CorruptIndexError(damaged[0].trouble + more * (len(damaged) > 1))


def segment_trouble(segment: Segment, folder: Path | None, entry: Mapping[str, Any]) -> str | None:
    """What is wrong with a segment, all of it read; `folder` is None in memory."""
    try:
        segment.check()
        if folder is not None and not file_unaltered(folder / entry["file"], entry):
            return "its bytes are not those that were written"
    except (HashfaissError, OSError) as error:
        return str(error)
    return None


def mend_folder(folder: Path, damaged: Sequence[Damaged], manifest: dict[str, Any]) -> None:
    """Make the folder hold what the manifest says: damaged segments aside, both manifests, nothing left by others.

    Raises:
        IndexFolderError: it cannot be written.
    """
    try:
        for one in damaged:
            (folder / ASIDE).mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                (folder / one.file).replace(folder / ASIDE / Path(one.file).name)
        mend_manifest(folder, manifest)
    except OSError as error:
        raise IndexFolderError(f"cannot write to the index {str(folder)!r}: {error.strerror or error}") from None
    clear_leftovers(folder, manifest)
