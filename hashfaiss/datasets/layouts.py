"""The papers' data sets in the layouts they are published in: paths and label names of their images.

- cifar10: `cifar-10-batches-py/`, or class folders of images, as they are or below `train/` and `test/`.
- nuswide21, nuswide81: `ImageList/Imagelist.txt`, `Groundtruth/AllLabels/Labels_<concept>.txt`, images in `Flickr/`.
- imagenet100: 100 classes of ILSVRC 2012, `train/<wnid>/` and `val/`.
- coco: `annotations/instances_{train,val}2014.json`, images in `train2014/` and `val2014/`.

Images without a label are relevant to nothing: they are left out and counted. That is NUS-WIDE-21 by definition, and
COCO's 122,218 images; of NUS-WIDE-81 the papers do not say it.

Listings are a stranger's: a path in one that leads out of the folder of its images is refused, also through a link.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hashfaiss.datasets import cifar10
from hashfaiss.datasets.draws import ENCODING, Image, hash_order
from hashfaiss.datasets.protocols import Split, make_split, protocol_for
from hashfaiss.errors import ArgumentError, LabelError
from hashfaiss.images.finding import find_images

LAYOUTS = {
    "cifar10": f"{cifar10.FOLDER}/, or class folders of images, as they are or below both train/ and test/",
    "nuswide21": "ImageList/Imagelist.txt, Groundtruth/AllLabels/Labels_<concept>.txt and Flickr/<folder>/<name>.jpg",
    "nuswide81": "ImageList/Imagelist.txt, ConceptsList/Concepts81.txt, Groundtruth/AllLabels/Labels_<concept>.txt and "
    "Flickr/<folder>/<name>.jpg",
    "imagenet100": "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or val/*.JPEG with val.txt (and synsets.txt), "
    "LOC_val_solution.csv, or ILSVRC2012_validation_ground_truth.txt and map_clsloc.txt",
    "coco": "annotations/instances_train2014.json and instances_val2014.json, train2014/*.jpg and val2014/*.jpg",
}

# The 21 concepts with 5,000 images or more.
# fmt: off
NUSWIDE21 = [
    "animal", "beach", "buildings", "clouds", "flowers", "grass", "lake", "mountain", "ocean", "person", "plants",
    "reflection", "road", "rocks", "sky", "snow", "sunset", "tree", "vehicle", "water", "window",
]
# fmt: on
IMAGENET_CLASSES = 1000
CHOSEN_CLASSES = 100
CLASS_SEED = 0  # of the draw where there is no list: a split's seed draws images, and not what the set is


@dataclass(frozen=True)
class Dataset:
    """A data set on this machine.

    Attributes:
        name: as it was asked for.
        folder: the images lie below; absolute. Give it to `make_split` and to whoever reads the lists.
        images: (absolute path, label names) of each, sorted by path.
        facts: `dataset`, `images`, `classes` (how many), `left_out` (why: how many), and for imagenet100 `chosen`.
    """

    name: str
    folder: Path
    images: list[Image]
    facts: dict[str, Any]


def read_dataset(name: str, folder: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None) -> Dataset:
    """List the images of a data set that lies in `folder` in its published layout; none is decoded.

    Args:
        name: cifar10, nuswide21, nuswide81, imagenet100 or coco.
        folder: where the publisher's archives were unpacked.
        cache: folder to write CIFAR-10's batches to as PNG files, once; needed for these alone.

    Imagenet100's classes are those of `classes.txt`, a published list of 100 wnids; without it, 100 drawn once for all.

    Raises:
        ArgumentError: no such data set, no such folder, or no `cache` where one is needed.
        LabelError: a piece of the layout is missing or is not what it should be; the message names it.
        TrainingError: `cache` cannot be written.
    """
    if name not in DATASETS:
        raise ArgumentError(f"unknown data set {name!r}: give one of {', '.join(DATASETS)}")
    root = Path(os.path.abspath(folder))
    if not root.is_dir():
        raise ArgumentError(f"{os.fspath(folder)!r} is no folder: give the one that {name} was unpacked in")
    return DATASETS[name](name, root, None if cache is None else Path(os.path.abspath(cache)))


def split_dataset(
    dataset: Dataset, protocol: str | None, seed: int, out_folder: str | os.PathLike[str], unseen: int = 0
) -> Split:
    """`make_split` of a data set, by the protocol given or by its usual one; `split.json` also holds its facts.

    Raises:
        ArgumentError: no such protocol, or one of another data set; as `make_split`.
        LabelError, TrainingError: as `make_split`.
    """
    name = protocol_for(dataset.name, protocol)
    return make_split(dataset.images, name, seed, out_folder, dataset.folder, dataset.facts, unseen)


def _dataset(
    name: str, folder: Path, images: Iterable[Image], left_out: dict[str, int] | None = None, **facts: Any
) -> Dataset:
    listed = sorted((f"{folder}/{path}", labels) for path, labels in images)
    classes = len({label for _, labels in listed for label in labels})
    told = {"dataset": name, "images": len(listed), "classes": classes, "left_out": left_out or {}, **facts}
    return Dataset(name, folder, listed, told)


# --- CIFAR-10


def _read_cifar10(name: str, folder: Path, cache: Path | None) -> Dataset:
    batches = folder if (folder / cifar10.META).is_file() else folder / cifar10.FOLDER
    if batches.is_dir():
        if cache is None:
            raise ArgumentError(f"{str(batches)!r} holds batches: give a folder to write their images to as the cache")
        folder = cifar10.extract_cifar10(batches, cache)
    parts = [part for part in ("train", "test") if (folder / part).is_dir()]
    if len(parts) == 1:
        raise _missing(name, folder, "test" if parts == ["train"] else "train")
    images = [image for part in parts or [""] for image in _class_folders(name, folder, part)]
    if not images:
        raise _missing(name, folder, f"{cifar10.FOLDER} and no class folders of images")
    return _dataset(name, folder, images)


def _class_folders(name: str, folder: Path, part: str) -> Iterable[Image]:
    """Images at <part>/<class>/<file>."""
    for file in find_images(folder / part):
        path = Path(file.path).relative_to(folder)
        if len(path.parts) != (3 if part else 2):
            raise LabelError(f"{file.path!r} lies in no class folder: {name} is {LAYOUTS[name]}")
        yield path.as_posix(), (path.parts[-2],)


# --- NUS-WIDE


def _read_nuswide(name: str, folder: Path, cache: Path | None) -> Dataset:
    concepts = NUSWIDE21
    if name == "nuswide81":
        concepts = _lines(name, folder, "ConceptsList/Concepts81.txt")
        if len(set(concepts)) != 81 or not all(re.fullmatch(r"[\w-]+", concept) for concept in concepts):
            raise LabelError(f"'Concepts81.txt' in {str(folder)!r} does not list 81 concepts, one a line")
    listing = "ImageList/Imagelist.txt"
    paths = [
        f"Flickr/{_inside(line, f'line {number} of {listing!r}')}"
        for number, line in enumerate(_lines(name, folder, listing), start=1)
    ]
    flags = np.empty((len(paths), len(concepts)), np.bool_)
    for place, concept in enumerate(concepts):
        flags[:, place] = _flags(name, folder, f"Groundtruth/AllLabels/Labels_{concept}.txt", len(paths))
    labelled = flags.any(axis=1)
    images = [
        (path, tuple(concepts[place] for place in np.flatnonzero(row)))
        for path, row in zip(paths, flags, strict=True)
        if row.any()
    ]
    _check_listed(name, folder, [path for path, _ in images], listing)
    return _dataset(name, folder, images, {f"none of the {len(concepts)} labels": int((~labelled).sum())})


def _flags(name: str, folder: Path, file: str, count: int) -> np.ndarray:
    lines = _bytes(name, folder, file).split()
    digits: np.ndarray = np.frombuffer(b"".join(lines), np.uint8)
    if len(lines) != count or len(digits) != count or not np.isin(digits, (48, 49)).all():
        raise LabelError(f"{file!r} in {str(folder)!r} is not {count:,} lines of 0 or 1, one for each image listed")
    return np.asarray(digits == 49)


# --- ImageNet-100


def _read_imagenet100(name: str, folder: Path, cache: Path | None) -> Dataset:
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise _missing(name, folder, part)
    trained = sorted(entry.name for entry in (folder / "train").iterdir() if _is_wnid(entry.name) and entry.is_dir())
    listed = (folder / "classes.txt").is_file()
    chosen = (
        _lines(name, folder, "classes.txt")
        if listed
        else sorted(trained, key=lambda wnid: hash_order(wnid, CLASS_SEED))
    )
    if listed and (len(chosen) != CHOSEN_CLASSES or len(set(chosen)) != len(chosen) or not all(map(_is_wnid, chosen))):
        raise LabelError(
            f"'classes.txt' in {str(folder)!r} does not list {CHOSEN_CLASSES} different wnids such as n01440764, one a "
            "line: list so many, or remove the file to have them drawn"
        )
    chosen = chosen[:CHOSEN_CLASSES]
    gone = set(chosen) - set(trained)
    if gone:
        raise _missing(name, folder, f"train/{min(gone)}")
    if len(chosen) < CHOSEN_CLASSES:
        raise LabelError(f"'train' in {str(folder)!r} has {len(chosen)} folders of classes: {name} needs 100 or more")
    images = [image for wnid in sorted(chosen) for image in _wnid_images(folder, "train", wnid)]
    if any((folder / "val" / wnid).is_dir() for wnid in chosen):
        images += [image for wnid in sorted(chosen) for image in _wnid_images(folder, "val", wnid)]
    else:
        images += _flat_validation(name, folder, set(chosen), trained)
    how = "classes.txt" if listed else f"drawn from {len(trained):,}, no published list"
    return _dataset(name, folder, images, chosen=how)


def _is_wnid(name: str) -> bool:
    return re.fullmatch(r"n\d{8}", name, re.ASCII) is not None


def _wnid_images(folder: Path, part: str, wnid: str) -> Iterable[Image]:
    if not (folder / part / wnid).is_dir():
        raise _missing("imagenet100", folder, f"{part}/{wnid}")
    for file in find_images(folder / part / wnid):
        yield Path(file.path).relative_to(folder).as_posix(), (wnid,)


def _flat_validation(name: str, folder: Path, chosen: set[str], trained: list[str]) -> list[Image]:
    listing = next((file for file in _VALIDATION if (folder / file).is_file()), None)
    if listing is None:
        raise _missing(name, folder, "val/<wnid>/ and no list of the validation images' classes such as 'val.txt'")
    images: list[Image] = []
    for number, (file, wnid) in enumerate(_VALIDATION[listing](name, folder, trained), start=1):
        if wnid in chosen:
            images.append((f"val/{_inside(file, f'image {number} of {listing!r}')}", (wnid,)))
    _check_listed(name, folder, [path for path, _ in images], listing)
    return images


def _val_txt(name: str, folder: Path, trained: list[str]) -> Iterable[tuple[str, str]]:
    """Caffe's list: a file and the place of its class among all 1,000, sorted; or a file and its wnid."""
    wnids = _lines(name, folder, "synsets.txt") if (folder / "synsets.txt").is_file() else trained
    for number, line in enumerate(_lines(name, folder, "val.txt"), start=1):
        file, _, label = line.rpartition(" ")
        if label.isascii() and label.isdecimal() and len(label) < 5:
            if len(wnids) != IMAGENET_CLASSES:
                raise LabelError(
                    f"'val.txt' in {str(folder)!r} gives classes by their place among {IMAGENET_CLASSES:,}, and "
                    f"{len(wnids):,} are known: add 'synsets.txt', the {IMAGENET_CLASSES:,} wnids in their order"
                )
            label = wnids[int(label)] if int(label) < len(wnids) else ""
        if not file or not _is_wnid(label):
            raise LabelError(f"line {number} of 'val.txt' is {line[:80]!r}: expected a file and its class")
        yield file, label


