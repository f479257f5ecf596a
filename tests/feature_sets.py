"""Features with labels, and plain numpy on them, for tests of the shallow methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[np.float64]]
NAMES = ("lsh", "itq", "cca-itq", "sdh")


def clusters(images: int, dim: int, classes: int, seed: int, spread: float = 0.5) -> tuple[Tensor, Tensor]:
    """Features (images, dim) around a centre for each class, as after a ReLU, and labels 0/1 (images, classes)."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, dim)) * 2
    rows = np.arange(images) % classes
    features = np.maximum(centres[rows] + spread * random.normal(size=(images, dim)) + 1, 0)
    return torch.from_numpy(features).float(), torch.eye(classes)[torch.from_numpy(rows)]


def several_labels(images: int, classes: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(images, classes, generator=generator) < 0.4).float()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outputs(tensors: dict[str, Tensor], features: Tensor) -> Array:
    """u (n, K) of a linear method, in numpy."""
    x, mean, projection = (value.double().numpy() for value in (features, tensors["mean"], tensors["projection"]))
    return np.asarray((x - mean) @ projection)


def signs(values: Array) -> Array:
    return np.where(values >= 0, 1.0, -1.0)


def mean_precision(u: Array, labels: Tensor) -> float:
    """How many of an image's 10 nearest codes have its label."""
    b, y = signs(u), labels.numpy().argmax(axis=1)
    distances = (b.shape[1] - b @ b.T) / 2
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :10]
    return float((y[nearest] == y[:, None]).mean())
