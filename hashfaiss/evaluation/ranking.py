"""Exact Hamming ranking without FAISS: how many items, and how many relevant ones, lie at each distance.

A metric of a ranking with ties needs no sort: the counts at each of the K + 1 distances say everything
(McSherry & Najork 2008). Trained codes repeat, so images with the same code and the same labels are counted together.
Everything runs in blocks: memory does not grow with queries times database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, check_bits, check_codes, hamming, words
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation.batches import Counts, Flags, batches

Labels = Sequence[tuple[str, ...]]
Keys = npt.NDArray[Any]  # uint8 or uint16

COUNT_CELLS = 1 << 16  # items in one counting step: their 64-bit words stay in the processor's cache
KEPT_CELLS = 1 << 24  # bytes of relevance that are kept for queries with the same labels
SORT_CELLS = 1 << 20  # query-item pairs in one sorting step: about 25 MB


class LabelSets:
    """The labels of n images as n small numbers and the distinct label sets they stand for.

    Attributes:
        set_of_row: int32 (n,), which distinct set each image carries.
        sets: the distinct label sets, in order of first appearance; the order of labels inside a tuple is ignored.
    """

    def __init__(self, labels: Labels) -> None:
        number_of: dict[frozenset[str], int] = {}
        # most rows repeat as they are, and a tuple is looked up faster than a set of it is made
        known: dict[tuple[str, ...], int] = {}
        self.set_of_row = np.empty(len(labels), dtype=np.int32)
        for place, row in enumerate(labels):
            number = known.get(row)
            if number is None:
                number = known[row] = number_of.setdefault(frozenset(row), len(number_of))
            self.set_of_row[place] = number
        self.sets = list(number_of)
        carriers: dict[str, list[int]] = {}
        for number, labels_of_set in enumerate(self.sets):
            for label in labels_of_set:
                carriers.setdefault(label, []).append(number)
        self._carriers = {label: np.array(numbers) for label, numbers in carriers.items()}

    def relevance(self, query: Iterable[str]) -> Flags:
        """Which distinct sets share at least one label with the query: bool (len(sets),).

        An empty set shares nothing: an unlabelled query has no relevant item, an unlabelled item is never relevant.
        """
        relevant = np.zeros(len(self.sets), dtype=np.bool_)
        for label in query:
            if label in self._carriers:
                relevant[self._carriers[label]] = True
        return relevant


def distinct_codes(codes: Codes) -> tuple[Counts, Counts, Counts]:
    """Group equal codes (n, bytes) -> (first row of each group (g,), group of each row (n,), images in each (g,))."""
    return _refine(np.zeros(len(codes), dtype=np.int64), words(codes).T)


def _refine(group: Counts, columns: Iterable[npt.NDArray[np.generic]]) -> tuple[Counts, Counts, Counts]:
    """Split the groups (n,) by every column (n,) in turn: integer sorts only, whatever the width of a code."""
    for column in columns:
        values, value_of_row = np.unique(column, return_inverse=True)
        group = np.unique(group * len(values) + value_of_row, return_inverse=True)[1]
    _, first, group, count = np.unique(group, return_index=True, return_inverse=True, return_counts=True)
    return first, group, count


def exact_ranking(query_codes: Codes, database_codes: Codes) -> tuple[npt.NDArray[np.uint16], Counts]:
    """The whole database in order of (distance, position) for a batch of queries.

    Returns:
        (distances, positions), both (queries, n): uint16 Hamming distances, ascending, and int64 database rows.
        That is 10 bytes for each query and item: give as many queries at once as memory allows.
    """
    distances = hamming(query_codes, database_codes)
    return np.sort(distances, axis=1, kind="stable"), order(distances)


def order(distances: npt.NDArray[np.uint16]) -> Counts:
    """Columns of each row in order of (distance, column): int64, the shape of `distances`.

    A stable argsort of integers of at most 16 bits is a radix sort: one pass over a byte, two over uint16.
    """
    fits_byte = distances.max(initial=0) <= 255
    return np.argsort(distances.astype(np.uint8) if fits_byte else distances, axis=1, kind="stable")


class Database:
    """Codes and labels to rank: the exact oracle that metrics and indexes are held against.

    Args:
        codes: uint8 (n, ceil(bits/8)), packed as hashfaiss.codes says.
        bits: K.
        labels: a tuple of label names for each image; None means that no image has a label.
    """

    def __init__(self, codes: Codes, bits: int, labels: Labels | None = None) -> None:
        self.bits = check_bits(bits)
        self.codes = check_codes(codes, self.bits, "database codes")
        self.labels = LabelSets(_labels_of(self.codes, labels, "database"))
        columns = [*words(self.codes).T, self.labels.set_of_row]
        first, _, self._count = _refine(np.zeros(len(codes), dtype=np.int64), columns)
        self._first = first
        self._group_words = np.ascontiguousarray(words(self.codes[first]).T)  # (words, groups)
        self._group_set = self.labels.set_of_row[first]
        self._weights = None if (self._count == 1).all() else self._count
        # a key is a distance, and K + 1 more where the item is relevant
        self._key_type = np.uint8 if 2 * self.bits + 1 <= 255 else np.uint16

    def __len__(self) -> int:
        return len(self.codes)

    def groups(self) -> tuple[Codes, npt.NDArray[np.int32], Counts]:
        """Images with the same code and labels as one: codes (g, bytes), number of the label set, and how many."""
        return self.codes[self._first], self._group_set, self._count

    def level_counts(
        self,
        queries: Codes,
        labels: Labels | None = None,
        leave_out: npt.ArrayLike | None = None,
        device: str = "cpu",
    ) -> tuple[Counts, Counts]:
        """Count database items, and relevant ones, at every Hamming distance from every query.

        Args:
            queries: uint8 (queries, ceil(bits/8)).
            labels: a tuple of label names for each query; relevant means sharing at least one.
            leave_out: for each query the database row that is the query itself and must not count, or None.
            device: "cpu" for numpy, else where torch counts the same, such as "cuda".

        Returns:
            (items, relevant), both int64 (queries, K + 1); column d counts distance d.
        """
        queries = check_codes(queries, self.bits, "query codes")
        labels = _labels_of(queries, labels, "query")
        if device == "cpu":
            counts = self._count_levels(words(queries), labels)
        else:
            from hashfaiss.evaluation.torch_counts import count_levels

            relevance = [self.labels.relevance(row) for row in labels]
            counts = count_levels(
                device, words(queries), self._group_words, self._group_set, self._weights, relevance, self.bits
            )
        relevant = counts[:, 1]
        items = counts.sum(axis=1)
        if leave_out is not None:
            self._subtract(items, relevant, queries, labels, self._rows(leave_out, len(queries)))
        return items, relevant

    def _count_levels(self, queries: npt.NDArray[np.uint64], labels: Labels) -> Counts:
        """Counts (queries, 2, K + 1) of items that are not relevant, and that are, by distance."""
        levels = self.bits + 1
        counts = np.zeros((len(queries), 2 * levels), dtype=np.int64)
        added = _Kept(lambda row: np.take(self.labels.relevance(row) * self._key_type(levels), self._group_set))
        scratch = np.empty(COUNT_CELLS, np.uint64)
        for start in range(0, len(self._group_set), COUNT_CELLS):
            block = slice(start, start + COUNT_CELLS)
            code_words, weights = self._group_words[:, block], None if self._weights is None else self._weights[block]
            keys: Keys = np.empty(code_words.shape[1], self._key_type)
            for number, row in enumerate(labels):
                _distances(queries[number], code_words, scratch[: len(keys)], keys)
                keys += added(row)[block]
                counts[number] += np.bincount(keys, weights, minlength=2 * levels).astype(np.int64, copy=False)
        return counts.reshape(len(queries), 2, levels)

    def _subtract(self, items: Counts, relevant: Counts, queries: Codes, labels: Labels, rows: Counts) -> None:
        """Take each query's own database row out of its counts."""
        sets = self.labels.set_of_row[rows]
        distances = np.bitwise_count(queries ^ self.codes[rows]).sum(axis=1, dtype=np.int64)
        for query, distance in enumerate(distances):
            items[query, distance] -= 1
            relevant[query, distance] -= self.labels.relevance(labels[query])[sets[query]]

    def ranked_relevance(
        self, queries: Codes, labels: Labels, leave_out: npt.ArrayLike | None = None
    ) -> Iterator[tuple[slice, Flags]]:
        """Which items are relevant, in the stable order of (distance, database row), batch by batch.

        Yields:
            (slice of the queries, bool (queries of the slice, n or n - 1 items in rank order)).
        """
        queries = check_codes(queries, self.bits, "query codes")
        labels = _labels_of(queries, labels, "query")
        rows = None if leave_out is None else self._rows(leave_out, len(queries))
        flags = _Kept(lambda row: self.labels.relevance(row)[self.labels.set_of_row])
        for batch in batches(len(queries), len(self), SORT_CELLS):
            positions = order(hamming(queries[batch], self.codes))
            if rows is not None:
                positions = positions[positions != rows[batch, None]].reshape(len(positions), -1)
            yield batch, np.stack([flags(row).take(p) for row, p in zip(labels[batch], positions, strict=True)])

    def _rows(self, leave_out: npt.ArrayLike, queries: int) -> Counts:
        rows = np.asarray(leave_out)
        if rows.shape != (queries,) or not np.issubdtype(rows.dtype, np.integer):
            raise ArgumentError(
                f"leave_out is {rows.dtype} of shape {rows.shape}: give one database row for each of the "
                f"{queries} queries"
            )
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise ArgumentError(
                f"leave_out holds rows {rows.min()} to {rows.max()}: the database has rows 0 to {len(self) - 1}"
            )
        return rows.astype(np.int64)


