"""Splits of a labelled set into queries, training images and database, as the papers evaluate.

Published code draws its splits without a seed and keeps no list, so that no two numbers compare. Here a split is a
seed and four files, the same to the byte wherever the same layout of images lies. Images are known by their paths: one
set in two layouts, such as CIFAR-10's batches and folders of one's own names, has two splits of a seed.

The files:

- `query.csv`, `train.csv`, `database.csv`: path,label (labels separated by `;`), sorted by path;
- `split.json`: protocol, seed, cutoff, counts, sha256 of each list, and what `check_leaks` found.

`read_split` reads them back, and the lists that other repositories publish: `test.txt`, `train.txt`, `database.txt`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hashfaiss.datasets.draws import ENCODING, Image, Protocol, draw, hash_order
from hashfaiss.errors import ArgumentError, LabelError, TrainingError
from hashfaiss.files import write_atomic
from hashfaiss.images.labels import read_label_file

PROTOCOLS: dict[str, Protocol] = {
    "cifar10": Protocol(query=100, train=500, train_in_database=False, one_label=True, dataset="cifar10"),
    "cifar10-1": Protocol(query=100, train=500, train_in_database=True, one_label=True, dataset="cifar10"),
    "cifar10-2": Protocol(query=1000, train=None, train_in_database=True, one_label=True, dataset="cifar10"),
    "nuswide21": Protocol(query=100, train=500, train_in_database=True, cutoff=5000, dataset="nuswide21"),
    "nuswide81": Protocol(
        query=5000, train=10_000, train_in_database=True, cutoff=5000, per_class=False, dataset="nuswide81"
    ),
    "imagenet100": Protocol(
        query=50,
        train=130,
        train_in_database=True,
        cutoff=1000,
        one_label=True,
        dataset="imagenet100",
        folders=("val", "train"),
    ),
    "coco": Protocol(query=5000, train=10_000, train_in_database=True, cutoff=5000, per_class=False, dataset="coco"),
}
OWN = "random"  # the protocol for one's own images; its counts are given with it

LISTS = ("query", "train", "database")
OUR_FILES = ("query.csv", "train.csv", "database.csv")
THEIR_FILES = ("test.txt", "train.txt", "database.txt")


@dataclass(frozen=True)
class Split:
    """A split on disk.

    Attributes:
        query, train, database: (path, label names) of each image, sorted by path, paths relative to the images' folder.
        folder: where the lists are: `query.csv`, `train.csv`, `database.csv`, `split.json`, or another's lists.
        facts: what `split.json` holds; of another's lists: `files`, `counts`, `sha256`, `leaks`, and `unlabelled`,
            the images without any label in each list.
    """

    query: list[Image]
    train: list[Image]
    database: list[Image]
    folder: Path
    facts: dict[str, Any]


def parse_protocol(text: str) -> Protocol:
    """Read a name in PROTOCOLS, or `random:query=500,train=2000` for any set, of one label an image or of several.

    `random` draws from the whole set, whatever the classes; the training images stay in the database. Its parameters:
    query; train (default: all that are no query); cutoff, the R of mAP@R (default: all).

    Raises:
        ArgumentError: no such protocol or parameter, or a count below 1.
    """
    name, _, settings = text.partition(":")
    if name not in (*PROTOCOLS, OWN):
        raise ArgumentError(
            f"unknown protocol {text!r}: give one of {', '.join(PROTOCOLS)}, or such as {OWN}:query=500,train=2000"
        )
    if name != OWN:
        if settings or text.endswith(":"):
            raise ArgumentError(f"the protocol {name!r} takes no parameters: its counts are the published ones")
        return PROTOCOLS[name]
    values: dict[str, int] = {}
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        whole = value.isascii() and value.isdecimal() and len(value) <= 9
        if key not in ("query", "train", "cutoff") or not whole or int(value) < 1:
            raise ArgumentError(
                f"{setting!r} is no parameter of the {OWN} protocol: its parameters are query, train and cutoff, "
                "each with a whole number from 1 up"
            )
        values[key] = int(value)
    if "query" not in values:
        raise ArgumentError(f"{text!r} gives no number of queries: give such as {OWN}:query=500,train=2000")
    return Protocol(values["query"], values.get("train"), True, values.get("cutoff"), per_class=False)


def protocol_for(dataset: str | None, asked: str | None) -> str:
    """The protocol asked for, or where none is, the usual one of the data set (None: one's own class folders).

    Raises:
        ArgumentError: no such protocol, or one of another data set.
    """
    if asked is None:
        return "cifar10-1" if dataset in (None, "cifar10") else dataset
    of = parse_protocol(asked).dataset
    if dataset is not None and of not in (None, dataset):
        fitting = [name for name, protocol in PROTOCOLS.items() if protocol.dataset == dataset]
        raise ArgumentError(f"the protocol {asked!r} is not of {dataset}: give {', '.join(fitting)} or {OWN}:query=...")
    return asked


def make_split(
    images: Iterable[Image],
    protocol: str,
    seed: int,
    out_folder: str | os.PathLike[str],
    images_folder: str | os.PathLike[str] | None = None,
    source: Mapping[str, Any] | None = None,
    unseen: int = 0,
) -> Split:
    """Draw a split and write its lists.

    Args:
        images: (path, label names) of each; their order does not matter. For CIFAR-10 all 60,000 images, of both its
            folders; for ImageNet-100 those of `train/` and `val/`: so must the written paths begin.
        protocol: a name in PROTOCOLS, or such as `random:query=500,train=2000` (see `parse_protocol`).
        seed: of the draw. The same images and seed give the same files to the byte.
        out_folder: made where it is missing.
        images_folder: what the written paths are relative to; None writes them as they are given.
        source: about the images, kept in `split.json`, such as `Dataset.facts`.
        unseen: so many classes, drawn by the seed, are held out from training: no image of theirs is a training image.
            They are drawn after all else, so that queries and database are the same without it.

    Raises:
        ArgumentError: no such protocol, a negative seed, or an `unseen` that leaves fewer than two classes to train on.
        LabelError: too few images, of all or of a class; an image listed twice; an image with no label, or with several
            where the protocol allows one; a label that the lists cannot hold. Nothing is written then.
        TrainingError: the lists cannot be written.
    """
    plan = parse_protocol(protocol)
    if seed < 0:
        raise ArgumentError(f"seed is {seed}: give a whole number from 0 up")
    home = None if images_folder is None else os.path.abspath(images_folder)
    named = sorted((_relative(path, home), tuple(labels)) for path, labels in images)
    _check_images(named)
    parts = dict(zip(LISTS, draw(named, plan, protocol, seed), strict=True))
    held_out = _hold_out(parts, unseen, seed)
    lists = {name: _as_csv(part) for name, part in parts.items()}
    facts: dict[str, Any] = {
        "protocol": protocol,
        "seed": seed,
        "cutoff": plan.cutoff,
        **({"source": dict(source)} if source else {}),
        **({"unseen": held_out} if held_out else {}),
        **_counted(parts, {name: hashlib.sha256(data).hexdigest() for name, data in lists.items()}),
    }
    folder = Path(out_folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in lists.items():
            write_atomic(folder / f"{name}.csv", data)
        write_atomic(folder / "split.json", (json.dumps(facts, indent=2) + "\n").encode())
    except OSError as error:
        raise TrainingError(f"cannot write the split to {str(folder)!r}: {error.strerror}") from None
    return Split(**parts, folder=folder, facts=facts)


def read_split(folder: str | os.PathLike[str]) -> Split:
    """Read the lists of a split: `hashfaiss split`'s, or another repository's as they are.

    Theirs are `test.txt`, `train.txt` and `database.txt` of `path 0 1 0 ...` lines; classes get their number as name,
    and an image that stands twice in a list counts once. `counts` and `leaks` are counted anew from the lists.

    Raises:
        LabelError: a list is missing, or cannot be read, or is not the one whose sha256 `split.json` holds.
    """
    at = Path(folder)
    ours = any((at / file).exists() for file in OUR_FILES)
    files = OUR_FILES if ours else THEIR_FILES
    missing = [file for file in files if not (at / file).is_file()]
    if missing:
        raise LabelError(
            f"{str(at)!r} has no {missing[0]!r}: a split is {_series(OUR_FILES)} of `hashfaiss split`, or "
            f"{_series(THEIR_FILES)} of lines such as 'cat/1.jpg 0 1 0'"
        )
    named = dict(zip(LISTS, files, strict=True))
    stored = _stored_facts(at / "split.json")
    sha256 = {name: _digest(at / file) for name, file in named.items()}
    changed = [file for name, file in named.items() if stored and sha256[name] != stored["sha256"][name]]
    if changed:
        raise LabelError(
            f"{changed[0]!r} in {str(at)!r} is not the list that split.json was written with (their sha256 differ): "
            "draw the split again"
        )
    parts = {name: sorted(read_label_file(at / file).items()) for name, file in named.items()}
    facts = {**stored, **_counted(parts, sha256)}
    if not ours:
        facts["files"] = list(files)
        facts["unlabelled"] = {name: sum(not labels for _, labels in part) for name, part in parts.items()}
    return Split(**parts, folder=at, facts=facts)


def check_leaks(query: Sequence[str], train: Sequence[str], database: Sequence[str]) -> dict[str, int]:
    """Count images that stand in two lists where a reader may not expect it.

    Only `train_outside_database` may be right: it is in protocols that evaluate on unseen images. A query in the
    database finds itself at rank 1, a query in the training set was learned by heart (both are in lists that many
    papers use).

    Args:
        query, train, database: paths.
    """
    queries, trained, searched = set(query), set(train), set(database)
    return {
        "queries_in_database": len(queries & searched),
        "queries_in_train": len(queries & trained),
        "train_outside_database": len(trained - searched),
    }


def leak_sentence(facts: Mapping[str, Any]) -> str:
    """One line on the leaks in a split's `facts`, to print with every result made with it."""
    leaks, queries = facts["leaks"], facts["counts"]["query"]
    found, learned = leaks["queries_in_database"], leaks["queries_in_train"]
    if not found and not learned:
        told = ["no query in the database or the training set"]
    else:
        told = [
            f"{found:,} of {queries:,} queries in the database{' (each finds itself)' if found else ''}",
            f"{learned:,} of {queries:,} queries in the training set{' (learned by heart)' if learned else ''}",
        ]
    told.append(f"training images outside the database: {leaks['train_outside_database']:,}")
    return f"leaks: {'; '.join(told)}"


def _hold_out(parts: dict[str, list[Image]], unseen: int, seed: int) -> list[str]:
    """Draw the classes that are not trained on, and take their images out of the training images. Returns them."""
    if not unseen:
        return []
    classes = sorted({label for _, labels in parts["train"] for label in labels})
    if not 0 < unseen <= len(classes) - 2:
        raise ArgumentError(
            f"unseen is {unseen}, and the training images have {len(classes):,} classes, of which two must be left: "
            f"give 0 to {max(0, len(classes) - 2):,}"
        )
    held_out = sorted(sorted(classes, key=lambda label: hash_order(label, seed))[:unseen])
    parts["train"] = [image for image in parts["train"] if not set(held_out) & set(image[1])]
    if not parts["train"]:
        raise ArgumentError(f"no training image is without the classes {', '.join(held_out)}: give a smaller unseen")
    return held_out


def _counted(parts: Mapping[str, list[Image]], sha256: dict[str, str]) -> dict[str, Any]:
    return {
        "counts": {name: len(part) for name, part in parts.items()},
        "sha256": sha256,
        "leaks": check_leaks(*([path for path, _ in parts[name]] for name in LISTS)),
    }


def _check_images(images: list[Image]) -> None:
    """Refuse what the lists could not give back, or what would leak: `images` is sorted."""
    last = None
    for path, labels in images:
        if path == last:
            raise LabelError(f"{path!r} is listed twice: an image could become its own query; list each once")
        last = path
        if not labels:
            raise LabelError(f"{path!r} has 0 labels: nothing is relevant to it; leave it out")
        try:
            "".join((path, *labels)).encode(*ENCODING)
        except UnicodeEncodeError:
            raise LabelError(f"{path!r} or a label of it cannot be written as text: rename it") from None
        for label in labels:
            if not label or label != label.strip() or ";" in label:
                raise LabelError(f"the label {label!r} of {path!r} is empty, has a ';' or blank ends: rename it")


def _stored_facts(file: Path) -> dict[str, Any]:
    """What `split.json` holds; {} where there is none."""
    if not file.exists():
        return {}
    try:
        facts = json.loads(file.read_bytes())
        cutoff = facts.get("cutoff")
        whole = cutoff is None or (isinstance(cutoff, int) and cutoff >= 1)
        if whole and all(isinstance(facts["sha256"][name], str) for name in LISTS):
            return {name: value for name, value in facts.items() if name != "files"}
    except OSError as error:
        raise LabelError(f"cannot read {str(file)!r}: {error.strerror}") from None
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        pass
    raise LabelError(f"{str(file)!r} is not as `hashfaiss split` writes it, with three sha256: draw the split again")


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise LabelError(f"cannot read {str(file)!r}: {error.strerror}") from None


def _series(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _relative(path: str, home: str | None) -> str:
    """`path` as the lists hold it, and as they are read back: from the absolute folder `home`, with slashes."""
    if home is None:
        return os.path.normpath(path)
    path = os.path.abspath(path)
    below = path.startswith(home.rstrip(os.sep) + os.sep)  # relpath itself takes a minute for a million images
    inner = path[len(home.rstrip(os.sep)) + 1 :] if below else os.path.relpath(path, home)
    return inner.replace(os.sep, "/")


def _as_csv(images: list[Image]) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["path", "label"])
    rows.writerows((path, ";".join(labels)) for path, labels in images)
    return text.getvalue().encode(*ENCODING)
