"""Which image lies at a path: the path digests of all segments, in one order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hashfaiss.storage.paths import Int64, Mask, as_numbers, path_key
from hashfaiss.storage.segments import Labels, Segment


class Places:
    """The images of a generation by path: 28 bytes each, however long their paths are, and 20 when files are compared.

    Attributes:
        ids: int64 (images,), ascending.
    """

    def __init__(self, segments: Sequence[Segment], live: Sequence[Mask]) -> None:
        self._segments = list(segments)
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

    def unchanged(self, numbers: Int64, states: Sequence[tuple[int, int, Labels]]) -> Mask:
        """Whether size, time and labels of images' files are these."""
        same = np.zeros(len(numbers), np.bool_)
        if not states:
            return same
        sizes, times, labels = zip(*states, strict=True)
        wanted = np.array([sizes, times], np.int64)
        of_segment = np.searchsorted(self._ends, numbers, side="right") - 1
        for place in np.unique(of_segment).tolist():
            segment, some = self._segments[place], np.flatnonzero(of_segment == place)
            rows = np.searchsorted(segment.ids, self.ids[numbers[some]])
            alike = (np.array([segment.sizes[rows], segment.times[rows]]) == wanted[:, some]).all(axis=0)
            for at, row in zip(some[alike].tolist(), rows[alike].tolist(), strict=True):
                same[at] = segment.labels(row) == labels[at]
        return same

    def labels(self, number: int) -> Labels:
        """The labels of an image."""
        segment = self._segments[int(np.searchsorted(self._ends, number, side="right")) - 1]
        return segment.labels(int(np.searchsorted(segment.ids, self.ids[number])))