class _Kept:
    """A function of a query's labels, its last values kept: queries of one class share theirs."""

    def __init__(self, make: Callable[[tuple[str, ...]], npt.NDArray[Any]]) -> None:
        self._make = make
        self._values: dict[tuple[str, ...], npt.NDArray[Any]] = {}

    def __call__(self, row: tuple[str, ...]) -> npt.NDArray[Any]:
        found = self._values.get(row)
        if found is None:
            found = self._make(row)
            if (len(self._values) + 1) * found.nbytes > KEPT_CELLS:
                self._values.clear()
            self._values[row] = found
        return found


def _distances(
    query: npt.NDArray[np.uint64],
    code_words: npt.NDArray[np.uint64],
    scratch: npt.NDArray[np.uint64],
    out: Keys,
) -> None:
    """Hamming distances of one query (words,) from codes (words, n) into `out` (n,), without a new array."""
    np.bitwise_xor(code_words[0], query[0], out=scratch)
    np.bitwise_count(scratch, out=out)
    for word in range(1, len(code_words)):
        np.bitwise_xor(code_words[word], query[word], out=scratch)
        out += np.bitwise_count(scratch)


def _labels_of(codes: Codes, labels: Labels | None, name: str) -> Labels:
    if labels is None:
        return [()] * len(codes)
    if len(labels) != len(codes):
        raise ArgumentError(f"{name} has {len(codes)} codes and {len(labels)} label tuples: give one tuple a code")
    for row in labels:
        if isinstance(row, str):
            raise ArgumentError(f"{name} labels hold the text {row!r}: give tuples, ({row!r},) for one label")
    return [row if type(row) is tuple else tuple(row) for row in labels]
