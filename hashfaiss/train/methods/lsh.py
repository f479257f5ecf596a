"""LSH: signs of random projections."""

from __future__ import annotations

import torch
from torch import Tensor

from hashfaiss.train.methods.method import About, Shallow, check_choice


class LSH(Shallow):
    """b = sign((x - mu) W), W ~ N(0, 1)^(d x K): two images differ in a bit with probability angle / pi.

    Args:
        labels, bits: as for `Shallow`; the labels are not used.
        centre: take the mean mu from the features. The classic form does not, but features after a ReLU all lie in
            one orthant, where angles are small and codes alike.

    Raises:
        ArgumentError: `centre` is neither True nor False.
    """

    about = About(
        title="LSH",
        paper="Charikar, Similarity estimation techniques from rounding algorithms, STOC",
        year=2002,
        supervision="none",
        multi_label=True,
        loss="none: signs of random projections of fixed features",
    )

    def __init__(self, labels: Tensor, bits: int, centre: bool = True) -> None:
        super().__init__(labels, bits)
        check_choice("centre", centre, (True, False))
        self.centre = centre

    def fit(self, features: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Features (N, d) → mean (d,) and projection (d, K)."""
        dim = features.shape[1]
        mean = features.mean(dim=0, dtype=torch.float64) if self.centre else torch.zeros(dim, dtype=torch.float64)
        return {
            "mean": mean,
            "projection": torch.randn(dim, self.bits, generator=generator, dtype=torch.float64),
        }
