"""DHD's loss: learned proxies, and a strongly augmented view that is to have the code of a weakly augmented one."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from hashfaiss.errors import ArgumentError
from hashfaiss.networks.heads import Head
from hashfaiss.train.methods.method import About, Method, check_weight
from hashfaiss.train.methods.orthohash import soft_cross_entropy


class DHD(Method):
    """L = CE(cos(h, p) / tau, y / |y|) + distillation * mean (1 - cos(h', sg h)) + quantisation * mean q(h).

    h and h' are outputs, in (-1, 1), of the weak and the strong view of an image, p learned proxies of the classes, sg
    stops the gradient. q is the binary cross entropy of how likely h is to come of +1 and of -1 by Gaussians of
    deviation sigma around them, with the sign of h as the truth:

        q(h) = (|h| - 1)² / 2 sigma² - log(1 - exp(-(|h| + 1)² / 2 sigma²)).

    Proxies and quantisation see the weak view alone, as in the published code. Images without a label count 0 with the
    proxies.

    Args:
        labels, bits: as for `Method`.
        temperature, distillation, quantisation, deviation: tau, the two weights and sigma; the published code's 0.2,
            0.1, 0.1 and 0.5.

    Attributes:
        proxies: (classes, K), trained with the network.

    Raises:
        ArgumentError: an option that is not a number from 0 up, or a temperature or deviation of 0.
    """

    about = About(
        title="DHD",
        paper="Jang et al., Deep hash distillation for image retrieval, ECCV",
        year=2022,
        supervision="classes",
        multi_label=True,
        loss="softmax of cosines with learned proxies, + self-distillation of two views, + Gaussian quantisation",
    )
    head: ClassVar[Head] = "layernorm-tanh"
    two_views: ClassVar[bool] = True

    def __init__(
        self,
        labels: Tensor,
        bits: int,
        temperature: float = 0.2,
        distillation: float = 0.1,
        quantisation: float = 0.1,
        deviation: float = 0.5,
    ) -> None:
        super().__init__(labels, bits)
        self.temperature = check_weight("temperature", temperature)
        self.distillation = check_weight("distillation", distillation)
        self.quantisation = check_weight("quantisation", quantisation)
        self.deviation = check_weight("deviation", deviation)
        for name in ("temperature", "deviation"):
            if not getattr(self, name):
                raise ArgumentError(f"{name} is 0, and the loss is divided by it: give a number above 0")
        self.proxies = nn.Parameter(torch.empty(labels.shape[1], bits))
        nn.init.xavier_uniform_(self.proxies, gain=nn.init.calculate_gain("tanh"))

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Outputs (2n, K) of the weak views of the training images `indices` (n,), then of their strong ones."""
        weak, strong = torch.split(outputs, len(indices))
        cosines = normalize(weak, dim=1) @ normalize(self.proxies, dim=1).T
        proxies = soft_cross_entropy(cosines / self.temperature, self.labels[indices])
        distillation = (1 - cosine_similarity(strong, weak.detach(), dim=1)).mean()
        quantisation = _gaussian_entropy(weak, self.deviation).mean()
        return proxies + self.distillation * distillation + self.quantisation * quantisation


def _gaussian_entropy(outputs: Tensor, deviation: float) -> Tensor:
    """q of each output, see `DHD`."""
    magnitudes = outputs.abs()
    near, far = ((magnitudes + side).square() / (2 * deviation**2) for side in (-1, 1))
    return near - torch.log(-torch.expm1(-far))
