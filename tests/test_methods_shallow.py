"""The shallow methods, against plain numpy over their equations, and the network and model file they end in."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cross_decomposition import CCA
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from hashfaiss.codes import pack, unpack
from hashfaiss.encoder import Encoder
from hashfaiss.errors import ArgumentError, ModelError, TrainingError
from hashfaiss.networks import build_network
from hashfaiss.networks.features import FeatureHash, kernel_features
from hashfaiss.train.data import ImageSet, TrainingData
from hashfaiss.train.methods import Shallow, build_method
from hashfaiss.train.methods.cca_itq import CCAITQ, canonical_directions
from hashfaiss.train.methods.itq import ITQ, find_rotation, mean_and_covariance
from hashfaiss.train.methods.lsh import LSH
from hashfaiss.train.methods.sdh import SDH
from hashfaiss.train.options import Settings, TrainOptions
from hashfaiss.train.progress import Progress
from hashfaiss.train.records import TrainResult
from hashfaiss.train.shallow import fit_shallow
from hashfaiss.train.validation import encode_set, leave_one_out_map

Array = np.ndarray[Any, np.dtype[np.float64]]
NAMES = ("lsh", "itq", "cca-itq", "sdh")


def clusters(images: int, dim: int, classes: int, seed: int, spread: float = 0.5) -> tuple[Tensor, Tensor]:
    """Features (images, dim) around a centre for each class, as after a ReLU, and labels 0/1 (images, classes)."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, dim)) * 2
    rows = np.arange(images) % classes
    features = np.maximum(centres[rows] + spread * random.normal(size=(images, dim)) + 1, 0)
    return torch.from_numpy(features).float(), torch.eye(classes)[torch.from_numpy(rows)]


def several_labels(images: int, classes: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(images, classes, generator=generator) < 0.4).float()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outputs(tensors: dict[str, Tensor], features: Tensor) -> Array:
    """u (n, K) of a linear method, in numpy."""
    x, mean, projection = (value.double().numpy() for value in (features, tensors["mean"], tensors["projection"]))
    return np.asarray((x - mean) @ projection)


def signs(values: Array) -> Array:
    return np.where(values >= 0, 1.0, -1.0)


def rotation_of(seed: int, bits: int) -> Array:
    """The rotation that ITQ starts from."""
    noise = torch.randn(bits, bits, generator=generator(seed), dtype=torch.float64).numpy()
    return np.asarray(np.linalg.svd(noise)[0])


def mean_precision(u: Array, labels: Tensor) -> float:
    """How many of an image's 10 nearest codes have its label."""
    b, y = signs(u), labels.numpy().argmax(axis=1)
    distances = (b.shape[1] - b @ b.T) / 2
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :10]
    return float((y[nearest] == y[:, None]).mean())


# LSH


