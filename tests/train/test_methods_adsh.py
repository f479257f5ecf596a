"""ADSH and its discrete step: against plain loops, and against every code there is."""

from __future__ import annotations

import itertools
import math

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
    seeds,
    share,
    some_labels,
    some_outputs,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hashfaiss.train.methods.adsh import ADSH


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
        for number, batch in enumerate(np.array_split(np.arange(len(sampled)), 2)):
            if not len(batch):
                continue
            rows = sampled[batch]
            u = some_outputs(len(rows), bits, 2 * (seed + epoch) + number)  # equal ones could make both values as good
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


@pytest.mark.parametrize(
    ("epochs", "length", "rounds"), [(8, 1, 8), (50, 1, 50), (120, 2, 60), (150, 3, 50), (400, 3, 133)]
)
def test_adsh_has_its_rounds_in_a_short_training_or_says_so(epochs: int, length: int, rounds: int) -> None:
    method = ADSH(torch.eye(5), 4)
    method.epochs = epochs
    assert method.round_epochs == length
    assert epochs // method.round_epochs == rounds
    told = method.shortfall()
    assert (
        told is None
        if rounds >= 50
        else told == ("adsh solves its codes in 50 rounds, and 8 epochs are 8: its codes stay rough")
    )


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
