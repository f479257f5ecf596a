"""The demo: what README promises of it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from hashfaiss.cli import app


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_demo_keeps_its_promises(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hashfaiss", "demo", "--dir", "demo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scores = [float(score) for score in re.findall(r"mAP@ALL \(.*?\) +([\d.]+)", done.stdout)]
    assert len(scores) == 2
    assert min(scores) > 0.5  # chance is 0.1; how much a training learns beyond that differs from machine to machine
    assert re.findall(r"certified exact +([\d.]+) %", done.stdout) == [
        "100.00",
        "100.00",
    ]  # flat, and hash with --exact
    assert re.findall(r"certified, yet wrong +(\d+)", done.stdout) == ["0", "0"]
    for what in ("distances", "ids"):
        assert re.findall(rf"{what} equal at every rank +([\d.]+) %", done.stdout) == ["100.00", "100.00"]
    folder = tmp_path / "demo"
    drawn = ["hits.png", "dhida.training/loss.png", *(f"plots/{name}" for name in PLOTS)]
    for name in drawn:
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100, name
    assert (folder / "dhida.pt").exists()
    assert len(list((folder / "digits").rglob("*.png"))) == 1797
    _check_printed_commands(done.stdout, tmp_path)


PLOTS = ("health.png", "precision-recall.png", "precision-recall-at.png")


def _check_printed_commands(printed: str, folder: Path) -> None:
    """What the demo prints can be typed: the last query gives the same answer again."""
    commands = [shlex.split(line[2:]) for line in printed.splitlines() if line.startswith("$ hashfaiss")]
    assert [command[1] for command in commands] == ["train", "build", "build", "query", "evaluate", "evaluate"]
    again = [sys.executable, "-m", "hashfaiss", *commands[3][1:]]
    answer = subprocess.run(again, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert answer in printed


def test_demo_says_so_when_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["demo", "--dir", str(tmp_path / "file")])
    assert result.exit_code == 1
    assert "cannot write the digits" in result.stderr
