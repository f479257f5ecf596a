"""CCA-ITQ: ITQ on the directions in which features and labels correlate."""

from __future__ import annotations

import torch
from torch import Tensor

from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods.method import About, Shallow, check_count, check_weight
from hashfaiss.train.methods.rotation import find_rotation, mean_and_covariance, project


class CCAITQ(Shallow):
    """b = sign((x - mu) W R): W from canonical correlation analysis of features and labels, R as in `ITQ`.

    C_xy (C_yy + rho I)^-1 C_yx w = lambda² (C_xx + rho I) w, the K largest lambda, each w scaled by its lambda.
    It is solved where the labels are, in (classes, classes), which is the smaller side
    and has the same lambda. (scikit-learn's CCA has no rho, and iterates towards one direction after the other.)

    Args:
        labels: 0/1 (N, classes).
        bits: K, at most the rank of the labels, see `check`.
        rho: added to the diagonal of both covariances, in squared units of the features.
        iterations: of ITQ.

    Raises:
        ArgumentError: rho is not above 0, or `iterations` not a whole number from 1 up.
    """

    about = About(
        title="CCA-ITQ",
        paper="Gong et al., Iterative quantization, CVPR",
        year=2011,
        supervision="classes",
        multi_label=True,
        loss="||sign(V R) - V R||², V the canonical components of fixed features with labels, R a rotation",
    )

    def __init__(self, labels: Tensor, bits: int, rho: float = 1e-4, iterations: int = 50) -> None:
        super().__init__(labels, bits)
        if check_weight("rho", rho) == 0:
            raise ArgumentError("rho is 0: give a number above 0, because the covariance of the labels has no inverse")
        self.rho = float(rho)
        self.iterations = check_count("iterations", iterations)

    @classmethod
    def check(cls, labels: Tensor, bits: int) -> None:
        """Refuse K above the rank of the centred labels (N, classes).

        That is the number of classes where images have several labels, one less where each has one. Directions beyond
        it are numerical noise, which the rotation would spread over every bit.

        Raises:
            ArgumentError: K is above it.
        """
        images, classes = labels.shape
        # N² times the covariance: whole numbers, exact up to 16 million images, so that its rank is not in doubt
        together, counts = (labels.T @ labels).double(), labels.sum(dim=0, dtype=torch.float64)
        scatter = images * together - torch.outer(counts, counts)
        rank = int(torch.linalg.matrix_rank(scatter, hermitian=True))
        if bits > rank:
            raise ArgumentError(
                f"bits is {bits}, but the labels of {classes} classes have {rank} independent directions: "
                f"give CCA-ITQ {rank} bits or fewer, or take itq or sdh"
            )

    def fit(self, features: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Features (N, d) → mean (d,) and projection W R (d, K).

        Raises:
            ArgumentError: K is above the rank of the labels, or of the features.
        """
        self.check(self.labels, self.bits)
        dim = features.shape[1]
        if self.bits > dim:
            raise ArgumentError(f"bits is {self.bits}, but the features are {dim} numbers: give {dim} bits or fewer")
        mean, covariance = mean_and_covariance(features, self.labels)
        covariance.diagonal().add_(self.rho)
        directions = canonical_directions(covariance, dim)[:, : self.bits]
        mean = mean[:dim]
        rotation = find_rotation(project(features, mean, directions), self.iterations, generator)
        return {"mean": mean, "projection": directions @ rotation}


def canonical_directions(covariance: Tensor, dim: int) -> Tensor:
    """lambda w of features x with labels y, the largest lambda first, w' C_xx w = 1.

    Args:
        covariance: (d + c, d + c) of x and y side by side, with rho on its diagonal.
        dim: d.

    Returns:
        (d, c).
    """
    features, cross, labels = covariance[:dim, :dim], covariance[:dim, dim:], covariance[dim:, dim:]
    regression = torch.cholesky_solve(cross, torch.linalg.cholesky(features))  # C_xx^-1 C_xy
    root = torch.linalg.cholesky(labels)
    # With C_yy = L L', the matrix L^-1 C_yx C_xx^-1 C_xy L^-T has eigenvalues lambda²; of its eigenvectors v come
    # w = C_xx^-1 C_xy L^-T v / lambda.
    whitened = torch.linalg.solve_triangular(root, regression.T, upper=False).T
    correlations = torch.linalg.solve_triangular(root, cross.T @ whitened, upper=False)
    _, vectors = torch.linalg.eigh((correlations + correlations.T) / 2)  # ascending
    directions: Tensor = whitened @ vectors.flip(dims=[1])
    return directions
