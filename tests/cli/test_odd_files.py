"""Commands where files, terminals and command lines are odd."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import runner
from pictures import posix
from PIL import Image

from hashfaiss.cli import app
from hashfaiss.encoding.encoder import Encoder


@pytest.fixture
def here(encoder: Encoder, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(photos.parent)
    encoder.save("m.pt")
    return photos.parent


def build(*arguments: str, code: int = 0) -> str:
    result = runner.invoke(app, ["build", "--model", "m.pt", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@posix
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_output_in_any_encoding(here: Path, photos: Path, encoding: str) -> None:
    for name in ("猫.png", "café.png"):
        os.rename(photos / "cat" / f"{len(name) % 2 * 2 + 1}.png", photos / "cat" / name)
    (photos / "cat" / "犬.jpg").write_bytes(b"no image")
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for command in (["build", "--model", "m.pt", "--images", "photos"], ["query", "photos/cat/猫.png", "-k", "12"]):
        done = subprocess.run([sys.executable, "-m", "hashfaiss", *command], env=env, capture_output=True)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
        assert b"\\u732b.png" in done.stdout or b"\\u72ac.jpg: not an image" in done.stderr


def test_an_option_that_takes_one_value_is_not_given_twice(here: Path) -> None:
    for command in (
        ["build", "--images", "photos", "--index", "a", "--index", "b"],
        ["info", "--index", "a", "--index", "a"],
        ["train", "--images", "photos", "--images", "photos", "--out", "x.pt"],
        ["query", "x.jpg", "-k", "1", "--k", "2"],
    ):
        result = runner.invoke(app, command)
        assert (result.exit_code, "was given 2 times: give it once" in result.output) == (2, True), result.output


def test_a_file_may_go_from_one_folder_to_another_of_the_same_build(here: Path, photos: Path) -> None:
    """Whichever is named first; a folder in another is built with that, under its labels."""
    (here / "other").mkdir()
    shutil.move(photos / "dog", here / "other/dog")
    asked = ("--images", "photos", "--images", "other", "--index", "two")
    assert build(*asked).count("encoded") == 2
    for source, target in (
        (photos / "cat/0.jpg", here / "other/dog/9.jpg"),
        (here / "other/dog/9.jpg", photos / "cat/0.jpg"),
    ):
        shutil.move(source, target)
        told = build(*asked)
        assert told.count("0 encoded") == 2
        assert told.count("1 recognised by their contents") == 1
        assert told.count("0 removed") == 2
    told = build("--images", "photos", "--images", "photos/cat", "--images", "other", "--index", "two")
    assert told.count("0 encoded") == 2
    assert "recognised" not in told


def test_several_folders_are_all_built(here: Path, photos: Path) -> None:
    output = build(*(part for name in ("cat", "dog") for part in ("--images", str(photos / name))))
    assert output.count("4 encoded, 0 unchanged") == 2
    assert json.loads(runner.invoke(app, ["info", "--json"]).stdout)["images"] == 8
    build("--images", "photos", "--images", "gone", "--index", "other", code=2)
    assert not (here / "other").exists()
    (here / "l.csv").write_text("a.jpg,x\n")
    assert "build each alone" in build("--images", "photos", "--images", "photos", "--labels", "l.csv", code=2)


@posix
def test_what_is_away_is_told_and_makes_the_exit_code_1(here: Path, photos: Path) -> None:
    os.rename(photos / "cat", here / "disk")
    (photos / "cat").symlink_to(here / "disk")
    build("--images", "photos")
    os.rename(here / "disk", here / "away")
    output = build("--images", "photos", code=1)
    assert "kept photos/cat: a link into nowhere; its images stay in the index" in output
    assert "0 encoded, 8 unchanged, 0 removed, 0 skipped (see hashfaiss.index/skipped.jsonl)" in output
    asked = ["query", "photos/dog/0.jpg", "-k", "12"]
    hits = [json.loads(line) for line in runner.invoke(app, [*asked, "--json"]).stdout.splitlines()]
    assert sum("missing" in hit for hit in hits) == 4
    assert "(no longer there)" in runner.invoke(app, asked).stdout
    assert "4 of 12 files are gone or away" in runner.invoke(app, ["verify"]).stdout
    assert "4 removed" in build("--images", "photos", "--allow-removals")


def test_what_is_passed_over_is_counted(here: Path, photos: Path) -> None:
    for name in ("a.xmp", "b.xmp", "c.mov"):
        (photos / name).write_bytes(b"x")
    output = build("--images", "photos", "--exclude", "dog", "--exclude", "cat/*.png")
    assert "6 encoded" in output
    assert "3 other files passed over: 2 .xmp, 1 .mov" in output


def test_raw_photographs_are_skipped_with_what_to_do(here: Path, photos: Path) -> None:
    (photos / "dog" / "a.RAF").write_bytes(b"FUJIFILMCCD-RAW 0201" + bytes(64))
    output = build("--images", "photos")
    assert "skipped photos/dog/a.RAF: a raw photograph (Fujifilm RAF), which is not developed here: save it" in output
    assert "12 encoded, 0 unchanged, 0 removed, 1 skipped" in output
    assert "a raw photograph" in build("--images", "photos", "--index", "strict", "--strict", code=1)


def test_reduced_decoding_is_chosen_for_a_new_index(here: Path, photos: Path) -> None:
    again = ("--images", "photos", "--reduced-decoding", "--index", "new")
    assert "12 encoded" in build(*again)
    assert "12 unchanged" in build(*again)
    assert "12 unchanged" in runner.invoke(app, ["build", "--images", "photos", "--index", "new"]).output
    assert "was made by another model" in build("--images", "photos", "--index", "new", code=1)
    build("--images", "photos")
    refused = runner.invoke(app, ["build", "--images", "photos", "--reduced-decoding"])
    assert refused.exit_code == 2
    assert "makes other codes than those in 'hashfaiss.index': leave it out, or name a new --index" in refused.output


def test_moved_files_are_said_to_be_recognised(here: Path, photos: Path) -> None:
    build("--images", "photos")
    os.rename(photos / "cat", photos / "lynx")
    assert "0 encoded, 4 recognised by their contents, 8 unchanged, 0 removed" in build("--images", "photos")
    assert "0 encoded, 12 unchanged" in build("--images", "photos", "--check-content")


def test_listed_files_that_are_missing_are_left_out_of_a_split(here: Path, photos: Path) -> None:
    lines = [f"{file.relative_to(photos)},{file.parent.name}\n" for file in sorted(photos.rglob("*.*"))]
    (here / "l.csv").write_text("file,class\n" + "".join(lines) + "gone.jpg,cat\n")
    command = ["split", "--images", "photos", "--labels", "l.csv", "--protocol", "random:query=3,train=6", "--out", "s"]
    result = runner.invoke(app, command)
    assert "1 listed images left out: no such file, as photos/gone.jpg" in result.output
    assert "gone" not in "".join(file.read_text() for file in (here / "s").glob("*.csv"))


def test_the_most_megapixels(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASHFAISS_MAX_MEGAPIXELS", "200")  # put back afterwards
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # as this
    build("--images", "photos", "--max-megapixels", "250")
    assert os.environ["HASHFAISS_MAX_MEGAPIXELS"] == "250"
    build("--images", "photos", "--max-megapixels", "0", code=2)
