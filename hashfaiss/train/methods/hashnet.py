"""HashNet's loss: weighted pairwise likelihood of tanh(beta u), beta growing as training goes on."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from hashfaiss.train.methods.method import About, Memory, Method, check_choice, check_weight, similarity
from hashfaiss.train.methods.pairs import partners

Continuation = Literal["official", "popular", "none"]
# In how many stages beta² grows by one: 10,000 batches of 200 a stage, and 150 epochs of 20.
STAGES = {"official": 10_000 / 200, "popular": 150 / 20, "none": 0.0}


class HashNet(Method):
    """L = mean_ij w_ij [log(1 + e^theta_ij) - s_ij theta_ij], theta_ij = alpha <h_i, h_j>, h = tanh(beta u).

    s_ij is 1 where images i and j share a label. With S pairs in the batch, S1 of them similar and S0 not, w_ij is
    c_ij |S| / |S1| where similar, c_ij the labels they share over the labels either has, and |S| / |S0| where not: each
    kind counts as a whole, and one that a batch lacks adds nothing. An image and itself are no pair.

    beta is sqrt(1 + the number of stages that are over), of 50 in a training however long it is: as in the official
    code, where it is sqrt(1 + 0.005 t) in batch t of 10,000, t rounded down to a multiple of 200.

    i and j are all pairs of one batch. The official code takes i from one and j from another, each of 36 images drawn
    by itself: 1,296 pairs, where a batch of 72 has 5,112.

    Popular code, which DHIDA compares with, is HashNet(..., alpha=0.1, continuous_similarity=False,
    continuation="popular", memory=True); the official code is HashNet(..., positive_weight=100), with 5 on NUS-WIDE and
    1 on COCO, and continuous_similarity=False in its PyTorch half.

    Args:
        labels, bits: as for `Method`.
        alpha: the slope of theta; None is the paper's 10 / K.
        continuous_similarity: False takes c_ij = 1.
        positive_weight: w, of similar pairs, times c_ij, with 1 for the others, the sum divided by w |S1| + |S0| as in
            the official code; None is |S| / |S1| and |S| / |S0|, and their mean.
        continuation: "popular" has 7.5 stages, of 20 in 150 epochs, "none" is beta = 1.
        memory: True takes j from a memory of every training image's last h, its own among them. Rows of images not yet
            seen are 0: they are counted, without a gradient.

    Raises:
        ArgumentError: an option that is none of these.
    """

    about = About(
        title="HashNet",
        paper="Cao et al., HashNet: deep learning to hash by continuation, ICCV",
        year=2017,
        supervision="pairs",
        multi_label=True,
        loss="pairwise likelihood of tanh(beta u), pairs weighted against imbalance, beta growing",
    )

    def __init__(
        self,
        labels: Tensor,
        bits: int,
        alpha: float | None = None,
        continuous_similarity: bool = True,
        positive_weight: float | None = None,
        continuation: Continuation = "official",
        memory: bool = False,
    ) -> None:
        super().__init__(labels, bits)
        self.alpha = 10 / bits if alpha is None else check_weight("alpha", alpha)
        self.positive_weight = None if positive_weight is None else check_weight("positive_weight", positive_weight)
        check_choice("continuous_similarity", continuous_similarity, (True, False))
        check_choice("continuation", continuation, get_args(Continuation))
        check_choice("memory", memory, (True, False))
        self.continuous_similarity = continuous_similarity
        self.stages = STAGES[continuation]
        self.memory = Memory(len(labels), bits) if memory else None

    @property
    def beta(self) -> float:
        """The slope of tanh, which grows with `share`."""
        return math.sqrt(1 + int(self.stages * self.share))

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        activated = (self.beta * outputs).tanh()
        labels = self.labels[indices]
        others, other_labels = partners(self.memory, activated, self.labels, indices)
        theta = self.alpha * activated @ others.T
        similar = similarity(labels, other_labels)
        pairs = torch.ones_like(theta)
        if self.memory is None:
            pairs.fill_diagonal_(0)
        likelihood = binary_cross_entropy_with_logits(theta, similar, reduction="none")
        return (self._weights(labels, other_labels, similar, pairs) * likelihood).sum()

    def _weights(self, labels: Tensor, other_labels: Tensor, similar: Tensor, pairs: Tensor) -> Tensor:
        """w_ij over what they are divided by; `pairs` is 1 for each pair of S and 0 for others."""
        positive, negative = similar * pairs, (1 - similar) * pairs
        if self.positive_weight is None:
            weights = negative / negative.sum().clamp(min=1)
            positive = positive / positive.sum().clamp(min=1)
        else:
            total = (self.positive_weight * positive.sum() + negative.sum()).clamp(min=1)
            weights, positive = negative / total, self.positive_weight * positive / total
        if self.continuous_similarity:
            shared = labels @ other_labels.T
            either = labels.sum(dim=1, keepdim=True) + other_labels.sum(dim=1) - shared
            positive = positive * shared / either.clamp(min=1)
        return weights + positive
