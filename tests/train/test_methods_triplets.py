"""DTSH within batches, and DATH, against plain loops over the equations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from batches import Rows, images, reduce_triplets, softplus
from hypothesis import given, settings
from hypothesis import strategies as st
from live_memory import LiveMemory

from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods import build_method, triplets
from hashfaiss.train.methods.dath import DATH, log_complement
from hashfaiss.train.methods.dtsh import DTSH


def in_batch(*arguments: Any, **options: Any) -> DTSH:
    return DTSH(*arguments, memory=False, **options)


def plain_triplets(h: Rows, y: Rows, margin: float, factor: float, own: bool) -> list[list[float]]:
    """For each anchor the losses of its triplets."""

    def alike(i: int, j: int) -> bool:
        return any(a and b for a, b in zip(y[i], y[j], strict=True))

    def theta(i: int, j: int) -> float:
        return factor * sum(a * b for a, b in zip(h[i], h[j], strict=True))

    anchors = []
    for a in range(len(h)):
        losses = []
        for p in range(len(h)):
            for n in range(len(h)):
                if alike(a, p) and (own or p != a) and not alike(a, n):
                    losses.append(softplus(margin - (theta(a, p) - theta(a, n))))
        anchors.append(losses)
    return anchors


def plain_dtsh(u: Rows, y: Rows, margin: float, eta: float, factor: float, own: bool, reduction: str) -> float:
    triplets = reduce_triplets(plain_triplets(u, y, margin, factor, own), reduction)
    quantisation = [sum((value - (1 if value >= 0 else -1)) ** 2 for value in row) for row in u]
    return triplets + eta * sum(quantisation) / (1 if reduction == "sum" else len(u))


def plain_dath(method: Any, u: Rows, y: Rows, several: bool) -> float:
    h = [[math.tanh(value) for value in row] for row in u]
    first = reduce_triplets(plain_triplets(h, y, method.theta, 0.5, own=False), method.reduction)
    weight, bias = method.classifier.weight.tolist(), method.classifier.bias.tolist()
    rest = 0.0
    for row, labels in zip(h, y, strict=True):
        logits = [sum(w * x for w, x in zip(line, row, strict=True)) + b for line, b in zip(weight, bias, strict=True)]
        total = sum(math.exp(logit) for logit in logits)
        for logit, label in zip(logits, labels, strict=True):
            p = 1 / (1 + math.exp(-logit)) if method.sigmoid else math.exp(logit) / total
            rest -= method.beta * label * math.log(p)
            if method.sigmoid or several:
                rest -= method.beta * (1 - label) * math.log(1 - p)
        rest += method.gamma * sum(abs(abs(value) - 1) for value in row)
    return first + rest / (1 if method.reduction == "sum" else len(u))


@given(
    n=st.integers(1, 7),
    bits=st.integers(1, 9),
    seed=st.integers(0, 999),
    margin=st.sampled_from([None, 5.0]),
    product=st.sampled_from(["half", "full"]),
    own=st.booleans(),
    reduction=st.sampled_from(["mean", "anchor", "sum"]),
)
@settings(deadline=None, max_examples=40)
def test_dtsh_is_the_plain_loops(
    n: int, bits: int, seed: int, margin: Any, product: Any, own: bool, reduction: Any
) -> None:
    u, y = images(9, bits, 3, seed)
    rows = torch.randperm(9, generator=torch.Generator().manual_seed(seed))[:n]
    method = in_batch(y, bits, margin, 0.3, product, own, reduction).double()
    factor, asked = 0.5 if product == "half" else 1.0, bits / 2 if margin is None else margin
    expected = plain_dtsh(u[:n].tolist(), y[rows].tolist(), asked, 0.3, factor, own, reduction)
    assert method(u[:n], rows).item() == pytest.approx(expected, rel=1e-8)


@given(
    n=st.integers(1, 7),
    bits=st.integers(1, 9),
    seed=st.integers(0, 999),
    single=st.booleans(),
    classification=st.sampled_from(["softmax", "sigmoid"]),
    reduction=st.sampled_from(["mean", "sum"]),
)
@settings(deadline=None, max_examples=40)
def test_dath_is_the_plain_loops(
    n: int, bits: int, seed: int, single: bool, classification: Any, reduction: Any
) -> None:
    u, y = images(9, bits, 4, seed, single)
    rows = torch.randperm(9, generator=torch.Generator().manual_seed(seed))[:n]
    method = DATH(y, bits, 4.0, 0.7, 0.2, classification, reduction).double()
    several = any(sum(row) > 1 for row in y.tolist())
    expected = plain_dath(method, u[:n].tolist(), y[rows].tolist(), several)
    assert method(u[:n], rows).item() == pytest.approx(expected, rel=1e-8)


def test_defaults_are_the_papers() -> None:
    _, y = images(6, 48, 3, seed=0)
    dtsh, dath = DTSH(y, 48), DATH(y, 48)
    assert (dtsh.margin, dtsh.eta, dtsh.factor) == (24.0, pytest.approx(0.00444, abs=1e-5), 0.5)
    assert (dath.theta, dath.beta, dath.gamma) == (5.0, 1.0, 0.01)
    assert [tuple(value.shape) for value in dath.parameters()] == [(3, 48), (3,)]


@pytest.mark.parametrize("kind", [in_batch, DATH])
@pytest.mark.parametrize("single", [True, False])
def test_gradient_by_finite_differences(kind: Any, single: bool) -> None:
    torch.manual_seed(0)
    u, y = images(6, 4, 3, seed=5, single=single)
    method = kind(y, 4).double()
    assert torch.autograd.gradcheck(lambda outputs: method(outputs, torch.arange(6)), (u.requires_grad_(),))
    loss = method(u, torch.arange(6))
    parameters = list(method.parameters())
    for parameter, gradient in zip(
        parameters, torch.autograd.grad(loss, parameters) if parameters else (), strict=True
    ):
        with torch.no_grad():
            parameter.view(-1)[0] += 1e-6
            slope = (method(u, torch.arange(6)) - loss) / 1e-6
            parameter.view(-1)[0] -= 1e-6
        assert gradient.view(-1)[0].item() == pytest.approx(slope.item(), rel=1e-3)


def test_an_image_is_not_its_own_positive() -> None:
    # Image 0 has no other of its class: with p = a it would be an anchor, and its |u| would be pulled up.
    y = torch.eye(2, dtype=torch.float64)[[0, 1, 1]]
    u = torch.tensor([[1.0, 2.0], [1.0, -1.0], [3.0, 0.5]], dtype=torch.float64)
    anchors = plain_triplets(u.tolist(), y.tolist(), 1.0, 0.5, own=False)
    assert [len(anchor) for anchor in anchors] == [0, 1, 1]
    assert in_batch(y, 2, eta=0.0)(u, torch.arange(3)).item() == pytest.approx(reduce_triplets(anchors, "anchor"))
    with_own = in_batch(y, 2, eta=0.0, self_positives=True)(u, torch.arange(3)).item()
    assert with_own == pytest.approx(reduce_triplets(plain_triplets(u.tolist(), y.tolist(), 1.0, 0.5, True), "mean"))


def test_the_code_of_an_output_of_0_is_plus_1() -> None:
    y = torch.eye(2, dtype=torch.float64)[[0, 0]]
    u = torch.tensor([[0.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    assert in_batch(y, 2, eta=1.0)(u, torch.arange(2)).item() == pytest.approx(0.5)  # (0 - 1)² of two images' mean


@pytest.mark.parametrize("kind", [in_batch, DATH])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_without_triplets_still_has_a_gradient(kind: Any, same: bool, reduction: Any) -> None:
    y = torch.eye(4, dtype=torch.float64)[[0, 0, 0]] if same else torch.eye(4, dtype=torch.float64)[:3]
    u, _ = images(3, 5, 2, seed=1)
    method = kind(y, 5, reduction=reduction).double()
    loss = method(u.requires_grad_(), torch.arange(3))
    loss.backward()
    assert loss.isfinite()
    assert u.grad.isfinite().all()
    assert u.grad.any()  # of the other terms


def test_dath_triplets_are_of_the_relaxed_outputs() -> None:
    u, y = images(6, 8, 3, seed=2, single=True)
    method = DATH(y, 8, beta=0.0, gamma=0.0).double()
    anchors = plain_triplets(u.tanh().tolist(), y.tolist(), 5.0, 0.5, own=False)
    assert method(u, torch.arange(6)).item() == pytest.approx(reduce_triplets(anchors, "mean"))


def test_dath_classes_of_several_labels_have_the_floor_of_the_paper() -> None:
    """n labels at p = 1/n each are n ln n, 3.2958 for three; the loss never reaches 0."""
    y = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    method = DATH(y, 2, beta=1.0, gamma=0.0)
    with torch.no_grad():
        method.classifier.weight.zero_()
        method.classifier.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -50.0]))
    assert method(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)).item() == pytest.approx(3.2958, abs=1e-4)


@given(classes=st.integers(2, 6), seed=st.integers(0, 999), scale=st.floats(0.1, 10))
@settings(deadline=None, max_examples=30)
def test_log_complement_is_log_of_1_minus_p(classes: int, seed: int, scale: float) -> None:
    logits = torch.randn(3, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    for row, found in zip(logits.tolist(), log_complement(logits).tolist(), strict=True):
        for j in range(classes):
            others = sum(math.exp(value) for i, value in enumerate(row) if i != j)
            assert found[j] == pytest.approx(math.log(others / sum(map(math.exp, row))), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_complement_at_a_gap_where_1_minus_p_rounds_to_0(dtype: torch.dtype) -> None:
    logits = torch.tensor([[60.0, 0.0, -5.0], [1e6, 0.0, -1e6], [3.0, 3.0, -200.0]], dtype=dtype).requires_grad_()
    found = log_complement(logits)
    assert found[0, 0].item() == pytest.approx(-60 + math.log1p(math.exp(-5)), rel=1e-6)
    assert found[1, 0].item() == pytest.approx(-1e6)
    assert found[2, :2].tolist() == pytest.approx([-math.log(2)] * 2)
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", [in_batch, DATH])
@pytest.mark.parametrize("single", [True, False])
def test_extreme_outputs_stay_finite(kind: Any, single: bool) -> None:
    _, y = images(6, 1, 3, seed=3, single=single)
    u = torch.full((6, 1024), 1e6)
    u[::2].neg_()
    u[5].zero_()
    method = kind(y.float(), 1024)
    loss = method(u.requires_grad_(), torch.arange(6))
    loss.backward()
    assert loss.isfinite()
    assert u.grad is not None
    assert u.grad.isfinite().all()


def test_dath_state_gives_the_same_loss_again() -> None:
    u, y = (value.float() for value in images(6, 8, 3, seed=4))
    method, other = DATH(y, 8), DATH(y, 8)
    assert not torch.equal(method(u, torch.arange(6)), other(u, torch.arange(6)))  # other weights
    other.load_state_dict(method.state_dict())
    assert torch.equal(method(u, torch.arange(6)), other(u, torch.arange(6)))


@pytest.mark.parametrize("values", [1, 300])
@pytest.mark.parametrize("reduction", ["mean", "anchor", "sum"])
def test_chunks_of_anchors_change_nothing(values: int, reduction: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    u, y = images(12, 8, 3, seed=6)
    at_once, in_chunks = u.clone().requires_grad_(), u.clone().requires_grad_()
    expected = in_batch(y, 8, reduction=reduction)(at_once, torch.arange(12))
    expected.backward()
    monkeypatch.setattr(triplets, "VALUES", values)
    found = in_batch(y, 8, reduction=reduction)(in_chunks, torch.arange(12))
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)  # processors sum in orders of their own
    torch.testing.assert_close(in_chunks.grad, at_once.grad, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("kind", [in_batch, DATH])
def test_large_batches_take_bounded_memory(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor over all triplets of 100 images is 4 MB; at 1,024 images and the usual VALUES it would be 4 GB."""
    monkeypatch.setattr(triplets, "VALUES", 2**15)
    u, y = (value.float() for value in images(100, 8, 10, seed=7, single=True))
    method = kind(y, 8)
    with LiveMemory() as live:
        method(u.requires_grad_(), torch.arange(100)).backward()
    assert u.grad.any()
    assert live.peak < 2e6


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dtsh", {"margin": -1}, "margin is -1"),
        ("dtsh", {"eta": math.inf}, "eta is inf"),
        ("dtsh", {"inner_product": "quarter"}, "inner_product is 'quarter'"),
        ("dtsh", {"self_positives": "no"}, "self_positives is 'no'"),
        ("dtsh", {"reduction": "max"}, "reduction is 'max'"),
        ("dtsh", {"memory": "no"}, "memory is 'no'"),
        ("dtsh", {"positives": 0}, "positives is 0: give a whole number from 1 up"),
        ("dtsh", {"negatives": 1.5}, "negatives is 1.5"),
        ("dath", {"theta": math.nan}, "theta is nan"),
        ("dath", {"beta": -1}, "beta is -1"),
        ("dath", {"gamma": "0"}, "gamma is '0'"),
        ("dath", {"classification": "hinge"}, "classification is 'hinge'"),
        ("dath", {"reduction": "anchor"}, "reduction is 'anchor'"),
    ],
)
def test_options_that_are_none(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build_method(name, torch.eye(3), 8, options)
