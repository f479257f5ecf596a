"""A split is read as it was written, by us or by other repositories, or refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_protocols import SOME

from hashfaiss.datasets.protocols import leak_sentence, make_split, read_split
from hashfaiss.errors import LabelError

letters = st.characters(exclude_characters="\0\r\n/", exclude_categories=["Cs"])  # bytes that are none: the next test
paths = st.lists(st.text(letters, min_size=1, max_size=8), min_size=2, max_size=9, unique=True)
names = st.lists(st.sampled_from(["a", "b c", 'd"', "e,f", "ü"]), min_size=1, max_size=3, unique=True).map(tuple)


@given(paths=paths, data=st.data())
@settings(deadline=None)
def test_what_was_written_is_read(paths: list[str], data: st.DataObject) -> None:
    images = [(f"/photos/{path}/x.jpg", data.draw(names)) for path in paths if path not in (".", "..")]
    if len(images) < 2:
        return
    with tempfile.TemporaryDirectory() as folder:
        made = make_split(images, "random:query=1", 0, folder, "/photos")
        assert read_split(folder) == made


def test_names_of_any_bytes_are_read(tmp_path: Path) -> None:
    images = [(os.fsdecode(b'/photos/\xff\xfe;," 0 1 %d.jpg' % n), ("a", "b")) for n in range(5)]
    made = make_split(images, "random:query=1,train=2", 0, tmp_path, "/photos")
    assert read_split(tmp_path) == made


def theirs(folder: Path) -> None:
    (folder / "test.txt").write_text("images/1_m.jpg 1 0 0\nimages/2_m.jpg 0 0 0\n")
    (folder / "train.txt").write_text("images/3_m.jpg 0 1 1\nimages/1_m.jpg 1 0 0\nimages/6_m.jpg 0 1 0\n")
    (folder / "database.txt").write_text("images/2_m.jpg 0 0 0\nimages/3_m.jpg 0 1 1\nimages/1_m.jpg 1 0 0\n")


def test_lists_of_other_repositories(tmp_path: Path) -> None:
    theirs(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    split = read_split(tmp_path)
    assert split.query == [("images/1_m.jpg", ("0",)), ("images/2_m.jpg", ())]
    assert split.train == [("images/1_m.jpg", ("0",)), ("images/3_m.jpg", ("1", "2")), ("images/6_m.jpg", ("1",))]
    assert [path for path, _ in split.database] == [f"images/{n}_m.jpg" for n in (1, 2, 3)]
    assert split.facts == {
        "counts": {"query": 2, "train": 3, "database": 3},
        "sha256": {
            name: hashlib.sha256(before[file]).hexdigest()
            for name, file in (("query", "test.txt"), ("train", "train.txt"), ("database", "database.txt"))
        },
        "leaks": {"queries_in_database": 2, "queries_in_train": 1, "train_outside_database": 1},
        "files": ["test.txt", "train.txt", "database.txt"],
        "unlabelled": {"query": 1, "train": 0, "database": 1},
    }
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_lists_that_are_not_those_that_were_drawn(tmp_path: Path) -> None:
    split = make_split(SOME, "cifar10-1", 0, tmp_path, "/photos")
    assert read_split(tmp_path) == split
    for name in ("query.csv", "train.csv", "database.csv"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole + b"extra.jpg,a\n")
        with pytest.raises(LabelError, match=f"'{name}' in .* is not the list that split.json was written with"):
            read_split(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(LabelError, match=f"has no '{name}': a split is query.csv, train.csv and database.csv of"):
            read_split(tmp_path)
        (tmp_path / name).write_bytes(whole)
    facts = json.loads((tmp_path / "split.json").read_text())
    facts["leaks"]["queries_in_database"] = facts["counts"]["query"] = 7  # counted anew, whatever stands there
    (tmp_path / "split.json").write_text(json.dumps(facts))
    assert read_split(tmp_path) == split
    (tmp_path / "split.json").unlink()
    assert read_split(tmp_path).facts == {name: split.facts[name] for name in ("counts", "sha256", "leaks")}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"sha256": 7}', '{"sha256": {"query": 1}}', "[" * 100_000, "\udcff"]
)
def test_facts_that_are_none(content: str, tmp_path: Path) -> None:
    make_split(SOME, "cifar10-1", 0, tmp_path, "/photos")
    (tmp_path / "split.json").write_text(content, errors="surrogateescape")
    with pytest.raises(LabelError, match=r"split.json' is not as `hashfaiss split` writes it"):
        read_split(tmp_path)


def test_folders_that_hold_no_split(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"has no 'test.txt': a split is .* or test.txt, train.txt and database.txt"):
        read_split(tmp_path)
    theirs(tmp_path)
    (tmp_path / "train.txt").unlink()
    with pytest.raises(LabelError, match=r"has no 'train.txt'"):
        read_split(tmp_path)
    (tmp_path / "train.txt").write_text("images/3_m.jpg 0 1 x\n")
    with pytest.raises(LabelError, match=r"train.txt"):
        read_split(tmp_path)


def test_leaks_are_told_in_one_line(tmp_path: Path) -> None:
    assert leak_sentence(make_split(SOME, "cifar10", 0, tmp_path / "x", "/photos").facts) == (
        "leaks: no query in the database or the training set; training images outside the database: 1,000"
    )
    (tmp_path / "y").mkdir()
    theirs(tmp_path / "y")
    assert leak_sentence(read_split(tmp_path / "y").facts) == (
        "leaks: 2 of 2 queries in the database (each finds itself); 1 of 2 queries in the training set (learned by "
        "heart); training images outside the database: 1"
    )
    shutil.copy(tmp_path / "y/test.txt", tmp_path / "y/database.txt")
    (tmp_path / "y/train.txt").write_text("images/9_m.jpg 1 0 0\n")
    assert (
        "2 of 2 queries in the database (each finds itself); 0 of 2 queries in the training set; tr"
        in leak_sentence(read_split(tmp_path / "y").facts)
    )
