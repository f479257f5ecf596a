"""Preprocessing as data: from a decoded image to what a network sees."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from hashfaiss.errors import ArgumentError, ModelError
from hashfaiss.images.resampling import resample

if TYPE_CHECKING:
    from torch import Tensor

MAX_SIZE = 4096
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROP_SHARE = 224 / 256  # the papers' evaluation crop: resize to 256, keep the central 224

Fit = Literal["crop", "stretch"]
Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded image to what the network sees, as data that travels in the model file.

    Attributes:
        size: side in pixels of the square the network sees.
        fit: "crop" keeps the aspect ratio: of the central square, the middle `crop`; "stretch" scales the whole image
            to the square (the papers' way on CIFAR-10).
        mean, std: subtracted from and divided into RGB values from 0 to 1.
        crop: share of the central square's side that is kept; 224/256 is ImageNet's usual evaluation crop.
        interpolation: "bilinear" or "bicubic", antialiased.
        reduced: JPEG files are decoded at 1/4 or 1/8 of their size where at least twice the pixels are left that
            the network sees: several times faster for large photographs, and other codes, see docs/decoding.md.
    """

    size: int = 224
    fit: Fit = "crop"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop: float = CROP_SHARE
    interpolation: Interpolation = "bilinear"
    reduced: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or not 8 <= self.size <= MAX_SIZE:
            raise ArgumentError(f"input size is {self.size!r}: give a whole number of pixels from 8 to {MAX_SIZE}")
        if self.fit not in ("crop", "stretch"):
            raise ArgumentError(f"fit is {self.fit!r}: give 'crop' or 'stretch'")
        if not 0 < self.crop <= 1:
            raise ArgumentError(f"crop is {self.crop!r}: give a share above 0, up to 1")
        if self.interpolation not in get_args(Interpolation):
            raise ArgumentError(f"interpolation is {self.interpolation!r}: give 'bilinear' or 'bicubic'")
        if not isinstance(self.reduced, bool):
            raise ArgumentError(f"reduced is {self.reduced!r}: give True or False")

    @property
    def least_side(self) -> int | None:
        """Pixels that the sides of a decoded image must have, see `decode_image`; None where all are decoded.

        Twice what a side of the network's image is made of, also with a margin.
        """
        if not self.reduced:
            return None
        return math.ceil(2 * self.size / (min(self.crop, CROP_SHARE) if self.fit == "crop" else CROP_SHARE))

    def resize(self, image: Tensor, margin: bool = False) -> Tensor:
        """Scale one image, uint8 (3, h, w), to (3, size, size), antialiased.

        With `margin`, keep what a random crop needs: the side is `margin_size`, and nothing is cut off the central
        square. The crop is taken before scaling, so that no long thin image can ask for much memory.
        """
        from torch.nn.functional import interpolate

        top, left, height, width = self._central(image.shape[-2], image.shape[-1], margin)
        image = image[..., top : top + height, left : left + width]
        side = self.margin_size if margin else self.size
        if image.shape[-2:] == (side, side):
            return image.contiguous()
        return interpolate(image[None], size=(side, side), mode=self.interpolation, antialias=True)[0]

    def resize_alone(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """As `resize`, to the same pixels, without importing torch."""
        top, left, height, width = self._central(image.shape[-2], image.shape[-1], False)
        return resample(image[..., top : top + height, left : left + width], self.size, self.interpolation)

    def _central(self, height: int, width: int, margin: bool) -> tuple[int, int, int, int]:
        """Top, left, height and width of what is scaled."""
        if self.fit != "crop":
            return 0, 0, height, width
        side = min(height, width)
        if not margin:
            side = max(1, round(side * self.crop))
        return (height - side) // 2, (width - side) // 2, side, side

    def within_margin(self, images: Tensor) -> Tensor:
        """Images with a margin, uint8 (n, 3, margin_size, margin_size), as `resize` makes them without one."""
        side = images.shape[-1]
        if side == self.size:
            return images
        if self.fit == "crop":
            start = (side - self.size) // 2
            return images[..., start : start + self.size, start : start + self.size]
        from torch.nn.functional import interpolate

        return interpolate(images, size=(self.size, self.size), mode=self.interpolation, antialias=True)

    @property
    def margin_size(self) -> int:
        """Side of the image a random crop of `size` is taken from: size * 256 / 224."""
        return round(self.size / CROP_SHARE)

    def normalise(self, batch: Tensor) -> Tensor:
        """uint8 (n, 3, size, size) → float32 of the same shape, on the same device."""
        import torch

        mean = torch.tensor(self.mean, device=batch.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=batch.device).view(1, 3, 1, 1)
        return batch.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the model file; what older files did not know is left out where it is as it was then."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return {name: v for name, v in values.items() if name not in _YOUNGER or v != _YOUNGER[name]}

    @classmethod
    def from_dict(cls, values: Any) -> Preprocessing:
        """The reverse of `to_dict`; ModelError when the values are not such a description."""
        try:
            mean, std = (tuple(float(v) for v in values[name]) for name in ("mean", "std"))
            if len(mean) != 3 or len(std) != 3 or not np.isfinite(mean + std).all() or min(std) <= 0:
                raise ValueError("mean and std need three finite values each, and std positive ones")
            younger = {name: values.get(name, before) for name, before in _YOUNGER.items()}
            return cls(values["size"], values["fit"], mean, std, **younger)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ModelError(f"the model file's preprocessing cannot be used ({error}): take another file") from None


# Fields that are not as old as the model file, and so part of a model's identity only where they differ from this.
_YOUNGER: dict[str, Any] = {"crop": CROP_SHARE, "interpolation": "bilinear", "reduced": False}
