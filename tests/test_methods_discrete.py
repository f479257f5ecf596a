"""DFH, DSDH and ADSH, and their discrete steps: against plain loops, and against every code there is."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods import build_method
from hashfaiss.train.methods.adsh import ADSH
from hashfaiss.train.methods.discrete import coordinate_descent
from hashfaiss.train.methods.dsdh import DSDH
from hashfaiss.train.recipes import method_settings

Array = np.ndarray[Any, np.dtype[np.float64]]

CLASSES = 4
NAMES = ["dfh", "dsdh", "adsh"]
few = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 999)


def some_labels(images: int, seed: int) -> Tensor:
    """1, 2 or 4 of the 4 classes for each image: shares of them are exact, so that ties are ties."""
    random = np.random.default_rng(seed)
    labels = np.zeros((images, CLASSES))
    for row in labels:
        row[random.permutation(CLASSES)[: random.choice([1, 1, 2, 4])]] = 1
    return torch.tensor(labels)


def some_outputs(images: int, bits: int, seed: int) -> Tensor:
    return 1.5 * torch.randn(images, bits, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_codes(images: int, bits: int, seed: int) -> Tensor:
    return torch.where(some_outputs(images, bits, seed) > 0, 1.0, -1.0).double()


def some_rows(images: int, count: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(seed).permutation(images)[:count]


def build(name: str, labels: Tensor, bits: int, **options: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_method(name, labels, bits, options).double()  # type: ignore[union-attr]


def share(y: Array, z: Array) -> bool:
    return any(a and b for a, b in zip(y, z, strict=True))


def dot(a: Array, b: Array) -> float:
    return float(sum(x * y for x, y in zip(a, b, strict=True)))


def distance(a: Array, b: Array) -> float:
    """Squared."""
    return float(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def descend(codes: Array, objective: Callable[[Array], float]) -> Array:
    """One sweep, by trying both values of every entry, column by column."""
    codes = codes.copy()
    for column in range(codes.shape[1]):
        chosen = []
        for row in range(len(codes)):
            both = []
            for value in (1.0, -1.0):
                tried = codes.copy()
                tried[row, column] = value
                both.append(objective(tried))
            chosen.append(1.0 if both[0] <= both[1] + 1e-9 else -1.0)
        codes[:, column] = chosen
    return codes


def likelihood(u: Array, y: Array, others: Array, all_y: Array, margin: float = 0.0) -> float:
    pairs = []
    for i in range(len(u)):
        for j in range(len(others)):
            theta = dot(u[i], others[j]) / 2
            pairs.append(math.log1p(math.exp(margin - theta if share(y[i], all_y[j]) else margin + theta)))
    return sum(pairs) / len(pairs)


# --- the solver ---------------------------------------------------------------------------------------------------


def quadratic(codes: Array, coupling: Array, linear: Array) -> float:
    return float(np.trace(codes @ coupling @ codes.T) - 2 * (codes * linear).sum())


@given(rows=st.integers(1, 4), columns=st.integers(1, 6), seed=seeds)
@few
def test_a_sweep_never_raises_the_objective_and_ends_where_no_bit_is_better(rows: int, columns: int, seed: int) -> None:
    root, linear = some_outputs(columns, 3, seed), some_outputs(rows, columns, seed + 1)
    coupling = root @ root.T
    codes = some_codes(rows, columns, seed + 2)
    before = quadratic(codes.numpy(), coupling.numpy(), linear.numpy())
    for _ in range(50):
        solved = coordinate_descent(codes, coupling, linear)
        after = quadratic(solved.numpy(), coupling.numpy(), linear.numpy())
        assert set(solved.flatten().tolist()) <= {-1.0, 1.0}
        assert after <= before + 1e-9
        if torch.equal(solved, codes):
            break
        codes, before = solved, after
    else:
        pytest.fail("no end")
    every = [np.array(code) for code in itertools.product((-1.0, 1.0), repeat=columns)]
    for row in range(rows):
        mine, q = solved[row].numpy(), linear[row].numpy()
        values = {tuple(code): float(code @ coupling.numpy() @ code - 2 * code @ q) for code in every}
        near = [value for code, value in values.items() if sum(a != b for a, b in zip(code, mine, strict=True)) <= 1]
        assert values[tuple(mine)] == pytest.approx(min(near), abs=1e-9)
        best = torch.tensor([min(values, key=lambda code: values[code])], dtype=torch.float64)
        assert torch.equal(coordinate_descent(best, coupling, linear[row : row + 1]), best)


def test_without_coupling_a_sweep_finds_the_best_codes_and_0_is_plus_1() -> None:
    linear = torch.tensor([[0.0, -0.5, 2.0]])
    start = torch.tensor([[-1.0, 1.0, -1.0]])
    solved = coordinate_descent(start, 9 * torch.eye(3), linear)
    assert solved.tolist() == [[1.0, -1.0, 1.0]]
    assert start.tolist() == [[-1.0, 1.0, -1.0]]


# --- DFH ----------------------------------------------------------------------------------------------------------


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
        v = v - (0.03 if step < 150 else 0.003 if step < 180 else 0.0003) * gradient
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


# --- DSDH ---------------------------------------------------------------------------------------------------------


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


# --- ADSH ---------------------------------------------------------------------------------------------------------


def soft_similarity(y: Array, sampled: Array) -> Array:
    """S of Omega x N."""
    pairs = [share(y[i], y[j]) for i in sampled for j in range(len(y))]
    ones, zeros = sum(pairs), len(pairs) - sum(pairs)
    return np.array([[1.0 if share(y[i], y[j]) else -ones / zeros for j in range(len(y))] for i in sampled])


def adsh_objective(u: Array, v: Array, s: Array, own: Array, gamma: float) -> float:
    """Queries u (n, K), database v (N, K), s (n, N); row i of u is row own[i] of v."""
    total = gamma * sum(distance(v[row], u[i]) for i, row in enumerate(own))
    for i in range(len(u)):
        for j in range(len(v)):
            total += (dot(u[i], v[j]) - v.shape[1] * s[i, j]) ** 2
    return total


@given(
    images=st.integers(4, 6),
    samples=st.integers(1, 9),
    bits=st.integers(1, 4),
    seed=seeds,
    gamma=st.sampled_from([200.0, 0.5]),
    round_epochs=st.integers(1, 3),
)
@few
def test_adsh_is_the_plain_loops(
    images: int, samples: int, bits: int, seed: int, gamma: float, round_epochs: int
) -> None:
    labels = some_labels(images, seed)
    labels[0], labels[1] = torch.tensor([1, 0, 0, 0]), torch.tensor([0, 1, 0, 0])  # some pair is dissimilar
    y = labels.numpy()
    method = build("adsh", labels, bits, gamma=gamma, samples=samples, round_epochs=round_epochs)
    v, generator = np.zeros((images, bits)), torch.Generator().manual_seed(seed)
    latest: dict[int, Array] = {}
    for epoch in range(1, 2 * round_epochs + 1):
        sampled = method.start_epoch(epoch, generator).numpy()
        assert len(set(sampled.tolist())) == len(sampled) == min(samples, images)
        if all(share(y[i], y[j]) for i in sampled for j in range(images)):
            continue  # no dissimilar pairs: another test
        s = soft_similarity(y, sampled)
        for batch in np.array_split(np.arange(len(sampled)), 2):
            if not len(batch):
                continue
            rows = sampled[batch]
            u = some_outputs(len(rows), bits, seed + epoch)
            h = np.array([[math.tanh(x) for x in row] for row in u])
            latest.update(zip(rows.tolist(), h, strict=True))
            expected = adsh_objective(h, v, s[batch], rows, gamma) / (len(rows) * images)
            assert method(u, torch.tensor(rows)).item() == pytest.approx(expected, rel=1e-9)
        method.end_epoch(epoch)
        if epoch % round_epochs == 0:
            queries = np.array([latest[row] for row in sampled.tolist()])
            v = descend(v, lambda tried, q=queries, s=s, o=sampled: adsh_objective(q, tried, s, o, gamma))
            np.testing.assert_array_equal(method.database_codes(), v)


def one_round(method: ADSH, epoch: int, outputs: Tensor, generator: torch.Generator) -> Tensor:
    """An epoch that is a round. Returns Omega."""
    sampled = method.start_epoch(epoch, generator)
    method(outputs[sampled], sampled)
    method.end_epoch(epoch)
    return sampled


@given(images=st.integers(4, 8), bits=st.integers(1, 5), seed=seeds)
@few
def test_adsh_codes_never_raise_the_objective_and_end_where_no_bit_is_better(images: int, bits: int, seed: int) -> None:
    labels = some_labels(images, seed)
    labels[0], labels[1] = torch.tensor([1, 0, 0, 0]), torch.tensor([0, 1, 0, 0])
    outputs, generator = some_outputs(images, bits, seed), torch.Generator().manual_seed(seed)
    method = build("adsh", labels, bits, gamma=3.0, round_epochs=1)
    u = np.tanh(outputs.numpy())
    s = soft_similarity(labels.numpy(), np.arange(images))

    def objective(codes: Array) -> float:
        return adsh_objective(u, codes, s, np.arange(images), 3.0)

    codes, epoch = np.zeros((images, bits)), 0
    while True:
        one_round(method, epoch := epoch + 1, outputs, generator)
        solved = method.database_codes().numpy()
        if epoch > 1:
            assert objective(solved) <= objective(codes) + 1e-9
        if np.array_equal(solved, codes):
            break
        codes = solved.copy()
    for row in range(images):
        values = {}
        for code in itertools.product((-1.0, 1.0), repeat=bits):
            tried = codes.copy()
            tried[row] = code
            values[code] = objective(tried)
        near = [
            value for code, value in values.items() if sum(a != b for a, b in zip(code, codes[row], strict=True)) < 2
        ]
        assert values[tuple(codes[row])] == pytest.approx(min(near))
        best = min(values, key=lambda code: values[code])
        method.codes[row] = torch.tensor(best)
        one_round(method, epoch + row, outputs, generator)
        assert tuple(method.database_codes()[row].tolist()) == best


def test_adsh_database_codes_are_signs_at_any_time() -> None:
    method = build("adsh", some_labels(9, 2), 6, samples=4)
    assert method.database_codes() is None  # before the first round's end they are not solved
    for epoch in range(1, 4):
        sampled = method.start_epoch(epoch, torch.Generator().manual_seed(epoch))
        method(torch.zeros(4, 6).double(), sampled)  # nothing to go by: every bit is a tie
        method.end_epoch(epoch)
    assert (method.codes == 1).all()
    assert (method.database_codes() == 1).all()


def test_adsh_rounds() -> None:
    """Omega is drawn at a round's start, V solved at its end, the last one's too."""
    method = build("adsh", some_labels(30, 2), 6, samples=8)
    drawn, codes = [], []
    for epoch in range(1, 7):
        sampled = method.start_epoch(epoch, torch.Generator().manual_seed(epoch))
        method(some_outputs(8, 6, epoch), sampled)
        method.end_epoch(epoch)
        drawn.append(sampled.tolist())
        codes.append(method.codes.clone())
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3] == drawn[4] == drawn[5]
    assert [torch.equal(a, b) for a, b in itertools.pairwise(codes)] == [True, False, True, True, False]


def test_adsh_draws_2000_images_or_all() -> None:
    assert len(ADSH(torch.eye(2).repeat(1500, 1), 4).start_epoch(1, torch.Generator())) == 2000
    assert sorted(ADSH(torch.eye(5), 4).start_epoch(1, torch.Generator()).tolist()) == [0, 1, 2, 3, 4]


def test_adsh_soft_similarity_weighs_both_kinds_alike() -> None:
    labels = torch.eye(10).repeat(30, 1)
    method = ADSH(labels, 8, samples=100)
    sampled = method.start_epoch(1, torch.Generator().manual_seed(0))
    assert method.ratio.item() == pytest.approx(1 / 9)
    targets = method._targets(sampled)
    assert targets.sum().item() == pytest.approx(0, abs=1e-2)
    assert targets.max().item() == 8


def test_adsh_with_nothing_dissimilar() -> None:
    method = build("adsh", torch.ones(4, 2).double(), 3, round_epochs=1)
    one_round(method, 1, some_outputs(4, 3, 0), torch.Generator())
    assert method(some_outputs(4, 3, 1), torch.arange(4)).isfinite()


def test_adsh_codes_come_to_tell_classes_apart() -> None:
    labels = torch.eye(3).repeat(10, 1).double()
    method = build("adsh", labels, 12, gamma=1.0, samples=15, round_epochs=1)
    outputs = some_outputs(3, 12, 7)[labels.argmax(dim=1)] + 0.3 * some_outputs(30, 12, 8)
    for epoch in range(1, 6):
        one_round(method, epoch, outputs, torch.Generator().manual_seed(epoch))
    codes = method.database_codes()
    inner = codes @ codes.T
    alike = labels @ labels.T > 0
    assert inner[alike].min() > inner[~alike].max()


# --- all three ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dfh", {"margin": 2.0}),
        ("dfh", {"centres": "relaxed"}),
        ("dsdh", {"eta": 0.5}),
        ("dsdh", {"eta": 0.5, "activation": "none"}),
        ("adsh", {}),
    ],
)
def test_gradient_by_finite_differences(name: str, options: dict[str, Any]) -> None:
    method = build(name, some_labels(8, 1), 5, **options)
    for epoch in range(1, 4):
        method.start_epoch(epoch, torch.Generator().manual_seed(0))
        method(some_outputs(8, 5, epoch), torch.arange(8))
        method.end_epoch(epoch)
    frozen = method.memory.outputs.clone()  # which the batch's own rows are a constant part of
    method.memory.remember = lambda indices, outputs: frozen
    u = some_outputs(4, 5, 9).requires_grad_()

    def loss(outputs: Tensor) -> Tensor:
        return copy.deepcopy(method)(outputs, torch.arange(4))  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(loss, (u,))
    (gradient,) = torch.autograd.grad(loss(u), u)
    assert gradient.abs().min() > 0


@pytest.mark.parametrize(
    "options", [{"centres": "discrete"}, {"centres": "relaxed"}, {}, {"activation": "none"}, {"gamma": 1.0}]
)
@pytest.mark.parametrize("size", [0.0, 1.0, 1e6])
def test_no_overflow_at_1024_bits(options: dict[str, Any], size: float) -> None:
    name = {"centres": "dfh", "gamma": "adsh"}.get(next(iter(options), ""), "dsdh")
    method = build_method(name, torch.eye(3).repeat(2, 1), 1024, options)
    u = (size * torch.randn(6, 1024, generator=torch.Generator().manual_seed(0))).requires_grad_()
    for epoch in range(1, 4):
        method.start_epoch(epoch, torch.Generator())  # type: ignore[union-attr]
        loss = method(u, torch.arange(6))  # type: ignore[operator]
        (gradient,) = torch.autograd.grad(loss, u)
        method.end_epoch(epoch)  # type: ignore[union-attr]
        assert loss.shape == ()
        assert loss.isfinite()
        assert gradient.isfinite().all()
    assert all(tensor.isfinite().all() for tensor in method.state_dict().values())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "options"), [("dfh", {}), ("dfh", {"centres": "relaxed"}), ("dsdh", {}), ("adsh", {"samples": 5})]
)
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_continued_training_is_the_same(name: str, options: dict[str, Any], stop: int) -> None:
    labels = some_labels(9, 4)

    def epochs(method: Any, first: int, last: int) -> list[float]:
        losses = []
        for epoch in range(first, last + 1):
            rows = method.start_epoch(epoch, torch.Generator().manual_seed(epoch))
            rows = torch.arange(9) if rows is None else rows
            losses += [method(some_outputs(len(part), 6, epoch), part).item() for part in rows.split(4)]
            method.end_epoch(epoch)
        return losses

    whole, first = build(name, labels, 6, **options), build(name, labels, 6, **options)
    expected = epochs(whole, 1, 7)
    found = epochs(first, 1, stop)
    with torch.random.fork_rng():
        torch.manual_seed(99)  # what another one draws at its start must not matter
        second = build_method(name, labels, 6, options).double()  # type: ignore[union-attr]
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert found + epochs(second, stop + 1, 7) == expected
    assert all(torch.equal(tensor, second.state_dict()[key]) for key, tensor in whole.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_method_is_trained_by_gradient(name: str) -> None:
    method = build(name, some_labels(5, 0), 4)
    assert not list(method.parameters())
    assert method.about.multi_label
    if name != "adsh":
        assert method.database_codes() is None


@pytest.mark.parametrize("name", NAMES)
def test_recipes_have_options_that_the_method_takes(name: str) -> None:
    for dataset in (None, "cifar10", "nuswide21", "nuswide81", "imagenet100", "coco"):
        settings_ = method_settings(name, dataset)
        assert settings_["method"] == name
        build(name, some_labels(5, 0), 4, **settings_.get("options", {}))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dfh", {"margin": -1.0}, "margin is -1"),
        ("dfh", {"eta": math.nan}, "eta is nan"),
        ("dfh", {"mu": "big"}, "mu is 'big'"),
        ("dfh", {"vul": math.inf}, "vul is inf"),
        ("dfh", {"nta": -0.5}, "nta is -0.5"),
        ("dfh", {"centres": "random"}, "centres is 'random': give one of 'discrete', 'relaxed'"),
        ("dsdh", {"mu": -1}, "mu is -1"),
        ("dsdh", {"nu": -1}, "nu is -1"),
        ("dsdh", {"eta": -1}, "eta is -1"),
        ("dsdh", {"activation": "relu"}, "activation is 'relu'"),
        ("dsdh", {"sweeps": 0}, "sweeps is 0: give a whole number from 1 up"),
        ("adsh", {"gamma": -1}, "gamma is -1"),
        ("adsh", {"samples": 0}, "samples is 0"),
        ("adsh", {"samples": 10.5}, "samples is 10.5"),
        ("adsh", {"round_epochs": True}, "round_epochs is True"),
    ],
)
def test_options_that_are_none(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build_method(name, torch.eye(4), 8, options)
