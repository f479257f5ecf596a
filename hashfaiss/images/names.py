"""Names of files and folders that are no part of anybody's collection."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from itertools import accumulate

from hashfaiss.wording import composed

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


class Excluded:
    """Names to leave out: those given and `NOT_OURS`, whatever their case.

    A pattern with `*`, `?` and `[...]` is matched to the name of a file or folder at any depth; one with `/` in it, or
    before it, to its path below the folder that is looked through.

    Attributes:
        paths: whether there is a pattern of paths.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        given = [composed(pattern.replace(os.sep, "/").removeprefix("./").rstrip("/")) for pattern in patterns]
        self.paths = any("/" in pattern for pattern in given)
        self._path = _one_of([pattern.lstrip("/") for pattern in given if "/" in pattern])
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


def below(root: str, patterns: Sequence[str]) -> list[str]:
    """The patterns, and beside each that names a place below the folder `root`, as a shell completes it, that place."""
    top = os.path.join(os.path.abspath(root), "")
    places = [os.path.abspath(pattern) for pattern in patterns if os.sep in pattern or "/" in pattern]
    return [*patterns, *("/" + place.removeprefix(top) for place in places if place.startswith(top))]


def _one_of(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)", re.IGNORECASE)
