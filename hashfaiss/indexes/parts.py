"""Codes that lie in several places, searched as one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes
from hashfaiss.indexes.answers import Answers
from hashfaiss.indexes.code_index import CodeIndex
from hashfaiss.indexes.kind import Int64
from hashfaiss.indexes.snapshot import Question, Snapshot


class Parts(ABC):
    """Asked as a `CodeIndex` is: each part answers, and `Answers.merge` makes of these what one index would answer.

    Attributes:
        bits: K.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self._empty = CodeIndex(bits=bits, kind="flat")

    @abstractmethod
    def each(self, question: Question, *given: Any) -> list[Answers]:
        """What `question(snapshot, *given)` is of each part, under ids that no two have in common."""

    def ask(self, question: Question, queries: npt.NDArray[np.generic], *given: Any) -> list[Answers]:
        """As `each`; without queries no part is asked, and what else is given is checked all the same."""
        if not len(queries):
            return [question(self._empty.now, queries, *given)]
        return self.each(question, queries, *given)

    @property
    def now(self) -> Parts:
        """As of a `CodeIndex`; each answer of a part is of the same codes."""
        return self

    def search(self, queries: Codes, k: int = 10, exact: bool = False) -> Answers:
        """See `CodeIndex.search`."""
        return Answers.merge(self.ask(Snapshot.search, queries, k, exact), k)

    def within(self, queries: Codes, radius: int, exact: bool = False) -> Answers:
        """See `CodeIndex.within`."""
        return Answers.merge(self.ask(Snapshot.within, queries, radius, exact))


class Together(Parts):
    """Several indexes, whose ids may be alike: an image is known by its number, the indexes one after another.

    Args:
        indexes: of codes of `bits` bits.
        ids: of each index, int64, ascending; there may be more than it has codes of.
    """

    def __init__(self, bits: int, indexes: Sequence[CodeIndex | Parts], ids: Sequence[Int64]) -> None:
        super().__init__(bits)
        self._indexes, self._ids = indexes, ids
        self._ends = np.cumsum([0, *map(len, ids)], dtype=np.int64)

    def each(self, question: Question, *given: Any) -> list[Answers]:
        """See `Parts.each`; one index after another, each in its threads."""
        return [
            replace(answers, ids=first + np.searchsorted(ids, answers.ids))
            for index, ids, first in zip(self._indexes, self._ids, self._ends.tolist(), strict=False)
            for answers in index.now.ask(question, *given)
        ]

    def place(self, number: int) -> tuple[int, int]:
        """Of which index an image is, and its id there."""
        index = int(np.searchsorted(self._ends, number, "right")) - 1
        return index, int(self._ids[index][number - self._ends[index]])
