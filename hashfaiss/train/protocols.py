"""Splits of a labelled set into queries, training images and database, as the papers evaluate (METHODS 4.1).

Published code draws its splits without a seed and keeps no list, so that no two numbers compare. Here a split is a
seed and four files, the same to the byte wherever the images lie:

- `query.csv`, `train.csv`, `database.csv`: path,label (labels separated by `;`), sorted by path;
- `split.json`: protocol, seed, counts, sha256 of each list, and what `check_leaks` found.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hashfaiss.errors import ArgumentError, LabelError, TrainingError
from hashfaiss.files import write_atomic

Image = tuple[str, tuple[str, ...]]

ENCODING = ("utf-8", "surrogateescape")  # a file name need not be UTF-8


@dataclass(frozen=True)
class Protocol:
    """How many images of each class go where.

    Attributes:
        query: of each class.
        train: of each class, or None for all that are no query.
        train_in_database: the training images are part of the database.
    """

    query: int
    train: int | None
    train_in_database: bool


PROTOCOLS: dict[str, Protocol] = {
    "cifar10": Protocol(query=100, train=500, train_in_database=False),
    "cifar10-1": Protocol(query=100, train=500, train_in_database=True),
    "cifar10-2": Protocol(query=1000, train=None, train_in_database=True),
}


@dataclass(frozen=True)
class Split:
    """A split on disk.

    Attributes:
        query, train, database: (path, label names) of each image, sorted by path, paths relative to the images' folder.
        folder: where the lists are: `query.csv`, `train.csv`, `database.csv`, `split.json`.
        facts: what `split.json` holds.
    """

    query: list[Image]
    train: list[Image]
    database: list[Image]
    folder: Path
    facts: dict[str, Any]


def make_split(
    images: Iterable[Image],
    protocol: str,
    seed: int,
    out_folder: str | os.PathLike[str],
    images_folder: str | os.PathLike[str] | None = None,
) -> Split:
    """Draw a split and write its lists.

    Args:
        images: (path, label names) of each; each has one label.
        protocol: a name in PROTOCOLS. For CIFAR-10 all 60,000 images, of both its folders.
        seed: of the draw. The same images and seed give the same files to the byte.
        out_folder: made where it is missing.
        images_folder: what the written paths are relative to; None writes them as they are given.

    Raises:
        ArgumentError: no such protocol, or a negative seed.
        LabelError: a class with too few images, or an image without exactly one label.
        TrainingError: the lists cannot be written.
    """
    if protocol not in PROTOCOLS:
        raise ArgumentError(f"unknown protocol {protocol!r}: give one of {', '.join(PROTOCOLS)}")
    if seed < 0:
        raise ArgumentError(f"seed is {seed}: give a whole number from 0 up")
    named = sorted((_relative(path, images_folder), labels) for path, labels in images)
    query, train, database = _draw(named, PROTOCOLS[protocol], protocol, seed)
    parts = {"query": query, "train": train, "database": database}
    lists = {name: _as_csv(part) for name, part in parts.items()}
    facts: dict[str, Any] = {
        "protocol": protocol,
        "seed": seed,
        "counts": {name: len(part) for name, part in parts.items()},
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in lists.items()},
        "leaks": check_leaks(*([path for path, _ in part] for part in parts.values())),
    }
    folder = Path(out_folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in lists.items():
            write_atomic(folder / f"{name}.csv", data)
        write_atomic(folder / "split.json", (json.dumps(facts, indent=2) + "\n").encode())
    except OSError as error:
        raise TrainingError(f"cannot write the split to {str(folder)!r}: {error.strerror}") from None
    return Split(query, train, database, folder, facts)


def check_leaks(query: Sequence[str], train: Sequence[str], database: Sequence[str]) -> dict[str, int]:
    """Count images that stand in two lists where a reader may not expect it.

    Only `train_outside_database` may be right: it is in protocols that evaluate on unseen images. A query in the
    database finds itself at rank 1, a query in the training set was learned by heart (both are in lists that many
    papers use, METHODS 4.1).

    Args:
        query, train, database: paths.
    """
    queries, trained, searched = set(query), set(train), set(database)
    return {
        "queries_in_database": len(queries & searched),
        "queries_in_train": len(queries & trained),
        "train_outside_database": len(trained - searched),
    }


def _draw(
    images: list[Image], protocol: Protocol, name: str, seed: int
) -> tuple[list[Image], list[Image], list[Image]]:
    classes: dict[str, list[Image]] = {}
    for image in images:
        if len(image[1]) != 1:
            raise LabelError(f"{image[0]!r} has {len(image[1])} labels: the protocol {name!r} needs one an image")
        classes.setdefault(image[1][0], []).append(image)
    needed = protocol.query + (1 if protocol.train is None else protocol.train)
    query, train, rest = [], [], []
    for label, members in sorted(classes.items()):
        if len(members) < needed:
            raise LabelError(
                f"class {label!r} has {len(members):,} images: the protocol {name!r} needs {needed:,} or more"
            )
        # Hashes, unlike a library's random numbers, stay the same in all its versions.
        drawn = sorted(members, key=lambda image: hashlib.sha256(f"{seed}/{image[0]}".encode(*ENCODING)).digest())
        last = len(drawn) if protocol.train is None else protocol.query + protocol.train
        query += drawn[: protocol.query]
        train += drawn[protocol.query : last]
        rest += drawn[last:]
    database = train + rest if protocol.train_in_database else rest
    return sorted(query), sorted(train), sorted(database)


def _relative(path: str, folder: str | os.PathLike[str] | None) -> str:
    if folder is None:
        return path
    return Path(os.path.relpath(os.path.abspath(path), os.path.abspath(folder))).as_posix()


def _as_csv(images: list[Image]) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["path", "label"])
    rows.writerows((path, ";".join(labels)) for path, labels in images)
    return text.getvalue().encode(*ENCODING)
