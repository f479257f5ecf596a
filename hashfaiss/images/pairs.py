"""Pairs of images that somebody has judged: a CSV of path,path,same, where same is 1 for two of one picture, else 0.

A header may stand first. Relative paths begin at the file's folder.
"""

from __future__ import annotations

import csv
import io
import os
from typing import NamedTuple

from hashfaiss.errors import LabelError
from hashfaiss.images.labels import delimiter_of, is_image_of, read_text


class Pair(NamedTuple):
    """Two images, by absolute paths, and whether they are the same to whoever judged them."""

    one: str
    other: str
    same: bool


def read_pairs(file: str | os.PathLike[str]) -> list[Pair]:
    """The pairs of a file, in its order.

    Raises:
        LabelError: missing, not text, no pairs, or a line of another form; the message names the line.
    """
    name = os.fspath(file)
    text = read_text(name, "file of pairs", "a CSV of path,path,same")
    folder = os.path.dirname(os.path.abspath(name))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter_of(text, 2))
    pairs: list[Pair] = []
    first = True
    try:
        for row in filter(None, reader):
            marked = len(row) == 3 and row[2].strip() in ("0", "1")
            if marked and all(row):
                one, other = (os.path.normpath(os.path.join(folder, path)) for path in row[:2])
                pairs.append(Pair(one, other, row[2].strip() == "1"))
            elif not first or is_image_of(row[0], folder):  # else it is a header
                line = f"line {reader.line_num} of {name!r} is {','.join(row)[:80]!r}"
                raise LabelError(f"{line}: expected path,path,same, where same is 1 or 0")
            first = False
    except csv.Error as error:
        raise LabelError(f"line {reader.line_num} of {name!r} is not CSV: {error}") from None
    if not pairs:
        raise LabelError(f"{name!r} lists no pairs: give lines of path,path,same, where same is 1 or 0")
    return pairs
