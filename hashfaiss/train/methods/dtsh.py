"""DTSH's loss: triplet likelihood with a margin, and quantisation."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import softplus

from hashfaiss.train.methods.method import About, Method, check_choice, check_weight, sign, similarity

InnerProduct = Literal["half", "full"]
Reduction = Literal["mean", "anchor", "sum"]

# The published code weighs quantisation by 100 against 50 x 50 triplets of each of 9 other classes an anchor.
ETA = 100 / (50 * 50 * 9)


class DTSH(Method):
    """L = mean_apn log(1 + e^(margin - (theta_ap - theta_an))) + eta * mean_i ||u_i - sign(u_i)||².

    theta_ij = <u_i, u_j> / 2. The triplets are all of a batch with s_ap = 1, p other than a, and s_an = 0; images that
    lack a similar or a dissimilar one are no anchors. (The published code samples p and n from a memory of the
    training set instead, and lets gradients reach the anchor only.)

    The popular form of this loss is margin 5, inner_product "full", reduction "anchor", self_positives True and
    eta = 1 / K.

    Args:
        labels, bits: as for `Method`.
        margin: None is the paper's K / 2.
        eta: weight of the quantisation; the default is the published code's 100, to a sum over 22,500 triplets an
            image, turned into one to a mean.
        inner_product: "full" leaves the 1/2 of theta out.
        self_positives: True also takes p = a, which pulls at nothing but |u|.
        reduction: over triplets and images. "anchor" is the mean over anchors of the mean over an anchor's triplets,
            "sum" the printed one, which needs an eta of the paper's size.

    Raises:
        ArgumentError: an option that is none of these.
    """

    about = About(
        title="DTSH",
        paper="Wang et al., Deep supervised hashing with triplet labels, ACCV",
        year=2016,
        supervision="triplets",
        multi_label=True,
        loss="triplet likelihood with margin K/2, + quantisation ||u - sign(u)||²",
    )

    def __init__(
        self,
        labels: Tensor,
        bits: int,
        margin: float | None = None,
        eta: float = ETA,
        inner_product: InnerProduct = "half",
        self_positives: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(labels, bits)
        self.margin = bits / 2 if margin is None else check_weight("margin", margin)
        self.eta = check_weight("eta", eta)
        check_choice("inner_product", inner_product, get_args(InnerProduct))
        check_choice("self_positives", self_positives, (True, False))
        check_choice("reduction", reduction, get_args(Reduction))
        self.factor = 0.5 if inner_product == "half" else 1.0
        self.self_positives = self_positives
        self.reduction: Reduction = reduction

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        theta = self.factor * outputs @ outputs.T
        labels = self.labels[indices]
        similar = similarity(labels, labels) > 0
        likelihood = triplet_likelihood(theta, similar, self.margin, self.reduction, self.self_positives)
        quantisation = (outputs - sign(outputs.detach())).square().sum(dim=1)
        return likelihood + self.eta * (quantisation.sum() if self.reduction == "sum" else quantisation.mean())


def triplet_likelihood(
    theta: Tensor, similar: Tensor, margin: float, reduction: Reduction = "mean", self_positives: bool = False
) -> Tensor:
    """Negative log likelihood of all triplets (a, p, n) of a batch, log(1 + e^(margin - (theta_ap - theta_an))).

    It takes memory for several tensors (n, n, n): 8 MB each for 128 images.

    Args:
        theta: (n, n), how alike two images' outputs are.
        similar: (n, n) bool; s_ap and not s_an make a triplet.
        margin: by which theta_ap should exceed theta_an.
        reduction: "mean" over triplets, their "sum", or "anchor", the mean over anchors of means over triplets.
        self_positives: whether p may be a.

    Returns:
        A scalar, 0 where the batch has no triplet.
    """
    positive = similar
    if not self_positives:
        positive = similar & ~torch.eye(len(similar), dtype=torch.bool, device=similar.device)
    triplets = positive[:, :, None] & ~similar[:, None, :]
    losses = softplus(margin - (theta[:, :, None] - theta[:, None, :])).where(triplets, 0)
    if reduction == "sum":
        return losses.sum()
    if reduction == "mean":
        return losses.sum() / triplets.sum().clamp(min=1)
    counts = triplets.sum(dim=(1, 2))
    return (losses.sum(dim=(1, 2)) / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)
