"""Copies of a network for inference, in which nothing is computed that it can do without."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

SMALL = 4  # positions of a map


def fold(network: nn.Module) -> Any:
    """A copy whose convolutions have taken the norms that directly follow them in; it shares the other weights."""
    made = _copy(network)
    for module in list(made.modules()):
        _fold(module)
    return made


def halve(network: nn.Module, half: torch.dtype) -> Any:
    """A copy of a network of `backbones`, to be called with `half`; it shares the weights that stay as they are.

    Weights of what is computed in half precision have that type already; norms do not, their few numbers would move
    every position the same way. The stem, which stays in float32, takes its norm into its convolution.
    """
    made = _copy(network)
    for backbone in made.backbones:
        _fold(backbone.body)
        for module in (module for part in backbone.halved for module in part.modules()):
            if isinstance(module, nn.Conv2d):
                _halve_convolution(module, half)
            elif isinstance(module, nn.Linear):
                _put(module, module.weight.to(half), half)
    return made


def _copy(network: nn.Module) -> Any:
    shared = {id(parameter): parameter for parameter in network.parameters()}
    return copy.deepcopy(network, shared).eval()


def _fold(module: nn.Module) -> None:
    for (name, convolution), (next_name, norm) in pairwise(list(module.named_children())):
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(convolution, norm))
            setattr(module, next_name, nn.Identity())


def _halve_convolution(module: nn.Conv2d, half: torch.dtype) -> None:
    if module.kernel_size == (1, 1):
        module.__class__ = FullConv2d
        return
    _put(module, round_together(module.weight, half), half)
    if (module.kernel_size, module.stride) == ((3, 3), (1, 1)):
        module.__class__ = SmallMapConv2d


def _put(module: nn.Conv2d | nn.Linear, weight: Tensor, half: torch.dtype) -> None:
    module.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if module.bias is not None:
        module.bias = nn.Parameter(module.bias.detach().to(half), requires_grad=False)


def round_together(weight: Tensor, half: torch.dtype) -> Tensor:
    """Weights (C', C, h, w) in type `half`, so that the errors of each h x w window sum to next to nothing.

    Each weight, the largest first, is rounded together with the errors of those before it. What a window sees in a map
    is much the same all over, and so errors that sum to nothing cancel out: in the outputs of a ResNet18 they are a
    fifth of what rounding each to its nearest makes.
    """
    windows = weight.detach().flatten(2).float()
    order = windows.abs().argsort(dim=-1, descending=True)
    error = torch.zeros_like(windows[..., 0])
    rounded = torch.empty_like(windows, dtype=half)
    for places in torch.split(order, 1, dim=-1):
        wanted = windows.gather(-1, places) + error.unsqueeze(-1)
        nearest = wanted.to(half)
        error = (wanted - nearest.float()).squeeze(-1)
        rounded.scatter_(-1, places, nearest)
    return rounded.view(weight.shape).contiguous(memory_format=torch.channels_last)


class FullConv2d(nn.Conv2d):
    """A 1x1 convolution in float32: a sixtieth of a ResNet18's work, and most of what rounding its weights would do."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (n, C, H, W) → float32 (n, C', H', W')."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


class SmallMapConv2d(nn.Conv2d):
    """A 3x3 convolution that is one matrix product where maps are as small as 2x2.

    oneDNN's convolutions of bfloat16 work along a row of a map: at 2x2, where ResNet18 ends for inputs of 64 pixels,
    they take 7 times as long as the product (512 channels, one core with AMX; from 4x4 on they are faster).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps (n, C, H, W) → (n, C', H, W)."""
        n, _, height, width = input.shape
        plain = self.padding == (1, 1) and self.dilation == (1, 1) and self.groups == 1 and self.bias is None
        if height * width > SMALL or not plain or input.device.type != "cpu":
            return super().forward(input)
        padded = pad(input.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).to(self.weight.dtype)
        patches = padded.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3).reshape(n * height * width, -1)
        maps = patches @ self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        return maps.view(n, height, width, -1).permute(0, 3, 1, 2)
