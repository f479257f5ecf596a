"""Hash: looks into the buckets whose b bits are near the query's."""

from __future__ import annotations

from typing import Any

import faiss

from hashfaiss.indexes.buckets import BUCKET_BYTES, MAX_BUCKETS, BucketKind
from hashfaiss.indexes.kind import SLACK, Abilities


class Hash(BucketKind):
    """`faiss.IndexBinaryHash`: codes in buckets by b bits; a query visits every bucket within `flips`.

    A code at distance r differs from the query in at most r of these b bits, so every code within `flips` is found,
    and an answer whose last distance is at most `flips` is certified exact (FAISS.md section 2 measures the bound: it
    is sharp).
    """

    name = "hash"
    abilities = Abilities(
        summary="looks into the buckets near the query's, by b balanced bits",
        guarantee="exact for codes within distance `flips`; each answer says whether that certifies it",
        bytes_per_code="W + 8 to 20",
        parameters={
            "b": "bits that choose the bucket (default: log2 of the distinct codes, 4 to 24)",
            "flips": "bits of these that may differ (default 2)",
        },
        exact="flips more bits while that is cheaper than a flat scan",
    )

    def complete(self, distinct: int, given: dict[str, int]) -> dict[str, int]:
        asked = given.get("flips", 0)
        b = given.get("b")
        if b is None:
            b = min(self.bits, 32, max(4, asked, min(24, distinct.bit_length() - 1)))
            while b > max(4, asked) and self.buckets_at(b, asked) > MAX_BUCKETS:
                b -= 1
        self.within_range("b", b, 1, min(self.bits, 32))
        return {"b": b, "flips": self.check_flips(given.get("flips"), b)}

    def make(self) -> Any:
        return faiss.IndexBinaryHash(8 * self.width, self.parameters["b"])

    @property
    def held_bytes(self) -> float:
        codes = SLACK * self.faiss.ntotal * (self.width + 8)
        return float(codes + self.faiss.hashtable_size() * BUCKET_BYTES)

    def accepts(self, index: Any) -> bool:
        asked = (self.parameters["b"], self.parameters["flips"])
        return isinstance(index, faiss.IndexBinaryHash) and (getattr(index, "b", None), index.nflip) == asked

    def complete_at(self, flips: int) -> int:
        return self.bits if flips >= self.parameters["b"] else flips
