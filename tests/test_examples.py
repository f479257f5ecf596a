"""The scripts in examples/ run as their first lines say."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from encoders import altered
from kernels_of_notebooks import run_notebook, shown, written
from PIL import Image
from typer.testing import CliRunner

import hashfaiss.codes
from hashfaiss.cli import app
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.learned import LearnedCodes
from hashfaiss.files import content_digest
from hashfaiss.images.preprocessing import Preprocessing

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    here = Path(__file__).read_text()
    assert all(f'"{file.name}"' in here for file in EXAMPLES.glob("*.py"))


def test_own_method() -> None:
    """Its tests are those of every method: tests/test_extensions.py."""
    assert len((EXAMPLES / "own_method.py").read_text().splitlines()) < 60


def test_codes_only(tmp_path: Path) -> None:
    printed = run("codes_only.py", folder=tmp_path)
    assert "flat: ids equal 100%, certified exact 100%, recall by distance 1.0000" in printed


def test_own_codes(tmp_path: Path) -> None:
    lines = run("own_codes.py", folder=tmp_path).splitlines()
    assert lines[0].startswith("[0, ")
    assert lines[0].endswith("[True, True, True]")
    assert lines[1] == "[True, True, True]"
    assert (tmp_path / "mine.codes").is_file()


def test_in_memory(tmp_path: Path, encoder: Encoder) -> None:
    encoder.save(tmp_path / "model.pt")
    lines = run("in_memory.py", "model.pt", folder=tmp_path).splitlines()
    assert lines[0] == "ImageIndex(in memory, 15 images, 20 bits)"
    assert lines[1].split() == ["2", "0", "red"]


def test_keep_in_step(tmp_path: Path, encoder: Encoder, photos: Path) -> None:
    encoder.save(tmp_path / "model.pt")
    assert "12 encoded, 0 unchanged" in run("keep_in_step.py", "model.pt", str(photos), "p.index", folder=tmp_path)
    assert "0 encoded, 12 unchanged" in run("keep_in_step.py", "model.pt", str(photos), "p.index", folder=tmp_path)


def test_onnx_codes(tmp_path: Path, encoder: Encoder) -> None:
    """Those of `export-model`'s file are the encoder's own, but for one that was learned (ADSH): that is told."""
    pixels = np.random.default_rng(2).integers(0, 256, (4, 3, 3, 3)).astype(np.uint8)
    files = []
    for number, (small, kind) in enumerate(zip(pixels, ("jpg", "png", "jpg", "webp"), strict=True)):
        image = Image.fromarray(small).resize((61 + 40 * number, 90), Image.Resampling.BICUBIC)
        files.append(str(tmp_path / f"{number}.{kind}"))
        image.convert("L" if number == 2 else "RGB").save(files[-1])
    learned = LearnedCodes([content_digest(Path(files[0]).read_bytes())], np.zeros((1, 3), np.uint8))
    how = Preprocessing(32, "crop", crop=0.9, interpolation="bicubic")
    own = altered(encoder, preprocessing=how, learned=learned, method="adsh")
    own.save(tmp_path / "m.pt")
    out = tmp_path / "m.onnx"
    done = CliRunner().invoke(app, ["export-model", "--model", str(tmp_path / "m.pt"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "images uint8 (n, 32, 32, 3) to codes uint8 (n, 3)" in done.output
    assert "codes that were learned beside the network for 1 image are not in the file" in done.output
    printed = run("onnx_codes.py", str(out), *files, folder=tmp_path).splitlines()
    codes = own.encode(files)
    assert len(np.unique(codes, axis=0)) == 4
    assert printed == [f"{file}: {code.tobytes().hex()}" for file, code in zip(files, codes, strict=True)]


@pytest.mark.slow
def test_train_and_search(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(30):
            pixels = np.clip(rng.normal(colour, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    printed = run("train_and_search.py", "photos", "photos/red/0.png", folder=tmp_path)
    assert "certified exact" in printed
    assert printed.count("photos/") == 5


@pytest.mark.slow
def test_tour(tmp_path: Path, photos: Path) -> None:
    assert run("tour.py", str(photos), folder=tmp_path) == "tour.ipynb\n"
    tour = json.loads((tmp_path / "tour.ipynb").read_text("utf-8"))
    fitted, index, near, within, compared, groups, good = run_notebook(tour, tmp_path)
    assert "look at images: 12 of 12 (100 %)" in written(fitted, "stderr")
    assert shown(fitted, "text/plain").startswith("Encoder(itq, 8 bits")
    assert "encode: 12 of 12 (100 %)" in written(index, "stderr")
    assert shown(index, "text/plain").endswith("12 images, 8 bits)")
    assert shown(near, "text/html").count("<img ") == 9
    assert "certified exact" in shown(within, "text/html")
    assert shown(compared, "text/plain").startswith("Comparison(bits=8, differ=(")
    assert written(groups, "stdout").endswith(" groups\n")
    assert shown(good, "text/plain").startswith("(0.") or shown(good, "text/plain").startswith("(1.")


def test_docstrings_of_codes() -> None:
    failed, tried = doctest.testmod(hashfaiss.codes)
    assert tried > 1
    assert failed == 0
