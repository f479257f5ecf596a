"""What the tests of commands begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from hashfaiss.encoding.encoder import Encoder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Encoder, photos: Path) -> Path:
    """A folder with model.pt, photos.index built of `photos`, and nothing else; the current one."""
    monkeypatch.chdir(tmp_path)
    encoder.save("model.pt")
    encoder.to_index(photos, "photos.index")
    return tmp_path
