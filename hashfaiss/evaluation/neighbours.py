"""How well codes keep the neighbours that images have by real features: a number that needs no labels.

Hash codes tie, so the number is what is expected over all orders of the ties, as in `hashfaiss.evaluation.metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, check_bits, check_codes
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation.batches import Counts, batches
from hashfaiss.evaluation.metrics import Floats
from hashfaiss.evaluation.ranking import Database

CELLS = 1 << 20  # cosines held at once: about 25 MB with what is made of them
DEEPEST = 200  # codes up to which neighbours are looked for
STEPS = float(1 << 26)  # length of a feature vector, in the whole numbers it is rounded to


@dataclass(frozen=True)
class NeighbourReport:
    """How many of each image's nearest by real features are among its nearest by code.

    Attributes:
        images: m, each of which asks among the m - 1 others.
        k: neighbours by features that are looked for.
        curve: float64, mean share of these k among the n nearest codes, for n = k, k + 1, ...
    """

    images: int
    k: int
    curve: Floats

    @property
    def recall(self) -> float:
        """Share of the k nearest by features that are among the k nearest by code."""
        return float(self.curve[0])

    @property
    def ranks(self) -> Counts:
        """n of each value of `curve`: int64."""
        return np.arange(self.k, self.k + len(self.curve))

    @property
    def chance(self) -> Floats:
        """What `curve` would be of codes that say nothing: n / (m - 1)."""
        return self.ranks / (self.images - 1)

    def to_dict(self) -> dict[str, Any]:
        """The report ready for JSON."""
        return {
            "images": self.images,
            "k": self.k,
            "recall": self.recall,
            "ranks": self.ranks.tolist(),
            "curve": self.curve.tolist(),
            "chance": self.chance.tolist(),
        }


def kept_neighbours(features: npt.NDArray[np.floating[Any]], codes: Codes, bits: int, k: int = 10) -> NeighbourReport:
    """Look for each image's k nearest others by cosine of features among its nearest others by Hamming distance.

    Of neighbours at a distance where some codes are within the n nearest and some are not, each counts with the
    probability to be within: places left over codes at that distance. Among equal cosines the first positions are
    nearest. A vector of zeros has cosine 0 with everything.

    Args:
        features: floats (m, dim), finite, of any length.
        codes: uint8 (m, ceil(bits/8)), of the same images.
        bits: K.
        k: neighbours looked for, at most m - 1.

    Returns:
        the share found among the n nearest codes, for n from k to 200, at most m - 1.

    Raises:
        ArgumentError: fewer than 2 images, features and codes of different numbers, features that are no finite
            floats, codes that are not of K bits, or k below 1.
    """
    codes = check_codes(codes, check_bits(bits))
    _check(features, len(codes), k)
    images = len(codes)
    k = min(k, images - 1)
    items, _ = Database(codes, bits).level_counts(codes, leave_out=np.arange(images))
    distances = _neighbour_distances(_whole_units(features), codes, k)
    tied = np.take_along_axis(items, distances, axis=1)
    nearer = np.take_along_axis(np.cumsum(items, axis=1), distances, axis=1) - tied
    ranks = range(k, min(images - 1, max(k, DEEPEST)) + 1)
    shares = [np.clip((n - nearer) / tied, 0.0, 1.0).mean() for n in ranks]
    return NeighbourReport(images, k, np.array(shares))


def _check(features: Any, images: int, k: int) -> None:
    if not isinstance(features, np.ndarray) or not np.issubdtype(features.dtype, np.floating):
        kind = f"{features.dtype} array" if isinstance(features, np.ndarray) else type(features).__name__
        raise ArgumentError(f"features are a {kind}: give a numpy array of floats")
    if features.ndim != 2 or len(features) != images:
        raise ArgumentError(f"features have shape {features.shape}: give a vector for each of {images} codes")
    if not np.isfinite(features).all():
        raise ArgumentError("features hold NaN or infinity: the network or its input is broken")
    if images < 2:
        raise ArgumentError(f"there are codes of {images} images: give 2 or more, none is its own neighbour")
    if k < 1:
        raise ArgumentError(f"k is {k}: give 1 or more")


def _whole_units(features: npt.NDArray[np.floating[Any]]) -> Floats:
    """Features (m, dim) scaled to one length and rounded to whole numbers, float64; zeros stay zeros.

    Sums of products of such vectors are whole numbers below 2^53, which float64 holds whatever the order they are added
    in: without this, equal vectors would not be equally near, as blocks, threads and processor go. Rounding moves a
    cosine by about 1e-8, and at most sqrt(dim) / 2^26; features computed in float32 are no surer.
    """
    vectors = features.astype(np.float64)
    largest = np.abs(vectors).max(axis=1, initial=0.0, keepdims=True)
    vectors /= np.where(largest > 0, largest, 1.0)  # first, so that no square overflows
    lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    vectors *= STEPS / np.where(lengths > 0, lengths, 1.0)
    return np.rint(vectors, out=vectors)


def _neighbour_distances(vectors: Floats, codes: Codes, k: int) -> Counts:
    """Hamming distances (m, k) of each image from its k nearest others by `vectors` of one length."""
    images = len(codes)
    distances = np.empty((images, k), dtype=np.int64)
    for batch in batches(images, images, CELLS):
        nearness = vectors[batch] @ vectors.T
        nearness[np.arange(len(nearness)), np.arange(batch.start, batch.stop)] = -np.inf  # the image itself
        # all that is nearer than the k-th, and of what is as near, the first
        kth = np.partition(nearness, images - k, axis=1)[:, images - k, None]
        nearer, as_near = nearness > kth, nearness == kth
        places = k - nearer.sum(axis=1, keepdims=True)
        chosen = nearer | (as_near & (np.cumsum(as_near, axis=1, dtype=np.int32) <= places))
        neighbours = np.nonzero(chosen)[1].reshape(-1, k)
        distances[batch] = np.bitwise_count(codes[batch, None] ^ codes[neighbours]).sum(axis=2, dtype=np.int64)
    return distances
