"""What a kind of FAISS index is: its name, what it can do and promises as data, and how it is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import faiss

from hashfaiss.codes import Codes
from hashfaiss.errors import ArgumentError


@dataclass(frozen=True)
class Abilities:
    """What a kind can do.

    Attributes:
        summary: the kind in one line.
        guarantee: what its answers promise.
        bytes_per_code: memory FAISS takes for a distinct code, in words.
        parameters: name → meaning, of what may be set.
    """

    summary: str
    guarantee: str
    bytes_per_code: str
    parameters: dict[str, str]


class Kind(ABC):
    """A kind of FAISS binary index with its parameters set.

    Attributes:
        bits: K.
        parameters: every parameter of the kind; those not given are chosen for `distinct` codes.

    A subclass checks its parameters when it is made, before C++ sees them: FAISS hangs or reads out of bounds on some.
    """

    name: ClassVar[str]
    abilities: ClassVar[Abilities]
    lowest_first: ClassVar[bool] = False  # among equal distances, FAISS's search returns the lowest positions

    def __init__(self, bits: int, distinct: int, parameters: dict[str, int]) -> None:
        self.bits = bits
        self.parameters = self.complete(distinct, parameters)

    def complete(self, distinct: int, given: dict[str, int]) -> dict[str, int]:
        """All parameters, from those given; ArgumentError for a value outside its range."""
        return dict(given)

    @abstractmethod
    def build(self, codes: Codes) -> faiss.IndexBinary:
        """The FAISS index over `codes` (n, bytes), in their order."""

    @abstractmethod
    def accepts(self, index: faiss.IndexBinary) -> bool:
        """Whether a loaded FAISS index is of this kind with these parameters."""

    @property
    @abstractmethod
    def complete_radius(self) -> int:
        """Every code within this distance of a query is found; `bits` means all codes are."""

    @property
    def buckets(self) -> int:
        """Buckets a query looks into."""
        return 0

    def __str__(self) -> str:
        settings = ",".join(f"{name}={value}" for name, value in self.parameters.items())
        return f"{self.name}:{settings}" if settings else self.name

    def within(self, name: str, value: int, low: int, high: int) -> int:
        """Return `value` if it lies from `low` to `high`, else raise ArgumentError."""
        if not low <= value <= high:
            raise ArgumentError(
                f"{name} of the {self.name} kind is {value!r}: give a whole number from {low} to {high}"
            )
        return value
