"""What each Hamming radius finds of pairs that were judged, so that a person can choose one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from hashfaiss.codes import Codes
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation.batches import Counts
from hashfaiss.evaluation.ranking import Database, Labels

SAMPLE = 1000


@dataclass(frozen=True)
class RadiusReport:
    """Judged pairs by the radius that finds them; entry r of a list is for Hamming distance <= r, for r of 0 to K.

    Attributes:
        judged: "pairs" that were given, or "labels": each image that was asked with and each other one, where sharing a
            label counts as the same.
        within: judged pairs within each radius.
        same: those of them that are the same.
        expected: near-duplicate pairs there are in the index, of any two of its images; estimated where not all were
            asked with. None without an index.
        images, sampled: of the index, and how many of them were asked with; None without one.
        skipped: images of pairs that cannot be read, with the reason; their pairs are left out.
    """

    judged: str
    within: tuple[int, ...]
    same: tuple[int, ...]
    expected: tuple[float, ...] | None = None
    images: int | None = None
    sampled: int | None = None
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def bits(self) -> int:
        """K."""
        return len(self.within) - 1

    @property
    def precision(self) -> list[float | None]:
        """The share of what is found that is the same; None where nothing is found."""
        return [same / found if found else None for same, found in zip(self.same, self.within, strict=True)]

    @property
    def recall(self) -> list[float]:
        """The share of the same that is found."""
        return [same / self.same[-1] for same in self.same]

    @property
    def f1(self) -> list[float]:
        """The harmonic mean of precision and recall: 2 same found / (found + same)."""
        return [2 * same / (found + self.same[-1]) for same, found in zip(self.same, self.within, strict=True)]

    @property
    def best(self) -> int:
        """The radius of the greatest F1, the smallest of several."""
        return int(np.argmax(self.f1))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        expected = [None] * len(self.within) if self.expected is None else self.expected
        columns = (self.precision, self.recall, self.f1, self.within, self.same, expected)
        names = ("radius", "precision", "recall", "f1", "found", "same", "expected_pairs")
        return {
            "judged": self.judged,
            "pairs": self.within[-1],
            "same": self.same[-1],
            "bits": self.bits,
            "images": self.images,
            "sampled": self.sampled,
            "best_f1": self.best,
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
            "radii": [dict(zip(names, row, strict=True)) for row in zip(range(self.bits + 1), *columns, strict=True)],
        }


def radii_of_pairs(distances: Sequence[int], same: Sequence[bool], bits: int) -> RadiusReport:
    """The report of pairs at these Hamming distances, and of which each is the same or is not.

    Raises:
        ArgumentError: none of them is the same, so that there is nothing to find.
    """
    if not any(same):
        raise ArgumentError("none of the pairs is the same: give some with a 1, which a radius is to find")
    found = np.bincount(distances, minlength=bits + 1)
    alike = np.bincount(np.asarray(distances)[np.asarray(same, bool)], minlength=bits + 1)
    return RadiusReport("pairs", _within(found), _within(alike))


def radii_of_codes(
    codes: Codes, bits: int, labels: Labels | None = None, sample: int = SAMPLE, seed: int = 0
) -> tuple[RadiusReport | None, tuple[float, ...]]:
    """What radii find among n codes, uint8 (n, ceil(bits/8)), of an index.

    Args:
        labels: a tuple of label names for each; images without any are not judged.
        sample, seed: ask with so many of them, drawn at random; 0 asks with all.

    Returns:
        the report by labels, None without any; and the number of pairs of images within each radius, for 0 to K,
        expected from the sample.

    Raises:
        ArgumentError: labels, of which no two images share one.
    """
    told = [row for row, of in enumerate(labels or ()) if of]
    items = same = None
    if labels is not None and told:
        items, same = _levels(codes[told], bits, [labels[row] for row in told], sample, seed)
    found = items
    if items is None or len(told) < len(codes):
        items, _ = _levels(codes, bits, None, sample, seed)
    pairs = tuple(count * len(codes) / asked_of(len(codes), sample) / 2 for count in _within(items))
    if found is None or same is None:
        return None, pairs
    if not same.any():
        raise ArgumentError("no two images share a label: give pairs, which say what is the same")
    return RadiusReport("labels", _within(found), _within(same), pairs, len(codes), asked_of(len(told), sample)), pairs


def asked_of(images: int, sample: int) -> int:
    """How many of them ask."""
    return min(sample, images) or images


def _levels(codes: Codes, bits: int, labels: Labels | None, sample: int, seed: int) -> tuple[Counts, Counts]:
    """Images, and those of a shared label, at each distance from those that ask: int64 (K + 1,)."""
    rows = np.sort(np.random.default_rng(seed).choice(len(codes), asked_of(len(codes), sample), replace=False))
    asked = None if labels is None else [labels[row] for row in rows.tolist()]
    items, relevant = Database(codes, bits, labels).level_counts(codes[rows], asked, rows)
    return items.sum(axis=0), relevant.sum(axis=0)


def _within(levels: Counts) -> tuple[int, ...]:
    return tuple(accumulate(levels.tolist()))
