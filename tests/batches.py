"""Batches of random outputs and labels, for tests that hold losses against plain loops."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Rows = list[list[float]]


def images(n: int, bits: int, classes: int, seed: int, single: bool = False) -> tuple[Tensor, Tensor]:
    """Outputs (n, K) and labels 0/1 (n, classes), some images without any unless `single`; float64."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n, bits, generator=generator, dtype=torch.float64) * 1.5
    labels = (torch.rand(n, classes, generator=generator) < 0.4).double()
    if single:
        labels = torch.eye(classes, dtype=torch.float64)[torch.randint(classes, (n,), generator=generator)]
    return outputs, labels


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def reduce_triplets(anchors: list[list[float]], reduction: str) -> float:
    """Losses of triplets, anchor by anchor → one number."""
    losses = [loss for anchor in anchors for loss in anchor]
    if reduction == "sum" or not losses:
        return sum(losses)
    if reduction == "mean":
        return sum(losses) / len(losses)
    means = [sum(anchor) / len(anchor) for anchor in anchors if anchor]
    return sum(means) / len(means)
