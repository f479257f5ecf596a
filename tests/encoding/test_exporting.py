"""Exported models: other runtimes give the same codes, but for outputs that are next to zero."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from encoders import altered, noise
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from hashfaiss.cli import app
from hashfaiss.codes import code_bytes, pack
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.engine_cache import CLOSE
from hashfaiss.errors import ArgumentError, ModelError
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.networks import build_network
from hashfaiss.networks.weights import load_weights

ROOT = Path(__file__).parent.parent.parent
CIFAR10 = ROOT.parent / "shared/data/cifar10.tar.xz"
Run = Callable[[Any], tuple[Any, Any]]


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def by_onnxruntime(path: Path) -> Run:
    ready = session(path)
    return lambda images: tuple(ready.run(["codes", "outputs"], {"images": images}))


def differing(encoder: Encoder, run: Run, images: torch.Tensor) -> list[tuple[int, int, float]]:
    """Bits whose codes are not the encoder's: image, bit, and the encoder's output in shares of the image's size."""
    wanted, outputs = encoder.encode_resized(images), encoder.outputs(images).numpy()
    codes, real = zip(*(run(part.permute(0, 2, 3, 1).contiguous().numpy()) for part in images.split(37)), strict=True)
    codes, real = np.concatenate(codes), np.concatenate(real)
    size = np.sqrt(np.square(outputs).mean(axis=1, keepdims=True))
    assert codes.dtype == np.uint8
    assert codes.shape == (len(images), code_bytes(encoder.bits))
    assert (codes == pack(real)).all()  # the signs of its own outputs, packed as ours are
    bits = np.unpackbits(codes ^ wanted, axis=1, count=encoder.bits, bitorder="little")
    return [(row, bit, float(outputs[row, bit] / size[row, 0])) for row, bit in np.argwhere(bits).tolist()]


def check(encoder: Encoder, run: Run, images: torch.Tensor) -> None:
    """Bits that differ are listed with their outputs, which are next to zero."""
    listed = differing(encoder, run, images)
    assert all(abs(share) < CLOSE for _, _, share in listed), listed


def made(name: str, arguments: dict[str, Any], size: int, **how: Any) -> Encoder:
    """An encoder with random weights, whose bits are set for some images and not for others."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: Any = build_network(name, arguments).eval()
        blobs = torch.randn(8, 3, 4, 4).repeat_interleave(size // 4, 2).repeat_interleave(size // 4, 3)
        for value in [value for key, value in network.named_parameters() if key.endswith((".alpha", ".beta"))]:
            nn.init.constant_(value, 0.5)
        with torch.no_grad():
            if name == "features":
                vectors = network.vectors(blobs).double()
                network.projection.copy_(torch.randn_like(network.projection))
                if arguments["kind"] == "kernel":
                    network.anchors.copy_(nn.functional.normalize(vectors[: len(network.anchors)], dim=1))
                    network.projection[-1] = -network.projection[:-1].sum(dim=0)
                    network.sigma.fill_(0.5)
                else:
                    network.mean.copy_(vectors.mean(dim=0))
            else:
                network.hash_layer.bias -= network(blobs).mean(dim=0)
    return Encoder(network, name, arguments, Preprocessing(size, **how), "dhida", device="cpu")


def real_images(count: int) -> torch.Tensor:
    with tarfile.open(CIFAR10) as tar:
        files = (tar.extractfile(member) for member in tar if member.isfile())
        pixels = [np.array(Image.open(io.BytesIO(file.read())).convert("RGB")) for file in islice(files, count) if file]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="session")
def exported(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "small.onnx"
    encoder.export(path)
    return path


def test_one_file_of_any_number_of_images_that_describes_itself(encoder: Encoder, exported: Path) -> None:
    check(encoder, by_onnxruntime(exported), noise(75))
    ready = session(exported)
    (images,), (codes, outputs) = ready.get_inputs(), ready.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["n", 32, 32, 3])
    assert (codes.name, codes.type, codes.shape) == ("codes", "tensor(uint8)", ["n", 3])
    assert (outputs.name, outputs.type, outputs.shape) == ("outputs", "tensor(float)", ["n", 20])
    about = ready.get_modelmeta().custom_metadata_map
    assert (about["hashfaiss.bits"], about["hashfaiss.bit_order"]) == ("20", "lsb")
    assert about["hashfaiss.identity"] == encoder.identity
    assert json.loads(about["hashfaiss.preprocessing"]) == {
        "size": 32,
        "fit": "stretch",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "crop": 0.875,
        "interpolation": "bilinear",
        "reduced": False,
    }
    onnx.checker.check_model(onnx.load(exported), full_check=True)
    assert [file.name for file in exported.parent.iterdir()] == ["small.onnx"]


def test_another_order_of_colours_would_be_seen(encoder: Encoder, exported: Path) -> None:
    run = by_onnxruntime(exported)
    images = noise(20)
    assert len(differing(encoder, lambda given: run(given[..., ::-1].copy()), images)) > 20


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("hash", {"backbone": "resnet18", "bits": 48, "attention": "ida", "pre_conv": "conv3x3bnrelu"}, 64),
        ("features", {"backbone": "resnet-small", "bits": 12, "kind": "kernel", "anchors": 5}, 32),
        pytest.param("dual-stream", {"backbone": "alexnet", "bits": 16}, 64, marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_network(name: str, arguments: dict[str, Any], size: int, tmp_path: Path) -> None:
    encoder = made(name, arguments, size, crop=1.0, interpolation="bicubic")
    encoder.export(tmp_path / "m.onnx")
    blobs = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (40, 3, 4, 4)).astype(np.uint8))
    images = blobs.repeat_interleave(size // 4, 2).repeat_interleave(size // 4, 3)
    assert len(np.unique(encoder.encode_resized(images), axis=0)) > 4
    check(encoder, by_onnxruntime(tmp_path / "m.onnx"), images)


@pytest.mark.slow
def test_a_shallow_head_on_1000_real_images(tmp_path: Path) -> None:
    """Random directions on EfficientNet-Lite0's ImageNet features; of noise where there are no real images."""
    images = real_images(1000) if CIFAR10.exists() else noise(100)
    arguments = {"backbone": "efficientnet-lite0", "bits": 64, "kind": "linear"}
    encoder = made("features", arguments, 32)
    network: Any = encoder.network
    load_weights(network.backbone, "imagenet")
    with torch.no_grad():
        network.mean.copy_(encoder.features(images[:200]).double().mean(dim=0))
    encoder.export(tmp_path / "m.onnx")
    assert len(np.unique(encoder.encode_resized(images), axis=0)) > 0.9 * len(images)
    check(encoder, by_onnxruntime(tmp_path / "m.onnx"), images)


