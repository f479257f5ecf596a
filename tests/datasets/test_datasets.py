"""What all data sets share, and `hashfaiss split`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from layouts import coco, small, split, touch
from typer.testing import CliRunner

from hashfaiss.cli import app
from hashfaiss.datasets import layouts as published
from hashfaiss.datasets.layouts import DATASETS, read_dataset, split_dataset
from hashfaiss.datasets.protocols import PROTOCOLS, make_split, read_split
from hashfaiss.errors import ArgumentError
from hashfaiss.images.labels import labelled_images


def test_every_data_set_has_a_layout_and_protocols() -> None:
    assert set(DATASETS) == set(published.LAYOUTS) == {protocol.dataset for protocol in PROTOCOLS.values()}


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="unknown data set 'mnist': give one of cifar10, nuswide21"):
        read_dataset("mnist", tmp_path)
    with pytest.raises(ArgumentError, match="is no folder: give the one that coco was unpacked in"):
        read_dataset("coco", tmp_path / "gone")


def test_a_split_does_not_depend_on_where_the_images_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco(tmp_path / "a/coco")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    small(monkeypatch, "coco", query=10, train=20)
    one = split_dataset(read_dataset("coco", tmp_path / "a/coco"), None, 5, tmp_path / "one")
    monkeypatch.chdir(tmp_path / "b")
    two = split_dataset(read_dataset("coco", "coco"), "coco", 5, tmp_path / "two")
    for name in ("query.csv", "train.csv", "database.csv", "split.json"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()
    assert all(path.startswith(("train2014/", "val2014/")) for path, _ in one.query)


# --- hashfaiss split

runner = CliRunner()


def test_command_on_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, bare = coco(tmp_path / "coco")
    small(monkeypatch, "coco", query=10, train=20)
    arguments = ["split", "--dataset", "coco", "--data", str(tmp_path / "coco"), "--out", str(tmp_path / "out")]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0
    assert f"{bare} images left out: no annotation" in result.stderr
    assert f"--images {tmp_path / 'coco'}" in result.stderr
    made = read_split(tmp_path / "out")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["query", "10", "images", "sha256", made.facts["sha256"]["query"]]
    assert lines[3:] == [
        "coco, seed 0, mAP@5,000",
        "leaks: no query in the database or the training set; training images outside the database: 0",
    ]


def test_command_on_own_images(photos: Path, tmp_path: Path) -> None:
    own = ["--images", str(photos), "--out", str(tmp_path / "out")]
    text = split(*own, "--protocol", "random:query=3,train=6,cutoff=5", "--seed", "4")
    assert "random:query=3,train=6,cutoff=5, seed 4, mAP@5\n" in text
    expected = make_split(labelled_images(photos), "random:query=3,train=6,cutoff=5", 4, tmp_path / "same", photos)
    assert read_split(tmp_path / "out").facts == expected.facts
    listed = touch(tmp_path / "labels.csv", "cat/0.jpg,a;b\ndog/0.jpg,a\nbird/0.jpg,b\n")
    assert "query          1 images" in split(*own, "--labels", str(listed), "--protocol", "random:query=1")
    assert "class 'bird' has 4 images: the protocol 'cifar10-1' needs 600 or more" in split(*own, code=1)


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--images", "x", "--dataset", "coco", "--data", "x"],
        ["--dataset", "coco"],
        ["--images", "x", "--data", "x"],
        ["--dataset", "coco", "--data", "x", "--labels", "x"],
    ],
)
def test_command_asked_wrongly(given: list[str]) -> None:
    assert "give either --images, with --labels or without, or both --dataset and --data" in split(
        *given, "--out", "y", code=2
    )


def test_command_explains_every_protocol_and_data_set() -> None:
    text = split("--help")
    for name, protocol in PROTOCOLS.items():
        (row,) = (line for line in text.splitlines() if line.strip().startswith(f"{name} "))
        assert f"{protocol.query:,}" in row
        assert row.endswith("ALL" if protocol.cutoff is None else f"{protocol.cutoff:,}")
        assert protocol.train is None or f"{protocol.train:,}" in row
        assert protocol.dataset in text
