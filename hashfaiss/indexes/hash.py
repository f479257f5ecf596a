"""Hash: looks into the buckets whose first b bits are near the query's."""

from __future__ import annotations

from math import comb

import faiss

from hashfaiss.codes import Codes, code_bytes
from hashfaiss.errors import ArgumentError
from hashfaiss.indexes.kind import Abilities, Kind

# A call into FAISS cannot be interrupted: one query visits at most this many buckets (about 0.2 s),
MAX_BUCKETS = 1 << 20
CODES_PER_ADD = 1 << 18  # and one call adds at most this many codes (about 0.3 s).


class Hash(Kind):
    """`faiss.IndexBinaryHash`: codes in buckets by their first b bits; a query visits every bucket within `flips`.

    A code at distance r differs from the query in at most r of the first b bits, so every code within `flips` is
    found, and an answer whose last distance is at most `flips` is certified exact (FAISS.md section 2 measures the
    bound: it is sharp).
    """

    name = "hash"
    abilities = Abilities(
        summary="looks into the buckets near the query's first b bits",
        guarantee="exact for codes within distance `flips`; each answer says whether that certifies it",
        bytes_per_code="K/8 + 8 to 20",
        parameters={
            "b": "bits that choose the bucket (default: log2 of the distinct codes, 4 to 24)",
            "flips": "bits of these that may differ (default 2)",
        },
    )

    def complete(self, distinct: int, given: dict[str, int]) -> dict[str, int]:
        asked = given.get("flips", 0)
        b = given.get("b")
        if b is None:
            b = min(self.bits, 32, max(4, asked, min(24, distinct.bit_length() - 1)))
            while b > max(4, asked) and _buckets(b, asked) > MAX_BUCKETS:
                b -= 1
        self.within("b", b, 1, min(self.bits, 32))
        flips = self.within("flips", given.get("flips", min(2, b)), 0, b)  # above b FAISS never returns
        if _buckets(b, flips) > MAX_BUCKETS:
            most = max(fewer for fewer in range(flips) if _buckets(b, fewer) <= MAX_BUCKETS)
            raise ArgumentError(
                f"flips of the {self.name} kind is {flips}: with b={b} give a whole number from 0 to {most}, or a "
                f"query visits more than {MAX_BUCKETS:,} buckets"
            )
        return {"b": b, "flips": flips}

    def build(self, codes: Codes) -> faiss.IndexBinary:
        index = faiss.IndexBinaryHash(8 * code_bytes(self.bits), self.parameters["b"])
        index.nflip = self.parameters["flips"]
        for start in range(0, len(codes), CODES_PER_ADD):
            index.add(codes[start : start + CODES_PER_ADD])
        return index

    def accepts(self, index: faiss.IndexBinary) -> bool:
        asked = (self.parameters["b"], self.parameters["flips"])
        return isinstance(index, faiss.IndexBinaryHash) and (getattr(index, "b", None), index.nflip) == asked

    @property
    def buckets(self) -> int:
        return _buckets(self.parameters["b"], self.parameters["flips"])

    @property
    def complete_radius(self) -> int:
        return self.bits if self.parameters["flips"] == self.parameters["b"] else self.parameters["flips"]


def _buckets(b: int, flips: int) -> int:
    return sum(comb(b, flipped) for flipped in range(min(b, flips) + 1))
