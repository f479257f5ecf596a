"""What a method is: a loss over outputs of a network, and what it needs to know between batches."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from hashfaiss.errors import ArgumentError
from hashfaiss.networks.heads import Head


@dataclass(frozen=True)
class About:
    """Who a method is, as `hashfaiss methods` lists it.

    Attributes:
        title: its name in papers.
        paper: authors, title, venue.
        year: of publication.
        supervision: what it learns from: "pairs", "triplets", "classes", "pairs + classes", ..., or "none".
        multi_label: whether an image may have several labels.
        loss: in one line.
    """

    title: str
    paper: str
    year: int
    supervision: Literal["pairs", "triplets", "classes", "pairs + classes", "triplets + classes", "none"]
    multi_label: bool
    loss: str


BLOCK = 4096  # features that shallow methods turn to float64 at a time


class Described:
    """What deep and shallow methods have in common: they say who they are, and which K they allow."""

    about: ClassVar[About]

    @classmethod
    def check(cls, labels: Tensor, bits: int) -> None:
        """Raise ArgumentError where K = `bits` is not possible with the labels, 0/1 (N, classes), of a training set."""


class Method(Described, nn.Module, ABC):
    """A loss, built as `Class(labels, bits, **options)` with the paper's constants as the options' defaults.

    Parameters of a method are trained with the network's. What it must remember between batches are buffers, so that
    a continued training finds them again; all it draws at random comes from torch's own generators, which the trainer
    seeds.

    Args:
        labels: 0/1 (N, classes) of all N training images; `indices` are rows of it.
        bits: K.

    Attributes:
        labels, bits: as given.
        head: what it wants its outputs from, see `networks.heads.build_head`.
        two_views: it takes two augmented views of each image: `forward` gets outputs (2n, K), those of the n weak ones
            first, then those of the strong ones in the same order. Where features are computed once, both are the same.
        least_epochs: fewer make no sense.
        epochs, share: of the whole training, and how much of it is done, from 0 to below 1: what a schedule goes by, so
            that a short training sees all of it. The trainer says both before each epoch and batch.
    """

    labels: Tensor
    head: ClassVar[Head] = "linear"
    two_views: ClassVar[bool] = False
    least_epochs = 1
    epochs = 1
    share = 0.0

    def __init__(self, labels: Tensor, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("labels", labels, persistent=False)

    @abstractmethod
    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar to minimise."""

    def start_epoch(self, epoch: int, generator: torch.Generator) -> Tensor | None:
        """Called before the first batch of epoch 1, 2, ...

        What a method solves once an epoch (discrete steps) belongs here.

        Returns:
            The training images of this epoch, int64 (m,), or None for all.
        """
        return None

    def end_epoch(self, epoch: int) -> None:
        """Called after the last batch of an epoch, before it is validated."""

    def shortfall(self) -> str | None:
        """What of its schedule cannot be had in `epochs` epochs, in a sentence; None where all can."""
        return None

    @property
    def ready(self) -> bool:
        """False while what it learns beside the network is not there yet, and a model of it would be half of one."""
        return True

    def database_codes(self) -> Tensor | None:
        """Codes ±1 (N, K) of the training images where the method learns them directly (ADSH), else None."""
        return None


class SteppingMethod(Method):
    """A method that updates the network itself (GAH), instead of leaving that to the trainer's optimiser."""

    @abstractmethod
    def step(self, network: nn.Module, learning_rate: float, inputs: Tensor, indices: Tensor) -> Tensor:
        """Learn from one batch: normalised images (n, 3, size, size), rows of the training set (n,).

        `learning_rate` is the epoch's. Returns the loss, a detached scalar.
        """


class Shallow(Described, ABC):
    """A hash function solved on features of a fixed network, built as `Class(labels, bits, **options)`."""

    def __init__(self, labels: Tensor, bits: int) -> None:
        self.labels = labels
        self.bits = bits

    @classmethod
    def check_features(cls, images: int, dim: int, bits: int) -> None:
        """Raise ArgumentError where K = `bits` is not possible with features of `dim` values of so many images."""

    @abstractmethod
    def fit(self, features: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Features (N, d) float32 of the training images → the tensors of a `networks.features.FeatureHash`."""


class Memory(nn.Module):
    """The last activated outputs of every training image, the j of losses that run over batch x training set.

    Rows of images not yet seen are 0. A pairwise likelihood is log 2 there, without a gradient; a loss made of
    distances must mask them with `seen`.

    Args:
        images: N.
        bits: K.
    """

    outputs: Tensor
    seen: Tensor

    def __init__(self, images: int, bits: int) -> None:
        super().__init__()
        self.register_buffer("outputs", torch.zeros(images, bits))
        self.register_buffer("seen", torch.zeros(images, dtype=torch.bool))

    def remember(self, indices: Tensor, outputs: Tensor) -> Tensor:
        """Store outputs (n, K) of the images `indices`, and return all (N, K). They carry no gradient."""
        self.outputs[indices] = outputs.detach()
        self.seen[indices] = True
        return self.outputs


def similarity(labels: Tensor, others: Tensor) -> Tensor:
    """s_ij: 1 where two images share a label, else 0; labels 0/1 (n, classes) and (m, classes) → (n, m)."""
    return (labels @ others.T > 0).to(labels.dtype)


def sign(values: Tensor) -> Tensor:
    """±1, with sign(0) = +1 as codes have it (torch.sign gives 0)."""
    return torch.where(values >= 0, 1.0, -1.0).to(values.dtype)


def log_cosh(values: Tensor) -> Tensor:
    """log(cosh(x)) of each element, finite where cosh(x) is not."""
    magnitudes = values.abs()
    return magnitudes + softplus(-2 * magnitudes) - math.log(2)


def check_weight(name: str, value: float) -> float:
    """Return a loss's weight, or raise ArgumentError where it is not a finite number from 0 up."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ArgumentError(f"{name} is {value!r}: give a number from 0 up")
    return float(value)


def check_count(name: str, value: int) -> int:
    """Return a number of steps or of images, or raise ArgumentError where it is not a whole number from 1 up."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(f"{name} is {value!r}: give a whole number from 1 up")
    return value


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise ArgumentError where `value` is none of `choices`."""
    if value not in choices:
        raise ArgumentError(f"{name} is {value!r}: give one of {', '.join(map(repr, choices))}")
