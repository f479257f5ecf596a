"""What the tests of published layouts share."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hashfaiss.cli import app
from hashfaiss.datasets.layouts import Dataset
from hashfaiss.datasets.protocols import PROTOCOLS


def touch(file: Path, content: bytes | str = b"x") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def relative(dataset: Dataset) -> list[tuple[str, tuple[str, ...]]]:
    return [(os.path.relpath(path, dataset.folder), labels) for path, labels in dataset.images]


def small(monkeypatch: pytest.MonkeyPatch, name: str, **counts: int) -> None:
    """Scale a published protocol down."""
    monkeypatch.setitem(PROTOCOLS, name, type(PROTOCOLS[name])(**{**vars(PROTOCOLS[name]), **counts}))


def split(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["split", *arguments])
    assert result.exit_code == code, result.output
    return result.output if code else result.stdout


def coco(folder: Path, each: int = 30) -> tuple[dict[str, set[str]], int]:
    """Returns the labels of each image that has one, and how many have none."""
    draw = random.Random(0)
    categories = [{"supercategory": "x", "id": 90 - n, "name": f"thing {n}"} for n in range(80)]
    labels: dict[str, set[str]] = {}
    bare = 0
    for part in ("train2014", "val2014"):
        images, annotations = [], []
        for number in range(each):
            file = f"COCO_{part}_{number:012}.jpg"
            images.append({"id": number, "file_name": file, "license": 3, "width": 640, "height": 480})
            touch(folder / part / file)
            of = draw.choices(categories, k=draw.randrange(4))
            annotations += [
                {"segmentation": [[1.5, 2.5]], "iscrowd": 0, "image_id": number, "bbox": [1, 2, 3, 4], **ids}
                for ids in ({"category_id": category["id"], "id": draw.randrange(10**6)} for category in of)
            ]
            bare += not of
            if of:
                labels[f"{part}/{file}"] = {str(category["name"]) for category in of}
        draw.shuffle(annotations)
        content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        touch(folder / f"annotations/instances_{part}.json", json.dumps(content))
    return labels, bare
