"""IDHN's loss: pairs of images have a degree of similarity, the cosine of their labels."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, normalize, softsign

from hashfaiss.train.methods.method import About, Memory, Method, check_choice, check_weight
from hashfaiss.train.methods.pairs import partners

Variant = Literal["official", "popular"]
HARD = 0.01  # a similarity this near to 0 or 1 counts as certain


class IDHN(Method):
    """L = mean_ij l_ij, hard or soft, + quantisation * mean_ik | |h_ik| - 1 |, h = u / (1 + |u|).

    i and j run over the batch, s_ij is the cosine of their label vectors. A pair is hard where s_ij is 0 or 1 (within
    0.01): l_ij = log(1 + e^theta) - s_ij theta, theta = 5 / K <h_i, h_j>. Any other is soft:
    l_ij = soft * K ((<h_i, h_j> + K) / 2K - s_ij)². With one label an image all pairs are hard. An image without labels
    is unlike all.

    Args:
        labels, bits: as for `Method`.
        quantisation: weight of the last term.
        soft: weight of soft pairs.
        variant: "official" is the authors' code. "popular" is the code DHIDA compares with: theta = <h_i, h_j> / 2, and
            soft * (theta + K - 2 s_ij K)² for soft pairs. That is least at <h_i, h_j> = 2 (2 s_ij - 1) K, twice what
            s_ij means and out of reach for s_ij above 0.75 or below 0.25, and outweighs hard pairs the more, the larger
            K is.
        memory: True takes j from a memory of every training image's last h, as popular code does. Rows of images not
            yet seen are 0 and add a constant.

    Raises:
        ArgumentError: an option that is none of these.
    """

    about = About(
        title="IDHN",
        paper="Zhang et al., Improved deep hashing with soft pairwise similarity, TMM",
        year=2019,
        supervision="pairs",
        multi_label=True,
        loss="pairwise likelihood for like and unlike pairs, squared error for those between, + distance to ±1",
    )

    def __init__(
        self,
        labels: Tensor,
        bits: int,
        quantisation: float = 0.1,
        soft: float = 0.1,
        variant: Variant = "official",
        memory: bool = False,
    ) -> None:
        super().__init__(labels, bits)
        self.quantisation = check_weight("quantisation", quantisation)
        self.soft = check_weight("soft", soft)
        check_choice("variant", variant, get_args(Variant))
        check_choice("memory", memory, (True, False))
        self.variant = variant
        self.memory = Memory(len(labels), bits) if memory else None

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        activated = softsign(outputs)
        labels = self.labels[indices]
        others, other_labels = partners(self.memory, activated, self.labels, indices)
        similar = (normalize(labels) @ normalize(other_labels).T).clamp(max=1)
        products = activated @ others.T
        if self.variant == "official":
            theta = 5 / self.bits * products
            soft = self.soft * self.bits * ((products / self.bits + 1) / 2 - similar).square()
        else:
            theta = products / 2
            soft = self.soft * (theta + self.bits - 2 * similar * self.bits).square()
        hard = binary_cross_entropy_with_logits(theta, similar, reduction="none")
        certain = (similar < HARD) | (similar > 1 - HARD)
        distance = (activated.abs() - 1).abs().mean()
        return torch.where(certain, hard, soft).mean() + self.quantisation * distance
