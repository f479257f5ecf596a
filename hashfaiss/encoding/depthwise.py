"""Depthwise convolutions in float64, several times faster than torch's, which computes each channel by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode


class Depthwise(TorchFunctionMode):
    """While it is entered, float64 convolutions of one channel each are sums of shifted maps; all else is torch's."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """As torch calls it."""
        if func is torch.conv2d and not kwargs and len(args) == 7:
            maps, weight, bias, stride, padding, dilation, groups = args
            own = groups == maps.shape[1] == weight.shape[0] > 1
            if own and maps.dtype == torch.float64 and isinstance(padding, tuple) and dilation == (1, 1):
                return depthwise(maps, weight, bias, stride, padding)
        return func(*args, **(kwargs or {}))


def depthwise(
    maps: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Maps (n, C, H, W), weight (C, 1, h, w), bias (C,) → what conv2d in C groups gives."""
    maps = pad(maps, (padding[1], padding[1], padding[0], padding[0]))
    tall, wide = weight.shape[2:]
    rows, columns = ((maps.shape[2] - tall) // stride[0], (maps.shape[3] - wide) // stride[1])
    total = maps.new_zeros(*maps.shape[:2], rows + 1, columns + 1)
    for y in range(tall):
        for x in range(wide):
            part = maps[:, :, y : y + stride[0] * rows + 1 : stride[0], x : x + stride[1] * columns + 1 : stride[1]]
            total.addcmul_(part, weight[:, 0, y, x].view(1, -1, 1, 1))
    return total if bias is None else total + bias.view(1, -1, 1, 1)