def test_openvino_reads_the_same_from_two_files(encoder: Encoder, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = tmp_path / "m.xml"
    for _ in range(2):  # written anew over what is there
        encoder.export(path, to="openvino")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.bin", "m.xml"]
    model = openvino.Core().read_model(path)
    assert model.get_rt_info(["hashfaiss", "identity"]).astype(str) == encoder.identity
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(images: Any) -> tuple[Any, Any]:
        answer = compiled({"images": images})
        return answer["codes"], answer["outputs"]

    check(encoder, run, noise(75))


def test_what_is_wrong_is_told_before_a_network_is_looked_at(
    encoder: Encoder, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArgumentError, match=r"format is 'tflite': give 'onnx' or 'openvino'"):
        encoder.export(tmp_path / "m.onnx", to="tflite")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"is to be a model for openvino: give it the suffix \.xml"):
        encoder.export(tmp_path / "m.onnx", to="openvino")
    (tmp_path / "d.onnx").mkdir()
    with pytest.raises(ArgumentError, match="is a folder"):
        encoder.export(tmp_path / "d.onnx")
    for to, out in (("onnx", "model.onnx"), ("openvino", "model.bin")):
        own = model.rename(tmp_path / out)
        with pytest.raises(ArgumentError, match="is a model of hashfaiss: give another path, it would be lost"):
            encoder.export(own.with_suffix(".xml" if to == "openvino" else ".onnx"), to=to)  # type: ignore[arg-type]
        own.rename(model)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModelError, match=r"onnxscript is missing: pip install 'hashfaiss\[export\]'"):
        encoder.export(tmp_path / "m.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["d.onnx", "model.pt"]


class _Counting(nn.Module):
    """A layer whose result depends on how many images there are, which a graph cannot have."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.bias = head.bias

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.head(vectors) if float(vectors.sum()) > len(vectors) else self.head(-vectors)  # type: ignore[no-any-return]


def test_a_network_that_cannot_be_exported_is_refused_in_one_sentence(encoder: Encoder, tmp_path: Path) -> None:
    strange = altered(encoder)
    network: Any = strange.network
    network.hash_layer = _Counting(network.hash_layer)
    with pytest.raises(ModelError, match="the network cannot be exported") as caught:
        strange.export(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_command_wants_one_model(tmp_path: Path) -> None:
    for given in ([], ["--model", "a.pt", "--index", "b"]):
        done = CliRunner().invoke(app, ["export-model", *given, "--out", "m.onnx"])
        assert done.exit_code == 2
        assert "give either --model FILE or --index DIR" in done.output
