"""ITQ: principal directions, rotated until the projections lie close to their signs."""

from __future__ import annotations

from collections.abc import Iterator

import scipy.linalg
import torch
from torch import Tensor

from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods.discrete import check_count
from hashfaiss.train.methods.method import About, Shallow, sign

BLOCK = 4096  # images turned to float64 at a time
# Directions with less than this share of the largest variance are rounding of float32 features.
LEAST_VARIANCE = 1e-12


class ITQ(Shallow):
    """b = sign((x - mu) P R): P the K first principal directions, R the rotation that minimises ||B - V R||².

    V = (X - mu) P. From a random rotation, `iterations` times B = sign(V R), then the best R for this B, which is the
    orthogonal Procrustes problem (Gong & Lazebnik, section 2.2). Neither step increases the error.

    FAISS has an ITQMatrix, but it is not ITQ (1.15.1): it updates R with one transposition too many, so that the error
    rises as often as it falls.

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
        if self.bits > rank:
            raise ArgumentError(
                f"bits is {self.bits}, but the features of {len(features):,} images differ in {rank} directions only: "
                f"give {self.about.title} {rank} bits or fewer, more images, or a backbone with more features"
            )
        rotation = find_rotation(project(features, mean, principal), self.iterations, generator)
        return {"mean": mean, "projection": principal @ rotation}


def mean_and_covariance(features: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, d) → mean (d,) and covariance (d, d) over N - 1, float64."""
    n, dim = features.shape
    mean = features.mean(dim=0, dtype=torch.float64)
    covariance = torch.zeros(dim, dim, dtype=torch.float64)
    for centred in _centred(features, mean):
        covariance.addmm_(centred.T, centred)
    return mean, covariance / (n - 1)


def project(features: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """(x - mean) directions: features (N, d), mean (d,), directions (d, K) → (N, K) float64."""
    return torch.cat([centred @ directions for centred in _centred(features, mean)])


def find_rotation(projected: Tensor, iterations: int, generator: torch.Generator) -> Tensor:
    """The rotation R (K, K) that ITQ finds for V = `projected` (N, K), from a random one."""
    bits = projected.shape[1]
    noise = torch.randn(bits, bits, generator=generator, dtype=projected.dtype)
    rotation: Tensor = torch.linalg.svd(noise)[0]
    for _ in range(iterations):
        left, _, right = torch.linalg.svd(sign(projected @ rotation).T @ projected)
        rotation = (left @ right).T
    return rotation


def _centred(features: Tensor, mean: Tensor) -> Iterator[Tensor]:
    for block in torch.split(features, BLOCK):
        yield block.double() - mean
