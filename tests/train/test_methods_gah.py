"""GAH, against plain loops over the equations."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from batches import Rows, images
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods import build_method
from hashfaiss.train.methods import gah as gah_module
from hashfaiss.train.methods.gah import GAH


class Tiny(nn.Module):
    """Images → 3 outputs, with what makes the second pass hard: dropout, batch norm, and a hash layer of its own."""

    def __init__(self, dropout: float = 0.5, norm: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(12, 6),
            nn.BatchNorm1d(6) if norm else nn.Identity(),
            nn.Tanh(),
            nn.Dropout(dropout),
        )
        self.hash_layer = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.hash_layer(self.body(inputs))
        return outputs


def tiny(seed: int = 0, n: int = 6, **options: Any) -> tuple[Tiny, GAH, Tensor, Tensor]:
    torch.manual_seed(seed)
    network, images_ = Tiny(**options).double(), torch.randn(n, 3, 2, 2, dtype=torch.float64)
    labels = torch.eye(2, dtype=torch.float64)[torch.randint(2, (n,))]
    method = GAH(labels, 3, slope=0.4, positive_weight=3.0, momentum=0.8, weight_decay=0.01).double()
    return network, method, images_, torch.arange(n)


def plain_pair_loss(h: Rows, y: Rows, slope: float, positive_weight: float) -> float:
    half, total, weights = len(h) // 2, 0.0, 0.0
    for i in range(half):
        for j in range(half, len(h)):
            similar = any(a and b for a, b in zip(y[i], y[j], strict=True))
            z = slope * sum(a * b for a, b in zip(h[i], h[j], strict=True))
            weight = positive_weight if similar else 1.0
            total += weight * (math.log1p(math.exp(z)) - similar * z)
            weights += weight
    return total / weights


@given(n=st.integers(2, 8), bits=st.integers(1, 6), seed=st.integers(0, 999), batches=st.integers(0, 11_738))
@settings(deadline=None, max_examples=30)
def test_gah_loss_is_the_plain_loops(n: int, bits: int, seed: int, batches: int) -> None:
    u, y = images(n, bits, 3, seed)
    method = GAH(y, bits, 0.3, 5.0).double()
    method.share = (batches + 0.5) / 11_739
    scale = math.sqrt(1 + 0.005 * (batches // 200 * 200))
    h = [[math.tanh(scale * value) for value in row] for row in u.tolist()]
    expected = plain_pair_loss(h, y.tolist(), 0.3, 5.0)
    assert method(u, torch.arange(n)).item() == pytest.approx(expected, rel=1e-9)


def test_gah_gradient_by_finite_differences() -> None:
    u, y = images(6, 4, 3, seed=1)
    method = GAH(y, 4).double()
    assert torch.autograd.gradcheck(lambda outputs: method(outputs, torch.arange(6)), (u.requires_grad_(),))


def plain_compress(x: float) -> list[float]:
    if abs(x) > math.exp(-10):
        return [math.log(abs(x)) / 10, 1.0 if x > 0 else -1.0]
    return [-1.0, math.exp(10) * x]


def plain_weighted(attention: nn.Sequential, h: Rows, y: Rows, slope: float, positive_weight: float) -> Tensor:
    """Weighted gradients of h, pair by pair and bit by bit."""
    n, half, bits = len(h), len(h) // 2, len(h[0])
    alike = [[any(a and b for a, b in zip(y[i], y[j], strict=True)) for j in range(n)] for i in range(n)]
    weights = [[positive_weight if alike[i][j] else 1.0 for j in range(n)] for i in range(n)]
    total = sum(weights[i][j] for i in range(half) for j in range(half, n))

    def product_gradient(i: int, j: int) -> float:
        z = slope * sum(a * b for a, b in zip(h[i], h[j], strict=True))
        return slope * weights[i][j] * (1 / (1 + math.exp(-z)) - alike[i][j]) / total

    def score(code: float, pair: float, batch: float) -> Any:
        features = [code, *plain_compress(pair), *plain_compress(batch)]
        return attention(torch.tensor(features, dtype=torch.float64)).item()

    result = torch.zeros(n, bits, dtype=torch.float64)
    for i in range(half):
        for j in range(half, n):
            for k in range(bits):
                of_i, of_j = product_gradient(i, j) * h[j][k], product_gradient(i, j) * h[i][k]
                batch_i = sum(product_gradient(i, other) * h[other][k] for other in range(half, n))
                batch_j = sum(product_gradient(other, j) * h[other][k] for other in range(half))
                score_i, score_j = score(h[i][k], of_i, batch_i), score(h[j][k], of_j, batch_j)
                share = math.exp(score_i) / (math.exp(score_i) + math.exp(score_j))
                result[i, k] += 2 * share * of_i
                result[j, k] += 2 * (1 - share) * of_j
    return result


def plain_step(
    network: Tiny, method: GAH, inputs: Tensor, scale: float, rate: float, velocities: dict[str, Tensor], seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and velocities after one step, with the dropout of `seed`."""
    network = copy.deepcopy(network)
    torch.manual_seed(seed)
    outputs = network(inputs)
    h = torch.tanh(scale * outputs).tolist()
    weighted = plain_weighted(method.attention, h, method.labels.tolist(), method.slope, method.positive_weight)
    h_tensor = torch.tensor(h, dtype=torch.float64)
    outputs.backward(weighted * scale * (1 - h_tensor**2))
    moved, new = {}, {}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        gradient = parameter.grad + 0.01 * parameter.detach()
        new[name] = 0.8 * velocities[name] + gradient if name in velocities else gradient
        factor = 10 if name.startswith("hash_layer") else 1
        moved[name] = parameter.detach() - factor * rate * (gradient + 0.8 * new[name])
    return moved, new