def _val_kaggle(name: str, folder: Path, trained: list[str]) -> Iterable[tuple[str, str]]:
    """Kaggle's `ImageId,PredictionString`: a file without its suffix, then its wnid and boxes."""
    for number, line in enumerate(_lines(name, folder, "LOC_val_solution.csv")[1:], start=2):
        file, _, boxes = line.partition(",")
        wnid = boxes.split(" ")[0]
        if not file or not _is_wnid(wnid):
            raise LabelError(f"line {number} of 'LOC_val_solution.csv' is {line[:80]!r}: expected an image and a wnid")
        yield f"{file}.JPEG", wnid


def _val_devkit(name: str, folder: Path, trained: list[str]) -> Iterable[tuple[str, str]]:
    """The development kit's list: a class a line, by a number of its own that `map_clsloc.txt` explains."""
    words = [line.split() for line in _lines(name, folder, "map_clsloc.txt")]
    wnids = {word[1]: word[0] for word in words if len(word) >= 2 and _is_wnid(word[0])}
    listing = "ILSVRC2012_validation_ground_truth.txt"
    for number, line in enumerate(_lines(name, folder, listing), start=1):
        if line not in wnids:
            raise LabelError(f"line {number} of {listing!r} is {line[:80]!r}: no such class in 'map_clsloc.txt'")
        yield f"ILSVRC2012_val_{number:08}.JPEG", wnids[line]


