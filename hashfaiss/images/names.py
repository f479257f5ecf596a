"""Names: one normal form for comparing them, and those that are no part of anybody's collection."""

from __future__ import annotations

import fnmatch
import os
import re
import unicodedata
from collections.abc import Sequence
from itertools import accumulate

# What systems and programs put into folders of photographs: thumbnails, bins, snapshots, resource forks.
NOT_OURS = (
    "@eaDir",
    "#recycle",
    "#snapshot",
    "@Recycle",
    "@Recently-Snapshot",
    "@__thumb",
    "$RECYCLE.BIN",
    "RECYCLER",
    "System Volume Information",
    "lost+found",
    "__MACOSX",
    "_thumbs",
    "Thumbs.db",
    "ehthumbs*.db",
    "desktop.ini",
)


def composed(text: str) -> str:
    """A name in the form it is compared in (NFC): Macs write é as e and an accent."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


class Excluded:
    """Names to leave out: those given and `NOT_OURS`, whatever their case.

    A pattern with `*`, `?` and `[...]` is matched to the name of a file or folder at any depth; one with `/` in it, to
    its path below the folder that is looked through.

    Attributes:
        paths: whether there is a pattern of paths.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        given = [composed(pattern.replace(os.sep, "/").removeprefix("./").strip("/")) for pattern in patterns]
        self.paths = any("/" in pattern for pattern in given)
        self._path = _one_of([pattern for pattern in given if "/" in pattern])
        self._name = _one_of([*NOT_OURS, *(pattern for pattern in given if pattern and "/" not in pattern)])

    def match(self, path: str) -> bool:
        """Whether a file or folder is left out, of which the path below the root is given, or the name alone."""
        path = composed(path).replace(os.sep, "/")
        name = path.rpartition("/")[2]
        return bool(self._name.match(name) or self._path.match(path))

    def any_of(self, path: str) -> bool:
        """Whether a file or a folder it lies in is left out."""
        parts = path.split(os.sep)
        return any(self.match(part) for part in accumulate(parts, lambda above, name: f"{above}{os.sep}{name}"))


def _one_of(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)", re.IGNORECASE)
