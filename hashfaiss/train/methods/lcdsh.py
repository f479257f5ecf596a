"""LCDSH's loss: pairwise likelihood, and the same pair probabilities before and after the sign."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from hashfaiss.train.methods.method import About, Method, check_weight, sign, similarity

LARGEST_THETA = 50


class LCDSH(Method):
    """L = mean_ij log(1 + e^(-s_ij theta_ij)) + locality * mean_ij (sigma(theta_ij) - sigma(<b_i, b_j> / 2))².

    theta_ij = <u_i, u_j> / 2, cut to [-50, 50] (no gradient beyond); s_ij is +1 where images i and j share a label, -1
    elsewhere; b = sign(u) is a constant. i and j run over the batch.

    The paper's text was not at hand: this is the form popular code gives it, which DHIDA compares with.

    Args:
        labels, bits: as for `Method`.
        locality: weight of the second term.

    Raises:
        ArgumentError: a weight that is none.
    """

    about = About(
        title="LCDSH",
        paper="Zhu et al., Locality-constrained deep supervised hashing, IJCAI",
        year=2017,
        supervision="pairs",
        multi_label=True,
        loss="pairwise likelihood of u, + squared change of pair probabilities by the sign",
    )

    def __init__(self, labels: Tensor, bits: int, locality: float = 3.0) -> None:
        super().__init__(labels, bits)
        self.locality = check_weight("locality", locality)

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        labels, codes = self.labels[indices], sign(outputs)
        theta = (outputs @ outputs.T / 2).clamp(-LARGEST_THETA, LARGEST_THETA)
        # log(1 + e^(-s theta)) for s = ±1 is the pairwise likelihood for s = 0, 1
        likelihood = binary_cross_entropy_with_logits(theta, similarity(labels, labels))
        change = theta.sigmoid() - (codes @ codes.T / 2).sigmoid()
        return likelihood + self.locality * change.square().mean()
