"""Acting on near images: which of a group is kept, and what is done with the others' files.

No group loses its last file: before one is moved or linked, the kept one is read. Links are left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hashfaiss.errors import ArgumentError, HashfaissError, ImageError
from hashfaiss.library.hits import Hit


@dataclass(frozen=True)
class Other:
    """A file of a group that is not kept.

    Attributes:
        path: the file.
        kept: the one that stays in its place.
        identical: they have the same bytes.
    """

    path: str
    kept: str
    identical: bool


def _pixels(path: str) -> int:
    from hashfaiss.images.decoding import open_image, read_image

    with contextlib.suppress(Exception), open_image(path) as image:  # the header alone
        return image.width * image.height
    try:
        return read_image(path)[0].numel()
    except ImageError:
        return 0


# Of a group, the file with the greatest of these is kept, and of equal ones the first by name.
KEEP: dict[str, Callable[[str], tuple[float, ...]]] = {
    "best": lambda path: (_pixels(path), os.path.getsize(path), -os.path.getmtime(path)),
    "oldest": lambda path: (-os.path.getmtime(path),),
    "largest": lambda path: (os.path.getsize(path), -os.path.getmtime(path)),
}


def others(
    group: Sequence[Hit],
    keep: str | None,
    indexed: Callable[[int], bytes] | None = None,
    folder: str | os.PathLike[str] | None = None,
    left: Callable[[str, str], None] = lambda path, reason: None,
) -> list[Other]:
    """The files of a group beside the one that is kept; none where fewer than two can be read.

    Images without a file, links, and files that a linked folder leads to are left alone.

    Args:
        keep: of `KEEP`; None keeps the group's first image, as of a reference folder, or nothing is done.
        indexed: the digest that an image's file had when it was indexed, by id. A file with another one is another
            picture now, which nothing is known about: it is neither kept nor among the others.
        folder: where the others are to go. What is there already counts as gone: kept there, it might be thrown away.
        left: called with the path and the reason of each file left alone for these two.

    Raises:
        ArgumentError: `keep` is not in `KEEP`.
    """
    if keep is not None and keep not in KEEP:
        raise ArgumentError(f"keep is {keep!r}: give {', '.join(KEEP)}")
    digests: dict[str, bytes] = {}
    for hit in group:
        if hit.path is None or not _own(hit.path):
            continue
        if folder is not None and hit.path.startswith(os.path.join(os.path.realpath(folder), "")):
            left(hit.path, f"it lies below {os.fspath(folder)!r} already")
        elif (digest := _digest(hit.path)) is not None:
            if indexed is not None and digest != indexed(hit.id):
                left(hit.path, "it has changed since it was indexed: build its folder again")
            else:
                digests[hit.path] = digest
    if len(digests) < 2 or (keep is None and group[0].path not in digests):
        return []
    if keep is None:
        kept = str(group[0].path)
    else:
        kept = min(digests, key=lambda path: (*(-value for value in KEEP[keep](path)), path))
    return [Other(path, kept, digest == digests[kept]) for path, digest in digests.items() if path != kept]


def _own(path: str) -> bool:
    """Whether a path leads to a file through no link."""
    return os.path.isfile(path) and os.path.realpath(path) == os.path.abspath(path)


def _digest(path: str) -> bytes | None:
    from hashfaiss.files import content_digest
    from hashfaiss.images.decoding import read_bytes

    try:
        return content_digest(read_bytes(path))
    except ImageError:
        return None


def move(other: Other, folder: Path, base: str | None) -> Path:
    """Move a file below `folder`, under the path it had below `base`; what is there stays. Returns where it is now.

    Raises:
        HashfaissError: the kept file is not there any more, or this one cannot be moved.
    """
    _check_kept(other)
    inside = base is not None and other.path.startswith(os.path.join(base, ""))
    below = os.path.relpath(other.path, base) if inside else os.path.splitdrive(other.path)[1].lstrip(os.sep)
    wanted = folder / below
    target, number = wanted, 1
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while os.path.lexists(target):
            number += 1
            target = wanted.with_name(f"{wanted.stem} ({number}){wanted.suffix}")
        shutil.move(other.path, target)
    except OSError as error:
        raise HashfaissError(f"cannot move {other.path!r} to {str(target)!r}: {error.strerror or error}") from None
    return target


def hard_link(other: Other) -> None:
    """Make a file another name of the kept one, whose bytes it has.

    Raises:
        HashfaissError: their bytes are not the same, or the file system cannot link them; both stay as they were.
    """
    _check_kept(other)
    if not other.identical or _digest(other.path) != _digest(other.kept):
        raise HashfaissError(f"{other.path!r} has other bytes than {other.kept!r}: it was not linked")
    aside = f"{other.path}.{os.getpid()}.tmp"
    try:
        os.link(other.kept, aside)
        os.replace(aside, other.path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise HashfaissError(f"cannot link {other.path!r} to {other.kept!r}: {error.strerror or error}") from None


def _check_kept(other: Other) -> None:
    same = os.path.exists(other.kept) and os.path.exists(other.path) and os.path.samefile(other.kept, other.path)
    if same or _digest(other.kept) is None:
        raise HashfaissError(f"{other.kept!r}, which was to be kept, is not a file of its own now: nothing was done")


class Dismissed:
    """Groups that a person has looked at and dismissed: lines of `hashfaiss duplicates --json`, in a file.

    Raises:
        HashfaissError: it cannot be read, or a line is none of these.
    """

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self._sets: list[frozenset[str]] = []
        name = os.fspath(file)
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise HashfaissError(f"cannot read {name!r}: {getattr(error, 'strerror', None) or error}") from None
        for number, line in enumerate(lines, start=1):
            try:
                if line.strip():
                    self._sets.append(frozenset(image["path"] for image in json.loads(line)["images"]))
            except (ValueError, TypeError, KeyError):
                raise HashfaissError(
                    f"line {number} of {name!r} is no group: give lines of `hashfaiss duplicates --json`"
                ) from None

    def without(self, groups: Iterable[tuple[Hit, ...]]) -> Iterator[tuple[Hit, ...]]:
        """The groups but those whose images all stand in one dismissed group."""
        for group in groups:
            paths = {hit.path for hit in group}
            if not any(paths <= dismissed for dismissed in self._sets):
                yield group
