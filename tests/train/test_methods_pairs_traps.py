"""What goes wrong in losses over pairs, and must not here; each test names its trap."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods import build_method
from hashfaiss.train.methods.dbdh import DBDH
from hashfaiss.train.methods.dhn import DHN
from hashfaiss.train.methods.dpsh import DPSH
from hashfaiss.train.methods.dsh import DSH
from hashfaiss.train.methods.gah import GAH
from hashfaiss.train.methods.hashnet import HashNet
from hashfaiss.train.methods.idhn import IDHN
from hashfaiss.train.methods.lcdsh import LCDSH
from hashfaiss.train.methods.method import log_cosh

FOUR = torch.arange(4)
TWO_CLASSES = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).double()
ALL_ALIKE, ALL_UNLIKE = torch.ones(4, 1).double(), torch.eye(4).double()


def draw(n: int, bits: int, seed: int = 0) -> Tensor:
    return torch.randn(n, bits, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss: Tensor, outputs: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, outputs)
    return found


def test_dpsh_eta_is_the_printed_one_and_zero_counts_as_plus_one() -> None:
    labels = torch.eye(2).double().repeat(50, 1)
    outputs = torch.zeros(4, 16).double()
    difference = DPSH(labels, 16, eta=10.0).double()(outputs, FOUR) - DPSH(labels, 16, eta=0.0).double()(outputs, FOUR)
    assert difference.item() == pytest.approx(10 * 16 / 100)  # eta K / N times a mean of (1 - 0)²


def test_dhn_theta_is_the_whole_inner_product_of_tanh_outputs() -> None:
    outputs = torch.full((1, 8), 3.0).double()
    loss = DHN(torch.ones(1, 1).double(), 8, quantisation=0.0).double()(outputs, torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-8 * math.tanh(3.0) ** 2)))


def test_log_cosh_where_cosh_overflows() -> None:
    values = torch.tensor([-1e6, -200.0, -1.0, 0.0, 0.5, 200.0], dtype=torch.float32, requires_grad=True)
    far, near = 200 - math.log(2), math.log(math.cosh(0.5))
    expected = torch.tensor([1e6 - math.log(2), far, math.log(math.cosh(1)), 0.0, near, far])
    torch.testing.assert_close(log_cosh(values).detach(), expected)
    torch.testing.assert_close(gradient(log_cosh(values).sum(), values), values.detach().tanh())


def test_dbdh_sees_nothing_but_the_code() -> None:
    outputs = draw(4, 7)
    losses = [DBDH(TWO_CLASSES, 7).double()(outputs * scale, FOUR).item() for scale in (0.01, 1.0, 30.0)]
    assert losses[0] == losses[1] == losses[2]
    method = DBDH(TWO_CLASSES, 7).double()
    method(torch.zeros(4, 7).double(), FOUR)
    assert torch.equal(method.memory.outputs, torch.ones(4, 7).double())


@pytest.mark.parametrize("ste", [True, False])
def test_dbdh_has_no_gradient_beyond_one(ste: bool) -> None:
    outputs = draw(4, 9).requires_grad_()
    found = gradient(DBDH(TWO_CLASSES, 9, ste=ste).double()(outputs, FOUR), outputs)
    beyond = outputs.detach().abs() > 1
    assert beyond.any()
    assert not found[beyond].any()
    assert found[~beyond].all()


def test_dbdh_popular_is_dhida_without_attention() -> None:
    outputs = draw(4, 8)
    popular = DBDH(TWO_CLASSES, 8, ste=False, balance_axis="sample").double()
    dhida = build_method("dhida", TWO_CLASSES, 8, {"balance_axis": "sample"}).double()
    assert popular(outputs, FOUR).item() == dhida(outputs, FOUR).item()


def test_hashnet_and_gah_sharpen_to_the_end_of_any_training() -> None:
    """As their official codes do by counting batches: sqrt(1 + 0.005 t), t rounded down to a multiple of 200."""
    hashnet, gah = HashNet(TWO_CLASSES, 4).double(), GAH(TWO_CLASSES, 4).double()
    for method, slope, batches in ((hashnet, lambda: hashnet.beta, 10_000), (gah, lambda: gah.scale, 301 * 39)):
        for batch in (0, 199, 201, 399, 401, 5_100, batches - 1):
            method.share = (batch + 0.5) / batches
            assert slope() == pytest.approx(math.sqrt(1 + 0.005 * (batch // 200 * 200)))
    assert hashnet.beta == pytest.approx(7.07, abs=0.01)
    outputs = draw(4, 4)
    fixed = HashNet(TWO_CLASSES, 4, continuation="none").double()
    assert hashnet(outputs, FOUR).item() == pytest.approx(fixed(hashnet.beta * outputs, FOUR).item())


def test_hashnet_continuation_of_popular_code_and_none() -> None:
    popular, fixed = (HashNet(TWO_CLASSES, 8, continuation=kind).double() for kind in ("popular", "none"))
    slopes = []
    for epoch in (1, 20, 21, 61):  # of 150
        for method in (popular, fixed):
            method.share = (epoch - 1) / 150
        slopes.append(popular.beta)
        assert fixed.beta == 1
    assert slopes == pytest.approx([1.0, 1.0, math.sqrt(2), 2.0])


@pytest.mark.parametrize("options", [{}, {"memory": True}, {"positive_weight": 5.0}])
@pytest.mark.parametrize("labels", [ALL_ALIKE, ALL_UNLIKE, torch.zeros(4, 3).double()])
def test_hashnet_in_a_batch_without_one_kind_of_pair(labels: Tensor, options: dict[str, Any]) -> None:
    outputs = draw(4, 8).requires_grad_()
    loss = HashNet(labels, 8, **options).double()(outputs, FOUR)
    assert loss.isfinite()
    assert gradient(loss, outputs).isfinite().all()
    assert loss > 0


def test_hashnet_takes_an_image_and_itself_for_no_pair() -> None:
    outputs = draw(1, 8).requires_grad_()
    loss = HashNet(TWO_CLASSES, 8).double()(outputs, FOUR[:1])
    assert loss == 0
    assert not gradient(loss, outputs).any()


def test_hashnet_weighs_rare_similar_pairs_as_much_as_all_others() -> None:
    labels = torch.eye(20).double()
    labels[1] = labels[0]
    loss = HashNet(labels, 8, alpha=1.0).double()(torch.zeros(20, 8).double(), torch.arange(20))
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_hashnet_counts_shared_labels() -> None:
    labels = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]).double()
    zeros, pair = torch.zeros(2, 8).double(), torch.arange(2)
    assert HashNet(labels, 8).double()(zeros, pair).item() == pytest.approx(math.log(2) / 3)
    assert HashNet(labels, 8, continuous_similarity=False).double()(zeros, pair).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(("variant", "expected"), [("official", 0.4), ("popular", 0.8)])
def test_idhn_soft_pairs_settle_at_what_their_similarity_means(variant: Any, expected: float) -> None:
    """Two images of similarity 0.7 are to agree in 70 % of the bits: <h, h> = 0.4 K. Popular code asks for 0.8 K."""
    labels = torch.tensor([[1.0] * 10 + [0.0] * 3, [1.0] * 7 + [0.0] * 3 + [1.0] * 3]).double()  # 7 of 10 shared
    method = IDHN(labels, 32, quantisation=0.0, variant=variant, memory=True).double()
    method(torch.full((1, 32), 1e9).double(), torch.tensor([1]))  # h = 1, so <h_0, h_1> is the sum of h_0
    products = torch.linspace(-0.99, 0.99, 199).double()
    losses = []
    for product in products:
        h = product.expand(1, 32)
        theta = (5 / 32 if variant == "official" else 0.5) * h @ h.T
        own = softplus(-theta).item()  # the pair of the image and itself
        losses.append(2 * method(h / (1 - h.abs()), torch.tensor([0])).item() - own)
    assert products[losses.index(min(losses))].item() == pytest.approx(expected, abs=1e-6)


def test_idhn_with_single_labels_is_a_likelihood() -> None:
    outputs = draw(4, 8)
    h = outputs / (1 + outputs.abs())
    theta = 5 / 8 * h @ h.T
    expected = (softplus(theta) - (TWO_CLASSES @ TWO_CLASSES.T) * theta).mean() + 0.1 * (1 - h.abs()).mean()
    assert IDHN(TWO_CLASSES, 8).double()(outputs, FOUR).item() == pytest.approx(expected.item())


def test_idhn_takes_equal_label_sets_for_alike_in_float32() -> None:
    """The cosine of three labels with themselves is not 1 in float32."""
    labels = torch.tensor([[1.0, 1.0, 1.0, 0.0]] * 2)
    loss = IDHN(labels, 8, quantisation=0.0, soft=1e6)(draw(2, 8).float(), torch.arange(2))
    assert loss < 2


@pytest.mark.parametrize("known", [4, 400])
def test_dsh_does_not_push_from_images_it_has_not_seen(known: int) -> None:
    outputs = (draw(4, 8) * 0.3).requires_grad_()
    reference = DSH(TWO_CLASSES, 8, memory=True).double()(outputs, FOUR)
    more = torch.cat([TWO_CLASSES, torch.ones(known, 2).double(), torch.zeros(known, 2).double()])
    loss = DSH(more, 8, memory=True).double()(outputs, FOUR)
    assert loss.item() == pytest.approx(reference.item())
    torch.testing.assert_close(gradient(loss, outputs), gradient(reference, outputs))


def test_dsh_regulariser_has_a_gradient() -> None:
    """Taken of sign(u) instead of |u|, as in code many compare with, it has none."""
    outputs = torch.tensor([[0.4, -0.4, 1.6, -1.6]]).double().requires_grad_()
    loss = DSH(TWO_CLASSES, 4, alpha=1.0).double()(outputs, FOUR[:1])
    assert loss.item() == pytest.approx(4 * 0.6)
    assert gradient(loss, outputs).tolist() == [[-1.0, 1.0, 1.0, -1.0]]


@pytest.mark.parametrize("bits", [8, 64])
def test_dsh_margin_follows_the_bits(bits: int) -> None:
    codes = torch.ones(2, bits).double()
    codes[1, : bits // 2] = -1  # half of the bits differ: far enough
    method = DSH(torch.eye(2).double(), bits).double()
    assert method(codes, torch.arange(2)).item() == 0
    codes[1, 0] = 1
    assert method(codes, torch.arange(2)).item() == pytest.approx(4 / 4)  # 4 short of 2 K, halved, over n(n-1) = 2


def test_dsh_distances_of_equal_outputs_do_not_fall_below_zero_by_rounding() -> None:
    for seed in range(20):
        outputs = (draw(1, 64, seed).float() * 100).repeat(4, 1).requires_grad_()
        loss = DSH(ALL_ALIKE.float(), 64, alpha=0.0)(outputs, FOUR)
        assert loss >= 0
        assert gradient(loss, outputs).isfinite().all()


def test_lcdsh_cuts_theta_at_50() -> None:
    outputs = torch.tensor([[20.0, 0.0], [-20.0, 0.0]]).double().requires_grad_()
    loss = LCDSH(torch.ones(2, 1).double(), 2, locality=0.0).double()(outputs, torch.arange(2))
    assert loss.item() == pytest.approx(50 / 2)
    assert not gradient(loss, outputs).any()


def test_lcdsh_takes_the_sign_of_zero_for_plus_one() -> None:
    loss = LCDSH(torch.ones(1, 1).double(), 6, locality=1.0).double()(torch.zeros(1, 6).double(), torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log(2) + (0.5 - 1 / (1 + math.exp(-3))) ** 2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpsh", {"eta": -1.0}, "eta is -1"),
        ("dhn", {"quantisation": math.inf}, "quantisation is inf"),
        ("dhn", {"factor": "half"}, "factor is 'half'"),
        ("dhn", {"activation": "relu"}, "activation is 'relu'"),
        ("dhn", {"memory": "yes"}, "memory is 'yes'"),
        ("dbdh", {"alpha": math.nan}, "alpha is nan"),
        ("dbdh", {"power": 3}, "power is 3"),
        ("dbdh", {"ste": None}, "ste is None"),
        ("dbdh", {"balance_axis": "row"}, "balance_axis is 'row'"),
        ("hashnet", {"alpha": -0.1}, "alpha is -0.1"),
        ("hashnet", {"positive_weight": -5}, "positive_weight is -5"),
        ("hashnet", {"continuous_similarity": "no"}, "continuous_similarity is 'no'"),
        ("hashnet", {"continuation": "steps"}, "continuation is 'steps'"),
        ("hashnet", {"memory": 2}, "memory is 2"),
        ("idhn", {"quantisation": -1}, "quantisation is -1"),
        ("idhn", {"soft": -1}, "soft is -1"),
        ("idhn", {"variant": "paper"}, "variant is 'paper'"),
        ("idhn", {"memory": "x"}, "memory is 'x'"),
        ("dsh", {"alpha": True}, "alpha is True"),
        ("dsh", {"margin": -2}, "margin is -2"),
        ("dsh", {"memory": "x"}, "memory is 'x'"),
        ("lcdsh", {"locality": -3}, "locality is -3"),
        ("lcdsh", {"eta": 1}, "no option 'eta'"),
    ],
)
def test_options_that_are_none(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build_method(name, TWO_CLASSES, 8, options)
