"""The hashing network of DHIDA: backbone, attention, one linear hash layer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from hashfaiss.codes import check_bits
from hashfaiss.errors import ArgumentError
from hashfaiss.networks.attention import DualAttention, PreConvolution, StatAxis
from hashfaiss.networks.backbones import Backbone, build_backbone

Attention = Literal["none", "danet", "ida"]


class HashNetwork(nn.Module):
    """Images → K raw outputs u; a code is their signs (DHIDA Table 1, Eq. 14).

    No activation follows the hash layer: DHIDA's f(u) is part of its loss and changes no sign.

    Args:
        backbone: a name in `backbones.BACKBONES`; it starts with random weights.
        bits: K.
        attention: "ida" (DHIDA), "danet" (its ablation D) or "none" (its ablation R).
        stat_axis: for "ida", see `attention`.
        attention_width: channels of the position branch's query and key; None is an eighth of the feature map's.
        pre_conv: a convolution before each attention branch, see `DualAttention`.

    Attributes:
        backbones: the one backbone, for pretrained weights.

    Raises:
        ArgumentError: an argument that is none of these.
    """

    def __init__(
        self,
        backbone: str,
        bits: int,
        attention: Attention = "none",
        stat_axis: StatAxis = "cross",
        attention_width: int | None = None,
        pre_conv: PreConvolution = "none",
    ) -> None:
        super().__init__()
        if attention not in ("none", "danet", "ida"):
            raise ArgumentError(f"unknown attention {attention!r}: give 'none', 'danet' or 'ida'")
        self.backbone = build_backbone(backbone)
        self.smallest_size = self.backbone.smallest_size
        self.attention: nn.Module = nn.Identity()
        if attention != "none":
            axis = stat_axis if attention == "ida" else None
            self.attention = DualAttention(self.backbone.channels, axis, attention_width, pre_conv)
        self.hash_layer = nn.Linear(self.backbone.dim, check_bits(bits))
        nn.init.normal_(self.hash_layer.weight, std=0.01)
        nn.init.zeros_(self.hash_layer.bias)

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        return (self.backbone,)

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 3, size, size), normalised → outputs u (n, K)."""
        feature_map = self.attention(self.backbone.features(images))
        outputs: Tensor = self.hash_layer(self.backbone.neck(feature_map))
        return outputs
