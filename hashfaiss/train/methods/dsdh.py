"""DSDH's loss: pairwise likelihood, and outputs drawn to codes that also classify (Li et al. 2017)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from hashfaiss.train.methods.discrete import coordinate_descent
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

Activation = Literal["tanh", "none"]


class DSDH(Method):
    """L = mean_ij [log(1 + e^theta_ij) - s_ij theta_ij] + eta * mean_ik (b_ik - u_ik)^2, theta_ij = <u_i, U_j> / 2.

     s_ij is 1 where images i and j share a label; i runs over the batch, j over a memory of every training image's last
     u. The codes B (N, K) in the quantisation term are not sign(u): they are solved once an epoch, together with a
     linear classifier W (K, classes) of the labels Y, to make less of

         mu ||Y - B W||^2 + nu ||W||^2 + eta ||B - U||^2,

     first W, by ridge regression, then B, bit by bit. These terms have no gradient of their own for the network: only
     through b do class labels reach it. B starts from random signs, drawn from torch's generator.

     The paper's objective is a sum over all pairs. The defaults are those of a published implementation:
    terms of the network's loss are means and u is tanh of the network's output. eta = 0 with
     activation "none" is the other popular one, where B never reaches the network: DPSH without quantisation.

     Args:
         labels, bits: as for `Method`.
         mu: weight of the classifier's error. Only mu : nu : eta matter for B and W.
         nu: weight of the classifier's norm.
         eta: weight of the quantisation, in the network's loss and in B's problem.
         activation: "tanh" or "none", of the outputs inside the loss.
         sweeps: times that W and then B are solved in an epoch.

     Raises:
         ArgumentError: an option that is none of these.
    """

    about = About(
        title="DSDH",
        paper="Li et al., Deep supervised discrete hashing, NIPS",
        year=2017,
        supervision="pairs + classes",
        multi_label=True,
        loss="pairwise likelihood + distance to discrete codes that a linear classifier reads the labels from",
    )

    codes: Tensor

    def __init__(
        self,
        labels: Tensor,
        bits: int,
        mu: float = 0.01,
        nu: float = 1.0,
        eta: float = 0.01,
        activation: Activation = "tanh",
        sweeps: int = 1,
    ) -> None:
        super().__init__(labels, bits)
        self.mu = check_weight("mu", mu)
        self.nu = check_weight("nu", nu)
        self.eta = check_weight("eta", eta)
        check_choice("activation", activation, get_args(Activation))
        self.tanh = activation == "tanh"
        self.sweeps = check_count("sweeps", sweeps)
        self.memory = Memory(len(labels), bits)
        self.register_buffer("codes", sign(torch.randn(len(labels), bits)))

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        activated = torch.tanh(outputs) if self.tanh else outputs
        others = self.memory.remember(indices, activated)
        theta = activated @ others.T / 2
        # softplus(theta) - s * theta, in its stable form
        likelihood = binary_cross_entropy_with_logits(theta, similarity(self.labels[indices], self.labels))
        return likelihood + self.eta * (self.codes[indices] - activated).square().mean()

    def start_epoch(self, epoch: int, generator: torch.Generator) -> None:
        """Solve W and B for the outputs of the epoch before; in the first there are none yet."""
        if epoch > 1:
            for _ in range(self.sweeps):
                classifier = self._classifier()
                linear = self.mu * self.labels @ classifier.T + self.eta * self.memory.outputs
                self.codes.copy_(coordinate_descent(self.codes, self.mu * classifier @ classifier.T, linear))

    def _classifier(self) -> Tensor:
        """W (K, classes) = (B^T B + nu/mu I)^-1 B^T Y."""
        # Counts of images, exact in float32 too.
        gram, cross = (self.codes.T @ self.codes).double(), (self.codes.T @ self.labels).double()
        ridge = self.nu * torch.eye(self.bits, dtype=gram.dtype, device=gram.device)
        # A pseudo-inverse, because bits may be equal and nu 0.
        classifier: Tensor = torch.linalg.pinv(self.mu * gram + ridge, hermitian=True) @ (self.mu * cross)
        return classifier.to(self.codes.dtype)
