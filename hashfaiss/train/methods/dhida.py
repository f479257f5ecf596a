"""DHIDA's loss: pairwise likelihood on a piecewise activation, and bit balance (Eq. 1, 10-13)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from hashfaiss.errors import ArgumentError

BalanceAxis = Literal["bit", "sample"]
Reduction = Literal["mean", "sum"]


class DHIDA(nn.Module):
    """L = mean_ij [log(1 + e^theta_ij) - s_ij theta_ij] + gamma * balance, theta_ij = <f(u_i), f(U_j)> / 2.

    f(u) is u cut to [-1, 1] (Eq. 1): outputs beyond it get no gradient, and nothing else pulls outputs to ±1. s_ij is
    1 where images i and j share a label. i runs over the batch, j over a memory of every training image's last
    f(u) and labels. Rows of images not yet seen are 0 and add log 2 without a gradient.

    Args:
        images: training images, the rows of the memory.
        bits: K.
        classes: columns of the labels.
        gamma: weight of the balance term; the paper's 0.1.
        balance_axis: "bit" is Eq. 12, the sum over bits of the squared mean of a bit over the batch: each bit is to be
            +1 for half of the images. "sample" is what the published code of the method's ancestor (DBDH) computes, the
            mean over images of the squared mean over an image's bits: each code is to have as many +1 as -1.
        memory: False takes j from the batch too, with gradients on both sides.
        reduction: over pairs, and over images in the "sample" balance. "sum" is the printed one; gamma then weighs
            next to nothing.

    Raises:
        ArgumentError: an option that is none of these.
    """

    memory_outputs: Tensor
    memory_labels: Tensor

    def __init__(
        self,
        images: int,
        bits: int,
        classes: int,
        gamma: float = 0.1,
        balance_axis: BalanceAxis = "bit",
        memory: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if not 0 <= gamma < float("inf"):
            raise ArgumentError(f"gamma is {gamma}: give a number from 0 up")
        if balance_axis not in ("bit", "sample"):
            raise ArgumentError(f"balance_axis is {balance_axis!r}: give 'bit' or 'sample'")
        if reduction not in ("mean", "sum"):
            raise ArgumentError(f"reduction is {reduction!r}: give 'mean' or 'sum'")
        self.gamma = gamma
        self.balance_axis = balance_axis
        self.memory = memory
        self.reduction = reduction
        rows = images if memory else 0
        self.register_buffer("memory_outputs", torch.zeros(rows, bits))
        self.register_buffer("memory_labels", torch.zeros(rows, classes))

    def forward(self, outputs: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """Outputs u (n, K), labels 0/1 (n, classes), rows of the memory (n,) → the loss, a scalar."""
        activated = outputs.clamp(-1, 1)
        others, other_labels = activated, labels
        if self.memory:
            self.memory_outputs[indices] = activated.detach()
            self.memory_labels[indices] = labels
            others, other_labels = self.memory_outputs, self.memory_labels
        theta = activated @ others.T / 2
        similar = (labels @ other_labels.T > 0).to(theta.dtype)
        # softplus(theta) - s * theta, in its stable form
        likelihood = binary_cross_entropy_with_logits(theta, similar, reduction=self.reduction)
        return likelihood + self.gamma * self._balance(activated)

    def _balance(self, activated: Tensor) -> Tensor:
        if self.balance_axis == "bit":
            return activated.mean(dim=0).square().sum()
        squares = activated.mean(dim=1).square()
        return squares.mean() if self.reduction == "mean" else squares.sum()
