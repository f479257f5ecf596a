"""ADSH's loss: outputs of queries against codes of the database that are learned themselves (Jiang and Li 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from hashfaiss.train.methods.discrete import coordinate_descent
from hashfaiss.train.methods.method import About, Memory, Method, check_count, check_weight, sign, similarity

ROWS = 256  # of images x N at a time
ROUNDS = 50


class ADSH(Method):
    """L = [sum_ij (<u_i, v_j> - K S_ij)^2 + gamma sum_i ||v_i - u_i||^2] / (n N), u = tanh(output).

    i runs over the batch, j over all N training images, the database. The codes V (N, K) of the database are no outputs
    of the network: they are solved, bit by bit, at the end of every round. A round is `round_epochs` epochs over
    Omega, `samples` images drawn anew; in a training too short for 50 of them it has fewer, one at least. Queries are
    sign(output), and so are images that came after training.

    S_ij is 1 where two images share a label and else -|S1| / |S0|, of the numbers of such pairs in Omega x N, so that
    the many dissimilar pairs weigh no more than the few similar ones.

    V starts as 0, as published: the first round then only draws u to 0. V knows nothing of what comes
    after the last whole round.

    Args:
        labels, bits: as for `Method`.
        gamma: weight of the distance between an image's two codes; the paper's 200.
        samples: |Omega|, or all images where there are fewer.
        round_epochs: epochs of a round, at most.

    Attributes:
        codes: V, ±1, or 0 before the first round's end.
        sampled: Omega, rows of the training set.
        ratio: |S1| / |S0|.

    Raises:
        ArgumentError: an option that is none of these.
    """

    about = About(
        title="ADSH",
        paper="Jiang et al., Asymmetric deep supervised hashing, AAAI",
        year=2018,
        supervision="pairs",
        multi_label=True,
        loss="inner products of tanh(u) and learned database codes against K or -K |S1|/|S0|, + their distance",
    )

    codes: Tensor
    sampled: Tensor
    ratio: Tensor
    least_epochs = 2  # of one round alone there is nothing to learn from

    def __init__(
        self, labels: Tensor, bits: int, gamma: float = 200.0, samples: int = 2000, round_epochs: int = 3
    ) -> None:
        super().__init__(labels, bits)
        self.gamma = check_weight("gamma", gamma)
        self.longest_round = check_count("round_epochs", round_epochs)
        size = min(check_count("samples", samples), len(labels))
        self.memory = Memory(len(labels), bits)
        self.register_buffer("codes", torch.zeros(len(labels), bits))
        self.register_buffer("sampled", torch.arange(size, device=labels.device))
        self.register_buffer("ratio", self._ratio())

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        queries = torch.tanh(outputs)
        self.memory.remember(indices, queries)
        pairs = (queries @ self.codes.T - self._targets(indices)).square().mean()
        distance = (self.codes[indices] - queries).square().sum() / (len(indices) * len(self.codes))
        return pairs + self.gamma * distance

    @property
    def round_epochs(self) -> int:
        """Epochs of a round in this training."""
        return min(self.longest_round, max(1, self.epochs // ROUNDS))

    def shortfall(self) -> str | None:
        rounds = self.epochs // self.round_epochs
        if rounds >= ROUNDS:
            return None
        return f"adsh solves its codes in {ROUNDS} rounds, and {self.epochs} epochs are {rounds}: its codes stay rough"

    def start_epoch(self, epoch: int, generator: torch.Generator) -> Tensor:
        """Omega (m,), int64, on the CPU: another one in the first epoch of every round."""
        if (epoch - 1) % self.round_epochs == 0:
            self.sampled.copy_(torch.randperm(len(self.labels), generator=generator)[: len(self.sampled)])
            self.ratio.copy_(self._ratio())
        return self.sampled.cpu()

    def end_epoch(self, epoch: int) -> None:
        """At the end of a round, solve V for what the network says of Omega."""
        if epoch % self.round_epochs == 0:
            queries = self.memory.outputs[self.sampled]
            linear = torch.zeros_like(self.codes)
            for rows in torch.split(self.sampled, ROWS):
                linear += self._targets(rows).T @ self.memory.outputs[rows]
            linear[self.sampled] += self.gamma * queries
            self.codes.copy_(coordinate_descent(self.codes, queries.T @ queries, linear))

    @property
    def ready(self) -> bool:
        """Whether V is solved, at the end of the first round."""
        return bool(self.codes.any())

    def database_codes(self) -> Tensor | None:
        """V (N, K), ±1; None before the first round's end, when it is not solved yet."""
        return sign(self.codes) if self.ready else None

    def _targets(self, indices: Tensor) -> Tensor:
        """K S (n, N)."""
        similar = similarity(self.labels[indices], self.labels)
        return self.bits * (similar * (1 + self.ratio) - self.ratio)

    def _ratio(self) -> Tensor:
        counts = [similarity(self.labels[rows], self.labels).sum() for rows in torch.split(self.sampled, ROWS)]
        similar = torch.stack(counts).double().sum()
        dissimilar = len(self.sampled) * len(self.labels) - similar
        return (similar / dissimilar.clamp(min=1)).to(self.labels.dtype)
