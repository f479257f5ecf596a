"""DTSH with a memory of the training set: against plain loops over all triplets, and what its draws are."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from batches import Rows, images, reduce_triplets, softplus
from hypothesis import given, settings
from hypothesis import strategies as st
from live_memory import LiveMemory
from torch import Tensor

from hashfaiss.train.methods import dtsh
from hashfaiss.train.methods.dtsh import DTSH
from hashfaiss.train.methods.triplets import draw, pack_rows

IMAGES, CLASSES = 10, 4


def plain_losses(u: Rows, rows: list[int], y: Rows, seen: dict[int, list[float]], **o: Any) -> list[list[float]]:
    """For each anchor the losses of all its triplets; p and n from what was seen, n class by class."""

    def alike(i: int, j: int) -> bool:
        return any(a and b for a, b in zip(y[i], y[j], strict=True))

    def theta(anchor: list[float], j: int) -> float:
        return float(o["factor"] * sum(a * b for a, b in zip(anchor, seen[j], strict=True)))

    anchors = []
    for anchor, a in zip(u, rows, strict=True):
        positives = [p for p in seen if alike(a, p) and (o["own"] or p != a)]
        losses = []
        for c in range(len(y[0])):
            if y[a][c]:
                continue
            for n in seen:
                if y[n][c] and not alike(a, n):
                    losses += [softplus(o["margin"] - theta(anchor, p) + theta(anchor, n)) for p in positives]
        anchors.append(losses)
    return anchors


@given(
    n=st.integers(1, 6),
    bits=st.integers(1, 6),
    seed=st.integers(0, 999),
    single=st.booleans(),
    product=st.sampled_from(["half", "full"]),
    own=st.booleans(),
    reduction=st.sampled_from(["mean", "anchor", "sum"]),
)
@settings(deadline=None, max_examples=40)
def test_with_few_images_it_is_all_triplets_of_what_was_seen(
    n: int, bits: int, seed: int, single: bool, product: Any, own: bool, reduction: Any
) -> None:
    _, y = images(IMAGES, bits, CLASSES, seed, single)
    method = DTSH(y, bits, None, 0.3, product, own, reduction).double()
    seen: dict[int, list[float]] = {}
    for step in range(3):  # the later batches meet what the first left
        u, _ = images(n, bits, CLASSES, seed + step)
        rows = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(seed + step))[:n]
        seen |= dict(zip(rows.tolist(), u.tolist(), strict=True))
        factor = 0.5 if product == "half" else 1.0
        anchors = plain_losses(u.tolist(), rows.tolist(), y.tolist(), seen, factor=factor, own=own, margin=bits / 2)
        quantisation = sum((abs(value) - 1) ** 2 for row in u.tolist() for value in row)
        expected = reduce_triplets(anchors, reduction) + 0.3 * quantisation / (1 if reduction == "sum" else n)
        assert method(u, rows).item() == pytest.approx(expected, rel=1e-8)


def all_seen(y: Tensor, bits: int, **options: Any) -> DTSH:
    method = DTSH(y, bits, **options).to(y.dtype)
    method.memory.remember(torch.arange(len(y)), images(len(y), bits, 2, seed=8)[0].to(y.dtype))
    return method


def test_an_anchor_has_the_gradient_it_has_alone() -> None:
    u, y = images(IMAGES, 5, CLASSES, seed=3)
    method, u = all_seen(y, 5, eta=0.0, reduction="sum"), u.requires_grad_()
    (together,) = torch.autograd.grad(method(u[:6], torch.arange(6)), u)
    assert together[:6].any()
    for row in range(6):
        (alone,) = torch.autograd.grad(method(u[row : row + 1], torch.tensor([row])), u)
        torch.testing.assert_close(alone[row], together[row])


@pytest.mark.parametrize("single", [True, False])
def test_gradient_by_finite_differences(single: bool) -> None:
    u, y = images(IMAGES, 5, CLASSES, seed=3, single=single)
    method = all_seen(y, 5, positives=2, negatives=1)
    frozen = method.memory.outputs.clone()

    def remember(indices: Tensor, outputs: Tensor) -> Tensor:
        torch.manual_seed(0)  # the same draws each time
        return frozen

    method.memory.remember = remember
    rows = torch.arange(6)
    with torch.random.fork_rng():
        assert torch.autograd.gradcheck(lambda outputs: method(outputs, rows), (u[:6].clone().requires_grad_(),))


@pytest.mark.parametrize(("positives", "negatives"), [(2, 3), (7, 1), (50, 50)])
def test_every_anchor_has_as_many_triplets_of_each_other_class(positives: int, negatives: int) -> None:
    y = torch.eye(5).repeat_interleave(60, dim=0)
    method = DTSH(y, 4, eta=0.0, reduction="sum", positives=positives, negatives=negatives)
    method.memory.remember(torch.arange(300), torch.zeros(300, 4))
    loss = method(torch.zeros(6, 4), torch.arange(0, 300, 50)).item()  # all thetas are 0, so it counts
    assert loss / softplus(2.0) == pytest.approx(6 * 4 * positives * negatives, rel=1e-5)


def test_images_of_several_labels_are_drawn_for_each_and_only_where_they_share_none() -> None:
    y = torch.tensor([[1, 0, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]]).float()
    method = DTSH(y, 4, eta=0.0, reduction="sum")
    method.memory.remember(torch.arange(5), torch.zeros(5, 4))
    # Image 0 has one positive, 1, and negatives 2 and 3 of class 1, 2 of class 2 (not 1), 3 of class 3.
    assert method(torch.zeros(1, 4), torch.tensor([0])).item() == pytest.approx(4 * softplus(2.0))


def test_images_not_yet_seen_are_in_no_triplet() -> None:
    y = torch.eye(2).repeat(10, 1)
    method = DTSH(y, 4, eta=0.0, reduction="sum")
    assert method(torch.zeros(3, 4), torch.arange(3)).item() == pytest.approx(2 * softplus(2.0))  # 0-2-1 and 2-0-1
    assert method(torch.zeros(1, 4), torch.tensor([5])).item() == pytest.approx(2 * softplus(2.0))  # 5-1-0, 5-1-2


def test_a_triplet_is_as_likely_as_any_other() -> None:
    """One triplet a batch: in the mean it is the mean of all, and every one of them comes."""
    y = torch.eye(2, dtype=torch.float64).repeat(4, 1)
    one = all_seen(y, 3, eta=0.0, positives=1, negatives=1)
    u = one.memory.outputs[:1].clone()
    seen = dict(enumerate(one.memory.outputs.tolist()))
    losses = plain_losses(u.tolist(), [0], y.tolist(), seen, factor=0.5, own=False, margin=1.5)[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = [one(u, torch.tensor([0])).item() for _ in range(1200)]
    for loss in losses:
        assert sum(abs(value - loss) < 1e-9 for value in found) == pytest.approx(100, abs=40)


def test_draws_are_of_the_wanted_each_once_and_evenly() -> None:
    wanted = torch.tensor([[True] * 6 + [False] * 6, [False, True] * 6, [False] * 12, [True] + [False] * 11])
    values = torch.arange(12.0).expand(4, 12)
    times = torch.zeros(12)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for _ in range(600):
            found, there = draw(values, wanted, 4)
            assert there.sum(dim=1).tolist() == [4, 4, 0, 1]
            for row in range(4):
                kept = found[row][there[row]].long()
                assert len(set(kept.tolist())) == len(kept)
                assert wanted[row, kept].all()
            times[found[0].long()] += 1
    assert times[:6].tolist() == pytest.approx([400] * 6, abs=60)
    assert not times[6:].any()
    assert draw(values, wanted, 12)[1] is wanted


def test_packed_rows_have_the_wanted_in_front() -> None:
    wanted = torch.tensor([[False, True, False, True], [False] * 4, [True, False, False, False]])
    found, there = pack_rows(torch.arange(12.0).view(3, 4), wanted)
    assert there.tolist() == [[True, True], [False, False], [True, False]]
    assert found[there].tolist() == [1, 3, 8]


def test_positives_are_drawn_anew_for_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.eye(4).repeat_interleave(30, dim=0)
    method = all_seen(y, 6, positives=3, negatives=2)
    drawn: list[Tensor] = []

    def record(values: Tensor, wanted: Tensor, count: int) -> tuple[Tensor, Tensor]:
        found = draw(values, wanted, count)
        if count == 3:
            drawn.append(found[0].sum(dim=1).detach())
        return found

    monkeypatch.setattr(dtsh, "draw", record)
    method(torch.ones(5, 6), torch.arange(5))
    assert len({tuple(each.tolist()) for each in drawn}) == 4


def test_a_continued_training_gives_the_same_loss() -> None:
    u, y = (value.float() for value in images(40, 6, 3, seed=4, single=True))
    method, again = (DTSH(y, 6, positives=2, negatives=2) for _ in range(2))
    method(u[:30], torch.arange(30))

    def loss(of: DTSH, seed: int) -> float:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return copy.deepcopy(of)(u[30:], torch.arange(30, 40)).item()  # type: ignore[no-any-return]

    assert loss(again, 0) != loss(method, 0)  # it has not seen the first batch
    again.load_state_dict(copy.deepcopy(method.state_dict()))
    assert loss(again, 0) == loss(method, 0)
    assert loss(again, 1) != loss(method, 0)  # other draws


def test_memory_does_not_grow_with_the_classes() -> None:
    """Triplets of a class are 0.3 MB here, and there are 40."""
    y = torch.eye(40).repeat(60, 1)
    method = all_seen(y, 8)
    u = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with LiveMemory() as live:
        method(u, torch.arange(32)).backward()
    assert u.grad.any()
    assert live.peak < 32 * 50 * 50 * 4 * 20


def test_extreme_outputs_stay_finite() -> None:
    y = torch.eye(3)[[0, 0, 1, 1, 2, 2]]
    u = torch.full((6, 1024), 1e6)
    u[::2].neg_()
    u[5].zero_()
    method = DTSH(y, 1024)
    for rows in (torch.arange(3), torch.arange(6)):
        loss = method(u[rows].requires_grad_(), rows)
        loss.backward()
        assert loss.isfinite()


@pytest.mark.parametrize("batch", [30, 10])
def test_it_comes_to_tell_classes_apart(batch: int) -> None:
    """Also where a batch is the whole training set."""
    y = torch.eye(3).repeat(10, 1)
    u = (0.1 * torch.randn(30, 16, generator=torch.Generator().manual_seed(0))).requires_grad_()
    method, optimiser = DTSH(y, 16), torch.optim.SGD([u], lr=5.0)
    for step in range(100):
        rows = torch.arange(30).roll(step * 7)[:batch]
        optimiser.zero_grad()
        method(u[rows], rows).backward()
        optimiser.step()
    inner = u.detach().sign() @ u.detach().sign().T
    assert inner[y @ y.T > 0].min() > inner[y @ y.T == 0].max()
