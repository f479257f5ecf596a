"""Which files are images, told by their names alone: reading them is another room's work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hashfaiss.errors import ArgumentError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}
)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file that by its name is an image: absolute path, size in bytes, modification time in ns."""

    path: str
    size: int
    mtime_ns: int


def image_file(path: str) -> ImageFile:
    """Describe `path`; a file that is not there gets size and time 0, so that reading it tells why."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ImageFile(path, 0, 0)
    return ImageFile(path, status.st_size, status.st_mtime_ns)


def find_images(
    folder: str | os.PathLike[str], on_skip: Callable[[str, str], None] | None = None
) -> Iterator[ImageFile]:
    """Yield the image files below `folder`, sorted by name, each folder's own before those of its folders.

    Hidden names and names without an image suffix are passed over. Linked folders are followed, but never into
    themselves. A folder that cannot be listed is told to `on_skip(path, reason)`.

    Raises:
        ArgumentError: `folder` is not a folder.
    """
    root = os.path.abspath(os.fspath(folder))  # links are kept as they are named
    if not os.path.isdir(root):
        what = "is a file" if os.path.exists(root) else "does not exist"
        raise ArgumentError(f"{os.fspath(folder)!r} {what}: give a folder of images")
    return _walk(root, on_skip)


def _walk(root: str, on_skip: Callable[[str, str], None] | None) -> Iterator[ImageFile]:
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = os.stat(folder)
            names: list[str] = []  # of many files, the names alone are kept
            folders: list[str] = []
            with os.scandir(folder) as listing:
                for entry in listing:
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        folders.append(entry.name)
                    elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                        names.append(entry.name)
        except OSError as error:
            if on_skip:
                on_skip(folder, f"folder cannot be listed: {error.strerror}")
            continue
        here = (status.st_dev, status.st_ino)
        if here in above:
            continue
        within = above | {here}
        waiting += [(os.path.join(folder, name), within) for name in sorted(folders, reverse=True)]
        names.sort()
        for name in names:
            yield image_file(os.path.join(folder, name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()  # looks at the file only where it is a link
    except OSError:  # a link to itself
        return False
