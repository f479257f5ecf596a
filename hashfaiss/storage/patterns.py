"""Patterns of paths, as `find -path` has them, matched to many paths at once.

A pattern is a row of tokens: `*` (any characters, `/` too), `?` (one), `[...]` (one of these, as `fnmatch` has it), or
a character. Many paths lie one after another in one array of characters; each token looks at all of them together.
"""

from __future__ import annotations

import fnmatch
import os
import re
import sys
from collections.abc import Collection
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.storage.paths import Paths

Int64 = npt.NDArray[np.int64]
Characters = npt.NDArray[np.unsignedinteger[Any]]
Tokens = tuple[str, ...]  # "*", "?", "[...]", or "=" and the character

ANY: Tokens = ("*",)


class Patterns:
    """What a path must match one of, for paths that are stored relative to a folder, or absolute.

    One that does not begin with `/` may begin at any folder of the path.
    """

    def __init__(self, patterns: Collection[str], base: str | None) -> None:
        self.absolute: set[Tokens] = set()
        for pattern in {*patterns, *map(_through_links, patterns)}:
            tokens = _tokens(pattern.removeprefix("./"))
            self.absolute.add(tokens)
            if not pattern.startswith("/"):
                self.absolute.add(("*", "=/", *tokens))
        above = "" if base is None else os.path.join(base, "")
        self.relative = {rest for tokens in self.absolute for rest in _after(tokens, above)}

    def match(self, paths: Paths) -> npt.NDArray[np.bool_]:
        """Which of the paths match; an image without a path matches nothing."""
        absolute = paths.absolute()
        matches = np.zeros(len(paths), np.bool_)
        text, ends = _characters(paths)
        for patterns, rows in ((self.relative, ~absolute & (paths.lengths > 0)), (self.absolute, absolute)):
            for tokens in sorted(patterns, key=len):
                left = np.flatnonzero(rows & ~matches)
                if len(left):
                    matches[left[_matching(tokens, text, ends[:-1][left], ends[1:][left])]] = True
        return matches


def _through_links(pattern: str) -> str:
    """An absolute pattern, the folder it begins with called by its real name."""
    folder, name = os.path.split(re.split(r"[*?\[]", pattern)[0])
    real = os.path.realpath(folder)
    if not os.path.isabs(folder) or real.strip(os.sep) == os.path.normpath(folder).strip(os.sep):
        return pattern
    return os.path.join(real, name) + pattern[len(os.path.join(folder, name)) :]


def _tokens(pattern: str) -> Tokens:
    tokens: list[str] = []
    at = 0
    while at < len(pattern):
        token = f"={pattern[at]}"
        if pattern[at] in "*?":
            token = pattern[at]
        elif pattern[at] == "[":
            inside = at + 1 + pattern[at + 1 :].startswith("!")
            end = pattern.find("]", inside + 1)  # one that stands first is of the class
            if end > 0:
                token, at = pattern[at : end + 1], end
        at += 1
        if token != "*" or tokens[-1:] != ["*"]:
            tokens.append(token)
    return tuple(tokens)


@cache
def _one_of(token: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(token))


def _is(token: str, values: Characters) -> npt.NDArray[np.bool_]:
    """Which of these characters the token is."""
    if token == "?":
        return np.ones(len(values), np.bool_)
    if token[0] == "=":
        return np.asarray(values == ord(token[1]))
    there, where = np.unique(values, return_inverse=True)
    chosen = [_one_of(token).match(chr(value)) is not None for value in there.tolist()]
    return np.array(chosen, np.bool_)[where]


def _after(tokens: Tokens, text: str) -> set[Tokens]:
    """What is left to be matched once `text` was: one of these."""
    places = _with_stars(tokens, {0})
    for character in text:
        value = np.array([ord(character)], np.uint32)
        one_on = {at + 1 for at in places if at < len(tokens) and tokens[at] != "*" and _is(tokens[at], value)[0]}
        places = _with_stars(tokens, one_on | {at for at in places if tokens[at : at + 1] == ANY})
    return {
        tokens[at:] for at in places if tokens[at - 1 : at] != ANY or at == 0
    }  # what a star leaves is in the star's


def _with_stars(tokens: Tokens, places: set[int]) -> set[int]:
    return places | {at + 1 for at in places if tokens[at : at + 1] == ANY}


def _characters(paths: Paths) -> tuple[Characters, Int64]:
    """All characters of the paths, and where each path begins and ends in them."""
    if not (paths.text >= 128).any():
        return paths.text, paths.ends
    encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    texts = [path.decode(encoding, errors) for path in paths.each()]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32), ends


def _matching(tokens: Tokens, text: Characters, starts: Int64, ends: Int64) -> Int64:
    """Numbers of the paths text[starts:ends] that match."""
    pieces = _pieces(tokens)
    least = sum(map(len, pieces))
    if len(pieces) == 1:
        fit = np.flatnonzero(ends - starts == least)
        return fit[_at(tokens, text, starts[fit])]
    head, *middle, tail = pieces
    rows = np.flatnonzero(ends - starts >= least)
    rows = rows[_at(head, text, starts[rows])]
    rows = rows[_at(tail, text, ends[rows] - len(tail))]
    at, limit = starts[rows] + len(head), ends[rows] - len(tail)
    for piece in middle if len(rows) else ():  # each at the first place where it is after the one before
        found = np.flatnonzero(_is(piece[0], text[: len(text) - len(piece) + 1]))
        found = found[_at(piece[1:], text, found + 1)]
        place = np.append(found, len(text))[np.searchsorted(found, at)] + len(piece)
        kept = place <= limit
        rows, at, limit = rows[kept], place[kept], limit[kept]
    return rows


def _pieces(tokens: Tokens) -> list[Tokens]:
    """What stands before, between and after the stars."""
    stars = [-1, *(number for number, token in enumerate(tokens) if token == "*"), len(tokens)]
    return [tokens[before + 1 : after] for before, after in pairwise(stars)]


def _at(piece: Tokens, text: Characters, places: Int64) -> Int64:
    """Which of these places the piece stands at."""
    left = np.arange(len(places))
    for number, token in enumerate(piece):
        if token != "?":
            left = left[_is(token, text[places[left] + number])]
    return left
