"""CSQ's loss: each image's code is to be its class's hash centre."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from hashfaiss.train.methods.centres import TargetMethod
from hashfaiss.train.methods.method import About, check_choice, check_weight, log_cosh

Quantiser = Literal["square", "log-cosh"]


class CSQ(TargetMethod):
    """L = BCE((h + 1) / 2, (c + 1) / 2) + lambda * mean (|h| - 1)², h = tanh(u), c the centre of the image.

    Both terms are means over images and bits. The centre of an image with several labels is the sign of the sum of its
    classes' centres, see `TargetMethod.targets`.

    u comes from one linear layer, as in popular code; in the published one it comes from three, with ReLU and dropout
    between them.

    Args:
        labels, bits: as for `Method`. The published code takes powers of two only.
        quantisation: lambda. None is the published code's on AlexNet: 0.001, and 0.0001 from 64 bits up. On ResNet
            it has 0.05.
        quantiser: "log-cosh" is the paper's mean log cosh(|h| - 1), "square" what its published code computes.

    Raises:
        ArgumentError: an option that is none of these.
    """

    about = About(
        title="CSQ",
        paper="Yuan et al., Central similarity quantization, CVPR",
        year=2020,
        supervision="classes",
        multi_label=True,
        loss="cross entropy of h = tanh(u) with hash centres of the classes, + quantisation (|h| - 1)²",
    )

    def __init__(
        self, labels: Tensor, bits: int, quantisation: float | None = None, quantiser: Quantiser = "square"
    ) -> None:
        super().__init__(labels, bits)
        by_bits = 0.001 if bits < 64 else 0.0001
        self.quantisation = by_bits if quantisation is None else check_weight("quantisation", quantisation)
        check_choice("quantiser", quantiser, get_args(Quantiser))
        self.log_cosh = quantiser == "log-cosh"

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        centres = self.targets(indices)
        # (tanh(u) + 1) / 2 is the sigmoid of 2u, whose cross entropy has a stable form
        central = binary_cross_entropy_with_logits(2 * outputs, (centres + 1) / 2)
        excess = outputs.tanh().abs() - 1
        quantisation = log_cosh(excess) if self.log_cosh else excess.square()
        return central + self.quantisation * quantisation.mean()
