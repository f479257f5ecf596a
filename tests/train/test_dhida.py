"""DHIDA's loss, against plain loops over its equations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods import build_method
from hashfaiss.train.methods.dhida import DHIDA

Array = np.ndarray[Any, np.dtype[np.float64]]


def plain_loss(u: Array, y: Array, others: Array, other_labels: Array, gamma: float, axis: str, total: bool) -> float:
    """Eq. 11-13 on f(u), pair by pair."""
    f = np.array([[max(-1.0, min(1.0, value)) for value in row] for row in u])
    pairs = []
    for i in range(len(f)):
        for j in range(len(others)):
            theta = 0.5 * sum(a * b for a, b in zip(f[i], others[j], strict=True))
            similar = any(a and b for a, b in zip(y[i], other_labels[j], strict=True))
            pairs.append(math.log1p(math.exp(theta)) - similar * theta)
    if axis == "bit":
        balance = sum((sum(f[:, k]) / len(f)) ** 2 for k in range(f.shape[1]))
    else:
        squares = [(sum(row) / len(row)) ** 2 for row in f]
        balance = sum(squares) if total else sum(squares) / len(squares)
    return (sum(pairs) if total else sum(pairs) / len(pairs)) + gamma * balance


def batch(n: int, bits: int, classes: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n, bits, generator=generator, dtype=dtype) * 1.5
    labels = (torch.rand(n, classes, generator=generator) < 0.4).to(dtype)
    return outputs, labels


@given(
    n=st.integers(1, 6),
    bits=st.integers(1, 9),
    seed=st.integers(0, 999),
    axis=st.sampled_from(["bit", "sample"]),
    reduction=st.sampled_from(["mean", "sum"]),
    memory=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_loss_is_the_plain_loops(n: int, bits: int, seed: int, axis: Any, reduction: Any, memory: bool) -> None:
    images = 10
    _, labels = batch(images, bits, 3, seed)
    method = DHIDA(labels, bits, 0.3, "piecewise", axis, memory, reduction).double()
    remembered = np.zeros((images, bits))
    for step in range(2):  # the second batch meets what the first left
        u, _ = batch(n, bits, 3, seed + step)
        rows = torch.randperm(images, generator=torch.Generator().manual_seed(seed + step))[:n]
        y = labels[rows].numpy()
        remembered[rows] = u.clamp(-1, 1)
        others = (remembered, labels.numpy()) if memory else (u.clamp(-1, 1).numpy(), y)
        expected = plain_loss(u.numpy(), y, *others, 0.3, axis, reduction == "sum")
        assert method(u, rows).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("axis", ["bit", "sample"])
@pytest.mark.parametrize("activation", ["piecewise", "none"])
def test_gradient_by_finite_differences(activation: Any, axis: Any, memory: bool) -> None:
    _, labels = batch(9, 5, 3, seed=7)
    u, _ = batch(4, 5, 3, seed=7)
    method = DHIDA(labels, 5, 0.5, activation, axis, memory).double()
    method(batch(5, 5, 3, seed=8)[0], torch.arange(4, 9))
    method(u, torch.arange(4))
    # The memory holds the batch as constants, so the gradient is that of the batch's own side.
    frozen = method.memory.outputs.clone() if memory else None

    def loss(outputs: Any) -> Any:
        if not memory:
            return method(outputs, torch.arange(4))
        f = outputs.clamp(-1, 1) if activation == "piecewise" else outputs
        theta, similar = f @ frozen.T / 2, (labels[:4] @ labels.T > 0).double()
        squares = f.mean(dim=0).square().sum() if axis == "bit" else f.mean(dim=1).square().mean()
        return (torch.nn.functional.softplus(theta) - similar * theta).mean() + 0.5 * squares

    u.requires_grad_()
    assert torch.autograd.gradcheck(loss, (u,))
    (expected,) = torch.autograd.grad(loss(u), u)
    (found,) = torch.autograd.grad(method(u, torch.arange(4)), u)
    torch.testing.assert_close(found, expected)


def test_no_gradient_beyond_one() -> None:
    u, y = batch(6, 8, 2, seed=3)
    u.requires_grad_()
    DHIDA(y, 8).double()(u, torch.arange(6)).backward()
    outside = u.detach().abs() > 1
    assert outside.any()
    assert not u.grad[outside].any()
    assert u.grad[~outside].all()


def test_without_the_activation_large_outputs_are_pulled_on() -> None:
    """Ablation A of Table 4."""
    u, y = batch(6, 8, 2, seed=3)
    u.requires_grad_()
    DHIDA(y, 8, activation="none").double()(u, torch.arange(6)).backward()
    assert (u.detach().abs() > 1).any()
    assert u.grad.all()


def test_rows_not_yet_seen_add_log_2_and_no_gradient() -> None:
    u, y = batch(3, 8, 2, seed=4)
    u.requires_grad_()
    many = torch.cat([y, torch.ones(100, 2, dtype=y.dtype)])  # also where the unseen are similar
    small, large = (DHIDA(labels, 8, gamma=0.0, reduction="sum").double() for labels in (y, many))
    first, second = (method(u, torch.arange(3)) for method in (small, large))
    assert second.item() == pytest.approx(first.item() + 3 * 100 * math.log(2))
    torch.testing.assert_close(*(torch.autograd.grad(loss, u)[0] for loss in (first, second)))


def test_no_overflow_at_1024_bits() -> None:
    u = torch.full((2, 1024), 1e6).requires_grad_()
    u.data[1].neg_()
    loss = DHIDA(torch.ones(2, 2), 1024)(u, torch.arange(2))
    loss.backward()
    assert loss.isfinite()
    assert u.grad.isfinite().all()


def test_the_memory_is_state() -> None:
    u, y = batch(4, 8, 2, seed=5, dtype=torch.float32)
    method = DHIDA(y, 8)
    method(u[:2], torch.tensor([3, 1]))
    state = method.state_dict()
    assert torch.equal(state["memory.outputs"][[3, 1]], u[:2].clamp(-1, 1))
    assert not state["memory.outputs"][[0, 2]].any()
    assert not any("labels" in name for name in state)  # they come with the images
    assert not list(method.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("other", {}, "unknown method 'other': give one of .*dhida"),
        ("dhida", {"gamma": -1.0}, "gamma is -1"),
        ("dhida", {"gamma": math.nan}, "gamma is nan"),
        ("dhida", {"balance_axis": "row"}, "balance_axis is 'row'"),
        ("dhida", {"reduction": "max"}, "reduction is 'max'"),
        ("dhida", {"margin": 3}, "has no option 'margin'; its options: gamma, activation"),
        ("dhida", {"activation": "tanh"}, "activation is 'tanh'"),
        ("dhida", {"memory": 1.5}, "memory is 1.5"),
    ],
)
def test_options_that_are_none(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build_method(name, torch.eye(2), 8, options)
