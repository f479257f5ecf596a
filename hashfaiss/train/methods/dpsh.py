"""DPSH's loss: pairwise likelihood of the raw outputs, and their distance to their signs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from hashfaiss.train.methods.method import About, Memory, Method, check_weight, sign, similarity


class DPSH(Method):
    """L = 1/(nN) (sum_ij [log(1 + e^theta_ij) - s_ij theta_ij] + eta sum_i |sign(u_i) - u_i|²), theta = <u_i, U_j> / 2.

    s_ij is 1 where images i and j share a label. i runs over the n images of the batch, j over a memory of every
    training image's last u; rows of images not yet seen are 0 and add log 2 without a gradient. The paper prints sums
    over pairs; both are divided by nN here, as in the authors' PyTorch code, which leaves eta's meaning alone.

    Popular code takes 0.1 times the mean over images and bits of (sign(u) - u)², which is eta = 0.1 N / K.

    Args:
        labels, bits: as for `Method`.
        eta: weight of the quantisation term; the paper's 10 (CIFAR-10; 50 on NUS-WIDE).

    Raises:
        ArgumentError: a weight that is none.
    """

    about = About(
        title="DPSH",
        paper="Li et al., Feature learning based deep supervised hashing with pairwise labels, IJCAI",
        year=2016,
        supervision="pairs",
        multi_label=True,
        loss="pairwise likelihood of u, + squared distance to sign(u)",
    )

    def __init__(self, labels: Tensor, bits: int, eta: float = 10.0) -> None:
        super().__init__(labels, bits)
        self.eta = check_weight("eta", eta)
        self.memory = Memory(len(labels), bits)

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        theta = outputs @ self.memory.remember(indices, outputs).T / 2
        likelihood = binary_cross_entropy_with_logits(theta, similarity(self.labels[indices], self.labels))
        quantisation = (sign(outputs) - outputs).square().sum() / theta.numel()
        return likelihood + self.eta * quantisation
