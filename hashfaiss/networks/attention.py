"""Attention over a feature map: DANet's two branches (Fu et al. 2019) and DHIDA's improved ones (IDA, Eq. 3-8).

A branch turns a feature map A (n, C, H, W) into A + scale * (attended A), its scale a scalar that starts at 0. With
N = H * W positions, the position branch weighs positions by M = BᵀC (N, N), the channel branch weighs channels by
M = AAᵀ (C, C). `stat_axis` says what happens to M before the softmax along its rows:

- None: DANet. Positions: softmax(M). Channels: softmax(rowmax(M) - M), which is softmax(-M).
- "cross": IDA, softmax((max + mean) / 2 - M) with max and mean of each column. The default of IDA.
- "softmax": IDA read to the letter, max and mean along the axis of the softmax. A softmax does not see what is
  constant along its axis, so this is softmax(-M) exactly: IDA becomes DANet, but for the sign of the position
  branch, which negating a convolution undoes. Kept to reproduce that reading, not because it does anything.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from hashfaiss.errors import ArgumentError

# Numbers of M (n, C, C) that are made at once on a CPU, to stay in its caches: 1 MiB for a thread that only infers,
# which halves the time of channel attention; 8 MiB in training, because small pieces go through autograd one by one.
INFERRED, TRAINED = 1 << 18, 1 << 21

StatAxis = Literal["cross", "softmax"]
PreConvolution = Literal["none", "conv3x3bnrelu"]


def attention_weights(energy: Tensor, stat_axis: StatAxis) -> Tensor:
    """IDA's weights P from M (..., R, R): softmax((max + mean) / 2 - M), each row sums to 1 (DHIDA Eq. 3-4, 6-7)."""
    axis = -2 if stat_axis == "cross" else -1
    # max's gradient goes to one place, where amax's shares it among ties in several passes over all of M; alone, amax
    # takes a seventh of the time
    largest = energy.max(dim=axis, keepdim=True).values if energy.requires_grad else energy.amax(axis, keepdim=True)
    salient = (largest + energy.mean(dim=axis, keepdim=True)) / 2
    return torch.softmax(salient - energy, dim=-1)


class PositionAttention(nn.Module):
    """A + alpha * (D Pᵀ), P (N, N) from M = BᵀC; B, C, D are 1x1 convolutions of A (DHIDA Eq. 3-5, DANet's PAM).

    Args:
        channels: C, of the feature map.
        stat_axis: see the top of this module.
        width: channels of B and C; None is C // 8, as in DANet's code (DHIDA's text says C).
    """

    def __init__(self, channels: int, stat_axis: StatAxis | None = "cross", width: int | None = None) -> None:
        super().__init__()
        self.stat_axis = check_stat_axis(stat_axis)
        width = max(1, channels // 8) if width is None else width
        if not 1 <= width <= channels:
            raise ArgumentError(f"attention width is {width}: give a number of channels from 1 to {channels}")
        self.query = nn.Conv2d(channels, width, kernel_size=1)
        self.key = nn.Conv2d(channels, width, kernel_size=1)
        self.value = nn.Conv2d(channels, channels, kernel_size=1)
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, feature_map: Tensor) -> Tensor:
        """Feature map (n, C, H, W) → the same shape."""
        query, key = self.query(feature_map).flatten(2), self.key(feature_map).flatten(2)
        value = self.value(feature_map).flatten(2)
        with torch.autocast(feature_map.device.type, enabled=False):  # half precision is too coarse for a softmax
            energy = _no_half(query).transpose(1, 2) @ _no_half(key)
            weights = energy.softmax(dim=-1) if self.stat_axis is None else attention_weights(energy, self.stat_axis)
        attended: Tensor = value @ weights.to(value.dtype).transpose(1, 2)
        return self.alpha * attended.view_as(feature_map) + feature_map


class ChannelAttention(nn.Module):
    """A + beta * (P A), P (C, C) from M = AAᵀ over all positions (DHIDA Eq. 6-8, DANet's CAM)."""

    def __init__(self, stat_axis: StatAxis | None = "cross") -> None:
        super().__init__()
        self.stat_axis = check_stat_axis(stat_axis)
        self.beta = nn.Parameter(torch.zeros(()))

    def forward(self, feature_map: Tensor) -> Tensor:
        """Feature map (n, C, H, W) → the same shape."""
        values = feature_map.flatten(2)
        if values.device.type == "cpu" and not torch.compiler.is_exporting():  # which counts no images
            cached = TRAINED if torch.is_grad_enabled() else INFERRED * torch.get_num_threads()
            parts = torch.split(values, max(1, cached // values.shape[1] ** 2))
            attended = torch.cat([self._attend(part) for part in parts])
        else:
            attended = self._attend(values)
        return self.beta * attended.view_as(feature_map) + feature_map

    def _attend(self, values: Tensor) -> Tensor:
        with torch.autocast(values.device.type, enabled=False):
            energy = _no_half(values) @ _no_half(values).transpose(1, 2)
            # DANet's rowmax(M) - M and the inert reading of IDA are one softmax; see the top of this module.
            weights = attention_weights(energy, self.stat_axis or "softmax")
        attended: Tensor = weights.to(values.dtype) @ values
        return attended


class DualAttention(nn.Module):
    """Position plus channel attention, summed element by element; starts as twice the feature map (alpha = beta = 0).

    Args:
        channels: C, of the feature map.
        stat_axis, width: as for `PositionAttention`.
        pre_conv: "conv3x3bnrelu" puts a 3x3 convolution (C to C), batch norm and ReLU before each branch, as DHIDA's
            text does. It starts as the identity on features >= 0 in eval mode, because a random one would destroy a
            pretrained feature map at DHIDA's learning rate. "none" is the default.
    """

    def __init__(
        self,
        channels: int,
        stat_axis: StatAxis | None = "cross",
        width: int | None = None,
        pre_conv: PreConvolution = "none",
    ) -> None:
        super().__init__()
        if pre_conv not in ("none", "conv3x3bnrelu"):
            raise ArgumentError(f"pre_conv is {pre_conv!r}: give 'none' or 'conv3x3bnrelu'")
        convolved = pre_conv == "conv3x3bnrelu"
        self.before_position = _identity_convolution(channels) if convolved else nn.Identity()
        self.before_channel = _identity_convolution(channels) if convolved else nn.Identity()
        self.position = PositionAttention(channels, stat_axis, width)
        self.channel = ChannelAttention(stat_axis)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Feature map (n, C, H, W) → the same shape."""
        position: Tensor = self.position(self.before_position(feature_map))
        channel: Tensor = self.channel(self.before_channel(feature_map))
        return position + channel


def _identity_convolution(channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
    norm = nn.BatchNorm2d(channels)
    nn.init.dirac_(convolution.weight)
    nn.init.constant_(norm.weight, math.sqrt(1 + norm.eps))  # what its division by sqrt(1 + eps) takes away
    return nn.Sequential(convolution, norm, nn.ReLU(inplace=True))


def _no_half(values: Tensor) -> Tensor:
    """Half types in float32; float64 stays, because the encoder asks it what float32 cannot tell."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def check_stat_axis(stat_axis: StatAxis | None) -> StatAxis | None:
    """Return `stat_axis`, or raise ArgumentError where it is not "cross", "softmax" or None."""
    if stat_axis not in ("cross", "softmax", None):
        raise ArgumentError(f"stat_axis is {stat_axis!r}: give 'cross' or 'softmax'")
    return stat_axis
