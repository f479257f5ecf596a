"""What losses over pairs share: whom an image is compared with, and the balance of bits."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from hashfaiss.train.methods.method import Memory

BalanceAxis = Literal["bit", "sample"]


def partners(memory: Memory | None, activated: Tensor, labels: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """The j of a loss over pairs (i, j), i in the batch.

    Args:
        memory: takes in the batch; None for a loss within batches.
        activated: (n, K), of the batch.
        labels: 0/1 (N, classes), of all training images.
        indices: (n,), the batch's rows of `labels`.

    Returns:
        Outputs (m, K) and labels (m, classes): the memory's of all N images, without a gradient, or the batch's own.
    """
    if memory is None:
        return activated, labels[indices]
    return memory.remember(indices, activated), labels


def balance(activated: Tensor, axis: BalanceAxis, power: int = 2, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """How far outputs (n, K) are from as many +1 as -1, a scalar.

    Axis "bit": the sum over bits of |mean of a bit over the batch|^power. "sample": the mean (or `reduction`) over
    images of |mean over an image's bits|^power.
    """
    if axis == "bit":
        return activated.mean(dim=0).abs().pow(power).sum()
    images = activated.mean(dim=1).abs().pow(power)
    return images.mean() if reduction == "mean" else images.sum()
