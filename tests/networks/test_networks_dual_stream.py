"""DATH's network and its ablations, against plain loops over DANet's attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hashfaiss.errors import ArgumentError, ModelError
from hashfaiss.networks import build_network
from hashfaiss.networks.backbones import build_backbone
from hashfaiss.networks.dual_stream import DualStreamNetwork
from hashfaiss.networks.hashing import HashNetwork
from hashfaiss.networks.weights import load_weights

Array = np.ndarray[Any, np.dtype[np.float64]]
STREAMS = ["both", "position", "channel", "none", "shared"]


def softmax(row: Array) -> Array:
    exponentials = np.exp(row - row.max())
    return np.asarray(exponentials / exponentials.sum())


def plain_position(module: Any, flat: Array) -> Array:
    """DANet's position attention of one map (C, N): each position takes in all others by likeness."""
    query, key, value = (
        layer.weight.detach()[:, :, 0, 0].numpy() @ flat + layer.bias.detach().numpy()[:, None]
        for layer in (module.query, module.key, module.value)
    )
    result = flat.copy()
    for j in range(flat.shape[1]):
        weights = softmax(np.array([query[:, j] @ key[:, i] for i in range(flat.shape[1])]))
        result[:, j] += module.alpha.item() * sum(weights[i] * value[:, i] for i in range(flat.shape[1]))
    return result


def plain_channel(module: Any, flat: Array) -> Array:
    """DANet's channel attention of one map (C, N): each channel takes in all others by unlikeness."""
    result = flat.copy()
    for j in range(len(flat)):
        likeness = np.array([flat[j] @ flat[i] for i in range(len(flat))])
        weights = softmax(likeness.max() - likeness)
        result[j] += module.beta.item() * sum(weights[i] * flat[i] for i in range(len(flat)))
    return result


def network(streams: Any, bits: int = 12) -> DualStreamNetwork:
    """In float64, with attention that does something."""
    torch.manual_seed(0)
    made = DualStreamNetwork("resnet-small", bits, streams).double().eval()
    for name, parameter in made.named_parameters():
        if name.endswith(("alpha", "beta")):
            parameter.data.fill_(0.7 if name.endswith("alpha") else -1.3)
    return made


@pytest.mark.parametrize("streams", STREAMS)
def test_outputs_are_the_plain_loops(streams: str) -> None:
    made = network(streams)
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    with torch.no_grad():
        found = made(images).numpy()
        maps = [backbone.features(images).flatten(2).numpy() for backbone in made.backbones]
    for image in range(2):
        first = maps[0][image]
        attention = [stream.attention for stream in made.streams]
        if streams == "none":
            fused = first
        elif streams == "shared":
            position, channel = attention[0].position, attention[0].channel
            fused = plain_position(position, first) + plain_channel(channel, first)
        elif streams == "channel":
            fused = plain_channel(attention[0], first)
        else:
            fused = plain_position(attention[0], first)
        vector = fused.mean(axis=1)
        if streams == "both":
            vector = vector + plain_channel(attention[1], maps[1][image]).mean(axis=1)
        weight, bias = (value.detach().numpy() for value in (made.hash_layer.weight, made.hash_layer.bias))
        np.testing.assert_allclose(found[image], weight @ vector + bias, rtol=1e-10, atol=1e-13)


def test_two_backbones_have_weights_of_their_own() -> None:
    made = DualStreamNetwork("resnet-small", 16)
    first, second = made.backbones
    shared = {value.data_ptr() for value in first.parameters()} & {value.data_ptr() for value in second.parameters()}
    assert not shared
    assert not torch.equal(first.body[0].weight, second.body[0].weight)
    made(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(value.grad is not None for value in made.parameters())


@pytest.mark.parametrize(
    ("streams", "count"), [("both", 2), ("position", 1), ("channel", 1), ("none", 1), ("shared", 1)]
)
def test_ablations_have_the_parts_of_the_paper(streams: Any, count: int) -> None:
    made = DualStreamNetwork("resnet-small", 16, streams)
    keys = made.state_dict()
    assert len(made.backbones) == count
    assert sum(key.endswith("alpha") for key in keys) == (streams in ("both", "position", "shared"))
    assert sum(key.endswith("beta") for key in keys) == (streams in ("both", "channel", "shared"))


def test_attention_starts_as_nothing() -> None:
    torch.manual_seed(1)
    made = DualStreamNetwork("resnet-small", 16).eval()
    images = torch.randn(3, 3, 32, 32)
    first, second = made.backbones
    torch.testing.assert_close(made(images), made.hash_layer(first(images) + second(images)))


def test_attention_sees_alexnets_last_map_and_vectors_are_summed_after_relu() -> None:
    made = DualStreamNetwork("alexnet", 16).eval()
    shapes = []
    for stream in made.streams:
        stream.attention.register_forward_hook(lambda _module, inputs, _output: shapes.append(inputs[0].shape))
    vectors = []
    made.hash_layer.register_forward_hook(lambda _module, inputs, _output: vectors.append(inputs[0]))
    with torch.no_grad():
        assert made(torch.randn(1, 3, 224, 224)).shape == (1, 16)
    assert shapes == [(1, 256, 6, 6)] * 2
    assert vectors[0].shape == (1, 4096)
    assert vectors[0].min() == 0


def test_hash_layer_starts_small() -> None:
    torch.manual_seed(2)
    layer = DualStreamNetwork("resnet-small", 1024).hash_layer
    assert not layer.bias.any()
    assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert layer.weight.mean().item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("backbone", "size"), [("resnet-small", 8), ("alexnet", 63)])
def test_smallest_images(backbone: str, size: int) -> None:
    made = build_network("dual-stream", {"backbone": backbone, "bits": 12}).eval()
    assert made.smallest_size == size
    assert made(torch.zeros(2, 3, size, size)).shape == (2, 12)


def test_pretrained_weights_go_into_each_backbone(tmp_path: Path) -> None:
    pretrained = build_backbone("resnet-small")
    torch.save(pretrained.body.state_dict(), tmp_path / "weights.pt")
    for made in (DualStreamNetwork("resnet-small", 16), HashNetwork("resnet-small", 16)):
        for backbone in made.backbones:
            load_weights(backbone, str(tmp_path / "weights.pt"))
        for key, value in pretrained.body.state_dict().items():
            ours = [tensor for name, tensor in made.state_dict().items() if name.endswith(f"backbone.body.{key}")]
            assert len(ours) == len(made.backbones)
            assert all(torch.equal(tensor, value) for tensor in ours)


def test_arguments_that_are_none() -> None:
    with pytest.raises(ArgumentError, match="streams is 'two': give one of 'both', 'position'"):
        DualStreamNetwork("resnet-small", 16, "two")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="unknown backbone"):
        DualStreamNetwork("vgg", 16)
    with pytest.raises(ModelError, match="cannot be built"):
        build_network("dual-stream", {"backbone": "resnet-small", "bits": 16, "attention": "ida"})
