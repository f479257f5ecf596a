"""`hashfaiss compare`, and the calls it is made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import run, runner
from encoders import altered
from PIL import Image

from hashfaiss.cli import app
from hashfaiss.codes import compare_codes, pack
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.learned import LearnedCodes
from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.files import content_digest


def plain_differ(one: np.ndarray, other: np.ndarray, bits: int) -> list[int]:
    return [j for j in range(bits) if int(one[j // 8]) >> (j % 8) & 1 != int(other[j // 8]) >> (j % 8) & 1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Encoder, photos: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    encoder.save("model.pt")
    encoder.to_index(photos, "hashfaiss.index")
    return photos


@pytest.mark.parametrize("bits", [1, 7, 8, 20, 64, 130])
def test_bits_that_differ_are_those_of_a_plain_loop(bits: int) -> None:
    for seed in range(20):
        codes = pack(np.random.default_rng(seed).normal(size=(2, bits)))
        found = compare_codes(codes, bits)
        assert list(found.differ) == plain_differ(*codes, bits)
        assert (found.distance, found.bits) == (len(found.differ), bits)
    with pytest.raises(ArgumentError):
        compare_codes(codes, bits + 8)


def test_exit_code_tells_within_radius(here: Path, encoder: Encoder) -> None:
    one, other = str(here / "cat/0.jpg"), str(here / "dog/1.png")
    differ = plain_differ(*encoder.encode([one, other]), 20)
    distance = len(differ)
    assert distance > 0
    for where in (["--index", "hashfaiss.index"], ["--model", "model.pt"], []):
        text = run("compare", one, other, *where)
        assert text.splitlines()[0].endswith(f": distance {distance} of 20 bits")
        assert text.splitlines()[1] == f"bits that differ: {' '.join(map(str, differ))}"
        assert "within radius" in run("compare", one, other, *where, "--radius", str(distance))
        result = runner.invoke(app, ["compare", one, other, *where, "--radius", str(distance - 1), "--json"])
        assert (result.exit_code, result.stderr) == (1, "")
        assert json.loads(result.stdout) == {
            "images": [one, other],
            "distance": distance,
            "bits": 20,
            "differ": differ,
            "radius": distance - 1,
            "within": False,
        }
    assert json.loads(run("compare", one, one, "--json"))["within"] is None
    assert run("compare", one, one, "--radius", "0").endswith("distance 0 of 20 bits, within radius 0\n")


def test_what_cannot_be_told_is_no_difference(here: Path) -> None:
    one = str(here / "cat/0.jpg")
    Path("damaged.jpg").write_bytes(Path(one).read_bytes()[:200])
    for where in (["--index", "hashfaiss.index"], ["--model", "model.pt"]):
        assert "cannot read image" in run("compare", one, "damaged.jpg", *where, "--radius", "20", code=2)
        assert "no such file" in run("compare", "gone.jpg", one, *where, code=2)
        assert "radius is 21: give a whole number from 0 to 20" in run(
            "compare", one, one, *where, "--radius", "21", code=2
        )
    assert "gone.index" in run("compare", one, one, "--index", "gone.index", code=2)
    assert "gone.pt" in run("compare", one, one, "--model", "gone.pt", code=2)
    assert "give one of them" in run("compare", one, one, "--index", "x", "--model", "model.pt", code=2)
    run("compare", one, code=2)


def test_from_python_by_file_picture_id_and_stored_code(here: Path, encoder: Encoder) -> None:
    index = encoder.to_index(here)
    one, other = here / "cat/0.jpg", here / "dog/1.png"
    found = encoder.compare(one, other)
    with Image.open(other) as picture:
        assert index.compare(one, picture) == encoder.compare(str(one), picture) == found
    number = index.find(str(other))
    assert number is not None
    other.unlink()
    assert index.compare(one, other) == index.compare(one, number) == index.compare(number, one) == found
    with pytest.raises(ImageError):
        encoder.compare(one, other)
    with pytest.raises(ArgumentError, match="no image of id 99"):
        index.compare(one, 99)


def test_codes_are_the_networks_and_not_learned_ones(here: Path, encoder: Encoder) -> None:
    one, other = here / "cat/0.jpg", here / "dog/1.png"
    learned = LearnedCodes([content_digest(one.read_bytes())], np.zeros((1, 3), np.uint8))
    own = altered(encoder, learned=learned, method="adsh")
    assert own.compare(one, other) == encoder.compare(one, other)
