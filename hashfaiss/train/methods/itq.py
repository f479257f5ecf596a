"""ITQ: principal directions, rotated until the projections lie close to their signs."""

from __future__ import annotations

import scipy.linalg
import torch
from torch import Tensor

from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods.method import About, Shallow, check_count
from hashfaiss.train.methods.rotation import find_rotation, mean_and_covariance, project

# Directions with less than this share of the largest variance are rounding of float32 features.
LEAST_VARIANCE = 1e-12


class ITQ(Shallow):
    """b = sign((x - mu) P R): P the K first principal directions, R the rotation that minimises ||B - V R||².

    V = (X - mu) P. From a random rotation, `iterations` times B = sign(V R), then the best R for this B, which is the
    orthogonal Procrustes problem (Gong & Lazebnik, section 2.2). Neither step increases the error.

    FAISS has an ITQMatrix, but it is not ITQ (1.15.1): it updates R with one transposition too many, so that the error
    stays near its start.

    Args:
        labels, bits: as for `Shallow`; the labels are not used.
        iterations: the paper's 50.

    Raises:
        ArgumentError: `iterations` is not a whole number from 1 up.
    """

    about = About(
        title="ITQ",
        paper="Gong et al., Iterative quantization, CVPR",
        year=2011,
        supervision="none",
        multi_label=True,
        loss="||sign(V R) - V R||², V the principal components of fixed features, R a rotation",
    )

    def __init__(self, labels: Tensor, bits: int, iterations: int = 50) -> None:
        super().__init__(labels, bits)
        self.iterations = check_count("iterations", iterations)

    @classmethod
    def check_features(cls, images: int, dim: int, bits: int) -> None:
        """Raise ArgumentError where K = `bits` exceeds the directions that so many vectors of `dim` values have."""
        most = min(images - 1, dim)
        if bits > most:
            raise ArgumentError(
                f"bits is {bits}, but features of {dim:,} values of {images:,} images differ in {most:,} directions at "
                f"most: give {cls.about.title} {most:,} bits or fewer, more images, or a backbone with more features"
            )

    def fit(self, features: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Features (N, d) → mean (d,) and projection P R (d, K).

        Raises:
            ArgumentError: K is more than the directions in which the features differ.
        """
        mean, covariance = mean_and_covariance(features)
        dim = len(mean)
        # only the K last of the ascending eigenvalues: all 4,096 of AlexNet's features take minutes
        found = scipy.linalg.eigh(covariance.numpy(), subset_by_index=(max(dim - self.bits, 0), dim - 1))
        variances, principal = map(torch.from_numpy, found)
        rank = int((variances > LEAST_VARIANCE * variances[-1]).sum())
        if not rank:
            raise ArgumentError(
                f"the {len(features):,} images all look alike to the backbone: there is nothing to tell apart, give "
                "others"
            )
        if self.bits > rank:
            raise ArgumentError(
                f"bits is {self.bits}, but the features of {len(features):,} images differ in {rank} directions only: "
                f"give {self.about.title} {rank} bits or fewer, more images, or a backbone with more features"
            )
        rotation = find_rotation(project(features, mean, principal), self.iterations, generator)
        return {"mean": mean, "projection": principal @ rotation}
