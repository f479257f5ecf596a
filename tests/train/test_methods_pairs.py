"""The losses over pairs, against plain loops over their formulas."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hashfaiss.train.methods import Method, build_method

Row = list[float]
Seen = dict[int, Row]
IMAGES, CLASSES = 10, 4

# Each method as its paper has it, and as popular code has it.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("dpsh", {}),
    ("dhn", {}),
    ("dhn", {"activation": "none", "factor": 0.5, "memory": True, "quantisation": 0.4}),
    ("dbdh", {}),
    ("dbdh", {"ste": False, "balance_axis": "sample", "alpha": 0.7}),
    ("dbdh", {"ste": False, "power": 1, "alpha": 0.7}),
    ("dbdh", {"memory": False}),
    ("hashnet", {}),
    ("hashnet", {"alpha": 0.1, "continuous_similarity": False, "continuation": "popular", "memory": True}),
    ("hashnet", {"positive_weight": 5.0, "continuation": "none"}),
    ("idhn", {}),
    ("idhn", {"variant": "popular", "memory": True, "quantisation": 0.3, "soft": 0.2}),
    ("dsh", {}),
    ("dsh", {"alpha": 0.3, "margin": 3.0, "memory": True}),
    ("lcdsh", {}),
]
NAMES = [f"{name}-{number}" for number, (name, _) in enumerate(CASES)]
REMEMBERING = [case for case in CASES if case[1].get("memory", case[0] in ("dpsh", "dbdh"))]


def build(name: str, labels: Tensor, bits: int, options: dict[str, Any]) -> Method:
    method = build_method(name, labels, bits, options)
    assert isinstance(method, Method)
    return method


def draw(n: int, bits: int, seed: int, scale: float = 1.2) -> tuple[Tensor, Tensor]:
    """Outputs (n, K) and the n different images they are of."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n, bits, generator=generator, dtype=torch.float64) * scale
    return outputs, torch.randperm(IMAGES, generator=generator)[:n]


def draw_labels(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1000)
    return (torch.rand(IMAGES, CLASSES, generator=generator) < 0.4).double()


# The formulas. `seen` is what a memory holds, by image; `h` are activated outputs of the images `rows`.


def partners(h: list[Row], rows: list[int], seen: Seen | None) -> list[tuple[int, Row]]:
    if seen is None:
        return list(zip(rows, h, strict=True))
    return [(j, seen.get(j, [0.0] * len(h[0]))) for j in range(IMAGES)]


def dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def alike(a: Row, b: Row) -> bool:
    return any(x and y for x, y in zip(a, b, strict=True))


def likelihood(theta: float, similar: float) -> float:
    return math.log(1 + math.exp(theta)) - similar * theta


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def sign_of(x: float) -> float:
    return 1.0 if x >= 0 else -1.0


def activate(name: str, options: dict[str, Any], x: float) -> float:
    """The activation of the first epoch and batches, where HashNet's beta is 1."""
    if name == "hashnet" or (name == "dhn" and options.get("activation", "tanh") == "tanh"):
        return math.tanh(x)
    if name == "dbdh":
        return max(-1.0, min(1.0, x)) if not options.get("ste", True) else sign_of(x)
    return x / (1 + abs(x)) if name == "idhn" else x


def plain_dpsh(u: list[Row], rows: list[int], y: list[Row], seen: Seen | None, bits: int, o: dict[str, Any]) -> float:
    others = partners(u, rows, seen)
    total = sum(likelihood(dot(u[i], v) / 2, alike(y[rows[i]], y[j])) for i in range(len(u)) for j, v in others)
    total += o.get("eta", 10.0) * sum((sign_of(x) - x) ** 2 for row in u for x in row)
    return total / (len(u) * IMAGES)


def plain_dhn(h: list[Row], rows: list[int], y: list[Row], seen: Seen | None, bits: int, o: dict[str, Any]) -> float:
    factor, others = o.get("factor", 1.0), partners(h, rows, seen)
    pairs = [likelihood(factor * dot(h[i], v), alike(y[rows[i]], y[j])) for i in range(len(h)) for j, v in others]
    pull = [math.log(math.cosh(abs(x) - 1)) for row in h for x in row]
    return mean(pairs) + o.get("quantisation", 0.1) * mean(pull)


