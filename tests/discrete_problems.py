"""Small data sets and plain loops, for tests of methods that solve for codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from hashfaiss.train.methods import build_method

Array = np.ndarray[Any, np.dtype[np.float64]]


CLASSES = 4
few = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 999)


def some_labels(images: int, seed: int) -> Tensor:
    """1, 2 or 4 of the 4 classes for each image: shares of them are exact, so that ties are ties."""
    random = np.random.default_rng(seed)
    labels = np.zeros((images, CLASSES))
    for row in labels:
        row[random.permutation(CLASSES)[: random.choice([1, 1, 2, 4])]] = 1
    return torch.tensor(labels)


def some_outputs(images: int, bits: int, seed: int) -> Tensor:
    return 1.5 * torch.randn(images, bits, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_codes(images: int, bits: int, seed: int) -> Tensor:
    return torch.where(some_outputs(images, bits, seed) > 0, 1.0, -1.0).double()


def some_rows(images: int, count: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(seed).permutation(images)[:count]


def build(name: str, labels: Tensor, bits: int, **options: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method: Any = build_method(name, labels, bits, options)
    method.epochs = 150  # so that ADSH's rounds have the length they ask for
    return method.double()


def share(y: Array, z: Array) -> bool:
    return any(a and b for a, b in zip(y, z, strict=True))


def dot(a: Array, b: Array) -> float:
    return float(sum(x * y for x, y in zip(a, b, strict=True)))


def distance(a: Array, b: Array) -> float:
    """Squared."""
    return float(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def descend(codes: Array, objective: Callable[[Array], float]) -> Array:
    """One sweep, by trying both values of every entry, column by column."""
    codes = codes.copy()
    for column in range(codes.shape[1]):
        chosen = []
        for row in range(len(codes)):
            both = []
            for value in (1.0, -1.0):
                tried = codes.copy()
                tried[row, column] = value
                both.append(objective(tried))
            chosen.append(1.0 if both[0] <= both[1] + 1e-9 else -1.0)
        codes[:, column] = chosen
    return codes


def likelihood(u: Array, y: Array, others: Array, all_y: Array, margin: float = 0.0) -> float:
    pairs = []
    for i in range(len(u)):
        for j in range(len(others)):
            theta = dot(u[i], others[j]) / 2
            pairs.append(math.log1p(math.exp(margin - theta if share(y[i], all_y[j]) else margin + theta)))
    return sum(pairs) / len(pairs)
