"""MultiHash: several hash tables over other bits each."""

from __future__ import annotations

from typing import Any

import faiss

from hashfaiss.errors import ArgumentError
from hashfaiss.indexes.buckets import BUCKET_BYTES, BucketKind
from hashfaiss.indexes.kind import SLACK, Abilities


class MultiHash(BucketKind):
    """`faiss.IndexBinaryMultiHash`: m tables of buckets, each by b bits of its own.

    A code that all m tables miss differs from the query in at least flips + 1 bits of each, so every code within
    m (flips + 1) - 1 is found (Norouzi, Punjani & Fleet 2012; FAISS.md section 2: the bound is sharp).
    """

    name = "multihash"
    candidate = 130.0  # they go through a std::unordered_set
    abilities = Abilities(
        summary="looks into the buckets near the query's in several tables, each by b balanced bits of its own",
        guarantee="exact for codes within tables * (flips + 1) - 1; each answer says whether that certifies it",
        bytes_per_code="W + 60 and more",
        parameters={
            "tables": "hash tables (default 4, or as many as have b bits)",
            "b": "bits that choose the bucket in each (default: log2 of the distinct codes, 4 to 16)",
            "flips": "bits of these that may differ (default 0)",
        },
        exact="flips more bits while that is cheaper than a flat scan",
    )

    def complete(self, distinct: int, given: dict[str, int]) -> dict[str, int]:
        default = min(self.bits, max(4, min(16, distinct.bit_length() - 1)))
        if "tables" in given and 0 < given["tables"] <= self.bits:
            default = min(default, self.bits // given["tables"])
        b = self.within_range("b", given.get("b", default), 1, min(self.bits, 32))
        tables = self.within_range("tables", given.get("tables", min(4, self.bits // b)), 1, self.bits)
        if tables * b > self.bits:
            raise ArgumentError(
                f"{tables} tables of {b} bits each need {tables * b} bits, and codes have {self.bits}: "
                f"with b={b} give at most {self.bits // b} tables"
            )
        self.tables = tables
        return {"tables": tables, "b": b, "flips": self.check_flips(given.get("flips", 0), b)}

    def make(self) -> Any:
        return faiss.IndexBinaryMultiHash(8 * self.width, self.tables, self.parameters["b"])

    @property
    def held_bytes(self) -> float:
        ids = SLACK * self.faiss.ntotal * 8 * self.tables
        return float(self.faiss.ntotal * self.width + ids + self.faiss.hashtable_size() * BUCKET_BYTES)

    def accepts(self, index: Any) -> bool:
        if not isinstance(index, faiss.IndexBinaryMultiHash):
            return False
        return [getattr(index, name) for name in ("nhash", "b", "nflip")] == list(self.parameters.values())

    @property
    def can_be_saved(self) -> bool:
        # FAISS loses a bucket of all codes where their number is a power of two (FAISS.md, R4)
        n = self.faiss.ntotal
        return bool(n & (n - 1))

    def complete_at(self, flips: int) -> int:
        return self.bits if flips >= self.parameters["b"] else self.tables * (flips + 1) - 1
