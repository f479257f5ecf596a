"""DTSH's loss: triplet likelihood with a margin, and quantisation."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from hashfaiss.train.methods.method import (
    About,
    Memory,
    Method,
    check_choice,
    check_count,
    check_weight,
    sign,
    similarity,
)
from hashfaiss.train.methods.triplets import (
    Reduction,
    anchor_losses,
    draw,
    pack_rows,
    reduce_triplets,
    triplet_likelihood,
)

InnerProduct = Literal["half", "full"]

# The published code weighs quantisation by 100 against 50 x 50 triplets of each of 9 other classes an anchor.
ETA = 100 / (50 * 50 * 9)


class DTSH(Method):
    """L = mean_apn log(1 + e^(margin - (theta_ap - theta_an))) + eta * mean_i ||u_i - sign(u_i)||².

    theta_ap = <u_a, U_p> / 2. Anchors a are the images of the batch; p and n come from a memory of every training
    image's last u, and gradients reach the anchor only. For each class that a does not have, `positives` images that
    share a label with a, other than a, and `negatives` images of that class that share none are drawn, and make
    positives x negatives triplets; where there are fewer, all are taken. (As in the published code, which also leaves
    out the batch's own images, but not those that have not been seen yet.)

    The popular form of this loss takes all triplets of a batch, with gradients to all three images: memory False. It
    also has margin 5, inner_product "full", reduction "anchor", self_positives True and eta = 1 / K.

    Args:
        labels, bits: as for `Method`.
        margin: None is the paper's K / 2.
        eta: weight of the quantisation; the default is the published code's 100, to a sum over 22,500 triplets an
            image, turned into one to a mean.
        inner_product: "full" leaves the 1/2 of theta out.
        self_positives: True also takes p = a, which pulls at nothing but |u|.
        reduction: over triplets and images. "anchor" is the mean over anchors of the mean over an anchor's triplets,
            "sum" the printed one, which needs an eta of the paper's size.
        memory: False takes p and n from the batch, without draws; an image without labels is then an n of all.
        positives, negatives: drawn for each anchor and other class; the published code's 50.

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
        memory: bool = True,
        positives: int = 50,
        negatives: int = 50,
    ) -> None:
        super().__init__(labels, bits)
        self.margin = bits / 2 if margin is None else check_weight("margin", margin)
        self.eta = check_weight("eta", eta)
        check_choice("inner_product", inner_product, get_args(InnerProduct))
        check_choice("self_positives", self_positives, (True, False))
        check_choice("reduction", reduction, get_args(Reduction))
        check_choice("memory", memory, (True, False))
        self.factor = 0.5 if inner_product == "half" else 1.0
        self.self_positives = self_positives
        self.reduction: Reduction = reduction
        self.memory = Memory(len(labels), bits) if memory else None
        self.positives = check_count("positives", positives)
        self.negatives = check_count("negatives", negatives)

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        labels = self.labels[indices]
        if self.memory is None:
            theta, similar = self.factor * outputs @ outputs.T, similarity(labels, labels) > 0
            likelihood = triplet_likelihood(theta, similar, self.margin, self.reduction, self.self_positives)
        else:
            likelihood = self._drawn_likelihood(self.memory, outputs, indices)
        quantisation = (outputs - sign(outputs.detach())).square().sum(dim=1)
        return likelihood + self.eta * (quantisation.sum() if self.reduction == "sum" else quantisation.mean())

    def _drawn_likelihood(self, memory: Memory, outputs: Tensor, indices: Tensor) -> Tensor:
        others = memory.remember(indices, outputs)
        similar = similarity(self.labels[indices], self.labels) > 0
        positive = similar & memory.seen
        if not self.self_positives:
            positive[torch.arange(len(indices), device=indices.device), indices] = False
        near, near_wanted = pack_rows(self.factor * outputs @ others.T, positive)
        sums = outputs.new_zeros(len(outputs))
        counts = torch.zeros(len(outputs), dtype=torch.int64, device=outputs.device)
        for members in (self.labels > 0).T & memory.seen:  # class by class
            rows = members.nonzero().squeeze(1)
            far, far_wanted = self.factor * outputs @ others[rows].T, ~similar[:, rows]
            losses, found = anchor_losses(
                *draw(near, near_wanted, self.positives), *draw(far, far_wanted, self.negatives), self.margin
            )
            sums, counts = sums + losses, counts + found
        return reduce_triplets(sums, counts, self.reduction)
