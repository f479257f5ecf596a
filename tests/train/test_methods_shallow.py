"""What the shallow methods end in: a network on fixed features, and its model file."""

from __future__ import annotations

import copy
import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_sets import NAMES, clusters, generator, signs
from sklearn.metrics.pairwise import rbf_kernel
from trainings import chance_map

from hashfaiss.codes import pack, unpack
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError, ModelError, TrainingError
from hashfaiss.networks import build_network
from hashfaiss.networks.features import FeatureHash
from hashfaiss.train.data import ImageSet, TrainingData
from hashfaiss.train.methods import Shallow, build_method
from hashfaiss.train.options import TrainOptions
from hashfaiss.train.progress import Progress
from hashfaiss.train.records import TrainResult
from hashfaiss.train.settings import Settings, settle
from hashfaiss.train.shallow import fit_shallow
from hashfaiss.train.validation import encode_set, leave_one_out_map


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_is_determined_by_its_seed(name: str) -> None:
    features, labels = clusters(60, 12, 6, seed=13)
    method = build_method(name, labels, 4, {})
    assert isinstance(method, Shallow)
    one, two, other = (method.fit(features, generator(seed)) for seed in (5, 5, 6))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["projection"], other["projection"])


def test_a_feature_hash_that_cannot_be() -> None:
    with pytest.raises(ModelError, match="unknown kind 'cubic': give 'linear' or 'kernel'"):
        build_network("features", {"backbone": "resnet-small", "bits": 8, "kind": "cubic"})
    with pytest.raises(ModelError, match="anchors is 0: give a whole number from 1 up"):
        build_network("features", {"backbone": "resnet-small", "bits": 8, "kind": "kernel", "anchors": 0})
    network = FeatureHash("resnet-small", 8)
    with pytest.raises(ValueError, match=r"mean has shape \(1,\): the network has \(128,\)"):
        network.fill({"mean": torch.zeros(1)})
    assert network.backbones == (network.backbone,)
    assert network.smallest_size == 8
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_direction_with_little_variance_keeps_its_sign() -> None:
    """Far from the mean of zero, float32 would leave rounding where the features differ by a millionth."""
    network = FeatureHash("resnet-small", 1)
    random = torch.Generator().manual_seed(4)
    features = (torch.rand(200, 128, generator=random) + 50).float()
    direction = torch.randn(128, 1, generator=random, dtype=torch.float64) * 1e3
    exact = (features.double() - features.double().mean(dim=0)) @ direction
    network.fill({"mean": features.double().mean(dim=0), "projection": direction})
    torch.testing.assert_close(network.hash_features(features).double(), exact, rtol=1e-6, atol=0)


def decoded(each: int = 10, classes: int = 3, size: int = 16, validation: int = 4) -> TrainingData:
    """Noisy images of `classes` colours, `each` to train on and `validation` held out."""
    random = torch.Generator().manual_seed(0)
    colours = torch.tensor([[40, 60, 200], [50, 190, 60], [210, 50, 40], [200, 200, 40]])[:classes]

    def part(count: int) -> ImageSet:
        rows = torch.arange(count * classes) % classes
        noise = torch.randint(-40, 40, (len(rows), 3, size, size), generator=random)
        images = (colours[rows][:, :, None, None] + noise).clamp(0, 255).to(torch.uint8)
        names = [(f"class {row}",) for row in rows.tolist()]
        return ImageSet(images, torch.eye(classes)[rows], names, [b"digest"] * len(rows))

    return TrainingData(part(each), part(validation), [f"class {row}" for row in range(classes)], [], "fingerprint")


def settled(tmp_path: Path, method: str, bits: int = 2, **changes: Any) -> Settings:
    defaults: dict[str, Any] = {
        "backbone": "resnet-small",
        "weights": "none",
        "size": 16,
        "fit": "stretch",
        "device": "cpu",
    }
    asked = {**defaults, **changes}
    return settle(TrainOptions(images="photos", out=tmp_path / "m.pt", method=method, bits=bits, **asked))


def fit(tmp_path: Path, data: TrainingData, chosen: Settings) -> tuple[TrainResult, list[Progress]]:
    seen: list[Progress] = []
    folder = tmp_path / "m.training"
    folder.mkdir(exist_ok=True)
    with torch.random.fork_rng([]):
        torch.manual_seed(chosen.seed)
        return fit_shallow(chosen, data, folder, seen.append), seen


@pytest.mark.parametrize("name", NAMES)
def test_the_codes_of_the_saved_encoder_are_plain_numpys_on_the_same_features(name: str, tmp_path: Path) -> None:
    data = decoded()
    result, _ = fit(tmp_path, data, settled(tmp_path, name))
    encoder = Encoder.load(result.out, device="cpu")
    assert (encoder.method, encoder.bits, encoder.network_name) == (name, 2, "features")
    network = encoder.network
    assert isinstance(network, FeatureHash)
    images = data.validation.images
    with torch.no_grad():
        inputs = encoder.preprocessing.normalise(images).double()
        x = network.backbone.double()(inputs).numpy()
    network.backbone.float()
    projection = network.projection.numpy()
    if name == "sdh":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        gamma = 1 / (2 * float(network.sigma) ** 2)
        x = np.hstack([rbf_kernel(x, network.anchors.numpy(), gamma=gamma), np.ones((len(x), 1))])
        assert network.anchors.shape == (30, 128)
    else:
        x = x - network.mean.numpy()
    u = x @ projection
    assert np.array_equal(encoder.encode_resized(images), pack(u))
    np.testing.assert_allclose(encoder.outputs(images).numpy(), u, rtol=1e-2, atol=1e-3 * abs(u).max())
    singly = np.concatenate([encoder.encode_resized(images[row : row + 1]) for row in range(len(images))])
    assert np.array_equal(encoder.encode_resized(images), singly)


