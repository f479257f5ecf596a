"""Splits: disjoint, counted, the same to the byte, and checked for leaks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfaiss.errors import ArgumentError, LabelError, TrainingError
from hashfaiss.labels import read_label_file
from hashfaiss.train.protocols import PROTOCOLS, check_leaks, make_split

CIFAR = [
    (f"/photos/{part}/{label}/{number:04}.jpg", (label,))
    for label in "abcdefghij"
    for part, count in (("train", 5000), ("test", 1000))
    for number in range(count)
]
SOME = [image for image in CIFAR if image[1][0] in "ab" and int(image[0][-8:-4]) < 500]


@pytest.mark.parametrize(
    ("protocol", "counts", "outside"),
    [
        ("cifar10-1", (1000, 5000, 59000), 0),
        ("cifar10", (1000, 5000, 54000), 5000),
        ("cifar10-2", (10000, 50000, 50000), 0),
    ],
)
def test_cifar_protocols(protocol: str, counts: tuple[int, ...], outside: int, tmp_path: Path) -> None:
    split = make_split(CIFAR, protocol, 0, tmp_path, "/photos")
    parts = (split.query, split.train, split.database)
    assert tuple(map(len, parts)) == counts
    assert tuple(split.facts["counts"].values()) == counts
    assert {sum(labels == (name,) for _, labels in split.query) for name in "abcdefghij"} == {counts[0] // 10}
    assert {sum(labels == (name,) for _, labels in split.train) for name in "abcdefghij"} == {counts[1] // 10}
    leaks = {"queries_in_database": 0, "queries_in_train": 0, "train_outside_database": outside}
    assert split.facts["leaks"] == leaks
    assert len({path for part in parts for path, _ in part}) == 60000
    assert all(part == sorted(part) for part in parts)


def test_files_are_the_split(tmp_path: Path) -> None:
    split = make_split(SOME, "cifar10-1", 3, tmp_path / "new" / "folder", "/photos")
    facts = json.loads((split.folder / "split.json").read_text())
    assert facts == split.facts
    assert facts["protocol"] == "cifar10-1"
    assert facts["seed"] == 3
    for name, part in (("query", split.query), ("train", split.train), ("database", split.database)):
        file = split.folder / f"{name}.csv"
        assert list(read_label_file(file).items()) == part
        assert hashlib.sha256(file.read_bytes()).hexdigest() == facts["sha256"][name]


def test_the_draw_is_pinned(tmp_path: Path) -> None:
    """A published split must stay what it was: this hash may never change."""
    split = make_split(SOME, "cifar10-1", 0, tmp_path, "/photos")
    assert split.facts["sha256"]["query"] == PINNED


PINNED = "5ee12bdcffc99369eab195c4793cc2494570a1d0477636ed4c4df3ad1f5b7884"


def test_same_seed_same_bytes_wherever_the_images_lie(tmp_path: Path) -> None:
    moved = [(path.replace("/photos", "/elsewhere/x"), labels) for path, labels in reversed(SOME)]
    here = make_split(SOME, "cifar10", 7, tmp_path / "a", "/photos")
    there = make_split(moved, "cifar10", 7, tmp_path / "b", "/elsewhere/x")
    other = make_split(SOME, "cifar10", 8, tmp_path / "c", "/photos")
    for name in ("query.csv", "train.csv", "database.csv", "split.json"):
        assert (here.folder / name).read_bytes() == (there.folder / name).read_bytes()
    assert here.facts["sha256"]["query"] != other.facts["sha256"]["query"]


def test_the_two_popular_protocols_share_queries_and_training_images(tmp_path: Path) -> None:
    one, two = (make_split(SOME, name, 0, tmp_path / name, "/photos") for name in ("cifar10", "cifar10-1"))
    assert one.query == two.query
    assert one.train == two.train


def test_paths_as_given_without_a_folder(tmp_path: Path) -> None:
    split = make_split(SOME, "cifar10", 0, tmp_path)
    assert all(path.startswith("/photos/") for path, _ in split.query)


@given(lists=st.tuples(*[st.lists(st.sampled_from("abcdef"), unique=True)] * 3))
@settings(deadline=None)
def test_leaks_are_counted(lists: tuple[list[str], list[str], list[str]]) -> None:
    query, train, database = lists
    assert check_leaks(query, train, database) == {
        "queries_in_database": sum(path in database for path in query),
        "queries_in_train": sum(path in train for path in query),
        "train_outside_database": sum(path not in database for path in train),
    }


def test_what_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=f"unknown protocol 'imagenet': give one of {', '.join(PROTOCOLS)}"):
        make_split(SOME, "imagenet", 0, tmp_path)
    with pytest.raises(ArgumentError, match="seed is -1"):
        make_split(SOME, "cifar10", -1, tmp_path)
    with pytest.raises(LabelError, match="class 'few' has 599 images: the protocol 'cifar10' needs 600"):
        make_split([*SOME, *((f"few/{n}.jpg", ("few",)) for n in range(599))], "cifar10", 0, tmp_path)
    with pytest.raises(LabelError, match=r"'x\.jpg' has 2 labels"):
        make_split([("x.jpg", ("a", "b"))], "cifar10", 0, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot write the split"):
        make_split(SOME, "cifar10", 0, tmp_path / "file")
