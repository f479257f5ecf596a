"""Copies of a network for inference, in which nothing is computed that it can do without."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hashfaiss.networks.timm_backbones import TimmBackbone

SMALL = 4  # positions of a map


def fold(network: nn.Module) -> Any:
    """A copy whose convolutions have taken the norms that directly follow them in; it shares the other parameters."""
    made = _copy(network)
    # in timm's models, modules need not follow each other as they are listed, and norms bring their activation along
    others = {module for part in made.backbones if isinstance(part, TimmBackbone) for module in part.modules()}
    for module in list(made.modules()):
        if module not in others:
            _fold(module)
    return made


def halve(network: nn.Module, half: torch.dtype) -> Any:
    """A copy of a network of `backbones` that multiplies in `half`; it shares the parameters that stay as they are.

    Convolutions and linear layers of `Backbone.halved` take their inputs and weights in that type, and give float32:
    norms, sums and what attention does are in float32. So are the first convolution, which takes its norm in, and those
    of 1x1, a hundredth of a ResNet18's work: rounding their weights alone would be most of the error.
    """
    made = _copy(network)
    for backbone in made.backbones:
        if isinstance(backbone, TimmBackbone):
            backbone.half_type = half
            continue
        _fold(backbone.body)
        for module in (module for part in backbone.halved for module in part.modules()):
            if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
                _halve(module, HalfConv2d, round_together(module.weight, half))
            elif isinstance(module, nn.Linear):
                _halve(module, HalfLinear, module.weight.to(half))
    return made


def _copy(network: nn.Module) -> Any:
    shared = {id(parameter): parameter for parameter in network.parameters()}
    return copy.deepcopy(network, shared).eval()


def _fold(module: nn.Module) -> None:
    for (name, convolution), (next_name, norm) in pairwise(list(module.named_children())):
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(convolution, norm))
            setattr(module, next_name, nn.Identity())


def _halve(module: nn.Module, kind: type[nn.Module], weight: Tensor) -> None:
    module.__class__ = kind
    module.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if isinstance(module.bias, Tensor):
        module.bias = nn.Parameter(module.bias.detach().to(weight.dtype), requires_grad=False)


def round_together(weight: Tensor, half: torch.dtype) -> Tensor:
    """Weights (C', C, h, w) in type `half`, so that the errors of each h x w window sum to next to nothing.

    Each weight, the largest first, is rounded together with the errors of those before it. What a window sees in a map
    is much the same all over, and so errors that sum to nothing cancel out: in the outputs of a ResNet18 they are
    less than a quarter of what rounding each to its nearest makes.
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


class HalfLinear(nn.Linear):
    """A linear layer whose weights have a half type, between numbers in float32."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., C) → float32 (..., C')."""
        return super().forward(input.to(self.weight.dtype)).float()


class HalfConv2d(nn.Conv2d):
    """A convolution whose weights have a half type, between maps in float32.

    Where maps are as small as 2x2, where ResNet18 ends for inputs of 64 pixels, it is one matrix product: oneDNN's
    convolutions of bfloat16 work along a row of a map, and would take 7 times as long there (512 channels, one core
    with AMX; from 4x4 on they are faster).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps (n, C, H, W) → float32 (n, C', H', W')."""
        maps = input.to(self.weight.dtype)
        usual = (self.kernel_size, self.stride, self.padding, self.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        small = usual and self.groups == 1 and self.bias is None and maps.shape[2] * maps.shape[3] <= SMALL
        if small and maps.device.type == "cpu":
            return self._as_product(maps).float()
        return super().forward(maps).float()

    def _as_product(self, maps: Tensor) -> Tensor:
        n, _, height, width = maps.shape
        padded = pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        patches = (
            padded.unfold(1, 3, 1)
            .unfold(2, 3, 1)
            .permute(0, 1, 2, 4, 5, 3)
            .reshape(n * height * width, self.in_channels * 9)
        )
        products = patches @ self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        return products.view(n, height, width, self.out_channels).permute(0, 3, 1, 2)
