"""Is a set of codes any good, before anybody searches it?

Good bits are ones half of the time and say different things (Weiss, Torralba & Fergus 2008 ask for both); trained bits
often are neither. Where many images share a code, distance cannot order them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, check_bits, check_codes
from hashfaiss.evaluation.batches import Counts
from hashfaiss.evaluation.metrics import Floats
from hashfaiss.evaluation.ranking import Database, distinct_codes

BLOCK = 1 << 16  # codes unpacked at once; their co-occurrences stay exact in float32
TIE_SAMPLE = 1000  # images whose neighbours are looked at
TIE_RANK = 10


@dataclass(frozen=True)
class CodeHealth:
    """Facts about n codes of K bits.

    Attributes:
        images, bits, distinct: n, K and the number of different codes.
        ones: float64 (K,), share of images where each bit is 1.
        mean_entropy: mean over bits of the binary entropy of `ones`, in bits: 1 is perfect balance, 0 no information.
        constant_bits: bits that are the same in every image.
        correlation: float64 (K, K), Pearson correlation of bits; 0 wherever a constant bit takes part.
        mean_correlation, greatest_correlation: of the absolute values off the diagonal.
        buckets: entry i is how many distinct codes are carried by 2^i to 2^(i+1) - 1 images.
        largest_bucket: images on the commonest code.
        tie_rate: share of sampled images whose 10th and 11th nearest others are equally far; None below 12 images.
    """

    images: int
    bits: int
    distinct: int
    ones: Floats
    mean_entropy: float
    constant_bits: int
    correlation: Floats
    mean_correlation: float
    greatest_correlation: float
    buckets: tuple[int, ...]
    largest_bucket: int
    tie_rate: float | None

    @property
    def bucket_names(self) -> tuple[str, ...]:
        """The images a code that each entry of `buckets` stands for: 1, 2-3, 4-7, …"""
        return tuple("1" if i == 0 else f"{2**i}-{2 ** (i + 1) - 1}" for i in range(len(self.buckets)))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the correlation matrix, ready for JSON."""
        return {
            "images": self.images,
            "bits": self.bits,
            "distinct": self.distinct,
            "ones": self.ones.tolist(),
            "mean_entropy": self.mean_entropy,
            "constant_bits": self.constant_bits,
            "mean_correlation": self.mean_correlation,
            "greatest_correlation": self.greatest_correlation,
            "buckets": dict(zip(self.bucket_names, self.buckets, strict=True)),
            "largest_bucket": self.largest_bucket,
            "tie_rate": self.tie_rate,
        }


def code_health(codes: Codes, bits: int, seed: int = 0) -> CodeHealth:
    """Measure the balance, correlation, repetition and ties of codes, uint8 (n, ceil(bits/8)).

    Args:
        seed: chooses the images sampled for the tie rate; nothing else is random.
    """
    bits = check_bits(bits)
    codes = check_codes(codes, bits)
    n = len(codes)
    together = _co_occurrence(codes, bits)
    ones = np.diagonal(together)
    constant = (ones == 0) | (ones == n)
    correlation = _correlation(together, n)
    off_diagonal = np.abs(correlation[~np.eye(bits, dtype=np.bool_)])
    _, _, count = distinct_codes(codes)
    shares = ones / max(n, 1)
    return CodeHealth(
        images=n,
        bits=bits,
        distinct=len(count),
        ones=shares,
        mean_entropy=float(_entropy(shares).mean()),
        constant_bits=int(constant.sum()),
        correlation=correlation,
        mean_correlation=float(off_diagonal.mean()) if bits > 1 else 0.0,
        greatest_correlation=float(off_diagonal.max(initial=0.0)),
        buckets=_buckets(count),
        largest_bucket=int(count.max(initial=0)),
        tie_rate=_tie_rate(codes, bits, seed),
    )


def _co_occurrence(codes: Codes, bits: int) -> Floats:
    """How many codes have both bits set: whole numbers in float64 (K, K); the diagonal counts ones."""
    together = np.zeros((bits, bits))
    for start in range(0, len(codes), BLOCK):
        ones = np.unpackbits(codes[start : start + BLOCK], axis=1, count=bits, bitorder="little").astype(np.float32)
        together += ones.T @ ones
    return together


def _correlation(together: Floats, n: int) -> Floats:
    """Pearson correlation (K, K) of bits from their co-occurrence counts; 0 for constant bits."""
    ones = np.diagonal(together)
    covariance = n * together - np.outer(ones, ones)  # times n²: whole numbers, so nothing is rounded yet
    spread = np.sqrt(np.diagonal(covariance))
    scale = np.outer(spread, spread)
    correlation: Floats = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)
    return correlation


def _entropy(shares: Floats) -> Floats:
    """Binary entropy in bits; 0 at shares 0 and 1."""
    both = np.stack([shares, 1 - shares])
    logarithm = np.log2(both, out=np.zeros_like(both), where=both > 0)
    entropy: Floats = np.abs((both * logarithm).sum(axis=0))
    return entropy


def _buckets(count: Counts) -> tuple[int, ...]:
    """Distinct codes by the power of two below the number of images that carry them."""
    _, exponent = np.frexp(count)
    return tuple(np.bincount(exponent - 1).tolist()) if count.size else ()


def _tie_rate(codes: Codes, bits: int, seed: int) -> float | None:
    """Share of sampled images for which a cut after 10 nearest others falls between equals."""
    n = len(codes)
    if n < TIE_RANK + 2:
        return None
    rows: npt.NDArray[np.int64] = np.random.default_rng(seed).choice(n, size=min(n, TIE_SAMPLE), replace=False)
    items, _ = Database(codes, bits).level_counts(codes[rows], leave_out=rows)
    within = np.cumsum(items, axis=1)
    tenth, eleventh = ((within >= rank).argmax(axis=1) for rank in (TIE_RANK, TIE_RANK + 1))
    return float((tenth == eleventh).mean())