_VALIDATION: dict[str, Callable[[str, Path, list[str]], Iterable[tuple[str, str]]]] = {
    "val.txt": _val_txt,
    "LOC_val_solution.csv": _val_kaggle,
    "ILSVRC2012_validation_ground_truth.txt": _val_devkit,
}


# --- COCO


def _read_coco(name: str, folder: Path, cache: Path | None) -> Dataset:
    images: list[Image] = []
    bare = 0
    for part in ("train2014", "val2014"):
        listing = f"annotations/instances_{part}.json"
        try:
            found = _coco_labels(json.loads(_bytes(name, folder, listing), object_hook=_slim), part, listing)
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            raise LabelError(f"{listing!r} in {str(folder)!r} is not COCO's: {type(error).__name__} {error}") from None
        labelled = [(path, labels) for path, labels in found if labels]
        bare += len(found) - len(labelled)
        _check_listed(name, folder, [path for path, _ in labelled], listing)
        images += labelled
    return _dataset(name, folder, images, {"no annotation": bare})


def _slim(values: dict[str, Any]) -> Any:
    """Of an annotation only the ids: the outlines of 900,000 objects would fill gigabytes."""
    if "image_id" in values and "category_id" in values:
        return values["image_id"], values["category_id"]
    return values


def _coco_labels(content: dict[str, Any], part: str, listing: str) -> list[Image]:
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    places: dict[Any, set[Any]] = {image["id"]: set() for image in content["images"]}
    for image, category in content["annotations"]:
        if category not in names:
            raise KeyError(f"category {category!r}")
        places[image].add(category)
    return [
        (
            f"{part}/{_inside(str(image['file_name']), f'image {number} of {listing!r}')}",
            tuple(names[category] for category in names if category in places[image["id"]]),
        )
        for number, image in enumerate(content["images"], start=1)
    ]


