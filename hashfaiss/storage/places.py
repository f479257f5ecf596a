"""Which image lies at a path, and which has these bytes: the digests of all segments, in one order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes
from hashfaiss.storage.paths import Int64, Mask, as_numbers, path_key
from hashfaiss.storage.segments import Labels, Row, Segment

Numbers = npt.NDArray[np.uint64]


class Places:
    """The images of a generation by path: 28 bytes each, however long their paths are, and 36 when files are compared.

    By contents, which are looked at only when asked for: 40 bytes each, and the code.

    Attributes:
        ids: int64 (images,), ascending.
    """

    def __init__(self, segments: Sequence[Segment], live: Sequence[Mask]) -> None:
        self._segments, self._live = list(segments), list(live)
        self.ids: Int64 = np.concatenate(
            [np.empty(0, np.int64), *(s.ids[m] for s, m in zip(segments, live, strict=True))]
        )
        self._ends = np.cumsum([0, *(int(mask.sum()) for mask in live)], dtype=np.int64)
        firsts, seconds, numbers = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)], [np.empty(0, np.uint32)]
        for segment, mask, before in zip(segments, live, self._ends.tolist(), strict=False):
            keys, rows = segment.path_index()
            number = np.cumsum(mask, dtype=np.uint32) + np.uint32(before) - np.uint32(1)
            kept = mask[rows]
            firsts.append(keys[kept, 0])
            seconds.append(keys[kept, 1])
            numbers.append(number[rows[kept]])
        self._first, self._second = np.concatenate(firsts), np.concatenate(seconds)
        self._numbers = np.concatenate(numbers)
        if len(segments) > 1:  # what is in order already is merged, not sorted
            order = np.argsort(self._first, kind="stable")
            self._first, self._second = self._first[order], self._second[order]
            self._numbers = self._numbers[order]

    def at(self, path: bytes) -> Int64:
        """Which of `ids` are at this stored path: none, one, or several where the same file was stored again."""
        key = as_numbers(path_key(path))[0]
        first, last = (int(np.searchsorted(self._first, key[0], side)) for side in ("left", "right"))
        found: Int64 = self._numbers[first:last][self._second[first:last] == key[1]].astype(np.int64)
        return found

    def first_at(self, paths: Sequence[bytes]) -> Int64:
        """Which of `ids` is at each of these stored paths, the first where there are several; -1 for none."""
        keys = as_numbers(b"".join(map(path_key, paths)))
        at = np.searchsorted(self._first, keys[:, 0])
        found = np.full(len(paths), -1, np.int64)
        left = np.arange(len(paths))
        while True:  # once, but for two digests that begin with the same 8 bytes
            left = left[at[left] < len(self._first)]
            left = left[self._first[at[left]] == keys[left, 0]]
            if not len(left):
                return found
            same = self._second[at[left]] == keys[left, 1]
            found[left[same]] = self._numbers[at[left[same]]]
            left = left[~same]
            at[left] += 1

    def unchanged(self, numbers: Int64, states: Sequence[Sequence[int]], labels: Sequence[Labels]) -> Mask:
        """Whether what `stat` says of images' files, as in `segments.STATE`, and their labels are as stored.

        What is not stored (0) is not compared.
        """
        same = np.zeros(len(numbers), np.bool_)
        if not len(numbers):
            return same
        wanted = np.array(states, np.int64).T
        for segment, some, rows in self._by_segment(numbers):
            stored = segment.states[:, rows]
            alike = ((stored == wanted[:, some]) | (stored == 0)).all(axis=0) & (stored[0] == wanted[0, some])
            for at, row in zip(some[alike].tolist(), rows[alike].tolist(), strict=True):
                same[at] = segment.labels(row) == labels[at]
        return same

    def _by_segment(self, numbers: Int64) -> Iterator[tuple[Segment, Int64, Int64]]:
        """Segments of these images: which of `numbers` are in each, and their rows."""
        of_segment = np.searchsorted(self._ends, numbers, side="right") - 1
        for place in np.unique(of_segment).tolist():
            segment, some = self._segments[place], np.flatnonzero(of_segment == place)
            yield segment, some, np.searchsorted(segment.ids, self.ids[numbers[some]])

    def labels(self, number: int) -> Labels:
        """The labels of an image."""
        ((segment, _, rows),) = self._by_segment(np.array([number]))
        return segment.labels(int(rows[0]))

    def row(self, number: int) -> Row:
        """All that is known of an image."""
        ((segment, _, rows),) = self._by_segment(np.array([number]))
        return segment.row(int(rows[0]))

    def code(self, number: int) -> Codes:
        """Its code: uint8 (ceil(K/8),)."""
        codes: Codes = self._codes[number]
        return codes

    @cached_property
    def _codes(self) -> Codes:
        return self._of_all("codes")

    def _of_all(self, column: str) -> npt.NDArray[Any]:
        columns = [getattr(s, column)[live] for s, live in zip(self._segments, self._live, strict=True)]
        return np.concatenate(columns)

    def has_size(self, size: int) -> bool:
        """Whether there is an image whose file has so many bytes: only then can one have the same bytes."""
        at = int(np.searchsorted(self._sizes, size))
        return at < len(self._sizes) and bool(self._sizes[at] == size)

    @cached_property
    def _sizes(self) -> Int64:
        pairs = zip(self._segments, self._live, strict=True)
        return np.sort(np.concatenate([np.empty(0, np.int64), *(s.states[0][live] for s, live in pairs)]))

    def with_digest(self, digest: bytes) -> Int64:
        """Which of `ids` are of files of these bytes."""
        wanted = as_numbers(digest)[0]
        first, second, numbers = self._digests
        start, end = (int(np.searchsorted(first, wanted[0], side)) for side in ("left", "right"))
        found: Int64 = numbers[start:end][second[start:end] == wanted[1]]
        return found

    @cached_property
    def _digests(self) -> tuple[Numbers, Numbers, Int64]:
        """Both halves of all digests, in the order of the first, and whose they are."""
        digests = as_numbers(self._of_all("digests").tobytes()) if self._segments else np.empty((0, 2), np.uint64)
        order = np.argsort(digests[:, 0], kind="stable")
        return digests[order, 0], digests[order, 1], order
