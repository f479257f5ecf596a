"""Splits: disjoint, counted, the same to the byte, and checked for leaks."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfaiss.datasets.draws import Image, Protocol, draw
from hashfaiss.datasets.protocols import (
    PROTOCOLS,
    check_leaks,
    make_split,
    parse_protocol,
    protocol_for,
    read_split,
)
from hashfaiss.errors import ArgumentError, LabelError, TrainingError
from hashfaiss.images.labels import read_label_file

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
    assert not any(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot write the split"):
        make_split(SOME, "cifar10", 0, tmp_path / "file")


@pytest.mark.parametrize(
    ("images", "protocol", "told"),
    [
        ([("a/1.jpg", ("a",)), ("b/../a/1.jpg", ("a",)), ("2", ("a",))], "random:query=1", "'a/1.jpg' is listed twice"),
        ([("1.jpg", ("a",)), ("2.jpg", ()), ("3.jpg", ("a",))], "random:query=1", "'2.jpg' has 0 labels"),
        ([("1.jpg", ("a;b",)), ("2.jpg", ("a",))], "random:query=1", "label 'a;b' of '1.jpg' is empty, has a ';'"),
        ([("1.jpg", ("a ",)), ("2.jpg", ("a",))], "random:query=1", "label 'a ' of '1.jpg'"),
        ([("1.jpg", ("",)), ("2.jpg", ("a",))], "random:query=1", "label '' of '1.jpg'"),
        ([("\ud800.jpg", ("a",)), ("2.jpg", ("a",))], "random:query=1", "cannot be written as text"),
        ([("1.jpg", ("\ud800",)), ("2.jpg", ("a",))], "random:query=1", "cannot be written as text"),
        (
            [("1.jpg", ("a", "b")), ("2.jpg", ("a",))],
            "random:query=2",
            "there are 2 images: the protocol .* needs 3 or",
        ),
        (
            [("1.jpg", ("a", "b")), ("2.jpg", ("a",))],
            "random:query=1,train=2",
            "there are 2 images: .* needs 3 or more",
        ),
        ([], "random:query=1,train=2", "there are 0 images"),
        ([(f"{n}.jpg", ("a",)) for n in range(600)], "cifar10", "leaves no image of 600 for the database"),
        ([(f"{n}.jpg", ("a",)) for n in range(600)], "imagenet100", r"'\d+.jpg' lies in neither val/ nor train/"),
        (
            [(f"{n}.jpg", ("a", "b")) for n in range(900)],
            "nuswide21",
            "class 'b' gives 200 of the 500 training images",
        ),
    ],
)
def test_images_that_cannot_be_split(images: list[Image], protocol: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=told) as caught:
        make_split(images, protocol, 0, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


# --- Draws


def published(name: str) -> list[Image]:
    """As many images as the data set has; multi-label ones have up to three."""
    draw_labels = random.Random(0)
    if name == "imagenet100":
        return [
            (f"{part}/n{label:08}/{n}.JPEG", (f"n{label:08}",))
            for label in range(100)
            for part, count in (("train", 1285), ("val", 50))
            for n in range(count + (part == "train" and label < 3))
        ]
    count, classes = {"nuswide21": (195_834, 21), "nuswide81": (203_598, 81), "coco": (122_218, 80)}[name]
    names = [f"class {n}" for n in range(classes)]
    return [(f"x/{n}.jpg", tuple(draw_labels.sample(names, 1 + n % 3))) for n in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "counts", "cutoff"),
    [
        ("nuswide21", (2100, 10500, 193_734), 5000),
        ("nuswide81", (5000, 10000, 198_598), 5000),
        ("imagenet100", (5000, 13000, 128_503), 1000),
        ("coco", (5000, 10000, 117_218), 5000),
    ],
)
def test_published_counts(name: str, counts: tuple[int, ...], cutoff: int) -> None:
    query, train, database = draw(published(name), PROTOCOLS[name], name, 0)
    assert (len(query), len(train), len(database)) == counts
    leaks = check_leaks(*([path for path, _ in part] for part in (query, train, database)))
    assert set(leaks.values()) == {0}
    assert PROTOCOLS[name].cutoff == cutoff


def test_cifar_is_ranked_to_the_end() -> None:
    assert {PROTOCOLS[name].cutoff for name in ("cifar10", "cifar10-1", "cifar10-2")} == {None}


protocols = st.builds(
    Protocol,
    query=st.integers(1, 4),
    train=st.none() | st.integers(1, 5),
    train_in_database=st.booleans(),
    per_class=st.booleans(),
)
label_sets = st.lists(st.sets(st.sampled_from("abc"), min_size=1, max_size=2), min_size=1, max_size=60)


def draw_or_sentence(images: list[Image], protocol: Protocol, seed: int) -> Any:
    try:
        return draw(images, protocol, "x", seed)
    except LabelError as error:
        return str(error)


@given(protocol=protocols, labels=label_sets, seed=st.integers(0, 5), shuffle=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=300)
def test_draws(protocol: Protocol, labels: list[set[str]], seed: int, shuffle: random.Random) -> None:
    images: list[Image] = [(f"{number}.jpg", tuple(sorted(names))) for number, names in enumerate(labels)]
    shuffled = [(path, tuple(shuffle.sample(names, len(names)))) for path, names in images]
    shuffle.shuffle(shuffled)
    drawn, again = (draw_or_sentence(given, protocol, seed) for given in (images, shuffled))
    if isinstance(drawn, str):
        assert again == drawn
        return
    query, train, database = drawn
    assert [[path for path, _ in part] for part in again] == [[path for path, _ in part] for part in drawn]
    classes = {name for names in labels for name in names} if protocol.per_class else {""}
    assert len(query) == protocol.query * len(classes)
    assert len(train) == (len(images) - len(query) if protocol.train is None else protocol.train * len(classes))
    if protocol.per_class:  # every class has its share, among images of several
        for name in classes:
            assert sum(name in names for _, names in query) >= protocol.query
            assert protocol.train is None or sum(name in names for _, names in train) >= protocol.train
    asked, trained, searched = set(query), set(train), set(database)
    assert not asked & trained
    assert not asked & searched
    assert searched == set(images) - asked - (set() if protocol.train_in_database else trained)
    assert all(part == sorted(part) and len(set(part)) == len(part) for part in (query, train, database))


@given(counts=st.lists(st.integers(0, 12), min_size=1, max_size=4), query=st.integers(1, 4), train=st.integers(1, 4))
@settings(deadline=None)
def test_classes_that_are_large_enough_never_fail_with_one_label(counts: list[int], query: int, train: int) -> None:
    images = [(f"{label}/{n}.jpg", (str(label),)) for label, count in enumerate(counts) for n in range(count)]
    protocol = Protocol(query, train, train_in_database=True, one_label=True)
    smallest = min((count for count in counts if count), default=0)
    if smallest >= query + train:
        drawn = draw(images, protocol, "x", 0)
        assert set(Counter(labels for _, labels in drawn[0]).values()) == {query}
        assert set(Counter(labels for _, labels in drawn[1]).values()) == {train}
    else:
        with pytest.raises(LabelError, match=rf"needs {query + train} or more"):
            draw(images, protocol, "x", 0)


def test_seeds_draw_differently() -> None:
    images = [(f"{number}.jpg", ("a", "b")) for number in range(1000)]
    protocol = parse_protocol("random:query=100,train=100")
    one, two = (draw(images, protocol, "x", seed) for seed in (0, 1))
    assert len(set(one[0]) & set(two[0])) < 40
    assert len(set(one[1]) & set(two[1])) < 40


# --- Names of protocols


def test_protocols_are_named() -> None:
    own = parse_protocol("random:train=7,query=5,cutoff=9")
    assert own == Protocol(5, 7, train_in_database=True, cutoff=9, per_class=False)
    assert parse_protocol("random:query=5") == Protocol(5, None, train_in_database=True, per_class=False)
    assert all(parse_protocol(name) is protocol for name, protocol in PROTOCOLS.items())
    assert protocol_for(None, None) == protocol_for("cifar10", None) == "cifar10-1"
    assert protocol_for("coco", None) == "coco"
    assert protocol_for(None, "coco") == "coco"
    assert protocol_for("coco", "random:query=5") == "random:query=5"
    with pytest.raises(ArgumentError, match="'cifar10' is not of coco: give coco or random:query="):
        protocol_for("coco", "cifar10")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "unknown protocol ''"),
        ("Random:query=5", "unknown protocol"),
        ("random", "'random' gives no number of queries"),
        ("random:train=5", "gives no number of queries"),
        ("random:query=0", "'query=0' is no parameter"),
        ("random:query=-1", "'query=-1' is no parameter"),
        ("random:query=5.5", "is no parameter"),
        ("random:query=²", "is no parameter"),
        ("random:query=\u0663", "is no parameter"),
        ("random:query=1234567890", "is no parameter"),
        ("random:query=5,database=3", "'database=3' is no parameter"),
        ("coco:query=5", "'coco' takes no parameters"),
        ("coco:", "'coco' takes no parameters"),
    ],
)
def test_protocols_that_are_none(text: str, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        parse_protocol(text)


def test_classes_may_be_held_out_from_training(tmp_path: Path) -> None:
    images = [image for image in CIFAR if int(image[0][-8:-4]) < 600]
    whole, held = (make_split(images, "cifar10-1", 5, tmp_path / str(n), "/photos", unseen=n) for n in (0, 3))
    unseen = held.facts["unseen"]
    assert len(set(unseen)) == 3
    assert (held.query, held.database) == (whole.query, whole.database)
    assert held.train == [image for image in whole.train if image[1][0] not in unseen]
    assert held.facts["counts"]["train"] == len(held.train) == 7 * 500
    assert read_split(held.folder).facts["unseen"] == unseen
    assert "unseen" not in whole.facts
    assert make_split(images, "cifar10-1", 5, tmp_path / "again", "/photos", unseen=3).facts == held.facts


def test_an_image_of_a_held_out_class_and_another_is_not_trained_on(tmp_path: Path) -> None:
    labels = [("a",), ("b",), ("c",), ("a", "b"), ("b", "c"), ("a", "c")]
    images = [(f"{n:03}.jpg", labels[n % 6]) for n in range(60)]
    split = make_split(images, "random:query=6", 1, tmp_path, unseen=1)
    (unseen,) = split.facts["unseen"]
    assert {names for _, names in split.train} == {names for names in labels if unseen not in names}
    assert any(unseen in names for _, names in split.database)


@pytest.mark.parametrize("unseen", [-1, 1, 2])
def test_two_classes_must_be_left_to_train_on(unseen: int, tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match=rf"unseen is {unseen}, and the training images have 2 classes.*give 0 to 0"
    ):
        make_split(SOME, "cifar10", 0, tmp_path, "/photos", unseen=unseen)
    assert not list(tmp_path.iterdir())
