"""DPN, OrthoHash, CRH, HyP² and DHD, against plain loops over the equations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from batches import Rows, images
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods import Method, build_method
from hashfaiss.train.methods.centres import linear_distance
from hashfaiss.train.methods.crh import CRH

Row = list[float]


def build(name: str, labels: torch.Tensor, bits: int, options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return build_method(name, labels, bits, options).double()  # type: ignore[union-attr]


def mean(values: Row) -> float:
    return sum(values) / len(values) if values else 0.0


def cosine(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def cross_entropy(logits: Row, labels: Row) -> float:
    total = math.log(sum(math.exp(value) for value in logits))
    return sum((total - value) * label for value, label in zip(logits, labels, strict=True)) / max(sum(labels), 1)


def plain_dpn(u: Rows, y: Rows, method: Any) -> float:
    centres, tie, total = method.centres.tolist(), method.tie.tolist(), 0.0
    for row, labels in zip(u, y, strict=True):
        for k, value in enumerate(row):
            sums = sum(centre[k] for centre, label in zip(centres, labels, strict=True) if label)
            target = 1 if sums > 0 else -1 if sums < 0 else tie[k]
            total += max(method.margin - value * target, 0.0)
    return total / len(u)


def plain_orthohash(u: Rows, y: Rows, method: Any) -> float:
    losses = []
    for row, labels in zip(u, y, strict=True):
        cosines = [cosine(row, centre) for centre in method.centres.tolist()]
        logits = [method.scale * (c - method.margin * label) for c, label in zip(cosines, labels, strict=True)]
        losses.append(cross_entropy(logits, labels))
    return mean(losses)


def plain_crh(u: Rows, y: Rows, method: Any) -> float:
    pull = mean([(abs(math.tanh(value)) - 1) ** 2 for row in u for value in row])
    return plain_orthohash(u, y, method) + method.quantisation * pull


def plain_hyp2(u: Rows, y: Rows, method: Any) -> float:
    z, proxies = method.threshold, method.proxies.tolist()
    near, far, pairs = [], [], []
    for row, labels in zip(u, y, strict=True):
        for label, proxy in zip(labels, proxies, strict=True):
            found = cosine(row, proxy)
            (near if label else far).append(1 - found if label else max(found - z, 0))
    for one, ones in zip(u, y, strict=True):
        for other, others in zip(u, y, strict=True):
            many = sum(ones) > 1 and sum(others) > 1
            if not any(a and b for a, b in zip(ones, others, strict=True)) and (many or not method.several):
                pairs.append(max(cosine(one, other) - z, 0))
    return mean(near) + mean(far) + method.beta * mean(pairs)


def plain_dhd(views: Rows, y: Rows, method: Any) -> float:
    weak, strong = views[: len(y)], views[len(y) :]
    proxies = [
        cross_entropy([cosine(row, proxy) / method.temperature for proxy in method.proxies.tolist()], labels)
        for row, labels in zip(weak, y, strict=True)
    ]
    distillation = [1 - cosine(one, other) for one, other in zip(weak, strong, strict=True)]
    entropies = []
    for value in (value for row in weak for value in row):
        likely = [math.exp(-0.5 * ((value - side) / method.deviation) ** 2) for side in (1, -1)]
        truths = (1, 0) if value >= 0 else (0, 1)
        entropies.append(-sum(math.log(p if truth else 1 - p) for p, truth in zip(likely, truths, strict=True)))
    return mean(proxies) + method.distillation * mean(distillation) + method.quantisation * mean(entropies)


CASES: list[tuple[str, dict[str, Any], Callable[[Rows, Rows, Any], float]]] = [
    ("dpn", {}, plain_dpn),
    ("dpn", {"margin": 0.4}, plain_dpn),
    ("orthohash", {}, plain_orthohash),
    ("orthohash", {"scale": 2.0, "margin": 0.5}, plain_orthohash),
    ("crh", {"quantisation": 0.7}, plain_crh),
    ("hyp2", {}, plain_hyp2),
    ("hyp2", {"beta": 0.9, "pairs": "several", "threshold": -0.25}, plain_hyp2),
    ("dhd", {}, plain_dhd),
    ("dhd", {"temperature": 0.7, "distillation": 0.6, "quantisation": 0.8, "deviation": 0.9}, plain_dhd),
]
NAMES = [f"{name}-{number}" for number, (name, _, _) in enumerate(CASES)]


def outputs_for(name: str, n: int, bits: int, seed: int) -> torch.Tensor:
    """Of as many views as the method takes; DHD's are within (-1, 1)."""
    u, _ = images(2 * n if name == "dhd" else n, bits, 1, seed)
    return u.tanh() if name == "dhd" else u


@pytest.mark.parametrize(("name", "options", "plain"), CASES, ids=NAMES)
@given(
    n=st.integers(1, 6),
    bits=st.sampled_from([3, 8, 12]),
    classes=st.integers(2, 6),
    seed=st.integers(0, 999),
    single=st.booleans(),
)
@settings(deadline=None, max_examples=15)
def test_the_loss_is_the_plain_loops(
    name: str, options: dict[str, Any], plain: Any, n: int, bits: int, classes: int, seed: int, single: bool
) -> None:
    _, y = images(9, bits, classes, seed, single)
    rows = torch.randperm(9, generator=torch.Generator().manual_seed(seed))[:n]
    u = outputs_for(name, n, bits, seed)
    method = build(name, y, bits, options)
    expected = plain(u.tolist(), y[rows].tolist(), method)
    assert method(u, rows).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("name", "options", "plain"), CASES, ids=NAMES)
