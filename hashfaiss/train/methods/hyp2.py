"""HyP²'s loss: learned proxies of the classes, and pairs of images that have nothing in common."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods.centres import linear_distance
from hashfaiss.train.methods.method import About, Method, check_choice, check_weight

Pairs = Literal["all", "several"]


class HyP2(Method):
    """L = mean_{y=1} (1 - cos(u, p)) + mean_{y=0} max(cos(u, p) - z, 0) + beta * mean_{s=0} max(cos(u_i, u_j) - z, 0).

    p are learned proxies (classes, K); y says which images have which classes, s which images share a label. The
    threshold z = 1 - 2d/K is the cosine of two words of a linear code of ceil(log2 classes) dimensions that are its
    least distance d apart. The published code takes d from a table of best known codes; here it is that of
    `linear_code`, which may be less.

    A mean over no pairs is 0.

    Args:
        labels, bits: as for `Method`.
        beta: weight of the pairs' term; the published code's 0.5.
        pairs: of "all" images, or as the published code has it of those with "several" labels.
        threshold: z; None is the one above.

    Attributes:
        proxies: (classes, K), trained with the network.

    Raises:
        ArgumentError: an option that is none of these.
    """

    about = About(
        title="HyP2",
        paper="Xu et al., HyP² loss: beyond hypersphere metric space for multi-label image retrieval, ACM MM",
        year=2022,
        supervision="pairs + classes",
        multi_label=True,
        loss="cosines of u with learned proxies of the classes, and of images that share none",
    )

    def __init__(
        self, labels: Tensor, bits: int, beta: float = 0.5, pairs: Pairs = "all", threshold: float | None = None
    ) -> None:
        super().__init__(labels, bits)
        self.beta = check_weight("beta", beta)
        check_choice("pairs", pairs, get_args(Pairs))
        self.several = pairs == "several"
        classes = labels.shape[1]
        by_code = 1 - 2 * linear_distance(classes, bits) / bits
        self.threshold = by_code if threshold is None else threshold
        if not isinstance(self.threshold, (int, float)) or not -1 <= self.threshold <= 1:
            raise ArgumentError(f"threshold is {threshold!r}: give a cosine, from -1 to 1")
        self.proxies = nn.Parameter(torch.randn(classes, bits))

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        labels = self.labels[indices]
        directions = normalize(outputs, dim=1)
        cosines = directions @ normalize(self.proxies, dim=1).T
        positive, negative = labels == 1, labels == 0
        loss = _mean(1 - cosines, positive) + _mean((cosines - self.threshold).clamp_min(0), negative)
        apart = labels @ labels.T == 0
        if self.several:
            many = labels.sum(dim=1) > 1
            apart &= many[:, None] & many
        return loss + self.beta * _mean((directions @ directions.T - self.threshold).clamp_min(0), apart)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """The mean of the values chosen by a mask; 0 where there are none."""
    return (values * where).sum() / where.sum().clamp_min(1)
