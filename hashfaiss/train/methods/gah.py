"""GAH: a weighted pairwise loss whose gradient a small network shares out between the two images of each pair."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits

from hashfaiss.train.methods.method import About, SteppingMethod, check_weight, similarity

WIDTH = 100  # of the attention network
PRECISION = 10  # p: gradients below e^-p are told to the attention network as they are, those above by their logarithm
STAGES = 301 * 39 / 200  # in which the scale in tanh(scale * u) grows: of 200 batches each, 39 an epoch of CIFAR-10
VALUES = 2**22  # hidden values of the attention network at a time


class GAH(SteppingMethod):
    """L = sum_ij w_ij [log(1 + e^z_ij) - s_ij z_ij] / sum_ij w_ij, z_ij = slope * <h_i, h_j>, h = tanh(scale * u).

    i runs over the first half of a batch, j over the second; w_ij is `positive_weight` where s_ij = 1, else 1. The
    scale is sqrt(1 + the number of stages that are over), of 58.7 in a training however long it is: as in the published
    code, where it is sqrt(1 + 0.005 t) in batch t of 11,739 on CIFAR-10, t rounded down to a multiple of 200.

    The gradient that the pair (i, j) gives to a bit of h_i is multiplied by 2a, the one to the same bit of h_j by
    2 (1 - a). The attention network (5-100-1) scores each side from its h, the gradient of the pair and the side's
    gradient of the whole batch, and (a, 1 - a) is the softmax of the two scores. With the gradients so weighted the
    network takes a step of SGD with Nesterov momentum; then Adam changes the attention network so as to lower the loss
    that the same batch, with the same dropout, has after that step.

    Cost: a batch passes the network forward twice and backward three times, once of these through its own backward
    pass; and each pair and bit passes the attention network four times, 16 MB of hidden values at a time. The loss
    after the step depends on the attention network only through the gradients of u, so no graph holds both.

    Args:
        labels, bits: as for `Method`.
        slope: of the inner products; the published code has 0.2 on CIFAR-10, 0.3 on NUS-WIDE, 0.15 on ImageNet.
        positive_weight: of similar pairs; 10, 5 and 100 there.
        attention_rate: learning rate of the attention network. None is the published code's on CIFAR-10: 0.08, and 0.05
            from 48 bits up (for which it also has half the learning rate, 5e-4). It has 0.1 on NUS-WIDE, 0.08 on
            ImageNet.
        momentum, weight_decay: of the network's step.
        head_rate: learning rate of the network's `hash_layer`, in multiples of the others'.

    Raises:
        ArgumentError: an option that is none of these.
    """

    about = About(
        title="GAH",
        paper="Huang et al., Accelerate learning of deep hashing with gradient attention, ICCV",
        year=2019,
        supervision="pairs",
        multi_label=True,
        loss="weighted pairwise likelihood of h = tanh(scale * u), its gradient shared out by a learned attention",
    )

    def __init__(
        self,
        labels: Tensor,
        bits: int,
        slope: float = 0.2,
        positive_weight: float = 10.0,
        attention_rate: float | None = None,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        head_rate: float = 10.0,
    ) -> None:
        super().__init__(labels, bits)
        self.slope = check_weight("slope", slope)
        self.positive_weight = check_weight("positive_weight", positive_weight)
        self.momentum = check_weight("momentum", momentum)
        self.weight_decay = check_weight("weight_decay", weight_decay)
        self.head_rate = check_weight("head_rate", head_rate)
        self.attention = nn.Sequential(nn.Linear(5, WIDTH), nn.ReLU(inplace=True), nn.Linear(WIDTH, 1))
        by_bits = 0.08 if bits < 48 else 0.05
        rate = by_bits if attention_rate is None else check_weight("attention_rate", attention_rate)
        self.adam = torch.optim.Adam(self.attention.parameters(), lr=rate)
        self.velocities: dict[str, Tensor] = {}

    def get_extra_state(self) -> dict[str, Any]:
        """The momentum of each of the network's parameters, and the attention network's optimiser."""
        return {"velocities": dict(self.velocities), "adam": self.adam.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from a state of `get_extra_state`."""
        self.velocities = dict(state["velocities"])
        self.adam.load_state_dict(state["adam"])

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        first, second = _halves(self._relax(outputs))
        return self._pair_loss(first @ second.T, indices)

    def step(self, network: nn.Module, learning_rate: float, inputs: Tensor, indices: Tensor) -> Tensor:
        """Learn from one batch: normalised images (n, 3, size, size), rows of the training set (n,).

        `learning_rate` is the epoch's. Returns the loss before the step, a detached scalar. The network's parameters
        and its batch statistics change once.
        """
        state = _random_state(inputs.device)
        outputs = network(inputs)
        relaxed = self._relax(outputs.detach())
        first, second = _halves(relaxed)
        products = (first @ second.T).requires_grad_()
        loss = self._pair_loss(products, indices)
        (derivative,) = torch.autograd.grad(loss, products)
        slopes = self.scale * (1 - relaxed.square())  # of tanh
        # J^T g, what the weighted gradients g of u say to the parameters, as a function of g.
        weighted = (slopes * self._weighted(first, second, derivative)).requires_grad_()
        parameters, gradients = _gradients(network, outputs, weighted)
        rates = {name: learning_rate * (self.head_rate if name.startswith("hash_layer.") else 1) for name in parameters}
        moved, velocities = self._move(parameters, gradients, rates)
        # The second pass draws what the first has drawn, and leaves the generators where that left them.
        _set_random_state(inputs.device, state)
        after = self._gradients_at(network, moved, inputs, indices)
        # d(loss after) / d(J^T g) is -rate * (1 + momentum) * d(loss after) / d(parameter).
        pull = [-rates[name] * (1 + self.momentum) * after[name] for name in gradients]
        (towards,) = torch.autograd.grad(list(gradients.values()), weighted, pull)
        self._learn(first, second, derivative, slopes * towards)
        self.velocities = velocities
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(moved[name])
        return loss.detach()

    @property
    def scale(self) -> float:
        """The slope of tanh, which grows with `share`."""
        return math.sqrt(1 + int(STAGES * self.share))

    def _relax(self, outputs: Tensor) -> Tensor:
        return torch.tanh(self.scale * outputs)

    def _pair_loss(self, products: Tensor, indices: Tensor) -> Tensor:
        """<h_i, h_j> (n1, n2) of the two halves of the images `indices` (n1 + n2,) → the loss."""
        similar = similarity(*_halves(self.labels[indices]))
        weights = 1 + (self.positive_weight - 1) * similar
        total = binary_cross_entropy_with_logits(self.slope * products, similar, weights, reduction="sum")
        return total / weights.sum().clamp(min=1)

    def _move(
        self, parameters: dict[str, nn.Parameter], gradients: dict[str, Tensor], rates: dict[str, float]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The parameters after a step of SGD, as leaves of a new graph, and their new velocities."""
        moved, velocities = {}, {}
        for name, parameter in parameters.items():
            descent = gradients[name].detach() + self.weight_decay * parameter.detach()
            velocity = descent
            if name in self.velocities:
                velocity = self.momentum * self.velocities[name].to(parameter) + descent
            velocities[name] = velocity
            step = rates[name] * (descent + self.momentum * velocity)
            moved[name] = (parameter.detach() - step).requires_grad_()
        return moved, velocities

    def _gradients_at(
        self, network: nn.Module, parameters: dict[str, Tensor], inputs: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """Gradients of the loss where the network has other parameters; its own batch statistics stay."""
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        outputs = functional_call(network, {**parameters, **buffers}, (inputs,))
        found = torch.autograd.grad(self(outputs, indices), list(parameters.values()))
        return dict(zip(parameters, found, strict=True))

    @torch.no_grad()
    def _weighted(self, first: Tensor, second: Tensor, derivative: Tensor) -> Tensor:
        """h of both halves (n1, K) and (n2, K), dL / d<h_i, h_j> (n1, n2) → weighted gradients of h (n1 + n2, K)."""
        of_first, of_second = [], torch.zeros_like(second)
        for rows in self._chunks(first, second):
            some, more = self._weigh(rows, first, second, derivative)
            of_first.append(some)
            of_second += more
        return torch.cat((*of_first, of_second))

    def _learn(self, first: Tensor, second: Tensor, derivative: Tensor, towards: Tensor) -> None:
        """Change the attention network, given how the loss after the step changes with the weighted gradients of h."""
        towards_first, towards_second = _halves(towards)
        self.adam.zero_grad()
        for rows in self._chunks(first, second):
            some, more = self._weigh(rows, first, second, derivative)
            loss = (some * towards_first[rows]).sum() + (more * towards_second).sum()
            torch.autograd.backward(loss, inputs=list(self.attention.parameters()))
        self.adam.step()
        self.adam.zero_grad()

    def _chunks(self, first: Tensor, second: Tensor) -> Iterator[slice]:
        rows = max(1, VALUES // (second.numel() * WIDTH))
        return (slice(start, start + rows) for start in range(0, len(first), rows))

    def _weigh(self, rows: slice, first: Tensor, second: Tensor, derivative: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted gradients from the pairs (i, j) with i in `rows`: those of h_i (rows, K) and of all h_j (n2, K)."""
        pairs = derivative[rows, :, None]
        of_first, of_second = pairs * second, pairs * first[rows, None]
        batch_first, batch_second = derivative[rows] @ second, derivative.T @ first
        scores = self._score(first[rows, None], of_first, batch_first[:, None])
        share = torch.sigmoid(scores - self._score(second, of_second, batch_second))
        return 2 * (share * of_first).sum(dim=1), 2 * ((1 - share) * of_second).sum(dim=0)

    def _score(self, relaxed: Tensor, pair_gradients: Tensor, batch_gradients: Tensor) -> Tensor:
        """One score for each pair and bit (rows, n2, K)."""
        features = (relaxed, *_compress(pair_gradients), *_compress(batch_gradients))
        scores: Tensor = self.attention(torch.stack([each.expand_as(pair_gradients) for each in features], dim=-1))
        return scores.squeeze(-1)


def _halves(values: Tensor) -> tuple[Tensor, Tensor]:
    return values[: len(values) // 2], values[len(values) // 2 :]


def _compress(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """(log|g| / p, sign g) where |g| > e^-p, else (-1, e^p g): small gradients of any size, told apart."""
    smallest = math.exp(-PRECISION)
    large = gradients.abs() > smallest
    logarithm = gradients.abs().clamp(min=smallest).log() / PRECISION
    return torch.where(large, logarithm, -1.0), torch.where(large, gradients.sign(), gradients / smallest)


def _gradients(
    network: nn.Module, outputs: Tensor, of_outputs: Tensor
) -> tuple[dict[str, nn.Parameter], dict[str, Tensor]]:
    """The parameters that the outputs depend on, and their gradients, with a graph that leads to `of_outputs`."""
    parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
    found = torch.autograd.grad(outputs, list(parameters.values()), of_outputs, create_graph=True, allow_unused=True)
    gradients = {name: gradient for name, gradient in zip(parameters, found, strict=True) if gradient is not None}
    return {name: parameters[name] for name in gradients}, gradients


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    cpu, cuda = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda, device)