# --- What they share


def _missing(name: str, folder: Path, piece: str) -> LabelError:
    return LabelError(f"{str(folder)!r} has no {piece}: {name} is {LAYOUTS[name]}")


def _bytes(name: str, folder: Path, file: str) -> bytes:
    if not (folder / file).is_file():
        raise _missing(name, folder, file)
    try:
        return (folder / file).read_bytes()
    except OSError as error:
        raise LabelError(f"cannot read {str(folder / file)!r}: {error.strerror}") from None


def _lines(name: str, folder: Path, file: str) -> list[str]:
    """The lines of a text file, without blank ones and blank ends."""
    text = _bytes(name, folder, file).removeprefix(b"\xef\xbb\xbf").decode(*ENCODING)
    return [line.strip() for line in text.split("\n") if line.strip()]


def _inside(path: str, where: str) -> str:
    """A path of a listing with slashes, in the shortest way; LabelError where it leads out of its folder."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\0" in path:
        raise LabelError(f"{where} is {path[:80]!r}, which leads out of the folder of the images: this list is unsafe")
    return "/".join(parts)


def _check_listed(name: str, folder: Path, paths: list[str], listing: str) -> None:
    """Refuse a list of images that are not all there, stand twice, or lead out of their folder through a link."""
    if len(set(paths)) < len(paths):
        raise LabelError(f"{listing!r} in {str(folder)!r} lists an image twice: give the published list")
    below: dict[str, list[str]] = {}
    for path in paths:
        parent, _, file = path.rpartition("/")
        below.setdefault(parent, []).append(file)
    gone: list[str] = []
    for parent, files in below.items():
        _check_link(folder, parent, listing)
        try:
            with os.scandir(folder / parent) as entries:
                here = {entry.name: entry.is_symlink() for entry in entries}
        except (OSError, ValueError):
            here = {}
        for file in files:
            if file not in here:
                gone.append(f"{parent}/{file}")
            elif here[file]:
                _check_link(folder, f"{parent}/{file}", listing)
    if gone:
        raise LabelError(
            f"{len(gone):,} of {len(paths):,} images that {listing!r} lists are not in {str(folder)!r}, such as "
            f"{gone[0]!r}: {name} is {LAYOUTS[name]}"
        )


def _check_link(folder: Path, path: str, listing: str) -> None:
    # The images' folder itself may be a link, to another disk: who put it there trusts it.
    home = os.path.realpath(folder / path.partition("/")[0])
    try:
        real = os.path.realpath(folder / path)
    except ValueError:  # a name that no file can have
        return
    if os.path.commonpath([home, real]) != home:
        raise LabelError(f"{path!r} of {listing!r} leads out of {home!r} through a link, to {real!r}: remove the link")


DATASETS: dict[str, Callable[[str, Path, Path | None], Dataset]] = {
    "cifar10": _read_cifar10,
    "nuswide21": _read_nuswide,
    "nuswide81": _read_nuswide,
    "imagenet100": _read_imagenet100,
    "coco": _read_coco,
}
