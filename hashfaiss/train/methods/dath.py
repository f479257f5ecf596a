"""DATH's loss: triplet likelihood, classification of the relaxed code, quantisation (Eq. 1-9)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from hashfaiss.train.methods.method import About, Method, check_choice, check_weight, similarity
from hashfaiss.train.methods.triplets import triplet_likelihood

Classification = Literal["softmax", "sigmoid"]
Reduction = Literal["mean", "sum"]


class DATH(Method):
    """J = J1 + beta * J2 + gamma * J3 (Eq. 9), on h = tanh(u).

    J1 = mean_apn log(1 + e^(theta - (R_ap - R_an))) with R_ij = <h_i, h_j> / 2, over all triplets of a batch that have
    s_ap = 1, p other than a, and s_an = 0 (Eq. 1-4). J2 is the cross entropy of a linear classifier of h, whose weights
    are this method's own (Eq. 5-7). J3 = mean_i sum_k | |h_ik| - 1 | (Eq. 8).

    Args:
        labels, bits: as for `Method`.
        theta: margin of the triplets; the paper's 5 for every K.
        beta, gamma: weights of J2 and J3; the paper's 1 and 0.01.
        classification: "softmax" is the paper's: softmax cross entropy where no image has several labels (Eq. 6), else
            the binary cross entropy of each class's softmax probability (Eq. 7), which is never 0 for an image of
            several labels. "sigmoid" is the binary cross entropy of each class's sigmoid.
        reduction: of J1 over triplets, of J2 and J3 over images. "sum" is the printed one; J1 then outweighs the others
            by a factor of more than a thousand.

    Raises:
        ArgumentError: an option that is none of these.
    """

    about = About(
        title="DATH",
        paper="Dual attention triplet hashing network for image retrieval, Frontiers in Neurorobotics",
        year=2021,
        supervision="triplets + classes",
        multi_label=True,
        loss="triplet likelihood of h = tanh(u), + classification of h, + quantisation | |h| - 1 |",
    )

    def __init__(
        self,
        labels: Tensor,
        bits: int,
        theta: float = 5.0,
        beta: float = 1.0,
        gamma: float = 0.01,
        classification: Classification = "softmax",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(labels, bits)
        self.theta = check_weight("theta", theta)
        self.beta = check_weight("beta", beta)
        self.gamma = check_weight("gamma", gamma)
        check_choice("classification", classification, get_args(Classification))
        check_choice("reduction", reduction, get_args(Reduction))
        self.sigmoid = classification == "sigmoid"
        self.several = bool((labels.sum(dim=1) > 1).any())
        self.reduction: Reduction = reduction
        self.classifier = nn.Linear(bits, labels.shape[1])

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        relaxed = outputs.tanh()
        labels = self.labels[indices]
        similar = similarity(labels, labels) > 0
        triplets = triplet_likelihood(relaxed @ relaxed.T / 2, similar, self.theta, self.reduction)
        classes = self._classification(self.classifier(relaxed), labels)
        quantisation = (relaxed.abs() - 1).abs().sum(dim=1)
        images = self.beta * classes + self.gamma * quantisation
        return triplets + (images.mean() if self.reduction == "mean" else images.sum())

    def _classification(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (n, classes), labels 0/1 (n, classes) → cross entropy of each image (n,)."""
        if self.sigmoid:
            return binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(dim=1)
        present = labels * logits.log_softmax(dim=1)
        if not self.several:
            return -present.sum(dim=1)
        return -(present + (1 - labels) * log_complement(logits)).sum(dim=1)


def log_complement(logits: Tensor) -> Tensor:
    """log(1 - p) of the softmax probabilities p of logits (n, classes >= 2), finite where p rounds to 1."""
    probabilities = logits.softmax(dim=1)
    # Only the largest can be near 1. The others of it sum to 1 - p, so it has that from their logits.
    largest = torch.zeros_like(logits, dtype=torch.bool).scatter(1, logits.argmax(dim=1, keepdim=True), True)
    others = logits.masked_fill(largest, -torch.inf).logsumexp(dim=1, keepdim=True)
    rest = torch.log1p(-probabilities.masked_fill(largest, 0))
    return torch.where(largest, others - logits.logsumexp(dim=1, keepdim=True), rest)
