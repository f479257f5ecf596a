"""What gives the outputs: each head against its formula, folded, and drawn by its own generator."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn
from trainings import options

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError
from hashfaiss.networks import build_network
from hashfaiss.networks.heads import Head, build_head, for_use
from hashfaiss.train.trainer import train


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_linear_bn_in_training_is_the_plain_loop() -> None:
    head: Any = build_head("linear-bn", 5, 3).double()
    with torch.no_grad():
        head[1].weight.copy_(numbers(3, seed=1))
        head[1].bias.copy_(numbers(3, seed=2))
    x, weight, scale, offset = numbers(7, 5), head[0].weight.detach(), head[1].weight.tolist(), head[1].bias.tolist()
    found = head(x)
    for bit in range(3):
        u = [sum(float(weight[bit, i] * row[i]) for i in range(5)) for row in x]
        mean = sum(u) / 7
        variance = sum((value - mean) ** 2 for value in u) / 7
        for row, value in enumerate(u):
            expected = (value - mean) / (variance + 1e-5) ** 0.5 * scale[bit] + offset[bit]
            assert found[row, bit].item() == pytest.approx(expected)


def test_layernorm_tanh_is_the_plain_loop() -> None:
    head: Any = build_head("layernorm-tanh", 5, 3).double()
    x, weight = numbers(4, 5), head[0].weight.detach()
    for row, found in zip(x, head(x), strict=True):
        u = [sum(float(weight[bit, i] * row[i]) for i in range(5)) for bit in range(3)]
        mean = sum(u) / 3
        variance = sum((value - mean) ** 2 for value in u) / 3
        expected = [torch.tanh(torch.tensor((value - mean) / (variance + 1e-5) ** 0.5)).item() for value in u]
        assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_linear_bn_is_one_layer_in_use() -> None:
    arguments = {"backbone": "resnet-small", "bits": 6, "head": "linear-bn"}
    network: Any = build_network("hash", arguments)
    for number in range(3):  # so that its statistics are no one's defaults
        network(torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(number)))
    made, told = for_use(network, arguments)
    assert told == {**arguments, "head": "linear"}
    assert isinstance(made.hash_layer, nn.Linear)
    assert isinstance(network.hash_layer, nn.Sequential)  # and goes on learning
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(made(images), network.eval()(images))
    plain: Any = build_network("hash", told)
    plain.load_state_dict(made.state_dict())


@pytest.mark.parametrize("head", get_args(Head))
def test_a_model_of_each_head_is_loaded_as_it_was_trained(head: Head, images: Path, tmp_path: Path) -> None:
    result = train(options(images, tmp_path / "m.pt", head=head, epochs=2, learning_rate=1e-3))
    encoder = Encoder.load(result.out, "cpu")
    assert encoder.facts["head"] == head
    assert encoder.network_arguments["head"] == ("linear" if head == "linear-bn" else head)
    frozen = train(options(images, tmp_path / "f.pt", head=head, epochs=2, learning_rate=1e-3, freeze=True))
    assert len(frozen.history) == 2


def test_the_hash_layer_starts_the_same_under_any_attention(images: Path, tmp_path: Path) -> None:
    """What a network draws besides must not change the comparison."""
    started = []
    for attention in ("none", "danet", "ida"):
        asked = options(
            *(images, tmp_path / f"{attention}.pt"),
            attention=attention,
            freeze=True,
            epochs=1,
            optimiser="sgd",
            learning_rate=1e-30,
            weight_decay=0.0,
        )
        started.append(torch.load(train(asked).folder / "state.pt", weights_only=True)["network"]["hash_layer.weight"])
    assert all(torch.equal(one, two) for one, two in itertools.pairwise(started))


def test_unknown_heads_are_told() -> None:
    with pytest.raises(ArgumentError, match="unknown head 'deep': give one of linear, linear-bn, layernorm-tanh, mlp"):
        build_head("deep", 5, 3)  # type: ignore[arg-type]
