"""The files that an index knows: by path, by contents, and which of them are gone.

A file is unchanged where path, size, modification and change time and inode are. Otherwise its bytes are read: an image
of these bytes that the index has already gives its code, whatever it was called.

Absence is no deletion: a file is gone where its name is absent from a folder that lists others.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hashfaiss.storage.paths import Int64
from hashfaiss.storage.segments import Row
from hashfaiss.storage.store import CodeStore

if TYPE_CHECKING:
    from hashfaiss.images.finding import ImageFile
    from hashfaiss.images.labels import Labels

GONE_AT_ONCE = 10  # more than so many, and more than half of a folder's, are not believed to be deleted
NOWHERE = "a link into nowhere"
EMPTY = "a folder that is empty now, as where a disk is not there"


@dataclass(frozen=True)
class Known:
    """An image of the index: its number in the order of ids, its id, and whether its file and labels are unchanged."""

    number: int
    id: int
    same: bool


class KnownFiles:
    """The files in a store.

    Args:
        store: what was committed.
        folder: real path; `gone` speaks of the files below it. None: of no file.
    """

    def __init__(self, store: CodeStore, folder: str | None) -> None:
        self._store, self._places, self._folder = store, store.places(), folder
        self._below = np.zeros(len(self._places.ids), np.bool_)
        if folder is not None:
            self._below[self._numbers_below(folder)] = True
        self._seen = np.zeros(len(self._places.ids), np.bool_)

    def _numbers_below(self, folder: str) -> Int64:
        return np.searchsorted(self._places.ids, self._store.below(folder))

    def find_all(self, files: Sequence[ImageFile], labels: Sequence[Labels]) -> list[Known | None]:
        """For each file the image at its path, or None. The files count as seen from now on."""
        places = self._places
        numbers = places.first_at([self._store.stored_path(file.path) for file in files])
        known = np.flatnonzero(numbers >= 0)
        self._seen[numbers[known]] = True
        states = [(f.size, f.mtime_ns, f.ctime_ns, f.inode) for f in (files[at] for at in known.tolist())]
        same = np.zeros(len(files), np.bool_)
        same[known] = places.unchanged(numbers[known], states, [labels[at] for at in known.tolist()])
        return [
            Known(number, int(places.ids[number]), alike) if number >= 0 else None
            for number, alike in zip(numbers.tolist(), same.tolist(), strict=True)
        ]

    def find(self, file: ImageFile, labels: Labels) -> Known | None:
        """As `find_all`, for one file."""
        return self.find_all([file], [labels])[0]

    def labels(self, files: Sequence[ImageFile]) -> list[Labels]:
        """The labels that the image at each path has, () for an unknown one."""
        numbers = self._places.first_at([self._store.stored_path(file.path) for file in files]).tolist()
        return [self._places.labels(number) if number >= 0 else () for number in numbers]

    def may_have(self, file: ImageFile) -> bool:
        """Whether an image of the index may have the same bytes: it has as many."""
        return self._places.has_size(file.size)

    def with_digest(self, digest: bytes) -> Iterator[tuple[int, Row]]:
        """Numbers and rows of the images of these bytes."""
        for number in self._places.with_digest(digest).tolist():
            yield number, self._places.row(number)

    def id(self, number: int) -> int:
        """The id of an image."""
        return int(self._places.ids[number])

    def code(self, number: int) -> bytes:
        """The code of an image."""
        return self._places.code(number).tobytes()

    def same_file(self, row: Row, file: ImageFile) -> bool:
        """Whether a row's path leads to a file that has another name, and the row is not of the folder itself."""
        path = self._store.full_path(row)
        try:
            return path is not None and not self._is_below(path) and os.path.samefile(path, file.path)
        except OSError:
            return False

    def _is_below(self, path: str) -> bool:
        return self._folder is not None and path.startswith(os.path.join(self._folder, ""))

    def moved(self, number: int, row: Row, file: ImageFile) -> bool:
        """Whether an image is now `file`, which has the same bytes: its own name is gone. It then counts as seen."""
        path = self._store.full_path(row)
        if path is None or self._seen[number] or os.path.lexists(path):
            return False
        listed = os.path.isdir(os.path.dirname(path)) and why_kept(path) is None
        if row.inode != file.inode and not listed:
            return False
        self._seen[number] = True
        return True

    def keep_below(self, folder: str) -> None:
        """Count every file below `folder` as seen: it could not be listed, which does not mean they are gone."""
        self._seen[self._numbers_below(folder)] = True

    def missed(self, number: int) -> None:
        """Count an image as not seen: its name was there, its file was not."""
        self._seen[number] = False

    def gone(self, allowed: bool = False) -> tuple[Int64, dict[str, str]]:
        """Ids of the files below the folder that are gone, and why others stay that were not seen.

        Args:
            allowed: also of what may be away for a while: below links into nowhere, in folders that are empty now, and
                more than half of a folder at once.

        Returns:
            ids (n,), and reasons by path: of a folder, or of the one file.
        """
        left: list[int] = []
        absent: list[int] = []
        kept: dict[str, str] = {}
        folders: dict[str, tuple[str, str] | None] = {}
        for number in np.flatnonzero(self._below & ~self._seen).tolist():
            path = self._store.full_path(self._places.row(number))
            assert path is not None
            try:
                os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                folder = os.path.dirname(path)
                if folder not in folders:
                    folders[folder] = why_kept(path)
                why = (path, NOWHERE) if os.path.islink(path) else folders[folder]
                if why is None or (allowed and why[1] in (NOWHERE, EMPTY)):
                    absent.append(number)
                else:
                    kept[why[0]] = why[1]
            except OSError as error:
                kept[path] = str(error.strerror)
            else:  # left out, a second name, or not listed by the label file
                left.append(number)
        if not allowed:
            for folder, numbers in self._gone_at_once(absent).items():
                kept[folder] = (
                    f"{len(numbers):,} of its {len(self._numbers_below(folder)):,} images are gone at once: if they "
                    "were deleted, allow removals"
                )
                left_out = set(numbers)
                absent = [number for number in absent if number not in left_out]
        return self._places.ids[np.array(sorted(left + absent), np.int64)], kept

    def _gone_at_once(self, absent: list[int]) -> dict[str, list[int]]:
        """Of absent images those that are too many of any folder's to be believed deleted, by the topmost such folder.

        A disk that is away may take the name of the folder along where it was mounted.
        """
        above: dict[str, list[int]] = defaultdict(list)
        top = self._folder or ""
        for number in absent:
            folder = self._store.full_path(self._places.row(number)) or ""
            while len(folder) > len(top):
                folder = os.path.dirname(folder)
                above[folder].append(number)
        found: dict[str, list[int]] = {}
        for folder in sorted(above, key=len):
            if len(above[folder]) <= GONE_AT_ONCE or any(folder.startswith(os.path.join(taken, "")) for taken in found):
                continue
            if 2 * len(above[folder]) > len(self._numbers_below(folder)):  # which looks at all paths
                found[folder] = above[folder]
        return found


