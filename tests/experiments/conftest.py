"""What tests of reproducing share: images of three classes, their split, and a table of two rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reproductions import SETTINGS, TABLE

from hashfaiss.datasets.protocols import make_split
from hashfaiss.experiments.reproduce import ReproduceOptions, Reproduction, reproduce
from hashfaiss.experiments.runs import Display
from hashfaiss.images.labels import labelled_images


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "two.toml"
    file.write_text(TABLE)
    return file


@pytest.fixture
def split(tmp_path: Path, many_photos: Path) -> Path:
    make_split(labelled_images(many_photos), "random:query=6,train=30", 0, tmp_path / "lists", many_photos)
    return tmp_path / "lists"


@pytest.fixture
def many_photos(tmp_path: Path) -> Path:
    """Three classes of 20 images of noise around a colour."""
    random = np.random.default_rng(0)
    for place, name in enumerate(("bird", "cat", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 120, (16, 16, 3)) + 120 * np.eye(3, dtype=int)[place]
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / name / f"{number:02d}.png")
    return tmp_path / "images"


@pytest.fixture
def make(table: Path, split: Path, many_photos: Path, tmp_path: Path) -> Any:
    """Reproduce the table; returns what came of it and what was told."""

    def run(settings: dict[str, Any] | None = None, **other: Any) -> tuple[Reproduction, list[str]]:
        told: list[str] = []
        asked = {"table": table, "data": many_photos, "out": tmp_path / "out", "split": split, **other}
        options = ReproduceOptions(**asked, settings={**SETTINGS, **(settings or {})})
        return reproduce(options, Display(told.append)), told

    return run
