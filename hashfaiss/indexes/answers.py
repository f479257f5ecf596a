"""What a search returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.errors import ArgumentError


@dataclass(frozen=True)
class Answers:
    """Answers to a batch of queries, one after another; no padding, each sorted by (distance, id).

    Attributes:
        offsets: int64 (queries + 1,); query q's answers are at offsets[q] to offsets[q + 1].
        ids: int64 (answers,).
        distances: Hamming distances, int32 (answers,).
        exact: bool (queries,); True where the probes made prove that flat search would answer the same.
        scores: asymmetric distances, float64 (answers,), where answers were sorted by (score, distance, id) instead.
        complete: int32 (queries,); a query with as many answers as were asked for missed nothing within this distance
            that is not farther than all of them. None where only `exact` is known.
        missing: what did not answer, of codes that lie in several places; then nothing is exact.
    """

    offsets: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    distances: npt.NDArray[np.int32]
    exact: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float64] | None = None
    complete: npt.NDArray[np.int32] | None = None
    missing: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.exact)

    def __getitem__(self, query: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Ids and distances of one query."""
        if not -len(self) <= query < len(self):
            raise IndexError(f"query {query} of {len(self)}")
        start = self.offsets[query % len(self)]
        end = self.offsets[query % len(self) + 1]
        return self.ids[start:end], self.distances[start:end]

    def __iter__(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]]:
        return (self[query] for query in range(len(self)))

    def padded(self, k: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """As FAISS's `search` has it: distances and ids of the k first of each query, both (queries, k).

        Where there were fewer, the distance is 2**31 - 1 and the id -1.

        Raises:
            ArgumentError: `k` is no whole number, or negative.
        """
        k = whole_number("k", k, 0)
        distances = np.full((len(self), k), np.iinfo(np.int32).max, np.int32)
        ids = np.full((len(self), k), -1, np.int64)
        ranks = np.arange(len(self.ids)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))
        rows, kept = np.repeat(np.arange(len(self)), np.diff(self.offsets)), ranks < k
        distances[rows[kept], ranks[kept]], ids[rows[kept], ranks[kept]] = self.distances[kept], self.ids[kept]
        return distances, ids

    @classmethod
    def join(cls, parts: list[Answers]) -> Answers:
        """One batch after another."""
        counts = [np.diff(part.offsets) for part in parts]
        scores = [part.scores for part in parts if part.scores is not None]
        complete = [part.complete for part in parts if part.complete is not None]
        return cls(
            np.concatenate([[0], *counts]).cumsum(dtype=np.int64),
            np.concatenate([np.empty(0, np.int64), *(part.ids for part in parts)]),
            np.concatenate([np.empty(0, np.int32), *(part.distances for part in parts)]),
            np.concatenate([np.empty(0, np.bool_), *(part.exact for part in parts)]),
            np.concatenate(scores) if scores else None,
            np.concatenate(complete) if len(complete) == len(parts) > 0 else None,
            _missing(parts),
        )

    @classmethod
    def merge(cls, parts: Sequence[Answers], k: int | None = None) -> Answers:
        """Answers of several indexes to the same queries as one: the k first by (distance, id), or all for a radius.

        Where they have scores, it is by (score, distance, id). An answer is certified where all parts' are, or where
        each of the others proves that it missed nothing as near as the k-th. With answers to `search(queries, k)`,
        certified ones are those of one index over all codes.

        Args:
            parts: of indexes that have no id in common.
            k: as the parts were asked for; None where they were asked for a radius.

        Raises:
            ArgumentError: there are none, they answer different numbers of queries, or some are ordered by scores.
        """
        scored = {part.scores is not None for part in parts if len(part.ids)}
        if not parts or any(len(part) != len(parts[0]) for part in parts) or len(scored) > 1:
            raise ArgumentError(
                "answers that do not belong together: give those of several indexes to the same queries"
            )
        queries = len(parts[0])
        counts = np.array([np.diff(part.offsets) for part in parts])  # (parts, queries)
        asked = np.concatenate([np.repeat(np.arange(queries), count) for count in counts])
        ids = np.concatenate([part.ids for part in parts])
        distances = np.concatenate([part.distances for part in parts])
        scores = [part.scores for part in parts if part.scores is not None]
        score = np.concatenate(scores) if scores and False not in scored else None
        order = np.lexsort((ids, distances, asked) if score is None else (ids, distances, score, asked))
        total = counts.sum(axis=0)
        kept = total if k is None else np.minimum(total, k)
        ranks = np.arange(len(order)) - np.repeat(total.cumsum() - total, total)
        order = order[ranks < np.repeat(kept, total)]
        offsets = np.append(0, kept.cumsum())
        exact = np.ones(queries, np.bool_)
        last = np.append(distances[order], 0)[offsets[1:] - 1]
        for part, count in zip(parts, counts, strict=True):
            proven = np.zeros(queries, np.bool_)
            if part.complete is not None and k:
                proven = (count == k) & (part.complete >= last)
            exact &= part.exact | proven
        by_score = None if score is None else score[order]
        return cls(offsets, ids[order], distances[order], exact, by_score, missing=_missing(parts))


def _missing(parts: Sequence[Answers]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in parts for name in part.missing))


def whole_number(name: str, value: Any, low: int) -> int:
    """`value`; ArgumentError where it is no whole number of `low` or more."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise ArgumentError(f"{name} is {value!r}: give a whole number of {low} or more")
    return int(value)
