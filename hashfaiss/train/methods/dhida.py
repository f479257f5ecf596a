"""DHIDA's loss: pairwise likelihood on a piecewise activation, and bit balance (Eq. 1, 10-13)."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from hashfaiss.train.methods.method import About, Memory, Method, check_choice, check_weight, similarity
from hashfaiss.train.methods.pairs import BalanceAxis, balance, partners

Activation = Literal["piecewise", "none"]
Reduction = Literal["mean", "sum"]


class DHIDA(Method):
    """L = mean_ij [log(1 + e^theta_ij) - s_ij theta_ij] + gamma * balance, theta_ij = <f(u_i), f(U_j)> / 2.

    f(u) is u cut to [-1, 1] (Eq. 1): outputs beyond it get no gradient, and nothing else pulls outputs to ±1. s_ij is
    1 where images i and j share a label. i runs over the batch, j over a memory of every training image's last f(u).
    Rows of images not yet seen are 0 and add log 2 without a gradient.

    Args:
        labels, bits: as for `Method`.
        gamma: weight of the balance term; the paper's 0.1.
        activation: "none" leaves f out, for the ablation A of Table 4.
        balance_axis: "bit" is Eq. 12, the sum over bits of the squared mean of a bit over the batch: each bit is to be
            +1 for half of the images. "sample" is what the published code of the method's ancestor (DBDH) computes, the
            mean over images of the squared mean over an image's bits: each code is to have as many +1 as -1.
        memory: False takes j from the batch too, with gradients on both sides.
        reduction: over pairs, and over images in the "sample" balance. "sum" is the printed one; gamma then weighs
            next to nothing.

    Raises:
        ArgumentError: an option that is none of these.
    """

    about = About(
        title="DHIDA",
        paper="Deep hash with improved dual attention for image retrieval, Information",
        year=2021,
        supervision="pairs",
        multi_label=True,
        loss="pairwise likelihood of f(u) = clamp(u, -1, 1), + bit balance",
    )

    def __init__(
        self,
        labels: Tensor,
        bits: int,
        gamma: float = 0.1,
        activation: Activation = "piecewise",
        balance_axis: BalanceAxis = "bit",
        memory: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(labels, bits)
        self.gamma = check_weight("gamma", gamma)
        check_choice("activation", activation, get_args(Activation))
        check_choice("balance_axis", balance_axis, get_args(BalanceAxis))
        check_choice("memory", memory, (True, False))
        check_choice("reduction", reduction, get_args(Reduction))
        self.piecewise = activation == "piecewise"
        self.balance_axis = balance_axis
        self.memory = Memory(len(labels), bits) if memory else None
        self.reduction = reduction

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        activated = outputs.clamp(-1, 1) if self.piecewise else outputs
        labels = self.labels[indices]
        others, other_labels = partners(self.memory, activated, self.labels, indices)
        theta = activated @ others.T / 2
        # softplus(theta) - s * theta, in its stable form
        similar = similarity(labels, other_labels)
        likelihood = binary_cross_entropy_with_logits(theta, similar, reduction=self.reduction)
        return likelihood + self.gamma * balance(activated, self.balance_axis, reduction=self.reduction)
