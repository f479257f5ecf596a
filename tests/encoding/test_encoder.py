"""Encoder: saved and loaded, its identity, its devices; one image, one code."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import ARGUMENTS, altered, noise
from PIL import Image
from torch import Tensor, nn

from hashfaiss.codes import pack
from hashfaiss.encoding import encoder as encoder_module
from hashfaiss.encoding import precision
from hashfaiss.encoding.devices import choose_device
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError, ImageError, ModelError
from hashfaiss.images.decoding import read_image
from hashfaiss.images.finding import find_images
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.networks import build_network

# Saving and loading


def test_a_saved_encoder_comes_back(encoder: Encoder, model: Path, photos: Path) -> None:
    loaded = Encoder.load(model, device="cpu")
    assert loaded.identity == encoder.identity
    assert (loaded.encode(photos) == encoder.encode(photos)).all()
    assert loaded.preprocessing == encoder.preprocessing
    assert (loaded.method, loaded.bits, loaded.labels) == ("dhida", 20, ["cat", "dog"])
    assert loaded.facts == {"epochs": 3, "loss": [0.5, 0.25]}
    assert loaded.network_arguments == ARGUMENTS
    assert not loaded.network.training
    assert repr(loaded) == f"Encoder(dhida, 20 bits, 32 px, cpu, identity {encoder.identity[:12]})"
    loaded.save(model)
    assert Encoder.load(str(model), device="cpu").identity == encoder.identity
    assert [name for name in os.listdir(model.parent) if name.endswith(".tmp")] == []


@pytest.mark.parametrize("attention", ["none", "danet", "ida"])
def test_every_attention_comes_back(attention: str, tmp_path: Path) -> None:
    arguments = {"backbone": "resnet-small", "bits": 12, "attention": attention, "attention_width": 4}
    torch.manual_seed(1)
    made = Encoder(build_network("hash", arguments), "hash", arguments, Preprocessing(16), "dhida", device="cpu")
    made.save(tmp_path / "m.pt")
    loaded = Encoder.load(tmp_path / "m.pt", device="cpu")
    assert loaded.identity == made.identity
    assert (loaded.encode(noise(5)) == made.encode(noise(5))).all()


def test_identity_is_all_that_decides_a_code(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    same = altered(encoder, method="other", labels=["x"], facts={"epochs": 9})
    assert same.identity == encoder.identity
    assert len(encoder.identity) == 64
    identities = {encoder.identity}
    for part in (
        Preprocessing(33, "stretch"),
        Preprocessing(32, "crop"),
        Preprocessing(32, "stretch", mean=(0.5, 0.456, 0.406)),
        Preprocessing(32, "stretch", std=(0.5, 0.224, 0.225)),
    ):
        identities.add(altered(encoder, preprocessing=part).identity)
    assert len(identities) == 5
    for name in encoder.network.state_dict():
        network = copy.deepcopy(encoder.network)
        value = network.state_dict()[name]
        value[(-1,) * value.dim()] += 1
        identities.add(altered(encoder, network=network).identity)
    assert len(identities) == 5 + len(encoder.network.state_dict())
    for name, value in (("IDENTITY_PRECISION", "float16"), ("BIT_ORDER", "msb")):
        with monkeypatch.context() as patched:
            patched.setattr(encoder_module, name, value)
            identities.add(altered(encoder).identity)
    assert len(identities) == 7 + len(encoder.network.state_dict())
    encoder.encode(noise(3))
    assert altered(encoder).identity == encoder.identity  # encoding changes nothing


# Encoding


def test_all_ways_to_give_images_give_the_same_codes(encoder: Encoder, photos: Path) -> None:
    files = [file.path for file in find_images(photos)]
    expected = encoder.encode(photos)
    assert expected.shape == (12, 3)
    assert expected.dtype == np.uint8
    assert (encoder.encode(files) == expected).all()
    assert (encoder.encode(tuple(map(Path, files))) == expected).all()
    assert (encoder.encode(str(photos)) == expected).all()
    assert (encoder.encode(files[3]) == expected[3:4]).all()
    png = [number for number, file in enumerate(files) if file.endswith("png")]
    pictures = [Image.open(files[number]) for number in png]
    assert (encoder.encode(pictures) == expected[png]).all()
    assert (encoder.encode(pictures[1]) == expected[png[1:2]]).all()
    batch = torch.stack([read_image(file) for file in files])
    assert (encoder.encode(batch) == expected).all()
    assert (encoder.encode(batch.float() / 255) == expected).all()
    resized = torch.stack([encoder.preprocessing.resize(image) for image in batch])
    assert (encoder.encode_resized(resized) == expected).all()
    assert (pack(encoder.outputs(resized).numpy()) == expected).all()
    for picture in pictures:
        picture.close()


def test_nothing_gives_no_codes(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for nothing in ([], torch.zeros(0, 3, 8, 8), tmp_path / "empty"):
        assert encoder.encode(nothing).shape == (0, 3)
    assert encoder.encode_resized(torch.zeros(0, 3, 32, 32, dtype=torch.uint8)).shape == (0, 3)


def test_an_image_that_cannot_be_read_is_an_error(encoder: Encoder, photos: Path) -> None:
    (photos / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"cannot read image '.*1\.png': not an image") as caught:
        encoder.encode(photos)
    assert caught.value.path == str(photos / "cat" / "1.png")
    for missing in ("gone.jpg", [photos / "gone.jpg"], "", "x" * 5000):
        with pytest.raises(ImageError):
            encoder.encode(missing)
    for wrong in (5, None, [5], torch.zeros(3, 8, 8), np.zeros((1, 3, 8, 8))):
        with pytest.raises(ArgumentError):
            encoder.encode(wrong)  # type: ignore[arg-type]


def test_weights_that_are_not_finite_are_told_when_encoding(encoder: Encoder) -> None:
    network = copy.deepcopy(encoder.network)
    network.get_parameter("hash_layer.bias").data[3] = math.nan
    with pytest.raises(ModelError, match="outputs are not finite"):
        altered(encoder, network=network).encode(noise(2))


# The float64 arbiter


class Rounding(nn.Module):
    """Seven outputs of 1 and one of -1e-6 that float32 rounds away in a large batch."""

    def forward(self, images: Tensor) -> Tensor:
        exact = torch.ones(len(images), 8, dtype=images.dtype)
        exact[:, 5] = -1e-6
        shift = 3 * len(images)
        return (exact + shift) - shift


def rounding_codes(batch_size: int) -> list[list[int]]:
    encoder = Encoder(Rounding(), "none", {"bits": 8}, Preprocessing(8), "none", device="cpu")
    return encoder.encode(noise(64, 8), batch_size=batch_size, workers=1).tolist()  # several would share a batch out


def test_batch_size_does_not_move_an_output_near_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    right = [[0b11011111]] * 64
    for batch_size in (1, 2, 7, 64):
        assert rounding_codes(batch_size) == right
    monkeypatch.setattr(precision, "CLOSE", -1.0)  # never asked
    assert rounding_codes(1) == right
    assert rounding_codes(64) != right


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (3, 1), (8, 1), (64, 1), (64, 2)])
@pytest.mark.parametrize("attention", ["none", "ida"])
def test_codes_are_those_of_float64_where_outputs_are_near_zero(
    encoder: Encoder, attention: str, batch_size: int, threads: int
) -> None:
    if attention != "none":
        network = build_network("hash", {**ARGUMENTS, "attention": attention})
        network.load_state_dict(encoder.network.state_dict(), strict=False)
        with torch.no_grad():
            network.get_parameter("attention.position.alpha").fill_(0.7)
            network.get_parameter("attention.channel.beta").fill_(-1.3)
        encoder = altered(encoder, network=network.eval())
    pixels = noise(40)
    network = copy.deepcopy(encoder.network).double()
    inputs = encoder.preprocessing.normalise(pixels).double()
    with torch.inference_mode():
        before = torch.cat([network(image[None]) for image in inputs])
    driven = altered(encoder)
    with torch.no_grad():  # bit j of image j is driven to zero, as nearly as a float32 bias can
        for bit in range(12):
            driven.network.get_parameter("hash_layer.bias")[bit] -= before[bit, bit].float()
    exact = copy.deepcopy(driven.network).double()
    with torch.inference_mode():
        outputs = torch.cat([exact(image[None]) for image in inputs])
        single = driven.network(encoder.preprocessing.normalise(pixels))
    share = outputs.abs() / outputs.square().mean(dim=1, keepdim=True).sqrt()
    error = (single - outputs).abs()
    near = [bit for bit in range(12) if share[bit, bit] < precision.CLOSE / 10]
    assert len(near) == 12
    assert any(error[bit, bit] > outputs[bit, bit].abs() / 10 for bit in near)  # float32 cannot be trusted with them
    before_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        codes = driven.encode(pixels, batch_size=batch_size)
    finally:
        torch.set_num_threads(before_threads)
    assert (codes == pack(outputs.numpy())).all()


def test_rows_far_from_zero_are_not_computed_twice(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    far = altered(encoder, engine="torch")
    with torch.no_grad():
        far.network.get_parameter("hash_layer.bias").copy_(torch.linspace(-900, 1000, 20))
    far.precision.made(torch.float32)
    monkeypatch.setattr(precision.copy, "deepcopy", lambda _: pytest.fail("float64 was asked"))
    assert far.encode(noise(4)).tolist() == pack(np.linspace(-900, 1000, 20)[None]).tolist() * 4


# Devices


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("device", ["cuda:99", "nope", "", "meta", "cpu:x"])
def test_devices_that_are_not_there(device: str, model: Path) -> None:
    with pytest.raises(ArgumentError, match=r"cannot be used here .*: give auto, cpu, cuda, cuda:1 or mps") as caught:
        choose_device(device)
    assert "\n" not in str(caught.value)
    with pytest.raises(ArgumentError, match="cannot be used here"):
        Encoder.load(model, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said(model: Path) -> None:
    with pytest.raises(ArgumentError, match="device 'cuda' cannot be used here"):
        Encoder.load(model, device="cuda")