def test_lsh_is_signs_of_normal_projections_of_centred_features() -> None:
    features, labels = clusters(400, 30, 4, seed=1)
    tensors = LSH(labels, 256).fit(features, generator())
    np.testing.assert_allclose(tensors["mean"].numpy(), features.double().numpy().mean(axis=0))
    weights = tensors["projection"].numpy()
    assert abs(weights.mean()) < 0.05
    assert weights.std() == pytest.approx(1, abs=0.03)
    u = outputs(tensors, features)
    x = features.double().numpy() - features.double().numpy().mean(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    angles = np.arccos(np.clip(x @ x.T, -1, 1)) / np.pi
    differ = (256 - signs(u) @ signs(u).T) / 2 / 256
    assert abs(differ - angles).max() < 0.2
    assert abs(differ - angles).mean() < 0.03


def test_without_centring_features_of_one_orthant_have_codes_alike() -> None:
    features, labels = clusters(300, 30, 4, seed=2)
    plain, centred = (LSH(labels, 64, centre=centre).fit(features, generator()) for centre in (False, True))
    assert not plain["mean"].any()
    assert torch.equal(plain["projection"], centred["projection"])
    skew = [abs(signs(outputs(tensors, features)).mean(axis=0)).mean() for tensors in (plain, centred)]
    assert skew[0] > 2 * skew[1]


# ITQ


def plain_itq(v: Array, rotation: Array, iterations: int) -> tuple[Array, list[float]]:
    """V (N, K) and a first rotation → the last one, and the error ||B - V R||² before each update and at the end."""
    errors = []
    for _ in range(iterations):
        b = signs(v @ rotation)
        errors.append(((b - v @ rotation) ** 2).sum())
        s, _, s_hat = np.linalg.svd(b.T @ v)
        rotation = s_hat.T @ s.T
    errors.append(((signs(v @ rotation) - v @ rotation) ** 2).sum())
    return rotation, errors


@given(
    images=st.integers(12, 60),
    bits=st.integers(1, 8),
    seed=st.integers(0, 999),
    iterations=st.integers(1, 12),
)
@settings(deadline=None, max_examples=30)
def test_the_rotation_is_plain_itqs_and_the_error_never_rises(
    images: int, bits: int, seed: int, iterations: int
) -> None:
    v = np.random.default_rng(seed).normal(size=(images, bits)) * np.linspace(1, 3, bits)
    found = find_rotation(torch.from_numpy(v), iterations, generator(seed)).numpy()
    expected, errors = plain_itq(v, rotation_of(seed, bits), iterations)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    np.testing.assert_allclose(found @ found.T, np.eye(bits), atol=1e-10)
    assert (np.diff(errors) <= 1e-9 * errors[0]).all()
    each = [find_rotation(torch.from_numpy(v), count, generator(seed)).numpy() for count in range(1, iterations + 1)]
    own = [((signs(v @ rotation) - v @ rotation) ** 2).sum() for rotation in each]
    np.testing.assert_allclose(own, errors[1:], rtol=1e-8)


def test_the_last_rotation_is_the_best_for_its_codes() -> None:
    """Procrustes: no rotation near it, nor any of a thousand random ones, is closer to the codes it was made for."""
    random = np.random.default_rng(3)
    v = random.normal(size=(200, 5))
    before = find_rotation(torch.from_numpy(v), 3, generator(1)).numpy()
    after = find_rotation(torch.from_numpy(v), 4, generator(1)).numpy()
    b = signs(v @ before)
    least = ((b - v @ after) ** 2).sum()
    for _ in range(1000):
        anywhere = np.linalg.qr(random.normal(size=(5, 5)))[0]
        near = np.linalg.qr(after + 1e-3 * random.normal(size=(5, 5)))[0]
        near = near * np.sign((near * after).sum(axis=0))
        assert ((b - v @ anywhere) ** 2).sum() > least
        assert ((b - v @ near) ** 2).sum() > least


def test_itq_is_pca_and_rotation() -> None:
    # spread, because with fewer distinct codes than bits the best rotation is not unique
    features, labels = clusters(120, 20, 5, seed=4, spread=3)
    tensors = ITQ(labels, 6, iterations=500).fit(features, generator(7))  # enough to stand still
    x = features.double().numpy()
    x = x - x.mean(axis=0)
    principal = np.linalg.svd(x, full_matrices=False)[2][:6].T
    projection = tensors["projection"].numpy()
    # the same space, and orthonormal in it
    np.testing.assert_allclose(principal @ (principal.T @ projection), projection, atol=1e-8)
    np.testing.assert_allclose(projection.T @ projection, np.eye(6), atol=1e-8)
    # and a fixed point of plain ITQ
    v, rotation = x @ principal, principal.T @ projection
    np.testing.assert_allclose(plain_itq(v, rotation, 1)[0], rotation, atol=1e-6)
    one = ITQ(labels, 6, iterations=1).fit(features, generator(7))["projection"].numpy()
    errors = [((signs(x @ matrix) - x @ matrix) ** 2).sum() for matrix in (projection, one)]
    assert errors[0] < errors[1]


def test_itq_refuses_more_bits_than_directions() -> None:
    features, labels = clusters(9, 20, 3, seed=5)
    with pytest.raises(ArgumentError, match="bits is 9, but the features of 9 images differ in 8 directions only"):
        ITQ(labels, 9).fit(features, generator())
    ITQ(labels, 8).fit(features, generator())
    features, labels = clusters(50, 20, 3, seed=5)
    features[:, 10:] = features[:, :10] * 0.3 + 7
    with pytest.raises(ArgumentError, match="in 10 directions only: give ITQ 10 bits or fewer"):
        ITQ(labels, 11).fit(features, generator())
    with pytest.raises(ArgumentError, match="iterations is 0: give a whole number from 1 up"):
        ITQ(labels, 4, iterations=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_itq_beats_lsh_and_supervision_beats_itq(seed: int) -> None:
    features, labels = clusters(400, 40, 12, seed, spread=2.5)
    u = {kind: outputs(kind(labels, 10).fit(features, generator(seed)), features) for kind in (LSH, ITQ, CCAITQ)}
    found = {kind: mean_precision(values, labels) for kind, values in u.items()}
    assert found[LSH] + 0.05 < found[ITQ] < found[CCAITQ]


# CCA-ITQ


@pytest.mark.parametrize("several", [False, True])
def test_the_directions_solve_the_printed_eigenproblem(several: bool) -> None:
    features, labels = clusters(200, 12, 5, seed=6)
    labels = several_labels(200, 5, seed=6) if several else labels
    rho = 1e-2
    covariance = np.cov(torch.cat([features, labels], dim=1).double().numpy().T) + rho * np.eye(17)
    directions = canonical_directions(torch.from_numpy(covariance), 12).numpy()
    xx, xy, yy = covariance[:12, :12], covariance[:12, 12:], covariance[12:, 12:]
    # each has length lambda in C_xx, so its square is the eigenvalue
    lambdas = np.sqrt(np.diag(directions.T @ xx @ directions))
    assert (np.diff(lambdas) <= 1e-9).all()
    left = xy @ np.linalg.inv(yy) @ xy.T @ directions
    np.testing.assert_allclose(left, xx @ directions * lambdas**2, atol=1e-9)
    every = np.sort(np.linalg.eigvals(np.linalg.inv(xx) @ xy @ np.linalg.inv(yy) @ xy.T).real)[::-1]
    np.testing.assert_allclose(lambdas[:4] ** 2, every[:4], rtol=1e-8)


def test_the_correlations_are_those_of_scikit_learn() -> None:
    features, _ = clusters(300, 10, 6, seed=7, spread=3)
    labels = several_labels(300, 4, seed=7)
    labels[:, :2] = (features[:, :2] + torch.randn(300, 2, generator=generator(8)) > 1).float()
    method = CCA(n_components=4, max_iter=5000, tol=1e-12).fit(features.numpy(), labels.numpy())
    x_scores, y_scores = method.transform(features.numpy(), labels.numpy())
    expected = [np.corrcoef(x_scores[:, k], y_scores[:, k])[0, 1] for k in range(4)]
    _, covariance = mean_and_covariance(torch.cat([features, labels], dim=1))
    directions = canonical_directions(covariance + 1e-10 * torch.eye(14), 10)
    lambdas = (directions.T @ covariance[:10, :10] @ directions).diagonal().sqrt()
    np.testing.assert_allclose(lambdas.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("several", [False, True])
def test_cca_itq_rotates_the_canonical_components(several: bool) -> None:
    features, labels = clusters(200, 12, 5, seed=9)
    labels = several_labels(200, 5, seed=9) if several else labels
    tensors = CCAITQ(labels, 4).fit(features, generator(3))
    x = features.double().numpy()
    x = x - x.mean(axis=0)
    covariance = np.cov(torch.cat([features, labels], dim=1).double().numpy().T) + 1e-4 * np.eye(17)
    directions = canonical_directions(torch.from_numpy(covariance), 12).numpy()[:, :4]
    rotation, _ = plain_itq(x @ directions, rotation_of(3, 4), 50)
    np.testing.assert_allclose(tensors["projection"].numpy(), directions @ rotation, atol=1e-8)
    np.testing.assert_allclose(tensors["mean"].numpy(), features.double().numpy().mean(axis=0))


def test_cca_itq_refuses_bits_beyond_the_rank_of_the_labels() -> None:
    features, labels = clusters(100, 30, 10, seed=10)
    CCAITQ.check(labels, 9)
    with pytest.raises(ArgumentError) as error:
        CCAITQ.check(labels, 10)
    assert str(error.value) == (
        "bits is 10, but the labels of 10 classes have 9 independent directions: "
        "give CCA-ITQ 9 bits or fewer, or take itq or sdh"
    )
    with pytest.raises(ArgumentError, match="9 independent directions"):
        CCAITQ(labels, 16).fit(features, generator())
    several = several_labels(100, 10, seed=10)
    CCAITQ.check(several, 10)
    several[:, 3] = several[:, 4]
    with pytest.raises(ArgumentError, match="have 9 independent"):
        CCAITQ.check(several, 10)
    everywhere = several_labels(100, 3, seed=1)
    everywhere[:, 0] = 1
    with pytest.raises(ArgumentError, match="have 2 independent"):
        CCAITQ.check(everywhere, 3)
    many = torch.eye(100).repeat(500, 1)  # as large as ImageNet-100's training set
    CCAITQ.check(many, 99)
    with pytest.raises(ArgumentError, match="have 99 independent"):
        CCAITQ.check(many, 100)


def test_cca_itq_refuses_bits_beyond_the_features_and_rho_of_0() -> None:
    with pytest.raises(ArgumentError, match="bits is 4, but the features are 3 numbers"):
        CCAITQ(several_labels(50, 6, seed=2), 4).fit(torch.rand(50, 3), generator())
    with pytest.raises(ArgumentError, match="rho is 0: give a number above 0"):
        CCAITQ(torch.eye(2), 1, rho=0)
    with pytest.raises(ArgumentError, match="rho is -1"):
        CCAITQ(torch.eye(2), 1, rho=-1)


def test_cca_itq_is_solved_with_fewer_images_than_features() -> None:
    features, labels = clusters(20, 60, 4, seed=11)
    tensors = CCAITQ(labels, 3).fit(features, generator())
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert len(np.unique(signs(outputs(tensors, features)), axis=0)) == 4


# SDH


class PlainSDH:
    """The five outer iterations in numpy, column by column, with the objective after every step."""

    def __init__(self, features: Tensor, labels: Tensor, bits: int, seed: int, anchors: int, sigma: float) -> None:
        random = generator(seed)
        x = features.double().numpy()
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        chosen = torch.randperm(len(x), generator=random)[:anchors].numpy()
        kernel = rbf_kernel(x, x[chosen], gamma=1 / (2 * sigma**2))
        self.phi = np.hstack([kernel, np.ones((len(x), 1))])
        self.y = labels.double().numpy()
        self.b = signs(torch.randn(len(x), bits, generator=random, dtype=torch.float64).numpy())

    def solve(self, lam: float, nu: float, ridge: float, iterations: int, sweeps: int) -> list[float]:
        self.lam, self.nu, self.ridge = lam, nu, ridge
        self.regress()
        self.predict()
        found = [self.objective()]
        for _ in range(iterations):
            q = nu * self.phi @ self.p + self.y @ self.w.T
            for _ in range(sweeps):
                for k in range(self.b.shape[1]):
                    rest = [other for other in range(self.b.shape[1]) if other != k]
                    self.b[:, k] = signs(q[:, k] - self.b[:, rest] @ self.w[rest] @ self.w[k])
                    found.append(self.objective())
            self.regress()
            found.append(self.objective())
            self.predict()
            found.append(self.objective())
        return found

    def regress(self) -> None:
        bits = self.b.shape[1]
        self.w = np.linalg.inv(self.b.T @ self.b + self.lam * np.eye(bits)) @ self.b.T @ self.y

    def predict(self) -> None:
        size = self.phi.shape[1]
        self.p = np.linalg.solve(self.phi.T @ self.phi + self.ridge * np.eye(size), self.phi.T @ self.b)

    def objective(self) -> float:
        fit = ((self.y - self.b @ self.w) ** 2).sum() + self.lam * (self.w**2).sum()
        return float(fit + self.nu * (((self.b - self.phi @ self.p) ** 2).sum() + self.ridge * (self.p**2).sum()))


@given(
    images=st.integers(8, 40),
    bits=st.integers(1, 9),
    seed=st.integers(0, 999),
    several=st.booleans(),
    nu=st.sampled_from([1e-5, 1e-2, 1.0]),
    iterations=st.integers(1, 5),
)
@settings(deadline=None, max_examples=25)
def test_sdh_is_the_plain_one_and_its_objective_never_rises(
    images: int, bits: int, seed: int, several: bool, nu: float, iterations: int
) -> None:
    features, labels = clusters(images, 10, 3, seed)
    labels = several_labels(images, 3, seed) if several else labels
    plain = PlainSDH(features, labels, bits, seed, anchors=6, sigma=0.4)
    found = plain.solve(0.5, nu, 1e-2, iterations, sweeps=10)
    assert (np.diff(found) <= 1e-9 * found[0]).all()
    method = SDH(labels, bits, regularisation=0.5, nu=nu, anchors=6, iterations=iterations)
    tensors = method.fit(features, generator(seed))
    np.testing.assert_allclose(tensors["projection"].numpy(), plain.p, rtol=1e-5, atol=1e-5)
    assert tensors["sigma"].item() == 0.4
    u = kernel_features(features.double(), tensors["anchors"], tensors["sigma"]) @ tensors["projection"]
    np.testing.assert_allclose(u.numpy(), plain.phi @ plain.p, atol=1e-5)


def test_sdh_learns_classes_that_are_no_half_spaces_and_has_more_bits_than_classes() -> None:
    """Two rings of directions: each class is on both sides of the other."""
    angle = torch.linspace(0, 1.5, 400)
    features = torch.stack([angle.cos(), angle.sin()], dim=1) * (1 + torch.rand(400, 1, generator=generator(1)))
    labels = torch.eye(2)[((angle * 4).long() % 2)]
    tensors = SDH(labels, 16, sigma=0.1).fit(features, generator())
    assert tensors["anchors"].shape == (400, 2)
    assert tensors["projection"].shape == (401, 16)
    u = kernel_features(features.double(), tensors["anchors"], tensors["sigma"]) @ tensors["projection"]
    assert mean_precision(u.numpy(), labels) > 0.97


def test_sdh_ignores_the_length_of_features_and_bears_zeros() -> None:
    features, labels = clusters(40, 10, 4, seed=12)
    features[3] = 0
    one, two = (SDH(labels, 8).fit(scale * features, generator()) for scale in (1, 1000))
    assert all(torch.isfinite(one[name]).all() for name in one)
    torch.testing.assert_close(one["anchors"], two["anchors"])
    torch.testing.assert_close(one["projection"], two["projection"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["regularisation", "ridge", "sigma", "anchors", "iterations", "sweeps"])
def test_sdh_refuses_zeros(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name} is 0: give a (whole )?number"):
        build_method("sdh", torch.eye(2), 8, {name: 0})


# the network and the model file


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
        "batch": 8,
        "device": "cpu",
    }
    asked = {**defaults, **changes}
    return TrainOptions(images="photos", out=tmp_path / "m.pt", method=method, bits=bits, **asked).settle()


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
        u = encoder._arbiter()(encoder.preprocessing.normalise(image).double())
        encoder.network.projection[-1, 0] -= u[0, 0]
        encoder._double = None
    assert abs(encoder.outputs(image)[0, 0]) < 1e-12


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
    assert result.validation_map == epoch.validation_map == leave_one_out_map(encoder, data.validation, 5)
    assert result.validation_map is not None
    assert result.validation_map > (0.55 if name == "lsh" else 0.8)
    with torch.no_grad():
        u = encoder.network(encoder.preprocessing.normalise(data.training.images)).double().numpy()
    assert epoch.loss == pytest.approx(((signs(u) - u) ** 2).mean(), rel=1e-3)
    assert (result.images, result.validation_images, result.best_epoch) == (30, 12, 1)
    facts = encoder.facts
    assert (facts["loss"], facts["validation_map"], facts["data"]) == (epoch.loss, epoch.validation_map, "fingerprint")
    assert facts["method_options"] == chosen.method_options
    assert encoder.labels == data.classes
    with (result.folder / "metrics.csv").open() as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == [epoch.loss]
    assert {path.name for path in result.folder.iterdir()} == {"metrics.csv", "loss.png"}
    last = seen[-1]
    assert (last.epoch, last.epochs, last.done, last.total) == (1, 1, 30, 30)
    assert (last.loss, last.validation_map) == (epoch.loss, epoch.validation_map)
    again, _ = fit(tmp_path, data, chosen)
    assert Encoder.load(again.out, device="cpu").identity == encoder.identity


def test_validation_codes_and_no_validation(tmp_path: Path) -> None:
    data = decoded()
    nothing = ImageSet(data.validation.images[:0], data.validation.labels[:0], [], [])
    result, _ = fit(tmp_path, dataclasses.replace(data, validation=nothing), settled(tmp_path, "itq", validation=0))
    assert result.validation_map is None
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
    assert leave_one_out_map(encoder, data.validation, 5) == pytest.approx(np.mean(expected), abs=0.01)


def test_what_cannot_be_fitted(tmp_path: Path) -> None:
    data = decoded()
    with pytest.raises(ArgumentError, match="augment is 'crop': itq is fitted once"):
        settled(tmp_path, "itq", augment="crop")
    with pytest.raises(ArgumentError, match="bits is 3, but the labels of 3 classes have 2 independent directions"):
        fit(tmp_path, data, settled(tmp_path, "cca-itq", bits=3))
    weights = FeatureHash("resnet-small", 2).backbone.body.state_dict()
    weights["0.weight"].fill_(float("nan"))
    torch.save(weights, tmp_path / "broken.pt")
    with pytest.raises(TrainingError, match="features of resnet-small are not finite"):
        fit(tmp_path, data, settled(tmp_path, "lsh", weights=tmp_path / "broken.pt"))
    assert not (tmp_path / "m.pt").exists()
