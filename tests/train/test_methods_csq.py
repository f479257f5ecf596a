"""CSQ, against plain loops over the equations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from batches import Rows, images
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods import build_method
from hashfaiss.train.methods.csq import CSQ


def plain_csq(u: Rows, y: Rows, method: CSQ) -> float:
    centres, tie = method.centres.tolist(), method.tie.tolist()
    central, quantisation = [], []
    for row, labels in zip(u, y, strict=True):
        for k, value in enumerate(row):
            total = sum(centre[k] for centre, label in zip(centres, labels, strict=True) if label)
            target = (1 if total > 0 else -1 if total < 0 else tie[k]) / 2 + 0.5
            h = math.tanh(value)
            central.append(-(target * math.log((h + 1) / 2) + (1 - target) * math.log(1 - (h + 1) / 2)))
            excess = abs(h) - 1
            quantisation.append(math.log(math.cosh(excess)) if method.log_cosh else excess**2)
    return (sum(central) + method.quantisation * sum(quantisation)) / len(central)


@given(
    n=st.integers(1, 7),
    bits=st.sampled_from([2, 6, 8, 16]),
    classes=st.integers(1, 6),
    seed=st.integers(0, 999),
    single=st.booleans(),
    quantiser=st.sampled_from(["square", "log-cosh"]),
)
@settings(deadline=None, max_examples=40)
def test_csq_is_the_plain_loops(n: int, bits: int, classes: int, seed: int, single: bool, quantiser: Any) -> None:
    u, y = images(9, bits, classes, seed, single)
    rows = torch.randperm(9, generator=torch.Generator().manual_seed(seed))[:n]
    method = CSQ(y, bits, 0.3, quantiser).double()
    expected = plain_csq(u[:n].tolist(), y[rows].tolist(), method)
    assert method(u[:n], rows).item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("quantiser", ["square", "log-cosh"])
def test_csq_gradient_by_finite_differences(quantiser: Any) -> None:
    u, y = images(5, 8, 3, seed=1)
    method = CSQ(y, 8, 0.3, quantiser).double()
    assert torch.autograd.gradcheck(lambda outputs: method(outputs, torch.arange(5)), (u.requires_grad_(),))


def test_centres_are_the_same_for_everybody() -> None:
    y = torch.eye(40)
    torch.manual_seed(1)
    first = CSQ(y, 16)
    torch.manual_seed(2)
    second = CSQ(y, 16)
    assert torch.equal(first.centres, second.centres)
    assert torch.equal(first.tie, second.tie)
    assert set(first.state_dict()) == {"centres", "tie"}
    assert set(first.tie.tolist()) == {-1.0, 1.0}


def test_ties_of_several_labels_take_the_random_vector() -> None:
    y = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    method = CSQ(y, 16)
    first, second, third = method.centres
    strong = torch.stack((torch.where(first == second, first, method.tie), (first + second + third).sign(), method.tie))
    # Outputs that are their centres cost nothing, and any one sign turned costs.
    assert method(strong * 50, torch.arange(3)).item() == pytest.approx(0, abs=1e-6)
    for i in range(3):
        for k in range(16):
            turned = strong.clone()
            turned[i, k] *= -1
            assert method(turned * 50, torch.arange(3)).item() > 1


@pytest.mark.parametrize(("bits", "expected"), [(16, 0.001), (32, 0.001), (64, 0.0001), (128, 0.0001)])
def test_quantisation_follows_the_bits(bits: int, expected: float) -> None:
    y, u = torch.eye(2), torch.zeros(2, bits)
    assert CSQ(y, bits).quantisation == expected
    # h = 0: the cross entropy is log 2, (|h| - 1)² is 1
    assert CSQ(y, bits)(u, torch.arange(2)).item() == pytest.approx(math.log(2) + expected, rel=1e-6)
    assert CSQ(y, bits, 0.05)(u, torch.arange(2)).item() == pytest.approx(math.log(2) + 0.05)


@pytest.mark.parametrize("quantiser", ["square", "log-cosh"])
def test_csq_at_extreme_outputs_is_finite(quantiser: Any) -> None:
    u = torch.full((2, 1024), 1e6)
    u[1].neg_()
    loss = CSQ(torch.eye(2), 1024, 0.05, quantiser)(u.requires_grad_(), torch.arange(2))
    loss.backward()
    assert loss.isfinite()
    assert u.grad is not None
    assert u.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("csq", {"quantisation": -1}, "quantisation is -1"),
        ("csq", {"quantiser": "abs"}, "quantiser is 'abs'"),
    ],
)
def test_options_that_are_none(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build_method(name, torch.eye(3), 8, options)
