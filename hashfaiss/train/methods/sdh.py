"""SDH: codes from which labels can be told by a linear classifier, and that a kernel regression can predict."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hashfaiss.errors import ArgumentError
from hashfaiss.networks.features import kernel_features
from hashfaiss.train.methods.discrete import coordinate_descent
from hashfaiss.train.methods.method import BLOCK, About, Shallow, check_count, check_weight, sign


class SDH(Shallow):
    """b = sign(phi(x) P), P from min ||Y - B W||² + lambda ||W||² + nu ||B - phi P||² over B in ±1, W and P.

    phi is an RBF kernel on `anchors` training images with a constant 1, of features scaled to length 1 (see
    `kernel_features`). B starts at random; W and P are ridge regressions on B; then `iterations` times B bit by bit
    (discrete cyclic coordinate descent), W, and P. With nu * ridge ||P||² added, as P is solved for, no step
    increases the sum.

    Args:
        labels: Y, 0/1 (N, classes).
        bits: K.
        regularisation: lambda, above 0; the paper's 1.
        nu: weight of what the kernel regression cannot predict; the authors' code has 1e-5.
        ridge: on P, above 0; the authors' code has 1e-2.
        sigma: width of the kernel, in the units of features of length 1 (two of them are at most 2 apart, and after a
            ReLU at most 1.41); the authors' 0.4. It depends on the data.
        anchors: m; all images where there are fewer.
        iterations: of the three steps.
        sweeps: through the bits in a step of B, at most; it ends with the first that changes none.

    Raises:
        ArgumentError: an option outside what it may be.
    """

    about = About(
        title="SDH",
        paper="Shen et al., Supervised discrete hashing, CVPR",
        year=2015,
        supervision="classes",
        multi_label=True,
        loss="||Y - B W||² + lambda ||W||² + nu ||B - phi P||² over discrete B, phi a kernel of fixed features",
    )

    def __init__(
        self,
        labels: Tensor,
        bits: int,
        regularisation: float = 1.0,
        nu: float = 1e-5,
        ridge: float = 1e-2,
        sigma: float = 0.4,
        anchors: int = 1000,
        iterations: int = 5,
        sweeps: int = 10,
    ) -> None:
        super().__init__(labels, bits)
        for name, value in (("regularisation", regularisation), ("ridge", ridge), ("sigma", sigma)):
            if check_weight(name, value) == 0:
                raise ArgumentError(f"{name} is 0: give a number above 0")
        self.regularisation, self.ridge, self.sigma = float(regularisation), float(ridge), float(sigma)
        self.nu = check_weight("nu", nu)
        self.anchors = check_count("anchors", anchors)
        self.iterations = check_count("iterations", iterations)
        self.sweeps = check_count("sweeps", sweeps)

    def fit(self, features: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Features (N, d) → anchors (m, d), sigma () and projection P (m + 1, K)."""
        images = len(features)
        chosen = torch.randperm(images, generator=generator)[: self.anchors]
        anchors = normalize(features[chosen].double(), dim=1)
        phi = torch.empty(images, len(anchors) + 1, dtype=torch.float64)  # 400 MB of 50,000 images, so only once
        for rows, block in zip(torch.split(phi, BLOCK), torch.split(features, BLOCK), strict=True):
            rows.copy_(kernel_features(block.double(), anchors, self.sigma))
        root = torch.linalg.cholesky(_ridged(phi.T @ phi, self.ridge))
        labels = self.labels.double()
        codes = sign(torch.randn(images, self.bits, generator=generator, dtype=torch.float64))
        weights = self._classify(codes, labels)
        projection = torch.cholesky_solve(phi.T @ codes, root)
        for _ in range(self.iterations):
            linear = self.nu * (phi @ projection) + labels @ weights.T
            codes = _descend(codes, weights @ weights.T, linear, self.sweeps)
            weights = self._classify(codes, labels)
            projection = torch.cholesky_solve(phi.T @ codes, root)
        return {
            "anchors": anchors,
            "sigma": torch.tensor(self.sigma, dtype=torch.float64),
            "projection": projection,
        }

    def _classify(self, codes: Tensor, labels: Tensor) -> Tensor:
        """W (K, classes), the ridge regression of labels (N, classes) on codes (N, K)."""
        root = torch.linalg.cholesky(_ridged(codes.T @ codes, self.regularisation))
        return torch.cholesky_solve(codes.T @ labels, root)


def _descend(codes: Tensor, coupling: Tensor, linear: Tensor, sweeps: int) -> Tensor:
    for _ in range(sweeps):
        before, codes = codes, coordinate_descent(codes, coupling, linear)
        if torch.equal(codes, before):
            break
    return codes


def _ridged(gram: Tensor, ridge: float) -> Tensor:
    return gram + ridge * torch.eye(len(gram), dtype=gram.dtype)