def test_gradients_by_finite_differences(name: str, options: dict[str, Any], plain: Any) -> None:
    _, y = images(5, 8, 3, seed=1)
    u = outputs_for(name, 5, 8, seed=4)
    method = build(name, y, 8, {**options, "distillation": 0.0} if name == "dhd" else options)
    inputs = (u.requires_grad_(), *method.parameters())
    assert torch.autograd.gradcheck(lambda outputs, *_: method(outputs, torch.arange(5)), inputs)


def test_only_the_strong_view_learns_from_the_weak_one() -> None:
    _, y = images(5, 8, 3, seed=1)
    u = outputs_for("dhd", 5, 8, seed=4).requires_grad_()
    slopes = []
    for weight in (0.0, 1.0):
        (slope,) = torch.autograd.grad(build("dhd", y, 8, {"distillation": weight})(u, torch.arange(5)), u)
        slopes.append(slope)
    assert torch.equal(slopes[0][:5], slopes[1][:5])
    assert not slopes[0][5:].any()
    weak = u[:5].detach()

    def told(strong: torch.Tensor) -> torch.Tensor:
        return torch.stack([1 - (a @ b) / (a.norm() * b.norm()) for a, b in zip(strong, weak, strict=True)]).mean()

    (expected,) = torch.autograd.grad(told(strong := u[5:].detach().requires_grad_()), strong)
    assert torch.allclose(slopes[1][5:], expected)


@pytest.mark.parametrize(("classes", "bits", "z"), [(10, 16, 0.0), (10, 64, 0.0), (21, 32, 0.0), (100, 16, 0.25)])
def test_the_threshold_is_a_codes(classes: int, bits: int, z: float) -> None:
    assert linear_distance(classes, bits) == (1 - z) * bits / 2
    assert build("hyp2", torch.eye(classes), bits, {}).threshold == z


def test_centres_change_hands_head_by_head() -> None:
    """Outputs of each class lie, in either head, at another class's piece: that is what it gets."""
    y = torch.eye(4).repeat(2, 1)
    method = CRH(y, 8, heads=2)
    before = method.centres.clone()
    first, second = torch.tensor([1, 2, 3, 0]), torch.tensor([2, 3, 0, 1])
    wanted = torch.cat((before[first, :4], before[second, 4:]), dim=1)
    assert len({tuple(row) for row in before[:, :4].tolist()}) == len({tuple(row) for row in wanted.tolist()}) == 4
    method(3 * wanted.repeat(2, 1), torch.arange(8))
    method.end_epoch(1)
    assert torch.equal(method.centres[:, :4], wanted[:, :4])
    assert torch.equal(method.centres[:, 4:], wanted[:, 4:])
    assert not method.sums.any()
    assert set(method.state_dict()) == {"centres", "sums"}


@pytest.mark.parametrize(("epoch", "moves"), [(1, True), (20, True), (21, False), (24, False), (25, True)])
def test_centres_stay_between_reassignments(epoch: int, moves: bool) -> None:
    y = torch.eye(4)
    method = CRH(y, 8, heads=1)
    before = method.centres.clone()
    method(before.roll(1, dims=0), torch.arange(4))
    method.end_epoch(epoch)
    assert torch.equal(method.centres, before.roll(1, dims=0) if moves else before)


def test_classes_never_come_to_share_a_centre() -> None:
    torch.manual_seed(0)
    method = CRH(torch.eye(8), 8, heads=8)
    for epoch in range(1, 15):
        method(torch.randn(8, 8), torch.arange(8))
        method.end_epoch(epoch)
        assert len(method.centres.unique(dim=0)) == 8


def test_the_scale_follows_the_classes() -> None:
    assert CRH(torch.eye(10), 8).scale == pytest.approx(math.sqrt(2) * math.log(9))
    assert CRH(torch.eye(2), 8).scale == CRH(torch.eye(3), 8).scale > 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpn", {"margin": -1}, "margin is -1"),
        ("orthohash", {"scale": -1}, "scale is -1"),
        ("crh", {"heads": 0}, "heads is 0"),
        ("hyp2", {"pairs": "none"}, "pairs is 'none'"),
        ("hyp2", {"threshold": 2}, "threshold is 2"),
        ("dhd", {"temperature": 0}, "temperature is 0"),
    ],
)
def test_options_that_are_none(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build_method(name, torch.eye(3), 8, options)


def test_heads_are_the_methods_own() -> None:
    built = {name: build_method(name, torch.eye(3), 8, {}) for name in ("orthohash", "crh", "dhd", "dpn")}
    heads = {name: method.head for name, method in built.items() if isinstance(method, Method)}
    assert heads == {"orthohash": "linear-bn", "crh": "linear-bn", "dhd": "layernorm-tanh", "dpn": "linear"}
