"""What a training set must be, told before an image is decoded."""

from __future__ import annotations

from collections import Counter

import torch

from hashfaiss.errors import LabelError, TrainingError
from hashfaiss.networks.backbones import backbone_facts
from hashfaiss.train.data import LabelledImages, label_matrix, split_validation
from hashfaiss.train.methods import Shallow, method_class
from hashfaiss.train.settings import Settings


def check_training_set(images: LabelledImages, settings: Settings) -> None:
    """Check that a method can learn from these images.

    Raises:
        LabelError: one class only, several labels for a method of single labels, images that share no label with any
            other, or a label that all of them share.
        TrainingError: fewer training images than the batch.
        ArgumentError: K is not possible with the method and these labels.
    """
    kind = method_class(settings.method)
    counts = Counter(name for _, names in images for name in names)
    if kind.about.supervision == "none":
        held_out = split_validation([names for _, names in images], settings.validation, settings.seed)
        assert issubclass(kind, Shallow)
        kind.check_features(held_out.count(False), backbone_facts(settings.backbone).dim, settings.bits)
        return
    if len(counts) < 2:
        raise LabelError(
            f"{len(images):,} images have {len(counts)} label ({', '.join(counts)}): give images of 2 classes or more"
        )
    several = [path for path, names in images if len(names) > 1]
    if several and not kind.about.multi_label:
        raise LabelError(
            f"{len(several):,} of {len(images):,} images have several labels, such as {several[0]!r}, and "
            f"{kind.about.title} takes one an image: give single labels, or a method that `hashfaiss methods` lists as "
            "multi-label"
        )
    _check_sharing(images, counts)
    held_out = split_validation([names for _, names in images], settings.validation, settings.seed)
    left = [names for (_, names), out in zip(images, held_out, strict=True) if not out]
    if len(left) < settings.batch and not issubclass(kind, Shallow):
        raise TrainingError(
            f"{len(left):,} images are left to train on beside {sum(held_out):,} for validation, fewer than the batch "
            f"of {settings.batch}: give more images, or a smaller batch"
        )
    if issubclass(kind, Shallow):
        kind.check_features(len(left), backbone_facts(settings.backbone).dim, settings.bits)
    kind.check(label_matrix(left, sorted(counts)) if left else torch.zeros(0, len(counts)), settings.bits)


def _check_sharing(images: LabelledImages, counts: Counter[str]) -> None:
    alone = [(path, names) for path, names in images if all(counts[name] < 2 for name in names)]
    if len(alone) == len(images):
        raise LabelError(f"no two of the {len(images):,} images share a label: there is nothing alike to learn from")
    if alone:
        path, names = alone[0]
        raise LabelError(
            f"{len(alone):,} of {len(images):,} images share no label with another, such as {path!r}, the only one of "
            f"{' and '.join(map(repr, names))}: give each class 2 images or more, or leave these out"
        )
    everywhere = [name for name, count in counts.items() if count == len(images)]
    if everywhere:
        raise LabelError(
            f"all {len(images):,} images have the label {everywhere[0]!r}: then all are alike, and there is nothing to "
            "tell apart; leave that label out"
        )
