"""How evenly hash buckets fill: by the first bits as they are stored, and by the bits hashfaiss chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes
from hashfaiss.indexes import Distinct
from hashfaiss.indexes.buckets import balanced_order, bucket_sizes
from hashfaiss.indexes.kinds import parse_kind


@dataclass(frozen=True)
class BucketReport:
    """Buckets of distinct codes.

    Attributes:
        b: bits that choose the bucket.
        stored, chosen: sizes of the buckets, largest first, by the first b bits and by the b bits chosen.
    """

    b: int
    stored: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]

    @property
    def met(self) -> tuple[float, float]:
        """Codes that a code meets in its own bucket, itself included, on average: what a lookup costs."""
        return _met(self.stored), _met(self.chosen)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: how many buckets hold 1, 2-3, 4-7, ... codes."""
        return {
            "b": self.b,
            **{
                name: {"met": _met(sizes), "largest": int(sizes.max(initial=0)), "sizes": powers_of_two(sizes)}
                for name, sizes in (("stored", self.stored), ("chosen", self.chosen))
            },
        }


def bucket_report(codes: Codes, bits: int) -> BucketReport:
    """Of the distinct ones of codes (n, ceil(bits/8)), with the default number of bits of the hash kind."""
    distinct = Distinct.of(codes, np.arange(len(codes))).codes
    b = parse_kind("hash", bits, len(distinct)).parameters["b"]
    order = balanced_order(distinct, bits, 1, b)
    first = np.arange(b, dtype=np.int32)
    return BucketReport(b, bucket_sizes(distinct, first), bucket_sizes(distinct, order[:b]))


def powers_of_two(sizes: npt.NDArray[np.int64]) -> list[int]:
    """How many of these sizes are 1, 2-3, 4-7, ..."""
    return np.bincount(np.log2(sizes).astype(np.int64)).tolist() if len(sizes) else []


def _met(sizes: npt.NDArray[np.int64]) -> float:
    return float((sizes**2).sum() / max(1, sizes.sum()))
