"""What goes into a stream of images, and the batches of codes that come out of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from hashfaiss.codes import Codes
from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.images.decoding import from_tensor
from hashfaiss.images.finding import ImageFile, find_images, image_file
from hashfaiss.images.labels import Labels

if TYPE_CHECKING:
    from torch import Tensor

    from hashfaiss.images.large import Notes

    Images = str | os.PathLike[str] | Image | Tensor | Sequence[str | os.PathLike[str] | Image]


@dataclass(frozen=True, slots=True)
class Item:
    """One image to encode: a file, or an image in memory.

    Attributes:
        known: its code and its file's digest, where they are known already: it is then passed through.
    """

    source: ImageFile | Image | Tensor
    labels: Labels = ()
    known: tuple[bytes, bytes] | None = None

    @property
    def file(self) -> ImageFile | None:
        """The file, or None for an image in memory."""
        return self.source if isinstance(self.source, ImageFile) else None

    @property
    def path(self) -> str | None:
        """The file's path, or None for an image in memory."""
        return self.file.path if self.file else None


@dataclass(slots=True)
class Batch:
    """Images encoded together, and those left out among them.

    Attributes:
        items: the images, in the order they came.
        digests: of each file's bytes (or an image's pixels): BLAKE2b, 16 bytes.
        codes: uint8 (len(items), ceil(K/8)).
        skipped: items that cannot be read, with the reason.
        outputs: the network's, float32 (len(items), K), where they were asked for.
        features: those it hashes, float32 (len(items), dim), where they were asked for; then there are no codes.
        left: items of which nothing is known now, with the reason: what an index has of them stays.
    """

    items: list[Item]
    digests: list[bytes]
    codes: Codes
    skipped: list[tuple[Item, str]] = field(default_factory=list)
    outputs: npt.NDArray[np.float32] | None = None
    features: npt.NDArray[np.float32] | None = None
    left: list[tuple[Item, str]] = field(default_factory=list)


class EncodeStream(Protocol):
    """What encodes items: on this machine, on many, or with codes that were made before.

    Batches come in the order of the items, each of which is in one of them. An item whose code is known comes through
    with it. `notes` are of large images, see `hashfaiss.images.large`.
    """

    def __call__(self, encoder: Any, items: Iterable[Item], notes: Notes | None) -> Iterator[Batch]: ...


def as_items(images: Images) -> Iterator[Item]:
    """A folder, a path or paths, Pillow images or a tensor batch, as items.

    Raises:
        ArgumentError: anything else.
        ImageError: as they are read, a folder that cannot be listed.
    """
    if isinstance(images, (str, os.PathLike)):
        if os.path.isdir(images):
            return (Item(file) for file in find_images(images, _refuse))
        images = [images]
    elif isinstance(images, Image):
        images = [images]
    elif _is_tensor(images):
        return (Item(image) for image in from_tensor(images))
    try:
        return map(_as_item, images)
    except TypeError:
        return iter([_as_item(images)])


def _is_tensor(images: object) -> TypeGuard[Tensor]:
    """Whether it is one; torch, which takes a second to import, is there if there is one."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(images, torch.Tensor)


def _refuse(path: str, reason: str) -> None:
    raise ImageError(path, reason)


def _as_item(image: object) -> Item:
    if isinstance(image, (str, os.PathLike)):
        return Item(image_file(os.path.abspath(os.fspath(image))))
    if isinstance(image, Image):
        return Item(image)
    raise ArgumentError(
        f"a {type(image).__name__} was given as an image: give paths, Pillow images or a tensor (n, 3, height, width)"
    )
