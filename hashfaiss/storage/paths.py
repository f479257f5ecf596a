"""Paths as a store keeps them: many in one run of bytes, found by digest, or by the folder they lie in."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]


def stored_path(path: str, base: str | None) -> bytes:
    """The bytes kept for an absolute `path`: relative to `base` when below it, so that both can be moved together.

    Folders are separated by `/` on every system.
    """
    if base is not None and path.startswith(base.rstrip(os.sep) + os.sep):
        path = path[len(base.rstrip(os.sep)) + 1 :]
    return os.fsencode(slashed(path))


def slashed(path: str) -> str:
    """A path of this system with `/` between folders."""
    return path.replace(os.sep, "/")


def full_path(stored: bytes, base: str | None) -> str | None:
    """The absolute path that `stored_path` was given; None for an image that has none."""
    if not stored:
        return None
    path = os.fsdecode(stored).replace("/", os.sep)
    return os.path.join(base, path) if base is not None else path


class Paths:
    """Paths one after another.

    Attributes:
        text: uint8, the bytes of all of them.
        ends: int64 (n + 1,); path i is text[ends[i]:ends[i + 1]].
    """

    def __init__(self, text: npt.NDArray[np.uint8], ends: Int64) -> None:
        self.text, self.ends = text, ends

    def __len__(self) -> int:
        return len(self.ends) - 1

    @cached_property
    def lengths(self) -> Int64:
        """Bytes of each."""
        return np.diff(self.ends)

    def each(self) -> Iterator[bytes]:
        """One by one."""
        text = self.text.tobytes()
        return (text[start:end] for start, end in pairwise(self.ends.tolist()))

    def absolute(self) -> Mask:
        """Which were not below the folder that the others are relative to."""
        if os.sep != "/":  # Windows has several ways to be absolute
            return np.array([os.path.isabs(os.fsdecode(path)) for path in self.each()], np.bool_)
        return self.begin_with(b"/")

    def begin_with(self, text: bytes) -> Mask:
        """Which begin so."""
        rows = np.flatnonzero(self.lengths >= len(text))
        for number, value in enumerate(text):
            rows = rows[self.text[self.ends[rows] + number] == value]
        begins = np.zeros(len(self), np.bool_)
        begins[rows] = True
        return begins

    def below(self, folder: str, base: str | None) -> Mask:
        """Which, stored relative to `base`, are of files below the absolute path `folder`."""
        folder = slashed(folder).rstrip("/") + "/"
        above = "" if base is None else slashed(base).rstrip("/") + "/"
        absolute = self.absolute()
        found = absolute & self.begin_with(os.fsencode(folder))
        if above.startswith(folder):
            return found | (~absolute & (self.lengths > 0))
        if folder.startswith(above):
            found |= ~absolute & self.begin_with(os.fsencode(folder[len(above) :]))
        return found


def path_key(path: bytes) -> bytes:
    """What a stored path is found by."""
    return hashlib.blake2b(path, digest_size=16).digest()


def path_index(paths: Sequence[bytes]) -> tuple[Keys, npt.NDArray[np.int32]]:
    """The keys (m, 2) of the paths that are not empty, as numbers, ascending, and the row of each (m,)."""
    digests = bytearray()
    for path in paths:
        if path:
            digests += path_key(path)
    rows = np.array([row for row, path in enumerate(paths) if path], np.int32)
    keys = as_numbers(digests)
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    return keys[order], rows[order]


def as_numbers(digests: bytes | bytearray) -> Keys:
    """Keys one after another as numbers (m, 2), in whose order theirs is."""
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)