def test_two_gah_steps_are_the_plain_loops() -> None:
    network, method, inputs, indices = tiny()
    velocities: dict[str, Tensor] = {}
    for number, scale in ((0, 1.0), (1, math.sqrt(2.0))):
        method.share = number * 200.5 / 11_739  # the second step has another scale
        expected, velocities = plain_step(network, method, inputs, scale, 0.05, velocities, seed=number)
        torch.manual_seed(number)
        method.step(network, 0.05, inputs, indices)
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("values", [2**22, 1])
def test_gah_attention_gradient_is_that_of_the_loss_after_the_step(
    values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gah_module, "VALUES", values)
    network, method, inputs, indices = tiny()
    torch.manual_seed(9)
    method.step(network, 0.3, inputs, indices)  # so that there is momentum

    def after(attention_state: dict[str, Tensor]) -> Any:
        """The loss after a step with this attention: all of it anew, with the same dropout."""
        ours, theirs = copy.deepcopy(method), copy.deepcopy(network)
        ours.attention.load_state_dict(attention_state)
        torch.manual_seed(3)
        ours.step(theirs, 0.3, inputs, indices)
        torch.manual_seed(3)
        return ours(theirs(inputs), indices).item()

    found: dict[str, Tensor] = {}

    def record(*_arguments: Any) -> None:
        for name, parameter in trained.attention.named_parameters():
            assert parameter.grad is not None
            found[name] = parameter.grad.clone()

    trained = copy.deepcopy(method)
    monkeypatch.setattr(trained.adam, "step", record)
    torch.manual_seed(3)
    trained.step(copy.deepcopy(network), 0.3, inputs, indices)
    state = method.attention.state_dict()
    for name, gradient in found.items():
        for place in gradient.abs().flatten().topk(min(3, gradient.numel())).indices.tolist():
            losses = []
            for sign in (1, -1):
                nudged = {key: value.clone() for key, value in state.items()}
                nudged[name].view(-1)[place] += sign * 1e-5
                losses.append(after(nudged))
            slope = (losses[0] - losses[1]) / 2e-5
            assert gradient.view(-1)[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-11)
    assert any(gradient.abs().max() > 1e-7 for gradient in found.values())


def test_gah_attention_learns_by_adam() -> None:
    network, method, inputs, indices = tiny()
    before = [parameter.clone() for parameter in method.attention.parameters()]
    method.step(network, 0.3, inputs, indices)
    moves = [(new - old).abs().max().item() for new, old in zip(method.attention.parameters(), before, strict=True)]
    assert max(moves) == pytest.approx(0.08, rel=1e-2)  # Adam's first step has the size of its learning rate
    assert all(parameter.grad is None for parameter in [*method.parameters(), *network.parameters()])


