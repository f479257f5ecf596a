"""Which files are images: told by their names, and by their first bytes where a name says nothing."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from hashfaiss.errors import ArgumentError
from hashfaiss.images.names import Excluded
from hashfaiss.images.sniffing import DRAWN_SUFFIX, SUFFIXES, trouble

INT64 = 1 << 63

OnSkip = Callable[[str, str], None]
Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file that may be an image: its absolute path, and what it is known to be unchanged by.

    Size in bytes, modification and change time in ns, inode; 0 where not known, and held to what 64 bits can hold.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: int = 0

    @property
    def doubtful(self) -> bool:
        """Whether its name alone does not make it an image: see `is_image`."""
        return os.path.splitext(self.path)[1].lower() not in SUFFIXES - {DRAWN_SUFFIX}


@dataclass
class PassedOver:
    """Files that are no images, counted by suffix, and what hashfaiss drew itself."""

    suffixes: dict[str, int] = field(default_factory=dict)

    def add(self, path: str, why: str) -> None:
        """Count one."""
        name = os.path.splitext(path)[1].lower() or "without a suffix"
        name = why if why.startswith("drawn") else name
        self.suffixes[name] = self.suffixes.get(name, 0) + 1

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.suffixes.values())

    def __str__(self) -> str:
        most = sorted(self.suffixes.items(), key=lambda each: (-each[1], each[0]))
        named = ", ".join(f"{count:,} {suffix}" for suffix, count in most[:5])
        return named + (", ..." if len(most) > 5 else "")


def image_file(path: str) -> ImageFile:
    """Describe `path`; a file that is not there gets size and time 0, so that reading it tells why."""
    try:
        return _described(path, os.stat(path))
    except (OSError, ValueError):
        return ImageFile(path, 0, 0)


def _described(path: str, status: os.stat_result) -> ImageFile:
    numbers = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)  # a time may be after 2262
    size, changed, touched = (max(-INT64, min(number, INT64 - 1)) for number in numbers)
    return ImageFile(path, size, changed, touched, status.st_ino % INT64)


def is_image(file: ImageFile, passed: PassedOver | None = None) -> bool:
    """Whether a file's name or first bytes are an image's, which hashfaiss did not draw; if not, it is counted."""
    if not file.doubtful:
        return True
    why = trouble(file.path)
    if why is not None and passed is not None:
        passed.add(file.path, why)
    return why is None


def find_images(
    folder: str | os.PathLike[str],
    on_skip: OnSkip | None = None,
    exclude: Sequence[str] = (),
    passed: PassedOver | None = None,
) -> Iterator[ImageFile]:
    """Yield the image files below `folder`, sorted by name, each folder's own before those of its folders.

    Hidden names, what `hashfaiss.images.names` leaves out, index folders, what hashfaiss drew and files that are no
    images are passed over (the last are counted in `passed`). A file that several names lead to is one image: linked
    folders and files are followed, but not to what is found without the link. A folder that cannot be listed is told
    to `on_skip(path, reason)`.

    Args:
        exclude: patterns of more names to leave out, see `hashfaiss.images.names.Excluded`.

    Raises:
        ArgumentError: `folder` is not a folder.
    """
    return (file for file in find_files(folder, on_skip, exclude) if is_image(file, passed))


def find_files(
    folder: str | os.PathLike[str], on_skip: OnSkip | None = None, exclude: Sequence[str] = ()
) -> Iterator[ImageFile]:
    """As `find_images`, but files whose names say nothing are not opened: all of them are yielded."""
    return (file for file, _ in _Walk(root_of(folder), on_skip, Excluded(exclude)).files())


def find_named_files(
    folder: str | os.PathLike[str], on_skip: OnSkip | None = None, exclude: Sequence[str] = ()
) -> Iterator[tuple[ImageFile, list[str]]]:
    """As `find_files`, each with all its names below `folder`: hard links, and links to it. Files of several come last.

    Of linked folders that lead to the same files, the first gives them their names.
    """
    root, excluded = root_of(folder), Excluded(exclude)
    return _named(_Walk(root, on_skip, excluded), _Walk(root, None, excluded))


def _named(walk: _Walk, before: _Walk) -> Iterator[tuple[ImageFile, list[str]]]:
    links = before.links()
    several: list[tuple[ImageFile, Identity]] = []
    for file, identity in walk.files():
        if identity is not None and (identity in walk.names or identity in links):
            several.append((file, identity))
        else:
            yield file, [file.path]
    for file, identity in several:
        yield file, list(dict.fromkeys([file.path, *walk.names.get(identity, ()), *links.get(identity, ())]))


def root_of(folder: str | os.PathLike[str]) -> str:
    """The absolute path of a folder; ArgumentError for anything else."""
    root = os.path.abspath(os.fspath(folder))  # a link is kept as it is named
    if not os.path.isdir(root):
        what = "is a file" if os.path.exists(root) else "does not exist"
        raise ArgumentError(f"{os.fspath(folder)!r} {what}: give a folder of images")
    return root


def identity_of(status: os.stat_result) -> Identity | None:
    """What is the same of all names of a file; None on file systems that have no such thing."""
    return (status.st_dev, status.st_ino) if status.st_ino else None


class _Walk:
    """One walk through a folder, in which each folder and each file comes once.

    Attributes:
        names: of files that may have several: all that the walk came to so far.
    """

    def __init__(self, root: str, on_skip: OnSkip | None, excluded: Excluded) -> None:
        self._root, self._on_skip, self._excluded = root, on_skip, excluded
        self._real = os.path.join(os.path.realpath(root), "")
        self._folders: set[Identity] = set()
        self.names: dict[Identity, list[str]] = {}

    def files(self) -> Iterator[tuple[ImageFile, Identity | None]]:
        for folder, names, links, linked in self._listings():
            for name in names:
                found = self._file(os.path.join(folder, name), name in links, linked)
                if found is not None:
                    yield found

    def links(self) -> dict[Identity, list[str]]:
        """Links to files that the walk comes to without them, by the file."""
        found: dict[Identity, list[str]] = {}
        for folder, names, links, _ in self._listings():
            for path in (os.path.join(folder, name) for name in names if name in links):
                with contextlib.suppress(OSError, ValueError):
                    if (identity := identity_of(os.stat(path))) and self._found_anyway(path):
                        found.setdefault(identity, []).append(path)
        return found

    def _listings(self) -> Iterator[tuple[str, list[str], set[str], bool]]:
        """Folders, the names of their files, in order, which names are links, and whether a link led there."""
        waiting = [(self._root, False)]
        while waiting:
            folder, linked = waiting.pop()
            listed = self._listed(folder)
            if listed is None:
                continue
            names, folders, links = listed
            for name in sorted(folders, reverse=True):
                path = os.path.join(folder, name)
                if not (name in links and self._found_anyway(path)):
                    waiting.append((path, linked or name in links))
            yield folder, sorted(names), links, linked

    def _listed(self, folder: str) -> tuple[list[str], list[str], set[str]] | None:
        """Names of files, folders and links; None for a folder that cannot be listed, or was."""
        names: list[str] = []  # of many files, the names alone are kept
        folders: list[str] = []
        links: set[str] = set()
        try:
            identity = identity_of(os.stat(folder))
            if identity in self._folders:
                return None
            if identity is not None:
                self._folders.add(identity)
            with os.scandir(folder) as listing:
                for entry in listing:
                    if entry.name.startswith("."):
                        continue
                    path = os.path.join(folder, entry.name)
                    if self._excluded.match(os.path.relpath(path, self._root) if self._excluded.paths else entry.name):
                        continue
                    if entry.is_symlink():
                        links.add(entry.name)
                    if not _is_folder(entry):
                        names.append(entry.name)
                    elif not _is_ours(path):
                        folders.append(entry.name)
        except OSError as error:
            if self._on_skip:
                self._on_skip(folder, f"folder cannot be listed: {error.strerror}")
            return None
        return names, folders, links

    def _file(self, path: str, link: bool, linked: bool) -> tuple[ImageFile, Identity | None] | None:
        """The file at `path`, unless it is one already or will be one under another name."""
        named = os.path.splitext(path)[1].lower() in SUFFIXES
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return (ImageFile(path, 0, 0), None) if named else None  # a name that says nothing was no image
        if link and self._found_anyway(path):
            return None
        identity = identity_of(status)
        if identity is not None and (status.st_nlink > 1 or linked or link):
            names = self.names.setdefault(identity, [])
            names.append(path)
            if len(names) > 1:
                return None
        return (_described(path, status), identity) if named or stat.S_ISREG(status.st_mode) else None

    def _found_anyway(self, link: str) -> bool:
        """Whether the walk comes to what a link leads to without it."""
        real = os.path.realpath(link)
        if not real.startswith(self._real):
            return os.path.join(real, "") == self._real
        below = real[len(self._real) :]
        return not any(part.startswith(".") for part in below.split(os.sep)) and not self._excluded.any_of(below)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()  # looks at the file only where it is a link
    except OSError:  # a link to itself
        return False


def _is_ours(folder: str) -> bool:
    """Whether a folder is an index of hashfaiss, or what a training left beside its model."""
    if folder.endswith(".training"):
        return os.path.exists(os.path.join(folder, "metrics.csv"))
    return os.path.exists(os.path.join(folder, "manifest.json")) and os.path.isdir(os.path.join(folder, "codes"))
