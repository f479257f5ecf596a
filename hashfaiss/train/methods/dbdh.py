"""DBDH's loss: pairwise likelihood and balance of the codes themselves, with a straight-through gradient."""

from __future__ import annotations

from typing import get_args

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from hashfaiss.train.methods.method import About, Memory, Method, check_choice, check_weight, sign, similarity
from hashfaiss.train.methods.pairs import BalanceAxis, balance, partners


class DBDH(Method):
    """L = mean_ij [log(1 + e^theta_ij) - s_ij theta_ij] + alpha * balance, theta_ij = <b_i, B_j> / 2.

    b = sign(u), and the gradient of b is taken for that of u where |u| <= 1, for 0 elsewhere. s_ij is 1 where images i
    and j share a label. i runs over the batch, j over a memory of every training image's last b. Rows of images not yet
    seen are 0 and add log 2 without a gradient.

    Popular code, which DHIDA compares with, is DBDH(..., ste=False, balance_axis="sample").

    Args:
        labels, bits: as for `Method`.
        alpha: weight of the balance term.
        power: p of the balance term, 1 or 2.
        ste: False takes clamp(u, -1, 1) for b, in both terms.
        balance_axis: "bit" is the sum over bits of |mean of a bit over the batch|^p: each bit is to be +1 for half of
            the images. "sample" is the mean over images of |mean over an image's bits|^p: each code is to have as many
            +1 as -1.
        memory: False takes j from the batch too.

    Raises:
        ArgumentError: an option that is none of these.
    """

    about = About(
        title="DBDH",
        paper="Zheng et al., Deep balanced discrete hashing for image retrieval, Neurocomputing",
        year=2020,
        supervision="pairs",
        multi_label=True,
        loss="pairwise likelihood of sign(u) with a straight-through gradient, + balance",
    )

    def __init__(
        self,
        labels: Tensor,
        bits: int,
        alpha: float = 0.1,
        power: int = 2,
        ste: bool = True,
        balance_axis: BalanceAxis = "bit",
        memory: bool = True,
    ) -> None:
        super().__init__(labels, bits)
        self.alpha = check_weight("alpha", alpha)
        check_choice("power", power, (1, 2))
        check_choice("ste", ste, (True, False))
        check_choice("balance_axis", balance_axis, get_args(BalanceAxis))
        self.power = power
        self.ste = ste
        self.balance_axis = balance_axis
        check_choice("memory", memory, (True, False))
        self.memory = Memory(len(labels), bits) if memory else None

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        activated = outputs.clamp(-1, 1)
        if self.ste:  # the value of the sign, exactly, and the gradient of the clamp
            activated = sign(outputs) + (activated - activated.detach())
        labels = self.labels[indices]
        others, other_labels = partners(self.memory, activated, self.labels, indices)
        theta = activated @ others.T / 2
        likelihood = binary_cross_entropy_with_logits(theta, similarity(labels, other_labels))
        return likelihood + self.alpha * balance(activated, self.balance_axis, self.power)
