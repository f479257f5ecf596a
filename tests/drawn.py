"""Small pictures for tests that need files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"bird": (60, 90, 210), "cat": (210, 120, 40), "dog": (90, 170, 70)}


def draw_photos(within: Path) -> Path:
    """Those of `photos`, in a folder there."""
    random = np.random.default_rng(0)
    folder = within / "photos"
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(4):
            coarse = random.integers(-120, 120, (4, 5, 3)).repeat(9, 0).repeat(9, 1)
            pixels = np.clip(np.array(colour) + coarse, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.{'png' if number % 2 else 'jpg'}")
    return folder
