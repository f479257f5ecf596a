"""SDH, against plain numpy over its equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from feature_sets import clusters, generator, mean_precision, several_labels, signs
from hypothesis import given, settings
from hypothesis import strategies as st
from live_memory import LiveMemory
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from hashfaiss.errors import ArgumentError
from hashfaiss.networks.features import kernel_features
from hashfaiss.train.methods import build_method, sdh
from hashfaiss.train.methods.sdh import SDH


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


def test_sdh_holds_the_kernel_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 50,000 images and 1,000 anchors it is 400 MB."""
    monkeypatch.setattr(sdh, "BLOCK", 64)
    features, labels = clusters(2000, 10, 3, seed=14)
    with LiveMemory() as live:
        SDH(labels, 4, anchors=300, iterations=2).fit(features, generator())
    assert live.peak < 1.6 * 2000 * 301 * 8


@pytest.mark.parametrize("name", ["regularisation", "ridge", "sigma", "anchors", "iterations", "sweeps"])
def test_sdh_refuses_zeros(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name} is 0: give a (whole )?number"):
        build_method("sdh", torch.eye(2), 8, {name: 0})
