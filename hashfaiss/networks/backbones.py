"""Backbones by name: torchvision's ResNet18 and AlexNet, a small one, and all of timm's.

Attention stands between a backbone's two halves (DHIDA 3.2): ResNet18 after layer4 and before the average pooling,
AlexNet after its convolutions and before fc6. The classifier's last layer is left out; the hash layer takes its place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hashfaiss import extensions
from hashfaiss.errors import ArgumentError
from hashfaiss.networks.backbone import Backbone, Facts
from hashfaiss.networks.timm_backbones import LITE0, PREFIX, TimmBackbone, check_size, timm_facts
from hashfaiss.networks.torchvision_models import alexnet, resnet


class ResNet18(Backbone):
    """ResNet18 (He et al. 2016): feature map 512 channels at 1/32 of the size, averaged to 512 values."""

    facts = Facts(channels=512, dim=512, default_size=224, smallest_size=32)
    classifier = "fc."

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

    facts = Facts(channels=256, dim=4096, default_size=224, smallest_size=63)
    classifier = "classifier.6."

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

    facts = Facts(channels=128, dim=128, default_size=32, smallest_size=8)
    classifier = "fc."

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
NAMED = f"{', '.join(BACKBONES)}, {LITE0} or {PREFIX}NAME"


def build_backbone(name: str) -> Backbone:
    """The backbone called `name`, with random weights; ArgumentError where there is none.

    Args:
        name: a key of BACKBONES, "efficientnet-lite0", or "timm/NAME" for any of timm's.
    """
    if _is_timm(name):
        return TimmBackbone(name)
    return _ours(name)()


def backbone_facts(name: str) -> Facts:
    """What is known of the backbone called `name`; ArgumentError where there is none."""
    return timm_facts(name) if _is_timm(name) else _ours(name).facts


def check_backbone_size(name: str, size: int) -> None:
    """ArgumentError where the backbone called `name` takes no images of `size` pixels."""
    if _is_timm(name):
        check_size(name, size)


def _is_timm(name: str) -> bool:
    return name == LITE0 or name.startswith(PREFIX)


def _ours(name: str) -> type[Backbone]:
    kind: type[Backbone] | None = BACKBONES.get(name)
    kind = kind or extensions.load_added(extensions.BACKBONES, name, (Backbone,))
    if kind is None:
        named = ", ".join((*extensions.added(extensions.BACKBONES), NAMED))
        raise ArgumentError(f"unknown backbone {name!r}: give one of {named}")
    return kind
