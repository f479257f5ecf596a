"""Hash functions on the features of a backbone that stays as it is: what the shallow methods solve for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from hashfaiss.codes import check_bits
from hashfaiss.errors import ArgumentError
from hashfaiss.networks.backbone import Backbone
from hashfaiss.networks.backbones import build_backbone

Kind = Literal["linear", "kernel"]


class FeatureHash(nn.Module):
    """Images → K raw outputs u; a code is their signs.

    With x the backbone's vector of an image, u is

    - "linear": (x - mean) projection, for LSH, ITQ and CCA-ITQ;
    - "kernel": phi(x) projection, phi as in `kernel_features`, for SDH.

    This last step is computed in float64: a direction in which features barely differ has large weights, and float32
    would leave rounding in its sign.

    Args:
        backbone: a name that `backbones.build_backbone` takes; it starts with random weights.
        bits: K.
        kind: "linear" or "kernel".
        anchors: m, how many anchors a kernel has; not used by "linear".

    Attributes:
        mean, projection: buffers (dim,) and (dim, K) of "linear", zeros until filled.
        anchors, sigma, projection: buffers (m, dim), () and (m + 1, K) of "kernel".

    Raises:
        ArgumentError: an argument that is none of these.
    """

    mean: Tensor
    anchors: Tensor
    sigma: Tensor
    projection: Tensor

    def __init__(self, backbone: str, bits: int, kind: Kind = "linear", anchors: int = 1000) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise ArgumentError(f"unknown kind {kind!r}: give 'linear' or 'kernel'")
        if isinstance(anchors, bool) or not isinstance(anchors, int) or anchors < 1:
            raise ArgumentError(f"anchors is {anchors!r}: give a whole number from 1 up")
        self.backbone = build_backbone(backbone)
        self.smallest_size = self.backbone.facts.smallest_size
        self.kind = kind
        rows = dim = self.backbone.facts.dim
        if kind == "kernel":
            rows = anchors + 1
            self.register_buffer("anchors", torch.zeros(anchors, dim, dtype=torch.float64))
            self.register_buffer("sigma", torch.ones((), dtype=torch.float64))
        else:
            self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("projection", torch.zeros(rows, check_bits(bits), dtype=torch.float64))
        self.requires_grad_(False)

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        """The one backbone."""
        return (self.backbone,)

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy what a method solved for, by name, into the buffers.

        Raises:
            ValueError: a tensor of another shape than its buffer.
        """
        for name, tensor in tensors.items():
            buffer = self.get_buffer(name)
            if tensor.shape != buffer.shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}: the network has {tuple(buffer.shape)}")
            buffer.copy_(tensor)

    def hash_features(self, features: Tensor) -> Tensor:
        """Features x (n, dim) → outputs u (n, K), of the features' type."""
        x = features.double()
        x = kernel_features(x, self.anchors, self.sigma) if self.kind == "kernel" else x - self.mean
        return (x @ self.projection).to(features.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 3, size, size), normalised → outputs u (n, K)."""
        return self.hash_features(self.vectors(images))

    def vectors(self, images: Tensor) -> Tensor:
        """Images (n, 3, size, size), normalised → the real features (n, dim) that are hashed."""
        vectors: Tensor = self.backbone(images)
        return vectors


def kernel_features(features: Tensor, anchors: Tensor, sigma: Tensor | float) -> Tensor:
    """phi(x) = [exp(-||x - a_1||² / 2 sigma²), ..., exp(-||x - a_m||² / 2 sigma²), 1], x scaled to length 1.

    Features (n, dim) and anchors (m, dim) that have length 1 already → (n, m + 1).
    """
    x = normalize(features, dim=1)
    squares = x.square().sum(dim=1, keepdim=True) + anchors.square().sum(dim=1) - 2 * x @ anchors.T
    similarities = torch.exp(-squares.clamp_min(0) / (2 * sigma**2))
    return torch.cat([similarities, similarities.new_ones(x.shape[0], 1)], dim=1)
