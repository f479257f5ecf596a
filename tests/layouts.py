"""What the tests of published layouts share."""

from __future__ import annotations

import os
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
