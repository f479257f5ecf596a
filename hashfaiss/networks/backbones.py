"""Backbones: images → feature map → one vector an image, in torchvision's modules and under torchvision's names.

Attention stands between the two halves (DHIDA 3.2): ResNet18 after layer4 and before the average pooling, AlexNet
after its convolutions and before fc6. The classifier's last layer is left out; the hash layer takes its place.
"""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hashfaiss.errors import ArgumentError, ModelError
from hashfaiss.networks.torchvision_models import alexnet, resnet

LISTED_KEYS = 3


class Backbone(nn.Module, ABC):
    """A network cut in two where attention goes.

    Attributes:
        channels: of the feature map.
        dim: of the vector.
        default_size, smallest_size: sides in pixels of a square image: as published, and the least that works.
        body: torchvision's module, so that its state_dict has torchvision's names.
        classifier: prefix of the keys in a state dict that belong to the layer left out.
        imagenet: torchvision's ImageNet weights, or None where there are none.
    """

    channels: int
    dim: int
    default_size: int
    smallest_size: int
    body: Any
    classifier: str
    imagenet: Any

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


class ResNet18(Backbone):
    """ResNet18 (He et al. 2016): feature map 512 channels at 1/32 of the size, averaged to 512 values."""

    channels, dim = 512, 512
    default_size, smallest_size = 224, 32
    classifier = "fc."
    imagenet = resnet.ResNet18_Weights.IMAGENET1K_V1

    def __init__(self) -> None:
        super().__init__()
        self.body = resnet.resnet18(weights=None)
        self.body.fc = nn.Identity()

    def features(self, images: Tensor) -> Tensor:
        body = self.body
        # torchvision's order is ReLU, then pooling: the same numbers, with four times the work for the ReLU
        maps: Tensor = body.relu(body.maxpool(body.bn1(body.conv1(images))))
        for layer in self.halved:
            maps = layer(maps)
        return maps

    @property
    def halved(self) -> list[nn.Module]:
        return [self.body.layer1, self.body.layer2, self.body.layer3, self.body.layer4]

    def neck(self, feature_map: Tensor) -> Tensor:
        return torch.flatten(self.body.avgpool(feature_map), 1)


class AlexNet(Backbone):
    """AlexNet (Krizhevsky 2014): feature map 256 channels after pool5, through fc6 and fc7 to 4,096 values."""

    channels, dim = 256, 4096
    default_size, smallest_size = 224, 63
    classifier = "classifier.6."
    imagenet = alexnet.AlexNet_Weights.IMAGENET1K_V1

    def __init__(self) -> None:
        super().__init__()
        self.body = alexnet.alexnet(weights=None)
        del self.body.classifier[6]

    def features(self, images: Tensor) -> Tensor:
        feature_map: Tensor = self.body.features(images)
        return feature_map

    @property
    def halved(self) -> list[nn.Module]:
        return [*self.body.features[1:], self.body.classifier]

    def neck(self, feature_map: Tensor) -> Tensor:
        vectors: Tensor = self.body.classifier(torch.flatten(self.body.avgpool(feature_map), 1))
        return vectors


class ResNetSmall(Backbone):
    """One of ResNet's basic blocks at each of 16, 32, 64 and 128 channels: 0.3 million parameters, 32x32 images.

    Feature map 128 channels at 1/8 of the size, averaged to 128 values. Not from a paper: it trains from nothing on
    a CPU in minutes.
    """

    channels, dim = 128, 128
    default_size, smallest_size = 32, 8
    classifier = "fc."
    imagenet = None

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            resnet.BasicBlock(16, 16),
        ]
        for width in (16, 32, 64):
            shortcut = nn.Sequential(
                nn.Conv2d(width, 2 * width, kernel_size=1, stride=2, bias=False), nn.BatchNorm2d(2 * width)
            )
            layers.append(resnet.BasicBlock(width, 2 * width, stride=2, downsample=shortcut))
        self.body = nn.Sequential(*layers)
        for module in self.body.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        feature_map: Tensor = self.body(images)
        return feature_map

    @property
    def halved(self) -> list[nn.Module]:
        return list(self.body[1:])

    def neck(self, feature_map: Tensor) -> Tensor:
        return feature_map.mean(dim=(2, 3))


BACKBONES: dict[str, type[Backbone]] = {
    "resnet18": ResNet18,
    "alexnet": AlexNet,
    "resnet-small": ResNetSmall,
}


def build_backbone(name: str) -> Backbone:
    """The backbone called `name`, with random weights; ArgumentError where there is none."""
    if name not in BACKBONES:
        raise ArgumentError(f"unknown backbone {name!r}: give one of {', '.join(BACKBONES)}")
    return BACKBONES[name]()


def load_weights(backbone: Backbone, weights: str) -> None:
    """Load pretrained weights into `backbone`. For training only: a saved model brings its own.

    Args:
        backbone: changed in place.
        weights: "none" leaves it as it is; "imagenet" downloads torchvision's weights, or takes them from torch's
            cache; anything else is the path of a state dict in torchvision's names, of any floating-point type. The
            classifier's last layer in it is ignored.

    Raises:
        ModelError: the download fails, the file is not a state dict, or it is not one of this backbone.
    """
    if weights == "none":
        return
    name = type(backbone).__name__
    state = _download(backbone, name) if weights == "imagenet" else _read_state(weights)
    state = {key: value for key, value in state.items() if not key.startswith(backbone.classifier)}
    own: dict[str, Tensor] = backbone.body.state_dict()
    # Batch norm's counter is unused here, and old files of torchvision have none.
    needed = [key for key in own if not key.endswith("num_batches_tracked")]
    _refuse(weights, name, "lacks", [key for key in needed if key not in state])
    _refuse(weights, name, "has more than that:", [key for key in state if key not in own])
    _refuse(weights, name, "has other shapes for", [key for key in needed if state[key].shape != own[key].shape])
    backbone.body.load_state_dict({key: state.get(key, own[key]) for key in own})


def weights_identity(weights: str) -> str:
    """What tells weights from others: the name, and of a file its sha256, for it may lie elsewhere another time."""
    path = Path(weights)
    if not path.is_file():
        return weights
    with path.open("rb") as file:
        return f"{path.name}, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def _refuse(weights: str, name: str, trouble: str, keys: list[str]) -> None:
    if keys:
        more = f" and {len(keys) - LISTED_KEYS} more" if len(keys) > LISTED_KEYS else ""
        listed = ", ".join(keys[:LISTED_KEYS]) + more
        raise ModelError(f"the weights {weights!r} are not those of {name}: the file {trouble} {listed}")


def _download(backbone: Backbone, name: str) -> dict[str, Tensor]:
    if backbone.imagenet is None:
        raise ModelError(f"there are no ImageNet weights for {name}: give --weights none, or a file")
    try:
        state: dict[str, Tensor] = backbone.imagenet.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"the ImageNet weights of {name} could not be downloaded ({error}): give the path of a file with them, "
            "or --weights none to start from random ones"
        ) from None
    return state


def _read_state(path: str) -> dict[str, Tensor]:
    advice = "give 'imagenet', 'none' or the path of a state dict in torchvision's names"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"cannot read the weights {path!r} ({error.strerror}): {advice}") from None
    except Exception:  # torch.load answers hostile bytes with exceptions of any kind
        raise ModelError(f"{path!r} is not a file of weights: {advice}") from None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path!r} is a torch file but not a state dict: {advice}")
    return state
