"""CSQ's loss: each image's code is to be its class's hash centre."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods.method import About, Method, check_choice, check_weight, log_cosh, sign

Quantiser = Literal["square", "log-cosh"]

SEED = 0
DRAWS = 1024  # of possible centres at a time
FRUITLESS = 10  # times none of the draws was far enough from all centres, until a smaller distance will do
ATTEMPTS = 10  # to find centres that are K / 2 apart on average


class CSQ(Method):
    """L = BCE((h + 1) / 2, (c + 1) / 2) + lambda * mean (|h| - 1)², h = tanh(u), c the centre of the image.

    Both terms are means over images and bits. The centre of an image with several labels is the sign of the sum of its
    classes' centres; where the sum is 0, and for images without a label, it has the bits of one random vector, which
    is the same for all.

    u comes from one linear layer, as in popular code; in the published one it comes from three, with ReLU and dropout
    between them.

    Args:
        labels, bits: as for `Method`; bits must be a power of two.
        quantisation: lambda. None is the published code's on AlexNet: 0.001, and 0.0001 from 64 bits up. On ResNet
            it has 0.05.
        quantiser: "log-cosh" is the paper's mean log cosh(|h| - 1), "square" what its published code computes.

    Attributes:
        centres: ±1 (classes, K), see `hash_centres`.

    Raises:
        ArgumentError: an option that is none of these, or bits that are no power of two.
    """

    about = About(
        title="CSQ",
        paper="Yuan et al., Central similarity quantization, CVPR",
        year=2020,
        supervision="classes",
        multi_label=True,
        loss="cross entropy of h = tanh(u) with hash centres of the classes, + quantisation (|h| - 1)²",
    )
    centres: Tensor
    tie: Tensor

    def __init__(
        self, labels: Tensor, bits: int, quantisation: float | None = None, quantiser: Quantiser = "square"
    ) -> None:
        super().__init__(labels, bits)
        self.check(labels, bits)
        by_bits = 0.001 if bits < 64 else 0.0001
        self.quantisation = by_bits if quantisation is None else check_weight("quantisation", quantisation)
        check_choice("quantiser", quantiser, get_args(Quantiser))
        self.log_cosh = quantiser == "log-cosh"
        generator = torch.Generator().manual_seed(SEED)
        self.register_buffer("tie", sign(torch.rand(bits, generator=generator) - 0.5))
        self.register_buffer("centres", hash_centres(labels.shape[1], bits, generator))

    @classmethod
    def check(cls, labels: Tensor, bits: int) -> None:
        if bits & (bits - 1):
            below = 1 << (bits.bit_length() - 1)
            raise ArgumentError(
                f"CSQ takes its centres from a Hadamard matrix of order K, so K must be a power of two, and bits is "
                f"{bits}: give {below} or {2 * below}"
            )

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        sums = self.labels[indices] @ self.centres
        centres = torch.where(sums == 0, self.tie, sums.sign())
        # (tanh(u) + 1) / 2 is the sigmoid of 2u, whose cross entropy has a stable form
        central = binary_cross_entropy_with_logits(2 * outputs, (centres + 1) / 2)
        excess = outputs.tanh().abs() - 1
        quantisation = log_cosh(excess) if self.log_cosh else excess.square()
        return central + self.quantisation * quantisation.mean()


def hash_centres(classes: int, bits: int, generator: torch.Generator) -> Tensor:
    """Centres ±1 (classes, K), far from each other; K a power of two.

    Up to K classes get rows of the Hadamard matrix H of order K, up to 2K rows of H and -H, so that any two differ in
    K/2 bits or more. More classes get random vectors, see `random_centres`.
    """
    matrix = torch.ones(1, 1)
    while len(matrix) < bits:
        matrix = torch.cat((torch.cat((matrix, matrix), dim=1), torch.cat((matrix, -matrix), dim=1)))
    if classes <= 2 * bits:
        return torch.cat((matrix, -matrix))[:classes].clone()
    return random_centres(classes, bits, generator)


def random_centres(classes: int, bits: int, generator: torch.Generator) -> Tensor:
    """Random centres ±1 (classes, K), each half +1, any two more than K/4 bits apart, all K/2 or more on average.

    The paper's conditions; but where there are not (or are hardly) that many, the least distance is given up bit by
    bit, and after ATTEMPTS the average.
    """
    for _ in range(ATTEMPTS):
        centres = _draw_centres(classes, bits, generator)
        # The inner products of all pairs sum to half of |sum of all|² - classes * K, and distance is (K - product) / 2.
        if centres.sum(dim=0).square().sum() <= classes * bits:
            break
    return centres


def _draw_centres(classes: int, bits: int, generator: torch.Generator) -> Tensor:
    centres = torch.empty(0, bits)
    least, fruitless = bits // 4, 0
    while len(centres) < classes:
        drawn = -torch.ones(DRAWS, bits)
        drawn.scatter_(1, torch.rand(DRAWS, bits, generator=generator).argsort(dim=1)[:, : bits // 2], 1.0)
        drawn = drawn[((bits - drawn @ centres.T) / 2 > least).all(dim=1)]
        # Of those, any that is too near an earlier one goes too.
        near = ((bits - drawn @ drawn.T) / 2 <= least).tril(diagonal=-1)
        drawn = drawn[~near.any(dim=1)]
        centres = torch.cat((centres, drawn))[:classes]
        fruitless = 0 if len(drawn) else fruitless + 1
        if fruitless == FRUITLESS:
            least, fruitless = least - 1, 0
    return centres
