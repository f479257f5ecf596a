"""A table of two rows that is reproduced in seconds, and where its runs lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TABLE = """
title = "Two rows"
source = "A test"
bits = [8]
figures = ["convergence"]
settings.backbone = "resnet-small"
[[rows]]
name = "DHIDA"
method = "dhida"
settings.attention = "none"
[[rows]]
name = "ITQ"
method = "itq"
"""
SETTINGS = {"weights": "none", "size": 16, "epochs": 1, "batch": 8, "device": "cpu"}


def run_of(out: Path, method: str) -> Path:
    """The folder of the only run of a method."""
    (found,) = (out / "runs").glob(f"{method}-8-s0-*")
    return found


def stored(tmp_path: Path, method: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_of(tmp_path / "out", method) / "result.json").read_bytes())
    return found
