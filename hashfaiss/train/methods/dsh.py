"""DSH's loss: like images near, unlike ones a margin apart, in squared distance, and a pull to ±1."""

from __future__ import annotations

from torch import Tensor

from hashfaiss.train.methods.method import About, Memory, Method, check_choice, check_weight, similarity
from hashfaiss.train.methods.pairs import partners


class DSH(Method):
    """L = 1/(n(n-1)) sum_i<j [d_ij / 2 if similar, else max(m - d_ij, 0) / 2] + alpha mean_i sum_k | |u_ik| - 1 |.

    d_ij = |u_i - u_j|², four times the Hamming distance of codes; i and j run over the batch, and are similar where
    they share a label. The paper's mean over pairs, which holds both images' pull to ±1, is twice this.

    Popular code is DSH(..., alpha=0.1 / K, memory=True), but counts images not yet seen as unlike ones at the origin,
    which in the first epoch pushes all outputs away from it; here they are left out.

    Args:
        labels, bits: as for `Method`.
        alpha: weight of the regulariser.
        margin: m, a squared distance; None is the paper's 2 K, half of the bits. It must grow with K.
        memory: True takes j from a memory of every training image's last u, and the mean over batch x images seen.

    Raises:
        ArgumentError: an option that is none of these.
    """

    about = About(
        title="DSH",
        paper="Liu et al., Deep supervised hashing for fast image retrieval, CVPR",
        year=2016,
        supervision="pairs",
        multi_label=True,
        loss="contrastive on squared distance with margin 2K, + distance to ±1",
    )

    def __init__(
        self, labels: Tensor, bits: int, alpha: float = 0.01, margin: float | None = None, memory: bool = False
    ) -> None:
        super().__init__(labels, bits)
        self.alpha = check_weight("alpha", alpha)
        self.margin = 2.0 * bits if margin is None else check_weight("margin", margin)
        check_choice("memory", memory, (True, False))
        self.memory = Memory(len(labels), bits) if memory else None

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        regulariser = (outputs.abs() - 1).abs().sum(dim=1).mean()
        return self._contrast(outputs, indices) + self.alpha * regulariser

    def _contrast(self, outputs: Tensor, indices: Tensor) -> Tensor:
        others, other_labels = partners(self.memory, outputs, self.labels, indices)
        pairs = self._pairs(outputs, others, similarity(self.labels[indices], other_labels))
        if self.memory is None:
            return pairs.triu(diagonal=1).sum() / max(1, len(pairs) * (len(pairs) - 1))
        return (pairs * self.memory.seen).sum() / (len(pairs) * self.memory.seen.sum())

    def _pairs(self, outputs: Tensor, others: Tensor, similar: Tensor) -> Tensor:
        squares, other_squares = outputs.square().sum(dim=1, keepdim=True), others.square().sum(dim=1)
        distances = (squares + other_squares - 2 * outputs @ others.T).clamp(min=0)  # rounding can fall below 0
        return (similar * distances + (1 - similar) * (self.margin - distances).clamp(min=0)) / 2
