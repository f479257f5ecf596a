"""What a store of codes answers; `CodeStore` is one that is opened, checked and written."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hashfaiss.codes import Codes, check_bits, check_codes, code_bytes
from hashfaiss.storage.damage import Damaged, corrupt
from hashfaiss.storage.manifest import unpacked_ids
from hashfaiss.storage.paths import Int64, Mask, Paths, full_path, stored_path
from hashfaiss.storage.patterns import Patterns
from hashfaiss.storage.places import Places
from hashfaiss.storage.segments import CHUNK_ROWS, Row, Segment
from hashfaiss.wording import composed


class StoredCodes:
    """Codes of images and what is known of their files.

    Attributes:
        path: the folder, or None for a store in memory.
        base: the folder that stored paths are relative to: the one the index folder lies in, whatever link led there.
        bits: K.
        manifest: the committed generation, as read; of its segments, those that are sound.
        damaged: the others, where the store was opened in spite of them.
    """

    def __init__(self, path: Path | None, manifest: dict[str, Any], segments: list[Segment]) -> None:
        self.path = path
        self.base = None if path is None else os.path.dirname(os.path.realpath(path))
        self.manifest = manifest
        self.bits = check_bits(manifest["bits"])
        self._segments = segments
        self._live: list[Mask] | None = None
        self.damaged: list[Damaged] = []

    @property
    def live(self) -> list[Mask]:
        """For each segment, which rows have not been removed since."""
        if self._live is None:
            # those that a segment took out are in the manifest too: they stay out where that segment is damaged
            known = unpacked_ids(self.manifest.get("removed", ""), self.manifest["next_id"])
            removed = np.concatenate([known, *(segment.removed for segment in self._segments)])
            self._live = [~np.isin(segment.ids, removed) for segment in self._segments]
        return self._live

    def __len__(self) -> int:
        return int(sum(np.count_nonzero(live) for live in self.live))

    def codes(self, segments: Collection[int] | None = None) -> tuple[Codes, Int64]:
        """Codes (n, ceil(K/8)) and ids (n,) of all images, or of those of `segments`, by ascending id.

        Raises:
            CorruptIndexError: a segment is damaged.
        """
        if self.damaged:
            raise corrupt(self.damaged)
        codes, ids = [np.empty((0, code_bytes(self.bits)), np.uint8)], [np.empty(0, np.int64)]
        for number, (segment, live) in enumerate(zip(self._segments, self.live, strict=True)):
            if segments is None or number in segments:
                codes.append(check_codes(segment.codes, self.bits)[live])
                ids.append(segment.ids[live])
        return np.concatenate(codes), np.concatenate(ids)

    def ids(self) -> Int64:
        """Ids of all images, ascending."""
        pairs = zip(self._segments, self.live, strict=True)
        return np.concatenate([np.empty(0, np.int64), *(segment.ids[live] for segment, live in pairs)])

    def batches(self) -> Iterator[tuple[Codes, list[tuple[int, Row]]]]:
        """Codes of images, uint8 (n, ceil(K/8)), with the id and row of each: some at a time, by ascending id.

        Raises:
            CorruptIndexError: a segment is damaged.
        """
        if self.damaged:
            raise corrupt(self.damaged)
        for segment, live in zip(self._segments, self.live, strict=True):
            codes, rows = check_codes(segment.codes, self.bits)[live], segment.rows(live)
            for start in range(0, len(codes), CHUNK_ROWS):
                yield codes[start : start + CHUNK_ROWS], list(islice(rows, CHUNK_ROWS))
            segment.forget()

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Id and row of every image, by ascending id."""
        for segment, live in zip(self._segments, self.live, strict=True):
            yield from segment.rows(live)
            segment.forget()

    def places(self, removed: bool = False) -> Places:
        """Where each path lies; with `removed`, where those lay that are out, as long as their rows are there."""
        return Places(self._segments, self._among(removed))

    def below(self, folder: str, removed: bool = False) -> Int64:
        """Ids of the images of files below an absolute path; `removed` as in `places`."""
        return self._chosen(lambda paths: paths.below(folder, self.base), None, removed)

    def _among(self, removed: bool) -> list[Mask]:
        return [~live for live in self.live] if removed else self.live

    def labels(self) -> set[str]:
        """Every label that an image has."""
        found = set[str]()
        for segment, live in zip(self._segments, self.live, strict=True):
            found |= segment.names(live)
            segment.forget()
        return found

    def where(self, labels: Collection[str] | None = None, paths: Collection[str] | None = None) -> Int64:
        """Ids of the images that have one of `labels` and whose path matches one of `paths`; None asks for nothing.

        A pattern is matched like that of `find -path`: `*` goes across folders. One that does not begin with `/` may
        begin at any folder of the path: `holiday/*` finds `/photos/holiday/2020/a.jpg`; so does `./holiday/*`. Labels,
        paths and patterns are compared in one Unicode normal form, and on Windows `/` and `\\` are the same.
        """
        wanted = None if paths is None else Patterns(paths, self.base).match
        return self._chosen(wanted, None if labels is None else set(map(composed, labels)))

    def _chosen(self, wanted: Callable[[Paths], Mask] | None, labels: set[str] | None, removed: bool = False) -> Int64:
        found = [np.empty(0, np.int64)]
        for segment, live in zip(self._segments, self._among(removed), strict=True):
            chosen = live.copy() if labels is None else live & segment.having(labels)
            if wanted is not None:
                for part, paths in segment.paths(chosen):
                    chosen[part] &= wanted(paths)
            found.append(segment.ids[chosen])
            segment.forget()
        return np.concatenate(found)

    def row(self, image_id: int) -> Row:
        """What is known of one image; KeyError if there is none of that id."""
        number, row = self._at(image_id)
        return self._segments[number].row(row)

    def code(self, image_id: int) -> Codes:
        """The code of one image, uint8 (ceil(K/8),); KeyError if there is none of that id, or it was taken out."""
        number, row = self._at(image_id)
        if not self.live[number][row]:
            raise KeyError(image_id)
        return self._segments[number].code(row)

    def _at(self, image_id: int) -> tuple[int, int]:
        """The number of its segment and its row there."""
        for number in reversed(range(len(self._segments))):
            ids = self._segments[number].ids
            row = bisect_left(ids, image_id)  # numpy's lets other threads run, which costs more than it does
            if row < len(ids) and ids[row] == image_id:
                return number, row
        raise KeyError(image_id)

    def full_path(self, row: Row) -> str | None:
        """The absolute path of a row's file; None for an image from memory."""
        return full_path(row.path, self.base)

    def stored_path(self, path: str) -> bytes:
        """The bytes that stand for an absolute path in this store."""
        return stored_path(path, self.base)
