"""The hashing network of DHIDA: backbone, attention, hash layer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from hashfaiss.errors import ArgumentError
from hashfaiss.networks.attention import DualAttention, PreConvolution, StatAxis
from hashfaiss.networks.backbone import Backbone
from hashfaiss.networks.backbones import build_backbone
from hashfaiss.networks.heads import Head, build_head

Attention = Literal["none", "danet", "ida"]


class HashNetwork(nn.Module):
    """Images → K raw outputs u; a code is their signs (DHIDA Table 1, Eq. 14).

    No activation follows the hash layer: DHIDA's f(u) is part of its loss and changes no sign.

    Args:
        backbone: a name that `backbones.build_backbone` takes; it starts with random weights.
        bits: K.
        attention: "ida" (DHIDA), "danet" (its ablation D) or "none" (its ablation R).
        stat_axis: for "ida", see `attention`.
        attention_width: channels of the position branch's query and key; None is an eighth of the feature map's.
        pre_conv: a convolution before each attention branch, see `DualAttention`.
        head: see `build_head`.

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
        head: Head = "linear",
    ) -> None:
        super().__init__()
        if attention not in ("none", "danet", "ida"):
            raise ArgumentError(f"unknown attention {attention!r}: give 'none', 'danet' or 'ida'")
        self.backbone = build_backbone(backbone)
        self.smallest_size = self.backbone.facts.smallest_size
        self.attention: nn.Module = nn.Identity()
        if attention != "none":
            if not self.backbone.facts.channels:
                raise ArgumentError(f"{backbone!r} has no feature map for attention to look at: give attention='none'")
            axis = stat_axis if attention == "ida" else None
            self.attention = DualAttention(self.backbone.facts.channels, axis, attention_width, pre_conv)
        self.hash_layer = build_head(head, self.backbone.facts.dim, bits)

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        return (self.backbone,)

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 3, size, size), normalised → outputs u (n, K)."""
        return self.head(self.frozen(images))

    def frozen(self, images: Tensor) -> Tensor:
        """What stays the same while the backbone does: vectors (n, dim), or with attention the map it looks at."""
        feature_map = self.backbone.features(images)
        return self.backbone.neck(feature_map) if isinstance(self.attention, nn.Identity) else feature_map

    def head(self, frozen: Tensor) -> Tensor:
        """What `frozen` gave → outputs u (n, K)."""
        outputs: Tensor = self.hash_layer(self._vectors(frozen))
        return outputs

    def vectors(self, images: Tensor) -> Tensor:
        """Images (n, 3, size, size), normalised → the real features (n, dim) that the hash layer sees."""
        return self._vectors(self.frozen(images))

    def _vectors(self, frozen: Tensor) -> Tensor:
        return frozen if isinstance(self.attention, nn.Identity) else self.backbone.neck(self.attention(frozen))
