"""DPN's loss: each bit is to lie on its target's side of 0, by a margin."""

from __future__ import annotations

from torch import Tensor

from hashfaiss.train.methods.centres import TargetMethod
from hashfaiss.train.methods.method import About, check_weight


class DPN(TargetMethod):
    """L = mean_i sum_k max(m - u_ik t_ik, 0), t_i the centre of the image (the polarisation loss).

    The target of an image with several labels is the sign of the sum of its classes' centres, see
    `TargetMethod.targets`. The paper draws its targets at random, or has them follow the outputs; popular code takes
    the mean over bits.

    Args:
        labels, bits: as for `Method`.
        margin: m; the paper's 1.

    Raises:
        ArgumentError: a margin that is not a number from 0 up.
    """

    about = About(
        title="DPN",
        paper="Fan et al., Deep polarized network for supervised learning of accurate binary hashing codes, IJCAI",
        year=2020,
        supervision="classes",
        multi_label=True,
        loss="hinge of u t, t the signs of hash centres of the classes",
    )

    def __init__(self, labels: Tensor, bits: int, margin: float = 1.0) -> None:
        super().__init__(labels, bits)
        self.margin = check_weight("margin", margin)

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        return (self.margin - outputs * self.targets(indices)).clamp_min(0).sum(dim=1).mean()
