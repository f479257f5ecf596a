"""The solver that ITQ and CCA-ITQ share: moments and projections of features, and the rotation towards their signs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hashfaiss.train.methods.method import BLOCK, sign


def mean_and_covariance(*parts: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, d) → mean (d,) and covariance (d, d) over N - 1, float64.

    Several parts (N, d1), (N, d2), ... are taken as if side by side, d = d1 + d2 + ...
    """
    mean = torch.cat([part.mean(dim=0, dtype=torch.float64) for part in parts])
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for centred in _centred(parts, mean):
        covariance.addmm_(centred.T, centred)
    return mean, covariance / (len(parts[0]) - 1)


def project(features: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """(x - mean) directions: features (N, d), mean (d,), directions (d, K) → (N, K) float64."""
    return torch.cat([centred @ directions for centred in _centred((features,), mean)])


def find_rotation(projected: Tensor, iterations: int, generator: torch.Generator) -> Tensor:
    """The rotation R (K, K) that ITQ finds for V = `projected` (N, K), from a random one."""
    bits = projected.shape[1]
    noise = torch.randn(bits, bits, generator=generator, dtype=projected.dtype)
    rotation: Tensor = torch.linalg.svd(noise)[0]
    for _ in range(iterations):
        left, _, right = torch.linalg.svd(sign(projected @ rotation).T @ projected)
        rotation = (left @ right).T
    return rotation


def _centred(parts: tuple[Tensor, ...], mean: Tensor) -> Iterator[Tensor]:
    for blocks in zip(*(torch.split(part, BLOCK) for part in parts), strict=True):
        yield torch.cat([block.double() for block in blocks], dim=1) - mean
