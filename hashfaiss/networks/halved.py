"""A copy of a network for half precision, in which nothing is computed that inference can do without."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

SMALL = 4  # positions of a map


def halve(network: nn.Module, half: torch.dtype) -> Any:
    """A copy of a network of `backbones`, to be called with `half`.

    Weights of what is computed in half precision have that type already; norms do not, their few numbers would move
    every position the same way. The stem, which stays in float32, takes its norm into its convolution.
    """
    made: Any = copy.deepcopy(network).eval()
    for backbone in made.backbones:
        _fold(backbone.body)
        for module in (module for part in backbone.halved for module in part.modules()):
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.to(half)
            if isinstance(module, nn.Conv2d) and (module.kernel_size, module.stride) == ((3, 3), (1, 1)):
                module.__class__ = SmallMapConv2d
    return made


def _fold(body: nn.Module) -> None:
    """Take norms that directly follow a convolution into it; those of blocks within `body` stay."""
    for (name, convolution), (next_name, norm) in pairwise(list(body.named_children())):
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(body, name, fuse_conv_bn_eval(convolution, norm))
            setattr(body, next_name, nn.Identity())


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
