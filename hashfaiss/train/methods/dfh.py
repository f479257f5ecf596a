"""DFH's loss: pairwise likelihood with a margin, and codes drawn to centres of their classes (Li et al. 2019)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from hashfaiss.train.methods.discrete import coordinate_descent
from hashfaiss.train.methods.method import About, Memory, Method, check_choice, check_weight, sign, similarity

Centres = Literal["discrete", "relaxed"]

STEPS = 200
STEP_LENGTH = 0.03
DROPS = (149, 179)  # steps, counted from 0, from which on they are a tenth as long


class DFH(Method):
    """L = mean_ij log(1 + e^(margin + (1 - 2 s_ij) theta_ij)) + eta * mean_ik (b_ik - u_ik)^2.

    theta_ij = <u_i, U_j> / 2; s_ij is 1 where images i and j share a label; i runs over the batch, j over a memory of
    every training image's last u. b_i = sign(mu C y_i + u_i) is drawn to the centres C (K, classes), ±1, of the image's
    classes; y_i are its labels divided by their number. After that the batch (U, Y, B as columns) moves the centres:
    close to their images, and far from each other, as in Fisher's discriminant.

    - "discrete": bit by bit, one sweep that makes less of ||C Y - B||^2 + vul sum_{i != j} <c_i, c_j>.
    - "relaxed": C = sign(V), V by 200 steps of gradient descent on the means of (V Y - B)^2, of
      vul (V^T V - K (2 I - 1))^2 and of nta (V - sign V)^2; V goes on from batch to batch. It costs more.

    Centres start as 0, as published, so that the first batch has b = sign(u).

    Args:
        labels, bits: as for `Method`.
        margin: 0 in the released code; other published numbers have 1 or 3.
        mu: pull of the centres on the codes; 1 in the released code, another popular one has 0.1.
        vul: weight of the distance between centres.
        nta: weight of the relaxed centres' quantisation.
        eta: weight of the quantisation.
        centres: how they are solved.

    Raises:
        ArgumentError: an option that is none of these.
    """

    about = About(
        title="DFH",
        paper="Li et al., Push for quantization: deep Fisher hashing, BMVC",
        year=2019,
        supervision="pairs + classes",
        multi_label=True,
        loss="pairwise likelihood with a margin + distance to codes drawn to discrete class centres",
    )

    class_centres: Tensor
    relaxed: Tensor

    def __init__(
        self,
        labels: Tensor,
        bits: int,
        margin: float = 0.0,
        mu: float = 1.0,
        vul: float = 1.0,
        nta: float = 1.0,
        eta: float = 0.5,
        centres: Centres = "discrete",
    ) -> None:
        super().__init__(labels, bits)
        self.margin = check_weight("margin", margin)
        self.mu = check_weight("mu", mu)
        self.vul = check_weight("vul", vul)
        self.nta = check_weight("nta", nta)
        self.eta = check_weight("eta", eta)
        check_choice("centres", centres, get_args(Centres))
        self.discrete = centres == "discrete"
        self.memory = Memory(len(labels), bits)
        self.register_buffer("class_centres", torch.zeros(bits, labels.shape[1]))
        if not self.discrete:
            self.register_buffer("relaxed", torch.zeros(bits, labels.shape[1]))

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar. Moves the centres."""
        labels = self.labels[indices]
        others = self.memory.remember(indices, outputs)
        shares = labels / labels.sum(dim=1, keepdim=True).clamp(min=1)
        codes = sign(self.mu * shares @ self.class_centres.T + outputs.detach())
        self._move_centres(shares, codes)
        theta = outputs @ others.T / 2
        likelihood = -logsigmoid((2 * similarity(labels, self.labels) - 1) * theta - self.margin).mean()
        return likelihood + self.eta * (codes - outputs).square().mean()

    def _move_centres(self, shares: Tensor, codes: Tensor) -> None:
        """Solve C for one batch: labels divided by their number (n, classes), codes b (n, K)."""
        if self.discrete:
            coupling = shares.T @ shares + self.vul
            self.class_centres.copy_(coordinate_descent(self.class_centres, coupling, codes.T @ shares))
        else:
            self.relaxed.copy_(self._descend(shares, codes))
            self.class_centres.copy_(sign(self.relaxed))

    def _descend(self, shares: Tensor, codes: Tensor) -> Tensor:
        """V (K, classes) after the gradient steps."""
        relaxed, images, classes = self.relaxed, len(shares), self.relaxed.shape[1]
        target = self.bits * (2 * torch.eye(classes, dtype=shares.dtype, device=shares.device) - 1)
        # With many more bits than classes steps of the published length diverge. The curvature is that near the
        # minimum, where V^T V is about the positive part of K (2 I - 1); 64 bits of 10 classes are below the limit.
        curvature = 4 * self.vul * self.bits * (classes + 4) / classes**2 + 2 * self.nta / (self.bits * classes) + 2
        length = min(STEP_LENGTH, 1.5 / curvature)
        gram, cross = shares.T @ shares, codes.T @ shares
        for step in range(STEPS):
            length = length / 10 if step in DROPS else length
            within = 2 * (relaxed @ gram - cross) / (self.bits * images)
            between = 4 * self.vul * relaxed @ (relaxed.T @ relaxed - target) / classes**2
            quantisation = 2 * self.nta * (relaxed - torch.sign(relaxed)) / (self.bits * classes)
            relaxed = relaxed - length * (within + between + quantisation)
        return relaxed
