"""Large images that ended the build that decoded them: the next one decodes each in a process of its own, first.

A system that is out of memory kills without a word. What a killed build was decoding stands in a note in the index
folder (`hashfaiss.images.large`); what then ends a process of its own, too, is left out and named until it changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from hashfaiss.errors import IndexFolderError
from hashfaiss.images.large import TWICE, Notes, State

SECONDS = 300  # after which decoding is as good as hung
TRIAL = """
import json, sys
path, least, sys.path[:] = json.loads(sys.argv[1])
from hashfaiss.errors import HashfaissError
from hashfaiss.images.decoding import read_image
try:
    read_image(path, least)
except HashfaissError:
    pass
"""


def take_notes(folder: Path, least: int | None) -> Notes:
    """Where to note large images, and which not to decode: those that ended a process twice.

    Call it as the one writer of the folder.

    Args:
        least: as of `decode_image`.

    Raises:
        IndexFolderError: the folder cannot be read or written now.
    """
    try:
        return Notes(folder, frozenset(_tried(folder, least)))
    except OSError as error:
        raise IndexFolderError(f"cannot use the index {str(folder)!r}: {error.strerror or error}") from None


def _tried(folder: Path, least: int | None) -> set[State]:
    avoid: set[State] = set()
    for note in sorted(folder.glob("decoding-*.json")):  # of builds that ended
        state = _read(note)
        if state is None:
            note.unlink(missing_ok=True)
            continue
        name = hashlib.blake2b(os.fsencode(state[0]), digest_size=8).hexdigest()
        kept = folder / TWICE.replace("*", name)
        note.replace(kept)  # first, because the trial may end this process as well
        if _can_be_decoded(state[0], least):
            kept.unlink()
    for kept in folder.glob(TWICE):
        state = _read(kept)
        if state is None:
            kept.unlink(missing_ok=True)
        else:
            avoid.add(state)
    return avoid


def _read(note: Path) -> State | None:
    """What a note says; None where it says nothing of a file as it is now."""
    try:
        told = json.loads(note.read_bytes())
        status = os.stat(told["path"])
        state = (str(told["path"]), status.st_size, status.st_mtime_ns)
        return state if (told["size"], told["mtime_ns"]) == state[1:] else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _can_be_decoded(path: str, least: int | None) -> bool:
    given = json.dumps([path, least, sys.path])
    try:
        ended = subprocess.run([sys.executable, "-c", TRIAL, given], timeout=SECONDS, capture_output=True)
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode == 0
