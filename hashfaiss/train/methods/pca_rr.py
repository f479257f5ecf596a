"""PCA-RR: principal directions under a random rotation."""

from __future__ import annotations

from torch import Tensor

from hashfaiss.train.methods.itq import ITQ
from hashfaiss.train.methods.method import About


class PCARR(ITQ):
    """b = sign((x - mu) P R): P the K first principal directions, R a random rotation (ITQ without its iterations).

    A rotation spreads the variance, which the first directions have most of, over all bits (Jégou et al. 2010).
    """

    about = About(
        title="PCA-RR",
        paper="Gong et al., Iterative quantization, CVPR",
        year=2011,
        supervision="none",
        multi_label=True,
        loss="none: signs of the principal components of fixed features under a random rotation",
    )

    def __init__(self, labels: Tensor, bits: int) -> None:
        super().__init__(labels, bits)
        self.iterations = 0
