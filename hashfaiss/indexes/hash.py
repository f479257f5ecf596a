"""Hash: looks into the buckets whose first b bits are near the query's."""

from __future__ import annotations

from math import comb

import faiss

from hashfaiss.codes import Codes, code_bytes
from hashfaiss.indexes.kind import Abilities, Kind


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
        b = given.get("b", min(self.bits, max(4, given.get("flips", 0), min(24, distinct.bit_length() - 1))))
        self.within("b", b, 1, min(self.bits, 32))
        flips = given.get("flips", min(2, b))
        # above b FAISS never returns; far below it, the buckets to visit outnumber any index
        self.within("flips", flips, 0, min(b, 8))
        return {"b": b, "flips": flips}

    def build(self, codes: Codes) -> faiss.IndexBinary:
        index = faiss.IndexBinaryHash(8 * code_bytes(self.bits), self.parameters["b"])
        index.nflip = self.parameters["flips"]
        index.add(codes)
        return index

    def accepts(self, index: faiss.IndexBinary) -> bool:
        asked = (self.parameters["b"], self.parameters["flips"])
        return isinstance(index, faiss.IndexBinaryHash) and (getattr(index, "b", None), index.nflip) == asked

    @property
    def buckets(self) -> int:
        return sum(comb(self.parameters["b"], flipped) for flipped in range(self.parameters["flips"] + 1))

    @property
    def complete_radius(self) -> int:
        return self.bits if self.parameters["flips"] == self.parameters["b"] else self.parameters["flips"]
