"""DHN's loss: pairwise likelihood of tanh outputs, and a smooth pull of each to ±1."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from hashfaiss.train.methods.method import About, Memory, Method, check_choice, check_weight, log_cosh, similarity
from hashfaiss.train.methods.pairs import partners

Activation = Literal["tanh", "none"]


class DHN(Method):
    """L = mean_ij [log(1 + e^theta_ij) - s_ij theta_ij] + weight * mean_ik log cosh(|z_ik| - 1), theta = <z_i, z_j>.

    z = tanh(u), s_ij is 1 where images i and j share a label, and i and j run over the batch. The paper prints sums and
    chooses the weight by validation; with means, the popular code's 0.1 is the default.

    What that code does otherwise is DHN(..., activation="none", factor=0.5, memory=True).

    Args:
        labels, bits: as for `Method`.
        quantisation: weight of the log cosh term.
        activation: "none" takes z = u.
        factor: theta = factor * <z_i, z_j>.
        memory: True takes j from a memory of every training image's last z. Rows of images not yet seen are 0 and add
            log 2 without a gradient.

    Raises:
        ArgumentError: an option that is none of these.
    """

    about = About(
        title="DHN",
        paper="Zhu et al., Deep hashing network for efficient similarity retrieval, AAAI",
        year=2016,
        supervision="pairs",
        multi_label=True,
        loss="pairwise likelihood of tanh(u), + log cosh of the distance to ±1",
    )

    def __init__(
        self,
        labels: Tensor,
        bits: int,
        quantisation: float = 0.1,
        activation: Activation = "tanh",
        factor: float = 1.0,
        memory: bool = False,
    ) -> None:
        super().__init__(labels, bits)
        check_choice("activation", activation, get_args(Activation))
        check_choice("memory", memory, (True, False))
        self.quantisation = check_weight("quantisation", quantisation)
        self.factor = check_weight("factor", factor)
        self.tanh = activation == "tanh"
        self.memory = Memory(len(labels), bits) if memory else None

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        activated = outputs.tanh() if self.tanh else outputs
        labels = self.labels[indices]
        others, other_labels = partners(self.memory, activated, self.labels, indices)
        theta = self.factor * activated @ others.T
        likelihood = binary_cross_entropy_with_logits(theta, similarity(labels, other_labels))
        return likelihood + self.quantisation * log_cosh(activated.abs() - 1).mean()
