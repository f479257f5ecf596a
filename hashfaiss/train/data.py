"""The training set in memory: every image decoded once, labels as a 0/1 matrix, validation split, augmentation."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hashfaiss.errors import ArgumentError, ImageError, TrainingError
from hashfaiss.files import content_digest
from hashfaiss.images.decoding import decode_image, read_bytes
from hashfaiss.images.preprocessing import Preprocessing

LabelledImages = Sequence[tuple[str, tuple[str, ...]]]
Augment = Literal["none", "flip", "crop", "photo", "randaugment"]

WITHOUT_MARGIN = {"none", "flip"}  # augmentations that cut nothing out
MEMORY_BYTES = 4 << 30  # a decoded set beyond this lies in a temporary file
DECODE_AHEAD = 1024
HASHED_AT_ONCE = 64 << 20  # bytes


@dataclass(frozen=True)
class ImageSet:
    """Decoded images with their labels.

    Attributes:
        images: uint8 (n, 3, side, side).
        labels: float32 (n, classes), 0 or 1.
        names: the label names of each image.
        digests: of each file's bytes, as the code store has them.
    """

    images: Tensor
    labels: Tensor
    names: list[tuple[str, ...]]
    digests: list[bytes]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class TrainingData:
    """What is trained and validated on.

    Attributes:
        training, validation: the two parts; validation may be empty.
        classes: label names, sorted: the columns of `labels`.
        skipped: (path, reason) of images that could not be read.
        fingerprint: sha256 over the images' names, labels, parts and decoded pixels, to know the same data again.
    """

    training: ImageSet
    validation: ImageSet
    classes: list[str]
    skipped: list[tuple[str, str]]
    fingerprint: str


def load_training_data(
    images: LabelledImages,
    preprocessing: Preprocessing,
    augments: Sequence[Augment],
    validation: float,
    seed: int,
    on_decoded: Callable[[int], None],
) -> TrainingData:
    """Split and decode.

    Args:
        images: (path, label names) of each.
        preprocessing: resizes them.
        augments: what crops keeps a margin around the training images to crop from.
        validation: share of the images kept for validation, 0 for none.
        seed: of the split.
        on_decoded: told now and then how many more images are done.

    Raises:
        TrainingError: fewer than 2 readable training images, or too few for a validation.
    """
    classes = sorted({name for _, names in images for name in names})
    held_out = split_validation([names for _, names in images], validation, seed)
    parts = [[image for image, out in zip(images, held_out, strict=True) if out is part] for part in (False, True)]
    skipped: list[tuple[str, str]] = []
    training = _decode(parts[0], classes, preprocessing, not WITHOUT_MARGIN.issuperset(augments), skipped, on_decoded)
    held = _decode(parts[1], classes, preprocessing, False, skipped, on_decoded)
    if len(training) < 2:
        reason = f"; the first that cannot be read: {skipped[0][0]!r}, {skipped[0][1]}" if skipped else ""
        raise TrainingError(f"{len(training)} of {len(images):,} images are left to train on: give 2 or more{reason}")
    described = [[[os.path.basename(path), names] for path, names in part] for part in parts]
    left_out = [os.path.basename(path) for path, _ in skipped]
    pixels = [_digest(part.images) for part in (training, held)]
    fingerprint = hashlib.sha256(json.dumps([described, left_out, pixels]).encode()).hexdigest()
    return TrainingData(training, held, classes, skipped, fingerprint)


def split_validation(labels: Sequence[tuple[str, ...]], share: float, seed: int) -> list[bool]:
    """Draw the validation images: `share` of each class, and at least 2 of a class that gives any.

    An image of several labels counts for the rarest of them; images without any are one class. Two, because a
    validation image is a query for the others of its class.

    Raises:
        ArgumentError: `share` is not from 0 to below 1.
        TrainingError: no class has the images for it.
    """
    if not 0 <= share < 1:
        raise ArgumentError(f"validation is {share}: give a share of the images from 0 to below 1")
    frequency: dict[str, int] = {}
    for names in labels:
        for name in names:
            frequency[name] = frequency.get(name, 0) + 1
    groups: dict[str, list[int]] = {}
    for row, names in enumerate(labels):
        rarest = min(names, key=lambda name: (frequency[name], name), default="")
        groups.setdefault(rarest, []).append(row)
    random = np.random.default_rng(seed)
    held_out = [False] * len(labels)
    for _, rows in sorted(groups.items()):
        count = round(share * len(rows))
        count = max(count, 2) if count and len(rows) >= 4 else 0
        for row in random.permutation(rows)[:count]:
            held_out[row] = True
    if share and not any(held_out):
        raise TrainingError(
            f"validation={share} of {len(labels):,} images in {len(groups)} classes leaves no class with 2 validation "
            "images: give more images, a larger validation, or validation=0 to train without one"
        )
    return held_out


def augment_batch(images: Tensor, kind: Augment, size: int, generator: torch.Generator) -> Tensor:
    """Flip half of the images left to right ("flip"), and also cut out a random square of `size` ("crop").

    "photo" cuts out a part of 35 to 100 % of the image, flips, and varies its colours; "randaugment" also does two of
    torchvision's RandAugment (Cubuk et al. 2020) to each. These draw from torch's global generator.

    Args:
        images: uint8 (n, 3, side, side); for "none" and "flip" side is `size`.
        generator: on the CPU, whatever the device of the images: a seed means the same everywhere.

    Returns:
        uint8 (n, 3, size, size).
    """
    if kind == "none":
        return images
    if kind in ("photo", "randaugment"):
        varied = _varied(kind, size)
        return torch.stack([varied(image) for image in images])
    n, _, side, _ = images.shape
    flipped = torch.rand(n, 1, generator=generator) < 0.5
    slack = side - size + 1
    top, left = torch.randint(slack, (2, n, 1), generator=generator).unbind() if slack > 1 else (0, 0)
    span = torch.arange(size)
    rows = (top + span).expand(n, size).to(images.device)
    columns = (left + torch.where(flipped, size - 1 - span, span)).to(images.device)
    image = torch.arange(n, device=images.device)
    channel = torch.arange(3, device=images.device)
    return images[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]]


def views_of(
    images: Tensor, kinds: Sequence[Augment], preprocessing: Preprocessing, generator: torch.Generator
) -> Tensor:
    """Images, uint8 (n, 3, side, side), with a margin or without → (views * n, 3, size, size), augmented in these ways.

    The first view of all images comes first.
    """
    plain = preprocessing.within_margin(images)
    views = [
        augment_batch(plain if kind in WITHOUT_MARGIN else images, kind, preprocessing.size, generator)
        for kind in kinds
    ]
    return torch.cat(views) if len(views) > 1 else views[0]


@cache
def _varied(kind: Augment, size: int) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2  # takes seconds to import, and only these need it

    steps: list[Any] = [v2.RandomResizedCrop(size, scale=(0.35, 1), antialias=True), v2.RandomHorizontalFlip()]
    if kind == "randaugment":
        steps.append(v2.RandAugment(2, 9))
    return v2.Compose([*steps, v2.ColorJitter(0.2, 0.2, 0.2)])  # type: ignore[no-any-return]


def _decode(
    images: LabelledImages,
    classes: list[str],
    preprocessing: Preprocessing,
    margin: bool,
    skipped: list[tuple[str, str]],
    on_decoded: Callable[[int], None],
) -> ImageSet:
    side = preprocessing.margin_size if margin else preprocessing.size
    pixels = empty((len(images), 3, side, side), torch.uint8)
    names: list[tuple[str, ...]] = []
    digests: list[bytes] = []

    def read(path: str) -> tuple[Tensor, bytes] | str:
        try:
            data = read_bytes(path)
            image = preprocessing.resize(decode_image(data, path, preprocessing.least_side), margin)
        except ImageError as error:
            return error.reason
        return image, content_digest(data)

    waiting = iter(images)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        while block := list(islice(waiting, DECODE_AHEAD)):
            for (path, labels), result in zip(block, threads.map(read, [path for path, _ in block]), strict=True):
                if isinstance(result, str):
                    skipped.append((path, result))
                else:
                    pixels[len(names)] = result[0]
                    names.append(labels)
                    digests.append(result[1])
            on_decoded(len(block))
    return ImageSet(pixels[: len(names)], label_matrix(names, classes), names, digests)


def label_matrix(names: Sequence[tuple[str, ...]], classes: Sequence[str]) -> Tensor:
    """Label names of each image → float32 0/1 (n, classes)."""
    column = {name: position for position, name in enumerate(classes)}
    matrix = torch.zeros(len(names), len(classes))
    for row, labels in enumerate(names):
        matrix[row, [column[name] for name in labels]] = 1
    return matrix


def drawn_batches(chosen: Tensor, size: int, generator: torch.Generator) -> Sequence[Tensor]:
    """The numbers `chosen` (n,), shuffled, `size` at a time; what would be a last one alone goes with those before."""
    order = chosen[torch.randperm(len(chosen), generator=generator)]
    batches = list(torch.split(order, size))
    if len(batches[-1]) == 1 and len(batches) > 1:  # batch norm needs two
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _digest(pixels: Tensor) -> str:
    """sha256 of a uint8 tensor, also of one that lies in a file and is larger than memory."""
    found = hashlib.sha256()
    for chunk in torch.split(pixels.reshape(-1), HASHED_AT_ONCE):
        found.update(chunk.numpy().data)
    return found.hexdigest()


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in memory, or beyond MEMORY_BYTES in a temporary file that vanishes with it."""
    size = math.prod(shape) * dtype.itemsize
    if size <= MEMORY_BYTES:
        return torch.empty(shape, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        try:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, and not a crash at a later write
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise TrainingError(
                f"images or features take {size / 2**30:.1f} GiB in {tempfile.gettempdir()!r} ({error.strerror}): "
                "set TMPDIR to a folder with room, or train at a smaller size"
            ) from None
        mapped = torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="r+", shape=(size,)))
        return mapped.view(dtype).view(shape)
