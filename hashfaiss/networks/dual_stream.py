"""DATH's hashing network: two backbones, one under position and one under channel attention, and a hash layer."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from hashfaiss.errors import ArgumentError
from hashfaiss.networks.attention import ChannelAttention, DualAttention, PositionAttention
from hashfaiss.networks.backbone import Backbone
from hashfaiss.networks.backbones import build_backbone
from hashfaiss.networks.heads import Head, build_head

Streams = Literal["both", "position", "channel", "none", "shared"]


class Stream(nn.Module):
    """A backbone with attention between its two halves.

    Args:
        backbone: a name that `backbones.build_backbone` takes; it starts with random weights.
        kind: "position" or "channel" attention, "shared" for their sum, or "none"; DANet's, unchanged.
    """

    def __init__(self, backbone: str, kind: Literal["position", "channel", "none", "shared"]) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone)
        self.attention: nn.Module = nn.Identity()
        if kind == "position":
            self.attention = PositionAttention(self.backbone.facts.channels, stat_axis=None)
        elif kind == "channel":
            self.attention = ChannelAttention(stat_axis=None)
        elif kind == "shared":
            self.attention = DualAttention(self.backbone.facts.channels, stat_axis=None)

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 3, size, size), normalised → vectors (n, dim)."""
        return self.backbone.neck(self.attention(self.backbone.features(images)))


class DualStreamNetwork(nn.Module):
    """Images → K raw outputs u; a code is their signs (DATH Fig. 1).

    Attention sees the backbone's last feature map, AlexNet's 256 x 6 x 6 after pool5. The paper's tanh changes no sign
    and is part of the loss.

    Args:
        backbone: a name that `backbones.build_backbone` takes; the paper's is "alexnet". It starts with random weights.
        bits: K.
        streams: "both" is DATH, two backbones with weights of their own, position attention in the first and channel
            attention in the second, their vectors summed. Its ablations: "position" (DATH-S) and "channel" (DATH-C)
            keep one of the two, "none" (DATH-N) is one backbone without attention, "shared" (DATH-1) sums both
            attentions of one backbone's feature map.
        head: see `build_head`.

    Attributes:
        backbones: the one or two backbones, for pretrained weights.

    Raises:
        ArgumentError: an argument that is none of these.
    """

    def __init__(self, backbone: str, bits: int, streams: Streams = "both", head: Head = "linear") -> None:
        super().__init__()
        if streams not in get_args(Streams):
            raise ArgumentError(f"streams is {streams!r}: give one of {', '.join(map(repr, get_args(Streams)))}")
        first = Stream(backbone, "position" if streams == "both" else streams)
        self.streams = nn.ModuleList([first, Stream(backbone, "channel")] if streams == "both" else [first])
        self.smallest_size = first.backbone.facts.smallest_size
        self.hash_layer = build_head(head, first.backbone.facts.dim, bits)

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        return tuple(stream.backbone for stream in self.streams if isinstance(stream, Stream))

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 3, size, size), normalised → outputs u (n, K)."""
        outputs: Tensor = self.hash_layer(self.vectors(images))
        return outputs

    def vectors(self, images: Tensor) -> Tensor:
        """Images (n, 3, size, size), normalised → the real features (n, dim) that the hash layer sees."""
        vectors: Tensor = self.streams[0](images)
        for stream in self.streams[1:]:
            vectors = vectors + stream(images)
        return vectors
