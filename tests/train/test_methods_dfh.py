"""DFH and its discrete step: against plain loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from discrete_problems import (
    CLASSES,
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


def dfh_objective(centres: Array, y: Array, b: Array, vul: float) -> float:
    """||C Y - B||^2 + vul sum_{i != j} <c_i, c_j>; centres (K, classes), shares y (n, classes), codes b (n, K)."""
    within = sum(distance(sum(y[i, c] * centres[:, c] for c in range(y.shape[1])), b[i]) for i in range(len(y)))
    pairs = itertools.permutations(range(y.shape[1]), 2)
    return within + vul * sum(dot(centres[:, i], centres[:, j]) for i, j in pairs)


def dfh_codes(centres: Array, y: Array, u: Array, mu: float) -> Array:
    pulled = [mu * sum(y[i, c] * centres[:, c] for c in range(y.shape[1])) + u[i] for i in range(len(u))]
    return np.array([[1.0 if value >= 0 else -1.0 for value in row] for row in pulled])


def dfh_relaxed(relaxed: Array, y: Array, b: Array, vul: float, nta: float) -> Array:
    """200 steps of gradient descent, by automatic differentiation of the three means."""
    v, shares, codes = (torch.tensor(array) for array in (relaxed, y.T, b.T))
    bits, classes = v.shape
    target = bits * (2 * torch.eye(classes) - torch.ones(classes, classes))
    for step in range(200):
        v = v.detach().requires_grad_()
        loss = (v @ shares - codes).square().mean() + vul * (v.T @ v - target).square().mean()
        loss = loss + nta * (v - v.detach().sign()).square().mean()
        (gradient,) = torch.autograd.grad(loss, v)
        v = v - (0.03 if step < 149 else 0.003 if step < 179 else 0.0003) * gradient
    return v.detach().numpy()


@given(
    n=st.integers(1, 5),
    bits=st.integers(1, 5),
    seed=seeds,
    margin=st.sampled_from([0.0, 3.0]),
    mu=st.sampled_from([1.0, 0.1]),
    vul=st.sampled_from([1.0, 0.25]),
)
@few
def test_dfh_is_the_plain_loops(n: int, bits: int, seed: int, margin: float, mu: float, vul: float) -> None:
    images = 7
    labels = some_labels(images, seed)
    method = build("dfh", labels, bits, margin=margin, mu=mu, vul=vul, eta=0.7)
    everyone, y = np.zeros((images, bits)), labels.numpy()
    shares = y / y.sum(axis=1, keepdims=True)
    centres = np.zeros((bits, CLASSES))
    for step in range(3):  # the later batches meet what the first left
        u, rows = some_outputs(n, bits, seed + step).numpy(), some_rows(images, n, seed + step)
        everyone[rows] = u
        b = dfh_codes(centres, shares[rows], u, mu)
        expected = likelihood(u, y[rows], everyone, y, margin)
        expected += 0.7 * sum(distance(b[i], u[i]) for i in range(n)) / (n * bits)
        assert method(torch.tensor(u), torch.tensor(rows)).item() == pytest.approx(expected, rel=1e-9)
        centres = descend(centres, lambda tried, rows=rows, b=b: dfh_objective(tried, shares[rows], b, vul))
        np.testing.assert_array_equal(method.class_centres, centres)


@pytest.mark.parametrize("seed", range(4))
def test_dfh_relaxed_centres_descend_the_three_means(seed: int) -> None:
    labels, vul, nta = some_labels(6, seed), [1.0, 0.25][seed % 2], [1.0, 3.0][seed // 2]
    method = build("dfh", labels, 5, vul=vul, nta=nta, centres="relaxed")
    relaxed = some_outputs(5, CLASSES, seed).numpy()
    method.relaxed.copy_(torch.tensor(relaxed))
    shares = (labels / labels.sum(dim=1, keepdim=True)).numpy()
    centres = np.zeros((5, CLASSES))
    for step in range(2):
        u = some_outputs(6, 5, seed + step)
        method(u, torch.arange(6))
        relaxed = dfh_relaxed(relaxed, shares, dfh_codes(centres, shares, u.numpy(), 1.0), vul, nta)
        np.testing.assert_allclose(method.relaxed, relaxed, rtol=1e-6, atol=1e-9)
        centres = np.where(relaxed >= 0, 1.0, -1.0)
        np.testing.assert_array_equal(method.class_centres, centres)


@given(n=st.integers(1, 6), bits=st.integers(1, 6), seed=seeds, vul=st.sampled_from([0.0, 1.0, 5.0]))
@few
def test_dfh_centres_never_raise_their_objective(n: int, bits: int, seed: int, vul: float) -> None:
    labels = some_labels(n, seed)
    y = (labels / labels.sum(dim=1, keepdim=True)).numpy()
    method = build("dfh", labels, bits, vul=vul)
    for step in range(4):
        before = method.class_centres.numpy().copy()
        u = some_outputs(n, bits, seed + step)
        method(u, torch.arange(n))
        b, after = dfh_codes(before, y, u.numpy(), 1.0), method.class_centres.numpy()
        assert set(after.flatten()) <= {-1.0, 1.0}
        if step:  # before the first there are no centres
            assert dfh_objective(after, y, b, vul) <= dfh_objective(before, y, b, vul) + 1e-9


def test_dfh_centres_share_the_pull_on_an_image_of_several_labels() -> None:
    labels = torch.tensor([[1.0, 1.0]]).double()
    method = build("dfh", labels, 2)
    method.class_centres.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    # Pulls are 1 and 0, so the codes are -1 and -1; not divided by 2 the first would be 2, and the code +1.
    u = torch.tensor([[-1.5, -0.25]]).double()
    expected = math.log1p(math.exp(-dot(u[0], u[0]) / 2)) + 0.5 * (0.5**2 + 0.75**2) / 2
    assert method(u, torch.arange(1)).item() == pytest.approx(expected)


def test_dfh_centres_move_apart_and_to_their_images() -> None:
    labels = torch.eye(2).repeat_interleave(3, 0).double()
    u = torch.tensor([[1.0, -1.0]]).repeat_interleave(3, 1).T.repeat(1, 8).double() * 2
    u[0] *= -1  # one image of each class on the other's side
    u[3] *= -1
    for centres in ("discrete", "relaxed"):
        method = build("dfh", labels, 8, centres=centres)
        for _ in range(3):
            method(u, torch.arange(6))
        assert method.class_centres.T.tolist() == [[1.0] * 8, [-1.0] * 8]


@pytest.mark.parametrize("bits", [1, 16, 1024])
@pytest.mark.parametrize("classes", [2, 3, 10, 81])
def test_dfh_relaxed_centres_do_not_diverge(bits: int, classes: int) -> None:
    labels = torch.eye(classes).repeat(2, 1).double()
    method = build("dfh", labels, bits, centres="relaxed")
    for step in range(3):
        method(some_outputs(2 * classes, bits, step), torch.arange(2 * classes))
    target = bits * (2 * torch.eye(classes) - 1)
    far = (method.relaxed.T @ method.relaxed - target).square().mean().item() / bits**2
    assert far < 1.25  # it starts from 1
    if bits > 1 and classes < 81:
        # V^T V has no negative eigenvalues, and K (2 I - 1) has one, -(classes - 2) K.
        assert far == pytest.approx(((classes - 2) / classes) ** 2, abs=1e-3)


def test_dfh_takes_images_without_labels() -> None:
    labels, u = torch.zeros(2, 3).double(), some_outputs(2, 4, 0)
    expected = likelihood(u.numpy(), labels.numpy(), u.numpy(), labels.numpy())
    expected += 0.5 * float((u.abs() - 1).square().mean())  # no centre has a part in b
    assert build("dfh", labels, 4)(u, torch.arange(2)).item() == pytest.approx(expected)
