"""The solver of discrete steps against every code there is, and what DFH, DSDH and ADSH have in common."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from discrete_problems import (
    Array,
    build,
    few,
    seeds,
    some_codes,
    some_labels,
    some_outputs,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods import build_method
from hashfaiss.train.methods.discrete import coordinate_descent
from hashfaiss.train.recipes import method_settings

NAMES = ["dfh", "dsdh", "adsh"]


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


# all three methods


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
        second: Any = build_method(name, labels, 6, options).double()  # type: ignore[union-attr]
    second.epochs = first.epochs
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
