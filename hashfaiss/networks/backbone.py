"""What a backbone is: images → feature map → one vector an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hashfaiss.images.preprocessing import CROP_SHARE, IMAGENET_MEAN, IMAGENET_STD, Interpolation


@dataclass(frozen=True)
class Facts:
    """What is known of a backbone before it is built.

    Attributes:
        channels: of the feature map; 0 where it has none.
        dim: of the vector.
        default_size, smallest_size, largest_size: sides in pixels of a square image: as published, the least that
            works, and the most (None: any).
        mean, std, interpolation, crop: the preprocessing its published weights were evaluated with, see
            `Preprocessing`.
    """

    channels: int
    dim: int
    default_size: int
    smallest_size: int
    largest_size: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Interpolation = "bilinear"
    crop: float = CROP_SHARE


class Backbone(nn.Module, ABC):
    """A network cut in two where attention goes.

    Attributes:
        facts: see `Facts`.
        body: the module as its library makes it, so that its state_dict has that library's names.
        classifier: prefix of the keys in a state dict that belong to the layer left out.
    """

    facts: Facts
    body: Any
    classifier: str

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Images (n, 3, size, size), normalised → feature map (n, channels, height, width)."""

    @abstractmethod
    def neck(self, feature_map: Tensor) -> Tensor:
        """Feature map (n, channels, height, width) → vectors (n, dim)."""

    @property
    @abstractmethod
    def halved(self) -> list[nn.Module]:
        """The modules whose products half precision computes: all but the first convolution.

        Of the error that half precision makes in an output near zero, that one's rounded pixels and weights were more
        than half (ResNet18, bfloat16).
        """

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 3, size, size), normalised → vectors (n, dim)."""
        return self.neck(self.features(images))
