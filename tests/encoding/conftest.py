"""A model file that the tests of encoders begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
from encoders import altered

from hashfaiss.encoding.encoder import Encoder


@pytest.fixture
def model(encoder: Encoder, tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    altered(encoder, labels=["cat", "dog"], facts={"epochs": 3, "loss": [0.5, 0.25]}).save(path)
    return path
