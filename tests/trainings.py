"""Small trainings: images of three colours, and settings that train on them in about a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hashfaiss.train.methods import METHODS, Shallow
from hashfaiss.train.options import TrainOptions
from hashfaiss.train.progress import Progress
from hashfaiss.train.settings import TRAINED_ONLY

SHALLOW = {name for name, kind in METHODS.items() if issubclass(kind, Shallow)}
COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (210, 50, 40)}


def write_images(folder: Path, each: int = 12, size: int = 16) -> Path:
    """`each` noisy images of each colour, in folders of that name; no two alike."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            noise = random.integers(-40, 40, (size, size, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder


def options(images: Path, out: Path, method: str = "dhida", **changes: Any) -> TrainOptions:
    defaults: dict[str, Any] = {
        "bits": 8,
        "backbone": "resnet-small",
        "weights": "none",
        "size": 16,
        "fit": "stretch",
        "epochs": 4,
        "batch": 8,
        "validation": 0.25,
        "evaluate_every": 1,
        "device": "cpu",
        "precision": "float32",  # as every machine has it
    }
    if method in SHALLOW:
        defaults = {name: value for name, value in defaults.items() if name not in TRAINED_ONLY}
    return TrainOptions(images=images, out=out, method=method, **{**defaults, **changes})


class StopAt:
    """A progress callback that presses Ctrl-C at the end of an epoch; epoch 0 is the reading of the images."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, progress: Progress) -> None:
        if progress.epoch == self.epoch and progress.done == progress.total:
            raise KeyboardInterrupt


def chance_map(relevant: int, others: int) -> float:
    """The mAP of codes that tell nothing: over all orders of `others` images, `relevant` of them the query's."""
    harmonic = sum(1 / rank for rank in range(1, others + 1))
    return harmonic / others + (relevant - 1) / (others - 1) * (1 - harmonic / others)


def no_room(*_: Any) -> None:
    raise OSError(28, "No space left on device")
