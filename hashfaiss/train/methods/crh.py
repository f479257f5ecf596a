"""CRH's loss: OrthoHash's, with centres that change hands between classes while they are learned."""

from __future__ import annotations

import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from hashfaiss.train.methods.method import About, check_count, check_weight
from hashfaiss.train.methods.orthohash import OrthoHash

EARLY, EVERY = 20, 5  # centres are reassigned after each of so many epochs, then after every so many


class CRH(OrthoHash):
    """OrthoHash's loss at s = sqrt(2) ln(classes - 1), + weight * mean (|tanh u| - 1)², with reassigned centres.

    The bits are cut into heads. After epochs 1 to 20, and then after every fifth, each head's pieces of the centres are
    given to the classes anew: the assignment of the largest sum, over classes, of the inner products of the piece with
    the mean of tanh(u) over the class's images in this epoch (Hungarian method). A head whose assignment would give two
    classes the same centre keeps what it has.

    The paper's code is not published and not all of its text was at hand: the number of heads, what is assigned by, and
    what is done with classes that would meet are this project's reading.

    Args:
        labels, bits: as for `Method`.
        quantisation: weight of that term; the paper's 0.1.
        margin: as for OrthoHash.
        heads: how many; 1 exchanges whole centres.
        scale: s; None is the paper's, with 3 classes where there are fewer.

    Raises:
        ArgumentError: an option that is none of these.
    """

    about = About(
        title="CRH",
        paper="Center-reassigned hashing, AAAI",
        year=2026,
        supervision="classes",
        multi_label=True,
        loss="OrthoHash's, + quantisation (|tanh u| - 1)²; centres are reassigned to classes head by head",
    )
    sums: Tensor

    def __init__(
        self,
        labels: Tensor,
        bits: int,
        quantisation: float = 0.1,
        margin: float = 0.2,
        heads: int = 4,
        scale: float | None = None,
    ) -> None:
        by_classes = math.sqrt(2) * math.log(max(labels.shape[1], 3) - 1)
        super().__init__(labels, bits, by_classes if scale is None else scale, margin)
        self.quantisation = check_weight("quantisation", quantisation)
        self.heads = check_count("heads", heads)
        self.register_buffer("sums", torch.zeros(labels.shape[1], bits))

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        activated = outputs.tanh()
        self.sums += (self.labels[indices].T @ activated.detach()).to(self.sums.dtype)
        quantisation = (activated.abs() - 1).square().mean()
        return super().forward(outputs, indices) + self.quantisation * quantisation

    def end_epoch(self, epoch: int) -> None:
        """Reassign the centres, in the epochs for it."""
        if epoch <= EARLY or epoch % EVERY == 0:
            means = self.sums / self.labels.sum(dim=0).clamp_min(1)[:, None]
            for columns in torch.arange(self.bits).tensor_split(self.heads):
                gains = means[:, columns] @ self.centres[:, columns].T.to(means.dtype)
                _, pieces = linear_sum_assignment(gains.cpu().numpy(), maximize=True)
                moved = self.centres.clone()
                moved[:, columns] = self.centres[:, columns][torch.from_numpy(pieces).to(self.centres.device)]
                if _different(moved) >= _different(self.centres):
                    self.centres.copy_(moved)
        self.sums.zero_()


def _different(centres: Tensor) -> int:
    return len(torch.unique(centres, dim=0))
