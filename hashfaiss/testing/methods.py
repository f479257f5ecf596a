"""What every method must do, whatever its loss: a small network learns three clusters of points."""

from __future__ import annotations

import io
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from hashfaiss.errors import ArgumentError
from hashfaiss.networks.heads import build_head
from hashfaiss.train.methods import Method, Shallow, SteppingMethod, build_method, method_defaults

BITS, DIM, EACH, CLASSES = 8, 12, 8, 3
LABELS = torch.eye(CLASSES).repeat(EACH, 1)


def points() -> Tensor:
    """(EACH * CLASSES, DIM) in the order of LABELS, each class around an axis of its own."""
    return 3 * LABELS @ torch.eye(CLASSES, DIM) + 0.3 * torch.randn(len(LABELS), DIM, generator=seeded(1))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Tiny(nn.Module):
    """A head on points in place of images."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.hash_layer = build_head(method.head, DIM, BITS)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.hash_layer(inputs)
        return found


class Learner:
    """A method and a network that learn together, from the same start whenever they are made."""

    def __init__(self, name: str, epochs: int = 6) -> None:
        torch.manual_seed(0)
        method = build_method(name, LABELS, BITS, {})
        assert isinstance(method, Method)
        self.method, self.network = method, Tiny(method)
        self.method.epochs = max(epochs, method.least_epochs)
        parameters = [*self.network.parameters(), *self.method.parameters()]
        self.optimiser = torch.optim.Adam(parameters, lr=0.03)
        self.inputs = points()

    def outputs(self, indices: Tensor) -> Tensor:
        views = 2 if self.method.two_views else 1
        found: Tensor = self.network(self.inputs[indices].repeat(views, 1))
        return found

    def epoch(self, number: int, batch: int = 10) -> list[float]:
        """Learn for one epoch, as the trainer does; the losses of its batches."""
        torch.manual_seed(number)
        generator = seeded(number)
        self.method.share = (number - 1) / self.method.epochs
        chosen = self.method.start_epoch(number, generator)
        chosen = torch.arange(len(LABELS)) if chosen is None else chosen
        losses = []
        for indices in torch.split(chosen[torch.randperm(len(chosen), generator=generator)], batch):
            losses.append(float(self.step(indices)))
        self.method.end_epoch(number)
        return losses

    def step(self, indices: Tensor) -> Tensor:
        if isinstance(self.method, SteppingMethod):
            return self.method.step(self.network, 0.01, self.inputs[indices], indices)
        loss: Tensor = self.method(self.outputs(indices), indices)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return loss.detach()

    def state(self) -> bytes:
        """As a training writes it."""
        file = io.BytesIO()
        parts = (self.network, self.method, self.optimiser)
        torch.save([part.state_dict() for part in parts], file)
        return file.getvalue()

    def restore(self, state: bytes) -> None:
        parts: tuple[Any, ...] = (self.network, self.method, self.optimiser)
        for part, values in zip(parts, torch.load(io.BytesIO(state), weights_only=True), strict=True):
            part.load_state_dict(values)


def assert_same(one: Any, two: Any) -> None:
    """Nested states, equal to the bit."""
    if isinstance(one, Tensor):
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for first, second in zip(one, two, strict=True):
            assert_same(first, second)
    else:
        assert one == two


class _Options:
    """Both kinds refuse what they do not take.

    Attributes:
        name: as `--method` takes it.
    """

    name: str

    def test_an_option_that_it_does_not_have_is_refused(self) -> None:
        with pytest.raises(ArgumentError, match=f"the method '{self.name}' has no option 'nonsense'; its options: "):
            build_method(self.name, LABELS, BITS, {"nonsense": 1})

    def test_a_value_that_is_none_is_refused_by_name(self) -> None:
        for option in method_defaults(self.name):
            with pytest.raises(ArgumentError, match=rf"^{option} is \['nonsense'\]"):
                build_method(self.name, LABELS, BITS, {option: ["nonsense"]})


class MethodTests(_Options):
    """What a `Method` must do. Nothing here depends on how well it learns."""

    @pytest.mark.parametrize("drawn", [range(24), [0, 3, 6, 9], [0, 1]], ids=["all", "one class", "two images"])
    @pytest.mark.parametrize("scale", [0.0, 1.0, 50.0])
    def test_loss_and_gradient_are_finite(self, drawn: Any, scale: float) -> None:
        learner = Learner(self.name)
        learner.method.start_epoch(1, seeded(0))
        indices = torch.tensor(list(drawn))
        views = len(indices) * (2 if learner.method.two_views else 1)
        raw = scale * torch.randn(views, BITS, generator=seeded(2))
        outputs = (raw.tanh() if learner.method.head == "layernorm-tanh" else raw).requires_grad_()
        loss = learner.method(outputs, indices)
        assert loss.shape == ()
        assert loss.isfinite()
        loss.backward()
        assert outputs.grad is not None
        assert outputs.grad.isfinite().all()
        learned = [parameter.grad for parameter in learner.method.parameters() if parameter.grad is not None]
        assert all(gradient.isfinite().all() for gradient in learned)

    def test_a_step_changes_all_that_learns(self) -> None:
        learner = Learner(self.name)
        named = [*learner.network.named_parameters(), *learner.method.named_parameters()]
        before = [parameter.detach().clone() for _, parameter in named]
        for epoch in (1, 2):
            learner.epoch(epoch)
        still = [key for (key, parameter), old in zip(named, before, strict=True) if torch.equal(parameter, old)]
        # the last offset of an attention network drops out of its softmax
        assert still in ([], ["attention.2.bias"])

    def test_the_loss_falls(self) -> None:
        learner = Learner(self.name, epochs=20)
        learner.epoch(1)
        every = torch.arange(len(LABELS))
        with torch.no_grad():
            first = float(learner.method(learner.outputs(every), every))
        for epoch in range(2, 21):
            learner.epoch(epoch)
        learner.method.share = 0.0  # in the terms of the first
        with torch.no_grad():
            assert float(learner.method(learner.outputs(every), every)) < first

    def test_a_state_is_taken_up_to_the_bit(self) -> None:
        whole, cut = Learner(self.name), Learner(self.name)
        losses = [whole.epoch(epoch) for epoch in range(1, 5)]
        for epoch in (1, 2):
            cut.epoch(epoch)
        state = cut.state()
        cut.epoch(3)  # what comes after does not reach what was saved
        continued = Learner(self.name)
        continued.restore(state)
        assert_same(*(torch.load(io.BytesIO(saved), weights_only=True) for saved in (state, continued.state())))
        assert [continued.epoch(epoch) for epoch in (3, 4)] == losses[2:]
        assert_same(whole.network.state_dict(), continued.network.state_dict())
        assert_same(whole.method.state_dict(), continued.method.state_dict())

    def test_labels_stay_as_they_are(self) -> None:
        learner = Learner(self.name)
        learner.epoch(1)
        assert torch.equal(LABELS, torch.eye(CLASSES).repeat(EACH, 1))
        assert "labels" not in learner.method.state_dict()

    def test_codes_that_it_learns_itself_are_signs_of_all_images(self) -> None:
        learner = Learner(self.name)
        learner.epoch(1)
        codes = learner.method.database_codes()
        if codes is not None:
            assert codes.shape == (len(LABELS), BITS)
            assert set(torch.unique(codes).tolist()) <= {-1.0, 1.0}


class ShallowTests(_Options):
    """What a `Shallow` method must do.

    Attributes:
        fewer: options for 24 points, where its own are for more.
    """

    fewer: ClassVar[dict[str, Any]] = {}

    def test_a_fit_is_finite_and_the_same_again(self) -> None:
        bits = 2  # three classes lie in two directions
        fits = []
        for _ in range(2):
            method = build_method(self.name, LABELS, bits, self.fewer)
            assert isinstance(method, Shallow)
            method.check_features(len(LABELS), DIM, bits)
            fits.append(method.fit(points(), seeded(3)))
        assert_same(fits[0], fits[1])
        assert all(tensor.isfinite().all() for tensor in fits[0].values())
        assert fits[0]["projection"].shape[1] == bits