def test_an_output_near_zero_is_asked_in_float64(tmp_path: Path) -> None:
    data = decoded()
    result, _ = fit(tmp_path, data, settled(tmp_path, "sdh", bits=8))
    encoder = Encoder.load(result.out, device="cpu")
    with torch.no_grad():  # the first image is put on the boundary of the first bit, as near as float64 can
        image = data.training.images[:1]
        u = copy.deepcopy(encoder.network).double()(encoder.preprocessing.normalise(image).double())
        encoder.network.projection[-1, 0] -= u[0, 0]
    assert abs(encoder.outputs(image)[0, 0]) < 1e-12


def map_of(encoder: Encoder, held_out: ImageSet) -> float:
    return leave_one_out_map(encode_set(encoder, held_out, 5), encoder.bits, held_out.names)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_fit_leaves(name: str, tmp_path: Path) -> None:
    data, chosen = decoded(), settled(tmp_path, name, bits=2 if name == "cca-itq" else 12)
    (tmp_path / "m.training").mkdir()
    (tmp_path / "m.training" / "state.pt").write_bytes(b"of an older training")
    result, seen = fit(tmp_path, data, chosen)
    encoder = Encoder.load(result.out, device="cpu")
    assert result.history == [result.history[0]]
    epoch = result.history[0]
    assert (epoch.epoch, epoch.learning_rate) == (1, 0.0)
    assert result.validation_score == epoch.validation_score == map_of(encoder, data.validation)
    assert result.validation_score is not None
    assert result.validation_score > chance_map(3, 11) + 0.2  # the colours are easily told; how well is not promised
    with torch.no_grad():
        u = encoder.network(encoder.preprocessing.normalise(data.training.images)).double().numpy()
    assert epoch.loss == pytest.approx(((signs(u) - u) ** 2).mean(), rel=1e-3)
    assert (result.images, result.validation_images, result.best_epoch) == (30, 12, 1)
    facts = encoder.facts
    assert (facts["loss"], facts["validation_score"], facts["data"]) == (
        epoch.loss,
        epoch.validation_score,
        "fingerprint",
    )
    assert facts["method_options"] == chosen.method_options
    assert encoder.labels == data.classes
    with (result.folder / "metrics.csv").open() as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == [epoch.loss]
    assert {path.name for path in result.folder.iterdir()} == {"metrics.csv", "loss.png"}
    last = seen[-1]
    assert (last.epoch, last.epochs, last.done, last.total) == (1, 1, 30, 30)
    assert (last.loss, last.validation_score) == (epoch.loss, epoch.validation_score)
    again, _ = fit(tmp_path, data, chosen)
    assert Encoder.load(again.out, device="cpu").identity == encoder.identity


def test_validation_codes_and_no_validation(tmp_path: Path) -> None:
    data = decoded()
    nothing = ImageSet(data.validation.images[:0], data.validation.labels[:0], [], [])
    result, _ = fit(tmp_path, dataclasses.replace(data, validation=nothing), settled(tmp_path, "itq", validation=0))
    assert result.validation_score is None
    encoder = Encoder.load(result.out, device="cpu")
    assert encode_set(encoder, nothing, 4).shape == (0, 1)
    codes = encode_set(encoder, data.validation, 5)
    assert np.array_equal(codes, encoder.encode_resized(data.validation.images))
    y = data.validation.labels.numpy().argmax(axis=1)
    b = unpack(codes, 2)
    expected = []
    for query in range(len(y)):  # the mean over orders of ties, from 2,000 of them
        others = np.delete(np.arange(len(y)), query)
        distances = (b[others] != b[query]).sum(axis=1)
        random = np.random.default_rng(query)
        found = []
        for _ in range(2000):
            relevant = y[others[np.lexsort((random.random(len(others)), distances))]] == y[query]
            ranks = np.flatnonzero(relevant) + 1
            found.append((np.arange(1, len(ranks) + 1) / ranks).mean())
        expected.append(np.mean(found))
    assert map_of(encoder, data.validation) == pytest.approx(np.mean(expected), abs=0.01)


def test_what_cannot_be_fitted(tmp_path: Path) -> None:
    data = decoded()
    with pytest.raises(ArgumentError, match="augment is 'crop': itq is fitted once"):
        settled(tmp_path, "itq", augment="crop")
    with pytest.raises(ArgumentError, match="bits is 3, but the labels of 3 classes have 2 independent directions"):
        fit(tmp_path, data, settled(tmp_path, "cca-itq", bits=3))
    weights = FeatureHash("resnet-small", 2).backbone.body.state_dict()
    weights["0.weight"].fill_(float("nan"))
    torch.save(weights, tmp_path / "broken.pt")
    with pytest.raises(TrainingError, match="features are not finite"):
        fit(tmp_path, data, settled(tmp_path, "lsh", weights=tmp_path / "broken.pt"))
    assert not (tmp_path / "m.pt").exists()
