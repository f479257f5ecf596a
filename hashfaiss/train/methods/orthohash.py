"""OrthoHash's loss: a softmax over the cosines of outputs with fixed hash centres, with a margin."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from hashfaiss.networks.heads import Head
from hashfaiss.train.methods.centres import SEED, hash_centres
from hashfaiss.train.methods.method import About, Method, check_weight


class OrthoHash(Method):
    """L = mean_i sum_c -(y_ic / |y_i|) log softmax_c(s (cos(u_i, o_c) - m y_ic)), o_c the centre of class c.

    With several labels an image as the published code has it ("label_smoothing"); images without a label count 0.
    Outputs in the direction of a centre are alike in size, so no quantisation term is needed; the batch norm behind
    the hash layer balances the bits.

    Args:
        labels, bits: as for `Method`.
        scale: s; the published code's 8. It over-fits little data the more, the larger it is.
        margin: m; the published code's 0.2.

    Attributes:
        centres: ±1 (classes, K), see `hash_centres`.

    Raises:
        ArgumentError: an option that is not a number from 0 up.
    """

    about = About(
        title="OrthoHash",
        paper="Hoe et al., One loss for all: deep hashing with a single cosine similarity based learning objective, "
        "NeurIPS",
        year=2021,
        supervision="classes",
        multi_label=True,
        loss="softmax cross entropy of the cosines of u with hash centres of the classes, with a margin",
    )
    head: ClassVar[Head] = "linear-bn"
    centres: Tensor

    def __init__(self, labels: Tensor, bits: int, scale: float = 8.0, margin: float = 0.2) -> None:
        super().__init__(labels, bits)
        self.scale = check_weight("scale", scale)
        self.margin = check_weight("margin", margin)
        generator = torch.Generator().manual_seed(SEED)
        self.register_buffer("centres", hash_centres(labels.shape[1], bits, generator))

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        labels = self.labels[indices]
        cosines = normalize(outputs, dim=1) @ normalize(self.centres, dim=1).T
        return soft_cross_entropy(self.scale * (cosines - self.margin * labels), labels)


def soft_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of logits (n, classes) with labels 0/1 as shares of 1; images without a label count 0."""
    shares = labels / labels.sum(dim=1, keepdim=True).clamp_min(1)
    return -(shares * log_softmax(logits, dim=1)).sum(dim=1).mean()