@pytest.mark.parametrize(("bits", "expected"), [(16, 0.08), (32, 0.08), (48, 0.05), (64, 0.05)])
def test_gah_attention_rate_follows_the_bits(bits: int, expected: float) -> None:
    method = GAH(torch.eye(2), bits)
    assert [group["lr"] for group in method.adam.param_groups] == [expected]
    assert GAH(torch.eye(2), bits, attention_rate=0.1).adam.param_groups[0]["lr"] == 0.1


def test_a_gah_step_changes_batch_statistics_and_random_numbers_once() -> None:
    network, method, inputs, indices = tiny()
    other = copy.deepcopy(network)
    torch.manual_seed(5)
    loss = method.step(network, 0.3, inputs, indices)
    next_number = torch.rand(())
    torch.manual_seed(5)
    outputs = other(inputs)
    assert torch.equal(torch.rand(()), next_number)
    assert loss.item() == pytest.approx(method(outputs, indices).item())
    assert not loss.requires_grad
    for name, buffer in other.named_buffers():
        torch.testing.assert_close(dict(network.named_buffers())[name], buffer)


def test_gah_continues_from_its_state() -> None:
    network, method, inputs, indices = tiny()
    for _ in range(3):
        method.step(network, 0.3, inputs, indices)
    written = io.BytesIO()
    torch.save({"method": method.state_dict(), "network": network.state_dict()}, written)
    written.seek(0)
    state = torch.load(written, weights_only=True)
    other_network, other, *_ = tiny()
    other.load_state_dict(state["method"])
    other_network.load_state_dict(state["network"])
    for _ in range(2):
        torch.manual_seed(7)
        first = method.step(network, 0.3, inputs, indices)
        torch.manual_seed(7)
        assert torch.equal(other.step(other_network, 0.3, inputs, indices), first)
    for ours, theirs in zip(
        [*network.parameters(), *method.parameters()], [*other_network.parameters(), *other.parameters()], strict=True
    ):
        assert torch.equal(ours, theirs)


def test_a_state_is_not_changed_by_later_steps() -> None:
    network, method, inputs, indices = tiny()
    method.step(network, 0.3, inputs, indices)
    velocities = method.get_extra_state()["velocities"]
    copies = copy.deepcopy(velocities)
    method.step(network, 0.3, inputs, indices)
    assert all(torch.equal(velocities[name], value) for name, value in copies.items())


def test_gah_leaves_alone_what_is_frozen_or_unused() -> None:
    network, method, inputs, indices = tiny()
    network.spare = nn.Linear(2, 2).double()
    network.body[1].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in network.named_parameters()}
    method.step(network, 0.3, inputs, indices)
    same = {name for name, value in network.named_parameters() if torch.equal(value, before[name])}
    assert same == {"body.1.weight", "spare.weight", "spare.bias"}


def test_gah_lowers_the_loss() -> None:
    network, method, inputs, indices = tiny(n=16, dropout=0.0)
    losses = [method.step(network, 0.05, inputs, indices).item() for _ in range(40)]
    assert losses[-1] < 0.85 * losses[0]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_gah_takes_the_smallest_batches(n: int) -> None:
    network, method, inputs, indices = tiny(n=n, norm=False)
    assert method.step(network, 0.1, inputs, indices).isfinite()
    assert all(parameter.isfinite().all() for parameter in [*network.parameters(), *method.parameters()])


def test_gah_at_extreme_outputs_is_finite() -> None:
    network, method, inputs, indices = tiny(norm=False)
    with torch.no_grad():
        network.hash_layer.weight *= 1e6
    for _ in range(2):
        assert method.step(network, 0.1, inputs, indices).isfinite()
    assert all(parameter.isfinite().all() for parameter in [*network.parameters(), *method.parameters()])
    u = torch.full((4, 1024), 1e6).requires_grad_()
    loss = GAH(torch.eye(2)[[0, 1, 0, 1]], 1024)(u, torch.arange(4))
    loss.backward()
    assert loss.isfinite()
    assert u.grad is not None
    assert u.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gah", {"slope": math.nan}, "slope is nan"),
        ("gah", {"positive_weight": -1}, "positive_weight is -1"),
        ("gah", {"attention_rate": math.inf}, "attention_rate is inf"),
        ("gah", {"momentum": -0.1}, "momentum is -0.1"),
        ("gah", {"weight_decay": "0"}, "weight_decay is '0'"),
        ("gah", {"head_rate": -10}, "head_rate is -10"),
    ],
)
def test_options_that_are_none(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build_method(name, torch.eye(3), 8, options)