def plain_dbdh(h: list[Row], rows: list[int], y: list[Row], seen: Seen | None, bits: int, o: dict[str, Any]) -> float:
    others, power = partners(h, rows, seen), o.get("power", 2)
    pairs = [likelihood(dot(h[i], v) / 2, alike(y[rows[i]], y[j])) for i in range(len(h)) for j, v in others]
    if o.get("balance_axis", "bit") == "bit":
        balance = sum(abs(mean([row[k] for row in h])) ** power for k in range(bits))
    else:
        balance = mean([abs(mean(row)) ** power for row in h])
    return mean(pairs) + o.get("alpha", 0.1) * balance


def plain_hashnet(
    h: list[Row], rows: list[int], y: list[Row], seen: Seen | None, bits: int, o: dict[str, Any]
) -> float:
    alpha, positive = o.get("alpha", 10 / bits), o.get("positive_weight")
    found: dict[bool, list[float]] = {True: [], False: []}
    for i in range(len(h)):
        for j, v in partners(h, rows, seen):
            if seen is None and rows[i] == j:
                continue
            similar, a, b = alike(y[rows[i]], y[j]), y[rows[i]], y[j]
            share = sum(x and z for x, z in zip(a, b, strict=True)) / max(
                1, sum(bool(x or z) for x, z in zip(a, b, strict=True))
            )
            c = share if similar and o.get("continuous_similarity", True) else 1.0
            found[similar].append(c * likelihood(alpha * dot(h[i], v), similar))
    if positive is not None:  # what the official code sums, and what it divides by
        total = positive * sum(found[True]) + sum(found[False])
        return total / max(1, positive * len(found[True]) + len(found[False]))
    return sum(sum(values) / len(values) for values in found.values() if values)


def plain_idhn(h: list[Row], rows: list[int], y: list[Row], seen: Seen | None, bits: int, o: dict[str, Any]) -> float:
    official, pairs = o.get("variant", "official") == "official", []
    for i in range(len(h)):
        for j, v in partners(h, rows, seen):
            a, b, product = y[rows[i]], y[j], dot(h[i], v)
            s = dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) if any(a) and any(b) else 0.0
            if s < 0.01 or s > 0.99:
                pairs.append(likelihood(5 / bits * product if official else product / 2, s))
            elif official:
                pairs.append(o.get("soft", 0.1) / bits * ((product + bits) / 2 - s * bits) ** 2)
            else:
                pairs.append(o["soft"] * (0.5 * product + bits - 2 * s * bits) ** 2)
    return mean(pairs) + o.get("quantisation", 0.1) * mean([abs(abs(x) - 1) for row in h for x in row])


def plain_dsh(u: list[Row], rows: list[int], y: list[Row], seen: Seen | None, bits: int, o: dict[str, Any]) -> float:
    margin, pairs, counted = o.get("margin", 2 * bits), 0.0, 0
    for i in range(len(u)):
        for place, (j, v) in enumerate(partners(u, rows, seen)):
            if (seen is None and place == i) or (seen is not None and j not in seen):
                continue
            counted += 1
            if seen is None and place < i:  # official: counts both orders, sums one
                continue
            distance = sum((a - b) ** 2 for a, b in zip(u[i], v, strict=True))
            pairs += distance / 2 if alike(y[rows[i]], y[j]) else max(margin - distance, 0) / 2
    regulariser = mean([sum(abs(abs(x) - 1) for x in row) for row in u])
    return pairs / max(counted, 1) + o.get("alpha", 0.01) * regulariser


def plain_lcdsh(u: list[Row], rows: list[int], y: list[Row], seen: Seen | None, bits: int, o: dict[str, Any]) -> float:
    first, second = [], []
    for i in range(len(u)):
        for j in range(len(u)):
            theta = max(-50.0, min(50.0, dot(u[i], u[j]) / 2))
            theta_b = dot([sign_of(x) for x in u[i]], [sign_of(x) for x in u[j]]) / 2
            s = 1 if alike(y[rows[i]], y[rows[j]]) else -1
            first.append(math.log(1 + math.exp(-s * theta)))
            second.append((1 / (1 + math.exp(-theta)) - 1 / (1 + math.exp(-theta_b))) ** 2)
    return mean(first) + o.get("locality", 3.0) * mean(second)


