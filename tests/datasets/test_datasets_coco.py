"""COCO in its published layout, written here in small: read whole, and refused where it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from layouts import coco, relative, touch

from hashfaiss.datasets.layouts import read_dataset
from hashfaiss.errors import LabelError


def test_coco(tmp_path: Path) -> None:
    labels, bare = coco(tmp_path)
    found = read_dataset("coco", tmp_path)
    assert {path: set(names) for path, names in relative(found)} == labels
    assert all(len(set(names)) == len(names) for _, names in found.images)
    assert found.images == sorted(found.images)
    assert found.facts["left_out"] == {"no annotation": bare}
    assert bare > 5


def annotated(image: Any, category: Any) -> Callable[[Any], object]:
    return lambda content: content["annotations"].append({"image_id": image, "category_id": category})


def renamed(pattern: str) -> Callable[[Any], object]:
    """Rename every image; {} is its number."""
    return lambda content: [image.update(file_name=pattern.format(image["id"])) for image in content["images"]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content.pop("images"), "is not COCO's: KeyError"),
        (annotated(999, 90), "is not COCO's: KeyError 999"),
        (annotated(0, 1000), "is not COCO's: KeyError 'category 1000'"),
        (annotated([], 90), "is not COCO's: TypeError"),
        (lambda content: content["annotations"].append(7), "is not COCO's: TypeError"),
        (lambda content: content["images"][4].update(file_name="../../etc/passwd"), "image 5 of .* leads out of"),
        (renamed("/etc/passwd"), "image 1 of .* leads out of"),
        (renamed("\ud800{}.jpg"), "images that .* are not in"),
        (renamed("\ud800/{}.jpg"), "images that .* are not in"),
        (renamed("gone/{}.jpg"), "images that .* are not in"),
        (renamed("same.jpg"), "lists an image twice"),
    ],
)
def test_coco_pieces(change: Callable[[Any], object], told: str, tmp_path: Path) -> None:
    coco(tmp_path)
    file = tmp_path / "annotations/instances_val2014.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(LabelError, match=told):
        read_dataset("coco", tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "7", "{", "[" * 100_000, b"\xff\xfe{}"])
def test_coco_annotations_that_are_none(content: str | bytes, tmp_path: Path) -> None:
    coco(tmp_path)
    touch(tmp_path / "annotations/instances_train2014.json", content)
    with pytest.raises(LabelError, match=r"'annotations/instances_train2014.json' in .* is not COCO's"):
        read_dataset("coco", tmp_path)
    (tmp_path / "annotations/instances_train2014.json").unlink()
    with pytest.raises(LabelError, match=r"has no annotations/instances_train2014.json: coco is annotations/"):
        read_dataset("coco", tmp_path)
