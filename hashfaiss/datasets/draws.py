"""How a protocol draws: images in the order of a seeded hash, and a quota for each class or for all.

Hashes, unlike a library's random numbers, stay the same in all its versions.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from hashfaiss.errors import LabelError

Image = tuple[str, tuple[str, ...]]  # path, label names

ENCODING = ("utf-8", "surrogateescape")  # a file name need not be UTF-8


@dataclass(frozen=True)
class Protocol:
    """How many images go where.

    Attributes:
        query: of each class, or of all.
        train: of each class, or of all; None for all that are no query.
        train_in_database: the training images are part of the database.
        cutoff: the R of mAP@R; None for the whole database.
        per_class: the counts are of each class.
        one_label: each image must have one label.
        dataset: the data set it is of; None for any.
        folders: (of the queries, of all others) where the publisher's own parts matter: how their paths begin.
    """

    query: int
    train: int | None
    train_in_database: bool
    cutoff: int | None = None
    per_class: bool = True
    one_label: bool = False
    dataset: str | None = None
    folders: tuple[str, str] | None = None


def hash_order(name: str, seed: int) -> bytes:
    """What to sort names by for a random order: the same on every machine and in every version."""
    return hashlib.sha256(f"{seed}/{name}".encode(*ENCODING)).digest()


def draw(
    images: Iterable[Image], protocol: Protocol, name: str, seed: int
) -> tuple[list[Image], list[Image], list[Image]]:
    """Draw (queries, training images, database), each sorted by path.

    Each image in turn is taken for the first of its classes, by name, whose quota is open: the queries first, then the
    training images from the rest. So an image of several classes counts for one of them (NUS-WIDE-21), and
    with one label an image this is so many of each class. Where the counts are of all images, these are one class.

    Args:
        images: each listed once; their order does not matter.
        name: the protocol's, for errors.

    Raises:
        LabelError: too few images, an empty part, or not one label where the protocol needs one.
    """
    ordered = sorted(images, key=lambda image: hash_order(image[0], seed))
    if protocol.one_label:
        for path, labels in ordered:
            if len(labels) != 1:
                raise LabelError(f"{path!r} has {len(labels)} labels: the protocol {name!r} needs one an image")
    classes = {label for image in ordered for label in _classes(image, protocol)}
    train_count = 1 if protocol.train is None else protocol.train
    if protocol.folders is None:
        _check_counts(ordered, classes, protocol, protocol.query + train_count, name, "")
        query, rest = _take(ordered, classes, protocol, protocol.query, name, "queries")
    else:
        asked, rest = _parts(ordered, protocol.folders, name)
        _check_counts(asked, classes, protocol, protocol.query, name, f" in {protocol.folders[0]}/")
        _check_counts(rest, classes, protocol, train_count, name, f" in {protocol.folders[1]}/")
        query, _ = _take(asked, classes, protocol, protocol.query, name, "queries")
    train: list[Image] = rest
    left: list[Image] = []
    if protocol.train is not None:
        train, left = _take(rest, classes, protocol, protocol.train, name, "training images")
    database = rest if protocol.train_in_database else left
    if not database:
        raise LabelError(f"the protocol {name!r} leaves no image of {len(ordered):,} for the database: give more")
    return sorted(query), sorted(train), sorted(database)


def _classes(image: Image, protocol: Protocol) -> list[str]:
    return sorted(image[1]) if protocol.per_class else [""]


def _check_counts(
    images: list[Image], classes: set[str], protocol: Protocol, needed: int, name: str, where: str
) -> None:
    """Say what is missing of the images there are, before a draw says it of what it came to."""
    counts = Counter(label for image in images for label in _classes(image, protocol))
    for label in sorted(classes or {""}):
        if counts[label] < needed:
            of = f"class {label!r} has" if protocol.per_class and classes else "there are"
            raise LabelError(f"{of} {counts[label]:,} images{where}: the protocol {name!r} needs {needed:,} or more")


def _take(
    images: list[Image], classes: set[str], protocol: Protocol, quota: int, name: str, what: str
) -> tuple[list[Image], list[Image]]:
    """(taken, left), both in the order given."""
    wanted = dict.fromkeys(sorted(classes), quota)
    taken: list[Image] = []
    left: list[Image] = []
    for image in images:
        label = next((label for label in _classes(image, protocol) if wanted[label]), None)
        if label is None:
            left.append(image)
        else:
            wanted[label] -= 1
            taken.append(image)
    for label, short in wanted.items():
        if short:  # only where images have several labels: else _check_counts has said so
            raise LabelError(
                f"class {label!r} gives {quota - short:,} of the {quota:,} {what} that the protocol {name!r} needs: "
                "its other images were drawn for their other classes; give more images or another seed"
            )
    return taken, left


def _parts(images: list[Image], folders: tuple[str, str], name: str) -> tuple[list[Image], list[Image]]:
    """The images queries are drawn from, and the others."""
    parts: dict[str, list[Image]] = {folder: [] for folder in folders}
    for image in images:
        folder = image[0].partition("/")[0]
        if folder not in parts:
            raise LabelError(
                f"{image[0]!r} lies in neither {folders[0]}/ nor {folders[1]}/: the protocol {name!r} draws its "
                "queries from the one and the rest from the other"
            )
        parts[folder].append(image)
    return parts[folders[0]], parts[folders[1]]
