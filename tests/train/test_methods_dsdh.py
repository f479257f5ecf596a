"""DSDH and its discrete step: against plain loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from discrete_problems import (
    Array,
    build,
    descend,
    distance,
    dot,
    few,
    likelihood,
    seeds,
    some_labels,
    some_outputs,
    some_rows,
)
from hypothesis import given
from hypothesis import strategies as st

from hashfaiss.train.methods.dsdh import DSDH


def dsdh_objective(b: Array, w: Array, y: Array, u: Array, mu: float, nu: float, eta: float) -> float:
    errors = sum(distance(y[i], [dot(b[i], w[:, c]) for c in range(y.shape[1])]) for i in range(len(y)))
    return mu * errors + nu * float((w**2).sum()) + eta * sum(distance(b[i], u[i]) for i in range(len(u)))


def best_classifier(b: Array, y: Array, mu: float, nu: float) -> Array:
    """Ridge regression as least squares with more rows."""
    rows = np.vstack([math.sqrt(mu) * b, math.sqrt(nu) * np.eye(b.shape[1])])
    right = np.vstack([math.sqrt(mu) * y, np.zeros((b.shape[1], y.shape[1]))])
    return np.asarray(np.linalg.lstsq(rows, right)[0])


@given(
    n=st.integers(1, 5),
    bits=st.integers(1, 4),
    seed=seeds,
    activation=st.sampled_from(["tanh", "none"]),
    constants=st.sampled_from([(0.01, 1.0, 0.01), (5.0, 5.0, 2.0), (1.0, 0.0, 0.3), (0.0, 1.0, 0.1)]),
    sweeps=st.integers(1, 2),
)
@few
def test_dsdh_is_the_plain_loops(
    n: int, bits: int, seed: int, activation: Any, constants: tuple[float, float, float], sweeps: int
) -> None:
    images, (mu, nu, eta) = 6, constants
    labels = some_labels(images, seed)
    method = build("dsdh", labels, bits, mu=mu, nu=nu, eta=eta, activation=activation, sweeps=sweeps)
    b, y, everyone = method.codes.numpy().copy(), labels.numpy(), np.zeros((images, bits))
    for epoch in range(1, 4):
        assert method.start_epoch(epoch, torch.Generator()) is None
        for _ in range(sweeps if epoch > 1 else 0):
            w = best_classifier(b, y, mu, nu)
            b = descend(b, lambda tried, w=w: dsdh_objective(tried, w, y, everyone, mu, nu, eta))
        np.testing.assert_array_equal(method.codes, b)
        # All images first: for one whose u is still 0 both values of a bit may be as good.
        rows = some_rows(images, images if epoch == 1 else n, seed + epoch)
        u = some_outputs(len(rows), bits, seed + epoch)
        everyone[rows] = h = np.array([[math.tanh(x) for x in row] for row in u]) if activation == "tanh" else u.numpy()
        expected = likelihood(h, y[rows], everyone, y)
        expected += eta * sum(distance(b[row], h[i]) for i, row in enumerate(rows)) / u.numel()
        assert method(u, torch.tensor(rows)).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("mu", "nu"), [(0.01, 1.0), (5.0, 5.0), (1.0, 0.0)])
def test_dsdh_classifier_is_ridge_regression(mu: float, nu: float) -> None:
    labels = some_labels(9, 5)
    method = build("dsdh", labels, 12, mu=mu, nu=nu)  # more bits than images: without nu there are many W
    expected = best_classifier(method.codes.numpy(), labels.numpy(), mu, nu)
    np.testing.assert_allclose(method._classifier(), expected, atol=1e-9)


@given(bits=st.integers(1, 8), seed=seeds, nu=st.sampled_from([0.0, 0.1, 5.0]), sweeps=st.integers(1, 3))
@few
def test_dsdh_codes_never_raise_the_objective(bits: int, seed: int, nu: float, sweeps: int) -> None:
    images, mu, eta = 12, 1.0, 0.1
    labels, u = some_labels(images, seed), some_outputs(images, bits, seed)
    method = build("dsdh", labels, bits, mu=mu, nu=nu, eta=eta, activation="none", sweeps=sweeps)
    method(u, torch.arange(images))
    values = []
    for epoch in range(1, 8):
        method.start_epoch(epoch, torch.Generator())
        b = method.codes.numpy()
        w = best_classifier(b, labels.numpy(), mu, nu)
        values.append(dsdh_objective(b, w, labels.numpy(), u.numpy(), mu, nu, eta))
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(values))


def test_dsdh_codes_are_signs_from_the_start_and_move_once_an_epoch() -> None:
    labels = some_labels(40, 1)
    method = build("dsdh", labels, 8)
    start = method.codes.clone()
    assert set(start.flatten().tolist()) == {-1.0, 1.0}
    assert 0.3 < (start > 0).double().mean() < 0.7
    with torch.random.fork_rng():
        torch.manual_seed(1)
        assert not torch.equal(DSDH(labels, 8).codes.double(), start)
    method.start_epoch(1, torch.Generator())
    method(some_outputs(40, 8, 2), torch.arange(40))
    assert torch.equal(method.codes, start)
    method.start_epoch(2, torch.Generator())
    assert not torch.equal(method.codes, start)


def test_dsdh_codes_reach_the_network() -> None:
    """In popular code they do not: the terms with B have no gradient there."""
    labels, u = some_labels(6, 3), some_outputs(6, 4, 3).requires_grad_()
    gradients = []
    for flip in (1, -1):
        method = build("dsdh", labels, 4, eta=2.0, activation="none")
        method.codes *= flip
        gradients.append(torch.autograd.grad(method(u, torch.arange(6)), u)[0])
    # The gradient of eta * mean (b - u)^2 is 2 eta (u - b) / (n K).
    torch.testing.assert_close(gradients[1] - gradients[0], 2 * 2.0 * 2 * build("dsdh", labels, 4).codes / 24)


def test_dsdh_class_labels_reach_the_codes() -> None:
    """Without eta, W and B come to codes from which the labels can be read."""
    labels = torch.eye(4).repeat(5, 1).double()
    method = build("dsdh", labels, 16, mu=1.0, nu=0.1, eta=0.0, sweeps=20)
    method.start_epoch(2, torch.Generator())
    w = best_classifier(method.codes.numpy(), labels.numpy(), 1.0, 0.1)
    assert ((method.codes.numpy() @ w).argmax(axis=1) == labels.numpy().argmax(axis=1)).all()
