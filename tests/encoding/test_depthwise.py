"""Depthwise convolutions in float64 are torch's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hashfaiss.encoding import depthwise
from hashfaiss.encoding.depthwise import Depthwise


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3),
    channels=st.integers(2, 9),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    more=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    bias=st.booleans(),
)
def test_depthwise_is_conv2d(
    n: int,
    channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    more: tuple[int, int],
    bias: bool,
) -> None:
    layer = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels, bias=bias).double()
    maps = torch.randn(n, channels, kernel[0] + more[0], kernel[1] + more[1], dtype=torch.float64)
    with torch.inference_mode():
        expected = layer(maps)
        with Depthwise():
            found = layer(maps)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_all_other_convolutions_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = depthwise.depthwise
    monkeypatch.setattr(depthwise, "depthwise", lambda *given: asked.append(1) or real(*given))
    maps = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    for layer in (
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, groups=4, dilation=2),
        nn.Conv2d(4, 4, 3, groups=4, padding="same"),
    ):
        with torch.inference_mode(), Depthwise():
            assert torch.equal(layer.double()(maps), layer(maps))
    with torch.inference_mode(), Depthwise():
        nn.Conv2d(4, 4, 3, groups=4)(maps.float())
    assert asked == []
    with torch.inference_mode(), Depthwise():
        nn.Conv2d(4, 4, 3, groups=4).double()(maps)
    assert asked == [1]
