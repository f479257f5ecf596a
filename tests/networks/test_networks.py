"""Networks, against plain loops over the equations, and their weights files."""

from __future__ import annotations

import copy
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hashfaiss.errors import ArgumentError, ModelError
from hashfaiss.networks import build_network, torchvision_models
from hashfaiss.networks.attention import ChannelAttention, DualAttention, PositionAttention, attention_weights
from hashfaiss.networks.backbones import BACKBONES, build_backbone
from hashfaiss.networks.dual_stream import DualStreamNetwork
from hashfaiss.networks.hashing import HashNetwork
from hashfaiss.networks.inference import HalfConv2d, fold, halve, round_together
from hashfaiss.networks.torchvision_models import resnet
from hashfaiss.networks.weights import load_weights

SHARED_WEIGHTS = Path(__file__).parents[3] / "shared/data/resnet18-tiny-imagenet.pt"
Array = np.ndarray[Any, np.dtype[np.float64]]


def plain_weights(energy: Array, stat_axis: str | None, channel: bool) -> Array:
    """Eq. 3-4 (6-7), or DANet's, element by element."""
    rows, columns = energy.shape
    changed = np.empty_like(energy)
    for i in range(rows):
        for j in range(columns):
            line = energy[:, j] if stat_axis == "cross" else energy[i, :]
            if stat_axis is None:
                changed[i, j] = energy[i].max() - energy[i, j] if channel else energy[i, j]
            else:
                changed[i, j] = (line.max() + line.mean()) / 2 - energy[i, j]
    exponentials = np.exp(changed - changed.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def plain_attention(values: Array, weights: Array, scale: float, feature: Array) -> Array:
    """Eq. 5 (8): E_j = scale * sum_i P_ji D_i + A_j, with D_i a column of `values`."""
    result = np.empty_like(feature)
    for j in range(feature.shape[1]):
        result[:, j] = scale * sum(weights[j, i] * values[:, i] for i in range(values.shape[1])) + feature[:, j]
    return result


@pytest.mark.parametrize("stat_axis", [None, "cross", "softmax"])
def test_position_attention_is_equations_3_to_5(stat_axis: Any) -> None:
    torch.manual_seed(0)
    module = PositionAttention(16, stat_axis)
    module.alpha.data.fill_(0.7)
    features = torch.randn(2, 16, 3, 4)
    found = module(features).detach().flatten(2).double().numpy()
    for image, flat in zip(found, features.flatten(2).double().numpy(), strict=True):
        b, c, d = (
            layer.weight.detach()[:, :, 0, 0].double().numpy() @ flat + layer.bias.detach().double().numpy()[:, None]
            for layer in (module.query, module.key, module.value)
        )
        weights = plain_weights(b.T @ c, stat_axis, channel=False)
        np.testing.assert_allclose(image, plain_attention(d, weights, 0.7, flat), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stat_axis", [None, "cross", "softmax"])
def test_channel_attention_is_equations_6_to_8(stat_axis: Any) -> None:
    torch.manual_seed(1)
    module = ChannelAttention(stat_axis)
    module.beta.data.fill_(-1.3)
    features = torch.randn(2, 6, 3, 2)
    found = module(features).detach().flatten(2).double().numpy()
    for image, flat in zip(found, features.flatten(2).double().numpy(), strict=True):
        weights = plain_weights(flat @ flat.T, stat_axis, channel=True)
        # channels are the rows of A, so the equation's columns are the transpose's
        expected = plain_attention(flat.T, weights, -1.3, flat.T).T
        np.testing.assert_allclose(image, expected, rtol=1e-4, atol=1e-5)


@given(rows=st.integers(2, 12), seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 100))
@settings(deadline=None, max_examples=50)
def test_literal_reading_is_softmax_of_minus_m(rows: int, seed: int, scale: float) -> None:
    energy = torch.randn(rows, rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    plain = torch.softmax(-energy, dim=-1)
    torch.testing.assert_close(attention_weights(energy, "softmax"), plain, rtol=1e-9, atol=1e-12)


def test_cross_reading_is_not() -> None:
    energy = torch.randn(10, 10, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(attention_weights(energy, "cross"), torch.softmax(-energy, dim=-1), atol=0.1)


def test_literal_ida_is_danet_with_the_query_negated() -> None:
    torch.manual_seed(2)
    danet, ida = DualAttention(16, None), DualAttention(16, "softmax")
    danet.position.alpha.data.fill_(0.5)
    danet.channel.beta.data.fill_(0.5)
    ida.load_state_dict(danet.state_dict())
    for parameter in ida.position.query.parameters():
        parameter.data.neg_()
    features = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(ida(features), danet(features))


@pytest.mark.parametrize("pre_conv", ["none", "conv3x3bnrelu"])
def test_dual_attention_starts_as_twice_the_feature(pre_conv: Any) -> None:
    features = torch.rand(2, 8, 5, 5)
    module = DualAttention(8, pre_conv=pre_conv).eval()
    torch.testing.assert_close(module(features), 2 * features, rtol=1e-6, atol=1e-6)


def test_attention_in_half_precision_keeps_its_softmax_in_float32() -> None:
    torch.manual_seed(3)
    module = DualAttention(32)
    module.channel.beta.data.fill_(1.0)
    features = torch.rand(1, 32, 7, 7) * 50
    with torch.autocast("cpu", torch.bfloat16):
        half = module(features)
    torch.testing.assert_close(half.float(), module(features), rtol=0.02, atol=1.0)


@pytest.mark.parametrize(("attention", "stat_axis"), [("ida", "cross"), ("ida", "softmax"), ("danet", "cross")])
def test_a_network_in_float64_is_float64_all_through(attention: Any, stat_axis: Any) -> None:
    torch.manual_seed(5)
    network = HashNetwork("resnet-small", 12, attention, stat_axis).double().eval()
    position, channel = network.attention.position, network.attention.channel
    position.alpha.data.fill_(0.7)
    channel.beta.data.fill_(-1.3)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    axis = stat_axis if attention == "ida" else None
    with torch.no_grad():
        found = network(images).numpy()
        maps = network.backbone.features(images).flatten(2).numpy()
        b, c, d = (
            layer.weight[:, :, 0, 0].numpy() @ maps + layer.bias.numpy()[:, None]
            for layer in (position.query, position.key, position.value)
        )
    weight, bias = network.hash_layer.weight.detach().numpy(), network.hash_layer.bias.detach().numpy()
    for image, flat in enumerate(maps):
        positions = plain_weights(b[image].T @ c[image], axis, channel=False)
        channels = plain_weights(flat @ flat.T, axis, channel=True)
        attended = plain_attention(d[image], positions, 0.7, flat) + plain_attention(flat.T, channels, -1.3, flat.T).T
        expected = weight @ attended.mean(axis=1) + bias
        np.testing.assert_allclose(found[image], expected, rtol=1e-11, atol=1e-12 * np.abs(expected).max())


def test_attention_width_is_an_eighth_or_as_asked() -> None:
    assert PositionAttention(512).query.weight.shape == (64, 512, 1, 1)
    assert sum(parameter.numel() for parameter in PositionAttention(512).parameters()) == 328_320 + 1
    assert sum(parameter.numel() for parameter in PositionAttention(512, width=512).parameters()) == 787_968 + 1


@pytest.mark.parametrize(
    ("backbone", "size", "attention"),
    [
        ("resnet18", 32, "danet"),
        ("alexnet", 63, "ida"),
        ("resnet-small", 8, "none"),
        ("resnet-small", 8, "danet"),
        ("resnet-small", 8, "ida"),
    ],
)
def test_networks_take_their_smallest_images(backbone: str, size: int, attention: str) -> None:
    network = build_network("hash", {"backbone": backbone, "bits": 12, "attention": attention}).eval()
    assert BACKBONES[backbone].facts.smallest_size == size
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 12)


@pytest.mark.parametrize(("name", "shape"), [("resnet18", (512, 7, 7)), ("alexnet", (256, 6, 6))])
def test_attention_sees_the_papers_feature_map(name: str, shape: tuple[int, ...]) -> None:
    backbone = build_backbone(name).eval()
    features = backbone.features(torch.zeros(1, 3, 224, 224))
    assert features.shape == (1, *shape)
    assert backbone.neck(features).shape == (1, backbone.facts.dim)
    assert backbone.facts.channels == shape[0]


def test_backbone_halves_make_torchvisions_network() -> None:
    torch.manual_seed(4)
    images = torch.randn(2, 3, 64, 64)
    for name, reference in (("resnet18", torchvision.models.resnet18()), ("alexnet", torchvision.models.alexnet())):
        backbone = build_backbone(name).eval()
        backbone.body.load_state_dict(reference.state_dict(), strict=False)
        last = reference.fc if name == "resnet18" else reference.classifier[6]
        torch.testing.assert_close(last(backbone(images)), reference.eval()(images))


def test_hash_layer_starts_small() -> None:
    layer = HashNetwork("resnet18", 64).hash_layer
    assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not layer.bias.any()


def test_small_backbone_is_small() -> None:
    parameters = sum(parameter.numel() for parameter in build_backbone("resnet-small").parameters())
    assert 250_000 < parameters < 350_000


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("other", {}, "unknown network 'other'"),
        ("hash", {"backbone": "vgg", "bits": 8}, "unknown backbone 'vgg'"),
        ("hash", {"backbone": "resnet-small", "bits": 0}, "bits is 0"),
        ("hash", {"backbone": "resnet-small", "bits": 8, "attention": "x"}, "unknown attention 'x'"),
        ("hash", {"backbone": "resnet-small", "bits": 8, "attention": "ida", "stat_axis": "x"}, "stat_axis is 'x'"),
        ("hash", {"backbone": "resnet-small", "bits": 8, "attention": "ida", "pre_conv": "x"}, "pre_conv is 'x'"),
        ("hash", {"backbone": "resnet-small", "bits": 8, "attention": "ida", "attention_width": 0}, "width is 0"),
        ("hash", {"backbone": "resnet-small"}, "bits"),
        ("hash", {"backbone": "resnet-small", "bits": 8, "colour": 1}, "colour"),
    ],
)
def test_a_network_that_cannot_be_built(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_network(name, arguments)


def no_network(*_: Any, **__: Any) -> None:
    raise urllib.error.URLError("no route to host")


def test_only_training_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    room = resnet.ResNet18_Weights.get_state_dict.__globals__
    monkeypatch.setitem(room, "load_state_dict_from_url", no_network)
    build_network("hash", {"backbone": "resnet18", "bits": 8})
    with pytest.raises(ModelError, match=r"of ResNet18 could not be downloaded .*no route to host.*--weights none"):
        load_weights(build_backbone("resnet18"), "imagenet")
    with pytest.raises(ModelError, match="no ImageNet weights for ResNetSmall"):
        load_weights(build_backbone("resnet-small"), "imagenet")


@pytest.mark.parametrize(("name", "last"), [("resnet18", "fc"), ("alexnet", "classifier.6")])
def test_weights_from_a_file(name: str, last: str, tmp_path: Path) -> None:
    backbone = build_backbone(name)
    own = backbone.body.state_dict()
    state = {key: value.half() + 1 for key, value in own.items() if not key.endswith("num_batches_tracked")}
    state |= {f"{last}.weight": torch.zeros(3, 3), f"{last}.bias": torch.zeros(3)}
    torch.save(state, tmp_path / "weights.pt")
    load_weights(backbone, str(tmp_path / "weights.pt"))
    loaded = backbone.body.state_dict()
    assert all(torch.equal(loaded[key], value.float()) for key, value in state.items() if not key.startswith(last))
    assert all(value.dtype == torch.float32 for value in backbone.parameters())


class Stranger:
    """What a pickle could hold."""


def broken_states() -> list[tuple[Any, str]]:
    good = build_backbone("resnet18").body.state_dict()
    lacking, misshaped = copy.copy(good), copy.copy(good)
    del lacking["layer3.0.conv1.weight"]
    misshaped["conv1.weight"] = torch.zeros(1)
    return [
        (lacking, r"not those of ResNet18: the file lacks layer3\.0\.conv1\.weight"),
        (misshaped, r"other shapes for conv1\.weight"),
        (torchvision.models.resnet34().state_dict(), r"more than that: layer1\.2\.conv1\.weight.* and \d+ more"),
        (torch.zeros(3), "not a state dict"),
        ({"epoch": 3, "model": {}}, "not a state dict"),
        ({}, "not a state dict"),
        (Stranger(), "not a file of weights"),
    ]


def test_weights_from_a_file_that_does_not_fit(tmp_path: Path) -> None:
    backbone = build_backbone("resnet18")
    before = copy.deepcopy(backbone.state_dict())
    path = tmp_path / "weights.pt"
    for state, message in broken_states():
        torch.save(state, path)
        with pytest.raises(ModelError, match=message):
            load_weights(backbone, str(path))
    path.write_bytes(b"\x89PNG not weights at all")
    with pytest.raises(ModelError, match="not a file of weights"):
        load_weights(backbone, str(path))
    with pytest.raises(ModelError, match=r"cannot read the weights .*No such file"):
        load_weights(backbone, str(tmp_path / "none.pt"))
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


def test_unknown_backbone() -> None:
    with pytest.raises(ArgumentError, match="give one of resnet18, alexnet, resnet-small"):
        build_backbone("vgg")


def test_the_projects_own_weights_load() -> None:
    if not SHARED_WEIGHTS.exists():
        pytest.skip(f"{SHARED_WEIGHTS} is not here")
    load_weights(build_backbone("resnet18"), str(SHARED_WEIGHTS))


def test_torchvision_is_left_as_it_was() -> None:
    """The models are loaded without it; whoever imports it later gets it whole."""
    code = (
        "import sys, hashfaiss.networks.backbones as b\n"
        "assert not [name for name in sys.modules if name.startswith('torchvision')]\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "b.build_backbone('resnet18'), b.build_backbone('alexnet')\n"
        "import torchvision\n"
        "assert torchvision.ops.nms and torchvision.models.resnet18 is not b.resnet.resnet18\n"
        "assert 'torchvision.models.resnet' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_torchvision_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torchvision_models._load()[0] is torchvision.models.resnet
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(torchvision_models, "_alone", lambda: 1 / 0)  # of a shape not known
    found, _ = torchvision_models._load()
    assert found is sys.modules["torchvision.models.resnet"]
    assert found.resnet18(weights=None).fc.out_features == 1000


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("hash", {"backbone": "resnet18", "attention": "ida"}),
        ("hash", {"backbone": "resnet-small"}),
        ("hash", {"backbone": "alexnet", "attention": "danet"}),
        ("dual-stream", {"backbone": "resnet-small"}),
        ("features", {"backbone": "resnet18"}),
    ],
)
def test_half_precision_errs_little_and_only_where_it_is_asked_for(name: str, arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = build_network(name, {**arguments, "bits": 24}).eval()
    if name == "features":
        network.fill({"projection": torch.randn(512, 24, dtype=torch.float64)})
    images = torch.randn(6, 3, 64, 64)
    with torch.inference_mode():
        exact, half = network(images), halve(network, torch.bfloat16)(images)
        assert half.dtype == torch.float32
        assert not torch.equal(exact, half)
        assert torch.equal(exact, network(images))
        scale = exact.square().mean(dim=1, keepdim=True).sqrt()
        assert ((half - exact).abs() / scale).max() < 0.2
        doubled = copy.deepcopy(network).double()(images.double())
        assert ((doubled - exact).abs() / scale).max() < 1e-3


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_small_maps_convolution_is_the_convolution(size: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(5, 7, kernel_size=3, padding=1, bias=False)
    made = copy.deepcopy(plain)
    made.__class__ = HalfConv2d
    maps = torch.randn(4, 5, size, size).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made(maps), plain(maps))
    assert made(maps[:0]).shape == (0, 7, size, size)
    products = []
    made._as_product = lambda maps: products.append(len(maps)) or HalfConv2d._as_product(made, maps)
    made(maps)
    assert products == ([4] if size < 3 else [])


def with_norms(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, -1, 2)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network.eval()


@pytest.fixture(params=["resnet18", "alexnet", "two streams"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    if request.param == "two streams":
        return with_norms(DualStreamNetwork("resnet-small", 16))
    if request.param == "alexnet":
        return with_norms(HashNetwork("alexnet", 16))
    return with_norms(HashNetwork("resnet18", 16, "ida", pre_conv="conv3x3bnrelu"))


def test_a_halved_network_gives_nearly_the_same_and_leaves_the_other_alone(network: nn.Module) -> None:
    images = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        before = network(images)
        half = halve(network, torch.bfloat16)(images)
        assert torch.equal(network(images), before)
    assert 0 < (half - before).abs().max() < 0.1 * before.abs().max()


def test_folded_norms_change_next_to_nothing(network: nn.Module) -> None:
    images = torch.randn(4, 3, 64, 64)
    folded = fold(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    shared = {id(parameter) for parameter in network.parameters()} & {id(one) for one in folded.parameters()}
    assert id(network.get_parameter("hash_layer.weight")) in shared
    with torch.inference_mode():
        before = network(images)
        torch.testing.assert_close(folded(images), before, rtol=0, atol=1e-5 * float(before.square().mean().sqrt()))
        assert torch.equal(network(images), before)


def test_errors_of_a_window_are_carried_on_against_a_loop() -> None:
    weight = torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    rounded = round_together(weight, torch.bfloat16)
    nearest_each = weight.to(torch.bfloat16).double()
    together, alone = ((one.double() - weight.double()).sum(dim=(2, 3)).abs().sum() for one in (rounded, nearest_each))
    assert together < alone / 4
    assert rounded.dtype == torch.bfloat16
    for row in range(3):
        for channel in range(4):
            window, error = weight[row, channel].flatten(), 0.0
            for place in sorted(range(9), key=lambda place: -abs(window[place])):
                wanted = window[place].item() + error
                nearest = rounded[row, channel].flatten()[place].item()
                assert nearest == torch.tensor(wanted).to(torch.bfloat16).item()
                error = wanted - nearest