PLAIN: dict[str, Callable[..., float]] = {
    "dpsh": plain_dpsh,
    "dhn": plain_dhn,
    "dbdh": plain_dbdh,
    "hashnet": plain_hashnet,
    "idhn": plain_idhn,
    "dsh": plain_dsh,
    "lcdsh": plain_lcdsh,
}


def remember(name: str, options: dict[str, Any], u: Tensor, rows: Tensor, seen: Seen) -> Seen | None:
    """What the method remembers after this batch, or None where it remembers nothing."""
    if (name, options) not in REMEMBERING:
        return None
    h = [[activate(name, options, x) for x in row] for row in u.tolist()]
    return seen | dict(zip(rows.tolist(), h, strict=True))


def plain(name: str, options: dict[str, Any], u: Tensor, rows: Tensor, labels: Tensor, seen: Seen | None) -> float:
    h = [[activate(name, options, x) for x in row] for row in u.tolist()]
    return PLAIN[name](h, rows.tolist(), labels.tolist(), seen, u.shape[1], options)


def slope(function: Callable[[Tensor], float], at: Tensor) -> Tensor:
    """The gradient, by central differences."""
    gradient, step = torch.zeros_like(at), 1e-5
    for place in range(at.numel()):
        move = torch.zeros(at.numel(), dtype=at.dtype)
        move[place] = step
        move = move.view_as(at)
        gradient.view(-1)[place] = (function(at + move) - function(at - move)) / (2 * step)
    return gradient


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
@given(n=st.integers(1, 6), bits=st.integers(1, 9), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=25)
def test_loss_is_the_plain_loops(name: str, options: dict[str, Any], n: int, bits: int, seed: int) -> None:
    labels = draw_labels(seed)
    method, seen = build(name, labels, bits, options).double(), Seen()
    for step in range(2):  # the second batch meets what the first left
        outputs, rows = draw(n, bits, seed + step)
        held = remember(name, options, outputs, rows, seen)
        seen = held or {}
        expected = plain(name, options, outputs, rows, labels, held)
        assert method(outputs, rows).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_gradient_by_finite_differences(name: str, options: dict[str, Any]) -> None:
    """Of the batch's side only, where there is a memory: that is held constant. Of the code, for a straight-through."""
    labels = draw_labels(3)
    method = build(name, labels, 5, options).double()
    before, earlier = draw(4, 5, seed=1)
    outputs, rows = draw(6, 5, seed=2)
    method(before, earlier)
    held = remember(name, options, outputs, rows, remember(name, options, before, earlier, Seen()) or {})
    codes = outputs
    inside = torch.ones_like(outputs)
    if name == "dbdh" and options.get("ste", True):
        codes = torch.where(outputs >= 0, 1.0, -1.0).double()
        inside = (outputs.abs() <= 1).double()
        assert 0 < inside.mean() < 1

    def loss(at: Tensor) -> float:
        if codes is outputs:
            return plain(name, options, at, rows, labels, held)
        return PLAIN[name](at.tolist(), rows.tolist(), labels.tolist(), held, 5, options)

    outputs.requires_grad_()
    (found,) = torch.autograd.grad(method(outputs, rows), outputs)
    expected = slope(loss, codes.detach()) * inside
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    assert found.any()


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_a_continued_training_gives_the_same_loss(name: str, options: dict[str, Any]) -> None:
    labels = draw_labels(5)
    method, again = (build(name, labels, 6, options).double() for _ in range(2))
    for seed in range(3):
        method(*draw(5, 6, seed))
    again.load_state_dict(copy.deepcopy(method.state_dict()))
    batch = draw(5, 6, seed=9)
    assert again(*batch).item() == method(*batch).item()
    assert not list(method.parameters())


@pytest.mark.parametrize("value", [0.0, 1e-30, 1.0, 300.0, 1e6])
@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_extreme_outputs_are_finite(name: str, options: dict[str, Any], value: float) -> None:
    labels = draw_labels(7).float()
    outputs = torch.full((4, 1024), value)
    outputs[1].neg_()
    outputs[2, ::2].neg_()
    outputs.requires_grad_()
    method = build(name, labels, 1024, options)
    for rows in (torch.arange(4), torch.arange(4, 8)):
        loss = method(outputs, rows)
        loss.backward()
        assert loss.isfinite()
        assert outputs.grad is not None
        assert outputs.grad.isfinite().all()