def why_kept(path: str) -> tuple[str, str] | None:
    """Where and why an absent file may be away for a while; None where a folder lists others.

    Reads the nearest folder above it that is there.
    """
    folder = os.path.dirname(path)
    while not os.path.lexists(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    if not os.path.exists(folder):
        return folder, NOWHERE
    try:
        with os.scandir(folder) as listing:
            return None if next(listing, None) else (folder, EMPTY)
    except OSError as error:
        return folder, f"folder cannot be listed: {error.strerror}"


def images_trouble(store: CodeStore) -> str | None:
    """What is the case with the files of a store's images, if some are not there or not as they were; else None."""
    from hashfaiss.images.finding import image_file

    gone: list[str] = []
    changed: list[str] = []
    files = 0
    for _, row in store.rows():
        path = store.full_path(row)
        if path is None:
            continue
        files += 1
        file = image_file(path)
        now = (file.size, file.mtime_ns, file.ctime_ns, file.inode)
        if not file.inode and not os.path.exists(path):
            gone.append(path)
        elif any(before and before != after for before, after in zip(row.state, now, strict=True)):
            changed.append(path)
    told = [
        f"{len(paths):,} of {files:,} files are {what}, such as {paths[0]!r}"
        for paths, what in ((gone, "gone or away"), (changed, "not as they were"))
        if paths
    ]
    return f"{'; '.join(told)}: build their folder again, or remove them" if told else None
