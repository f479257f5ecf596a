"""Labels of images: from class folders, a CSV file, or the list files of deep-hashing papers.

- Class folders: an image's label is the name of the folder it lies in; one that has names in several folders (hard
  links, or links to it) has the labels of all.
- CSV: `path,label` a line, several labels separated by `;`; or, where the first line has no comma, tabs or semicolons
  between path and labels, as spreadsheets write them. A header line may stand first, whatever it says: a first
  path that is no file of the folder and has no image's suffix, where others have one.
- List files: a path, then one 0 or 1 for each class, separated by spaces; classes are named by their number.
- Class numbers: a path, then the number of its class, which is its label. A single 0 or 1 is one, too: lists of a
  single class would tell nothing.

Paths in a file are relative to the images' folder. Only the images a file lists are used, each once: `./a.png`,
`x//a.png` and `x/../a.png` are written in the shortest way, and a path that stands twice has the labels of all its
lines, in their order, each once. Labels, and paths that are not found as they are written, are taken in one Unicode
normal form.

A file whose first line ends in numbers is a list file, unless that line is also two columns of CSV: then it is CSV
(`a.png,class 0`), but for a line whose numbers follow an image's suffix (`red,blue.png 0 1`).
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

from hashfaiss.errors import LabelError
from hashfaiss.images.finding import (
    Identity,
    ImageFile,
    find_named_files,
    identity_of,
    image_file,
    is_image,
    root_of,
)
from hashfaiss.images.sniffing import SUFFIXES
from hashfaiss.wording import composed

Labels = tuple[str, ...]


def labelled_files(
    folder: str | os.PathLike[str],
    labels_file: str | os.PathLike[str] | None = None,
    on_skip: Callable[[str, str], None] | None = None,
    exclude: Sequence[str] = (),
    opened: bool = True,
) -> Iterator[tuple[ImageFile, Labels]]:
    """Yield the images below `folder` with their labels; () for an image that lies in no class folder.

    Args:
        exclude: patterns of names to leave out, see `find_images`; what `labels_file` lists is never left out.
        opened: False leaves it to the caller to ask `is_image`, which opens files whose names say nothing.

    Raises:
        ArgumentError: `folder` is not a folder.
        LabelError: `labels_file` cannot be read, or lists no file that exists.
    """
    root = root_of(folder)
    if labels_file is None:
        named = find_named_files(folder, on_skip, exclude)
        return ((file, _folder_labels(names, root)) for file, names in named if not opened or is_image(file))
    listed = read_label_file(labels_file, root)
    if not any(os.path.isfile(_spelt(os.path.join(root, path))) for path in listed):
        raise LabelError(
            f"{os.fspath(labels_file)!r} lists {len(listed):,} images, such as {next(iter(listed))!r}, and none of "
            f"them is in {os.fspath(folder)!r}: give the folder its paths start from as the images"
        )
    placed: dict[str, Labels] = {}
    shortest = _Shortest(root)
    for path, labels in listed.items():
        _add(placed, shortest(_spelt(os.path.join(root, path))), labels)  # it may be absolute, or lead through a link
    return ((image_file(path), labels) for path, labels in placed.items())


def _spelt(path: str) -> str:
    """A path as it is spelt on the disk, if it is there in another Unicode normal form."""
    if not path.isascii() and not os.path.lexists(path):
        forms = [unicodedata.normalize(form, path) for form in ("NFC", "NFD")]
        return next(filter(os.path.lexists, forms), path)
    return path


class _Shortest:
    """The one name below a folder of a file there, through whatever links it is named; of hard links, the first."""

    def __init__(self, root: str) -> None:
        self._root, self._real = root, os.path.join(os.path.realpath(root), "")
        self._folders: dict[str, str] = {}
        self._linked: dict[Identity, str] = {}

    def __call__(self, path: str) -> str:
        folder, name = os.path.split(os.path.normpath(path))
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        real = os.path.join(self._folders[folder], name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        path = os.path.join(self._root, real[len(self._real) :]) if real.startswith(self._real) else path
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(path)
            if status.st_nlink > 1 and (identity := identity_of(status)):
                return self._linked.setdefault(identity, path)
        return path


def labelled_images(
    folder: str | os.PathLike[str],
    labels_file: str | os.PathLike[str] | None = None,
    needed: bool = True,
    missing: list[str] | None = None,
) -> list[tuple[str, Labels]]:
    """Path and labels of every image, for training.

    Args:
        needed: each image must have a label; otherwise none gets one, whatever there is.
        missing: takes the listed paths where there is no file, which are then left out.

    Raises:
        ArgumentError: `folder` is not a folder.
        LabelError: no images, or images without a label that is needed.
    """
    files = list(labelled_files(folder, labels_file))
    if missing is not None:
        missing += [file.path for file, _ in files if not os.path.isfile(file.path)]
        gone = set(missing)
        files = [(file, labels) for file, labels in files if file.path not in gone]
    images = [(file.path, labels if needed else ()) for file, labels in files]
    if not images:
        what = "with one folder of images per class" if needed else "of images"
        raise LabelError(f"{os.fspath(folder)!r} holds no images: give a folder {what}")
    if not needed:
        return images
    bare = [path for path, labels in images if not labels]
    if bare:
        raise LabelError(
            f"{len(bare):,} of {len(images):,} images have no label, such as {bare[0]!r}: put each into the folder "
            "of its class, or list them in a CSV file of path,label and give it with --labels"
        )
    return images


def _folder_labels(names: Iterable[str], root: str) -> Labels:
    folders = dict.fromkeys(map(os.path.dirname, names))
    return tuple(dict.fromkeys(composed(os.path.basename(folder)) for folder in folders if folder != root))


def read_label_file(file: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> dict[str, Labels]:
    """Path → labels, in the file's order (see the top of this module for the formats).

    Args:
        folder: that the paths are relative to: what is a file there is no header.

    Raises:
        LabelError: missing, not text, empty, or a line that is neither format; the message names the line.
    """
    name = os.fspath(file)
    text = read_text(name)
    lines = text.split("\n")  # not splitlines: names may hold what Unicode calls a line separator
    found = _read_list(name, lines) if _is_list(lines, text) else _read_csv(name, text, folder)
    if not found:
        raise LabelError(f"the label file {name!r} lists no images")
    return found


def read_text(name: str, what: str = "label file", wanted: str = "a CSV of path,label or a list file") -> str:
    """A text file of names, in UTF-8 or UTF-16; `what` and `wanted` are for the error.

    Raises:
        LabelError: missing, or not text.
    """
    try:
        with open(name, "rb") as opened:
            data = opened.read()
        # surrogateescape: a file name need not be UTF-8
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16") if wide else data.decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise LabelError(f"cannot read the {what} {name!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise LabelError(f"{name!r} is not a text file: give {wanted}")
    return text


def _is_list(lines: list[str], text: str) -> bool:
    entry = _list_line(next((line for line in lines if line.strip()), ""))
    if entry is None:
        return False
    if os.path.splitext(entry[0])[1].lower() in SUFFIXES:
        return True
    try:
        rows = csv.reader(io.StringIO(text), strict=True)
        return len(next(row for row in rows if any(map(str.strip, row)))) != 2
    except csv.Error:
        return True


def _add(found: dict[str, Labels], path: str, labels: Iterable[str]) -> None:
    path = os.path.normpath(path)
    found[path] = tuple(dict.fromkeys((*found.get(path, ()), *map(composed, labels))))


def _list_line(line: str) -> tuple[str, list[str]] | None:
    """Split `path 0 1 0` into its path and flags, `path 12` into its path and that; None for a line of neither form."""
    words = line.split()
    flags = len(words)
    while flags and words[flags - 1] in ("0", "1"):
        flags -= 1
    if flags == len(words) > 1 and words[-1].isascii() and words[-1].isdecimal():
        flags -= 1
    if flags == 0 or flags == len(words):
        return None
    path = line.strip().rsplit(maxsplit=len(words) - flags)[0]
    return path, words[flags:]


def _read_list(name: str, lines: list[str]) -> dict[str, Labels]:
    found: dict[str, Labels] = {}
    width = None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        entry = _list_line(line)
        fits = entry is not None and (width or len(entry[1])) == len(entry[1])
        if entry is None or not fits or (len(entry[1]) > 1 and set(entry[1]) - {"0", "1"}):
            expected = "the number of its class" if width == 1 else f"{width or ''} values of 0 or 1".lstrip()
            raise LabelError(f"line {number} of {name!r} is {line[:80]!r}: expected a path, then {expected}")
        path, flags = entry
        width = len(flags)
        classes = [str(int(flags[0]))] if width == 1 else [str(n) for n, flag in enumerate(flags) if flag == "1"]
        _add(found, path, classes)
    return found


def _read_csv(name: str, text: str, folder: str | os.PathLike[str] | None) -> dict[str, Labels]:
    rows: list[tuple[str, str]] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter_of(text))
    try:
        for row in reader:
            if not row or (not rows and [cell.strip().lower() for cell in row[:2]] in _HEADERS):
                continue
            if len(row) != 2 or not row[0]:
                raise LabelError(
                    f"line {reader.line_num} of {name!r} has {len(row)} columns: expected path,label with several "
                    "labels separated by ';'"
                )
            rows.append((row[0], row[1]))
    except csv.Error as error:
        raise LabelError(f"line {reader.line_num} of {name!r} is not CSV: {error}") from None
    if rows and not is_image_of(rows[0][0], folder) and any(is_image_of(path, folder) for path, _ in rows[1:]):
        del rows[0]  # a header of other words
    found: dict[str, Labels] = {}
    for path, labels in rows:
        _add(found, path, (part.strip() for part in labels.split(";") if part.strip()))
    return found


def delimiter_of(text: str, count: int = 1) -> str:
    """What stands between columns, `count` times a line: a comma, if the first line has one."""
    first = next(filter(str.strip, text.split("\n")), "")
    return "," if "," in first else next((mark for mark in "\t;" if first.count(mark) == count), ",")


_HEADERS = (["path", "label"], ["path", "labels"])


def is_image_of(path: str, folder: str | os.PathLike[str] | None) -> bool:
    if os.path.splitext(path)[1].lower() in SUFFIXES:
        return True
    return folder is not None and os.path.isfile(os.path.join(folder, path))
