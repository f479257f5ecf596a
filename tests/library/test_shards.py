"""Shards and their gathering give what one machine's build gives, code for code and id for id."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from builds import by_id, flip, flip_bit, later
from commands import run
from encoders import altered
from hypothesis import given
from hypothesis import strategies as st

from hashfaiss.encoding import pipeline
from hashfaiss.errors import (
    ArgumentError,
    CorruptIndexError,
    EncoderMismatchError,
    HashfaissError,
    IndexFolderError,
    IndexLockedError,
)
from hashfaiss.library.gathering import gather
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.shards import Shard, build_shard
from hashfaiss.storage.manifest import writer_lock


def build_all(index, encoder, photos, of, **how):
    return [build_shard(index, Shard(number, of), encoder, photos, **how) for number in range(1, of + 1)]


def gathered(index, encoder, photos, of=3):
    build_all(index, encoder, photos, of)
    return gather(index)


@given(st.lists(st.binary(min_size=1)), st.integers(1, 1000))
def test_each_image_is_of_one_shard(paths, of):
    for path in paths:
        assert [Shard(number, of).has(path) for number in range(1, of + 1)].count(True) == 1


def test_shards_are_told_by_name_or_refused():
    assert Shard.parse("2/4") == Shard.parse("2-of-4") == Shard(2, 4)
    assert Shard.parse("2-of-4").name == "2-of-4"
    for text in ("", "0/4", "5/4", "-1/4", "1/0", "2", "2/4/6", "a/b", "1/1000000", "1 /4", "\uff11/4"):
        with pytest.raises(ArgumentError, match="give its number and how many there are"):
            Shard.parse(text)


@pytest.mark.parametrize("of", [1, 3, 40])  # of 40, most have no image
def test_a_new_index_is_the_one_that_one_machine_makes(encoder, photos, of):
    (photos / "cat/broken.jpg").write_bytes(b"no image")
    (photos / "notes.txt").write_bytes(b"no image either")
    shutil.copy(photos / "dog/0.jpg", photos / "dog/again.jpg")
    alone = ImageIndex.create(encoder, photos.parent / "alone.index")
    told = alone.build(photos)
    folder = photos.parent / "x.index"
    reports = build_all(folder, encoder, photos, of)
    assert not (folder / "manifest.json").exists()
    report = gather(folder)
    index = ImageIndex.open(folder)
    assert by_id(index) == by_id(alone)
    assert index.store.manifest["next_id"] == alone.store.manifest["next_id"]
    assert (report.encoded, report.skipped, report.kept) == (told.encoded, told.skipped, [])
    assert sum(each.encoded for each in reports) == 13
    assert index.store.manifest["generation"] == 2  # the codes, then FAISS's index
    assert (folder / "skipped.jsonl").read_text() == (alone.path / "skipped.jsonl").read_text()
    assert index.store.manifest["made_with"] == alone.store.manifest["made_with"]
    assert not (folder / "shards").exists()
    assert [trouble for _, trouble in index.verify() if trouble] == []
    asked = photos / "cat/0.jpg"
    assert [(hit.id, hit.distance) for hit in index.query(asked, 5)] == [
        (hit.id, hit.distance) for hit in alone.query(asked, 5)
    ]


def test_what_changed_is_brought_into_step_as_by_one_machine(encoder, photos, monkeypatch):
    monkeypatch.setattr("hashfaiss.library.sync.COMMIT_ROWS", 3)
    base = photos.parent
    ImageIndex.create(encoder, base / "x.index").build(photos)
    flip(photos / "cat/0.jpg", photos / "cat/0.jpg")  # changed
    later(photos / "cat/0.jpg")
    flip(photos / "dog/0.jpg", photos / "dog/new.jpg")  # new
    (photos / "bird/1.png").rename(photos / "cat/moved.png")
    (photos / "bird/0.jpg").unlink()
    (photos / "dog/1.png").write_bytes(b"no image now")
    shutil.copytree(base / "x.index", base / "alone.index")
    told = ImageIndex.create(encoder, base / "alone.index").build(photos)
    report = gathered(base / "x.index", encoder, photos)
    assert by_id(ImageIndex.open(base / "x.index")) == by_id(ImageIndex.open(base / "alone.index"))
    names = ("encoded", "unchanged", "recognised", "removed", "skipped", "kept")
    assert [getattr(report, name) for name in names] == [getattr(told, name) for name in names]


def test_only_what_the_index_has_not_is_encoded(encoder, photos, index):
    assert [report.encoded for report in build_all(index.path, encoder, photos, 3)] == [0, 0, 0]
    flip(photos / "dog/0.jpg", photos / "dog/new.jpg")
    assert sum(report.encoded for report in build_all(index.path, encoder, photos, 3)) == 1
    before = by_id(index)
    gather(index.path)
    after = by_id(ImageIndex.open(index.path))
    assert len(after) == 13
    assert before.items() <= after.items()


def test_a_shard_that_is_built_twice_encodes_nothing_again(encoder, photos, tmp_path):
    first, second = (build_all(tmp_path / "x.index", encoder, photos, 3) for _ in range(2))
    assert sum(report.encoded for report in first) == 12
    assert sum(report.encoded for report in second) == 0
    gather(tmp_path / "x.index")
    assert len(ImageIndex.open(tmp_path / "x.index")) == 12


def test_labels_and_names_left_out_are_those_of_the_shards(encoder, photos, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("".join(f"cat/{number},one;two\n" for number in ("0.jpg", "1.png")) + "dog/0.jpg,three\n")
    for index in (tmp_path / "x.index", tmp_path / "y.index"):
        index.mkdir()
    build_all(tmp_path / "x.index", encoder, photos, 2, labels=labels)
    gather(tmp_path / "x.index")
    alone = ImageIndex.create(encoder, tmp_path / "alone.index")
    alone.build(photos, labels)
    assert by_id(ImageIndex.open(tmp_path / "x.index")) == by_id(alone)
    build_all(tmp_path / "y.index", encoder, photos, 2, exclude=["cat/*"])
    gather(tmp_path / "y.index")
    assert len(ImageIndex.open(tmp_path / "y.index")) == 8


def test_shards_of_other_labels_are_refused(encoder, photos, tmp_path):
    labels, index = tmp_path / "labels.csv", tmp_path / "x.index"
    labels.write_text("cat/0.jpg,one\ndog/0.jpg,two\n")
    build_shard(index, Shard(1, 2), encoder, photos, labels=labels)
    build_shard(index, Shard(2, 2), encoder, photos)
    with pytest.raises(IndexFolderError, match="1/2 and 2/2 were given other label files, or one of them none"):
        gather(index)
    report = gather(index, labels=labels)
    assert (report.encoded, report.left) == (2, [])


def test_shards_of_another_machine_are_copied(encoder, photos, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(photos, elsewhere / "pictures")  # with their times
    here, there = tmp_path / "x.index", elsewhere / "y.index"
    build_shard(here, Shard(1, 2), encoder, photos)
    build_shard(there, Shard(2, 2), encoder, elsewhere / "pictures")
    shutil.copytree(there / "shards/2-of-2", here / "shards/2-of-2")
    shutil.rmtree(elsewhere)
    gather(here, photos)
    alone = ImageIndex.create(encoder, tmp_path / "alone.index")
    alone.build(photos)
    assert by_id(ImageIndex.open(here)) == by_id(alone)


def test_what_came_or_changed_since_is_told_and_left_to_the_next_build(encoder, photos, index):
    before = by_id(index)
    flip(photos / "dog/0.jpg", photos / "dog/new.jpg")
    build_all(index.path, encoder, photos, 3)
    flip(photos / "dog/1.png", photos / "cat/later.png")
    flip(photos / "cat/0.jpg", photos / "cat/0.jpg")
    later(photos / "cat/0.jpg")
    report = gather(index.path)
    assert sorted(os.path.basename(path) for path, _ in report.left) == ["0.jpg", "later.png"]
    assert all("the next build takes it" in reason for _, reason in report.left)
    after = by_id(ImageIndex.open(index.path))
    assert before.items() <= after.items()
    assert len(after) == 13
    assert index.build(photos).encoded == 2


def test_shards_that_do_not_fit_are_refused_and_nothing_is_harmed(encoder, photos, tmp_path):
    folder = tmp_path / "x.index"
    with pytest.raises(IndexFolderError, match="there are no shards"):
        gather(folder)
    build_shard(folder, Shard(2, 3), encoder, photos)
    with pytest.raises(IndexFolderError, match=r"2 of 3 shards are not whole \(number 1, 3\)"):
        gather(folder)
    build_shard(folder, Shard(1, 2), encoder, photos)
    with pytest.raises(IndexFolderError, match="shards of 2 and of 3"):
        gather(folder)
    shutil.rmtree(folder / "shards/1-of-2")
    build_all(folder, encoder, photos, 3)
    with writer_lock(folder / "shards/2-of-3"), pytest.raises(IndexLockedError):
        gather(folder)
    build_shard(folder, Shard(2, 3), encoder, photos, exclude=["cat"])
    with pytest.raises(IndexFolderError, match="leave out other names"):
        gather(folder)
    build_shard(folder, Shard(2, 3), encoder, photos)
    other = altered(encoder, preprocessing=encoder.preprocessing.__class__(32, "crop"))
    with pytest.raises(EncoderMismatchError):
        build_shard(folder, Shard(2, 3), other, photos)
    with pytest.raises(ArgumentError, match="is no folder"):
        build_shard(folder, Shard(2, 3), encoder, photos / "cat/0.jpg")
    assert not (folder / "manifest.json").exists()
    gather(folder)
    assert len(ImageIndex.open(folder)) == 12


def test_a_shard_of_another_model_is_refused(encoder, photos, tmp_path):
    other = altered(encoder, preprocessing=encoder.preprocessing.__class__(32, "crop"))
    build_shard(tmp_path / "x.index", Shard(1, 2), encoder, photos)
    build_shard(tmp_path / "y.index", Shard(2, 2), other, photos)
    shutil.copytree(tmp_path / "y.index/shards/2-of-2", tmp_path / "x.index/shards/2-of-2")
    with pytest.raises(EncoderMismatchError, match="2/2 was encoded by another model"):
        gather(tmp_path / "x.index")


SOUND = {"images": "/", "labels": None, "labels_digest": "", "exclude": []}


@pytest.mark.parametrize("about", [7, {}, {**SOUND, "images": 3}, {**SOUND, "exclude": 1}, {**SOUND, "labels": 2}])
def test_a_damaged_shard_is_told(encoder, photos, tmp_path, about):
    build_all(tmp_path / "x.index", encoder, photos, 2)
    part = tmp_path / "x.index/shards/2-of-2"
    from hashfaiss.storage.store import CodeStore

    with CodeStore.open(part).writing() as writer:
        writer.commit(shard=about)
    with pytest.raises(CorruptIndexError, match="delete it, and build it again"):
        gather(tmp_path / "x.index")
    shutil.rmtree(part)
    build_shard(tmp_path / "x.index", Shard(2, 2), encoder, photos)
    flip_bit(next((part / "codes").glob("*.h5")))
    with pytest.raises(CorruptIndexError):
        gather(tmp_path / "x.index")
    build_shard(tmp_path / "x.index", Shard(2, 2), encoder, photos)  # which encodes that segment's images anew
    gather(tmp_path / "x.index")
    assert len(ImageIndex.open(tmp_path / "x.index")) == 12


def test_a_gathering_that_fails_commits_nothing(encoder, photos, index, monkeypatch):
    monkeypatch.setattr("hashfaiss.library.sync.COMMIT_ROWS", 2)
    monkeypatch.setattr("hashfaiss.library.gathering.TOGETHER", 2)
    for number in range(4):
        flip(photos / f"dog/{number}.{'jpg' if number % 2 == 0 else 'png'}", photos / f"dog/new{number}.png")
    build_all(index.path, encoder, photos, 2)
    before, generation = by_id(index), index.store.manifest["generation"]
    real, calls = pipeline.batched, []

    def failing(items, size):
        for some in real(items, size):
            if len(calls) == 1:  # of two
                raise OSError("the disk is away")
            calls.append(some)
            yield some

    monkeypatch.setattr(pipeline, "batched", failing)
    with pytest.raises(OSError, match="the disk is away"):
        gather(index.path)
    monkeypatch.undo()
    index.refresh()
    assert (by_id(index), index.store.manifest["generation"]) == (before, generation)
    assert [trouble for _, trouble in index.verify() if trouble] == []
    gather(index.path)
    index.refresh()
    assert len(index) == 16


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.pipeline import encode_stream
from hashfaiss.library import sync
from hashfaiss.library.shards import Shard, build_shard
sync.COMMIT_ROWS = 2
def stream(encoder, items, notes):
    for number, batch in enumerate(encode_stream(encoder, items, batch_size=2, learned=True, notes=notes)):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch
model, index, photos = map(Path, sys.argv[1:])
build_shard(index, Shard(1, 1), Encoder.load(model, "cpu"), photos, stream=stream)
"""


@pytest.mark.slow
def test_a_shard_that_is_killed_is_continued(encoder, photos, tmp_path):
    encoder.save(tmp_path / "model.pt")
    given = [sys.executable, "-W", "ignore", "-c", KILLED, tmp_path / "model.pt", tmp_path / "x.index", photos]
    assert subprocess.run(given).returncode == -9
    with pytest.raises(IndexFolderError, match="1 of 1 shards are not whole"):
        gather(tmp_path / "x.index")
    assert build_shard(tmp_path / "x.index", Shard(1, 1), encoder, photos).encoded == 8
    gather(tmp_path / "x.index")
    alone = ImageIndex.create(encoder, tmp_path / "alone.index")
    alone.build(photos)
    assert by_id(ImageIndex.open(tmp_path / "x.index")) == by_id(alone)


def test_the_commands(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder.save(tmp_path / "model.pt")
    assert "no --model: each shard would be fitted" in run("build", "--images", "photos", "--shard", "1/2", code=2)
    both = ("build", "--images", "photos", "--model", "model.pt", "--shard")
    assert "give its number" in run(*both, "3/2", code=2)
    assert "a shard takes none" in run(*both, "1/2", "--kind", "flat", code=2)
    assert "shard 1/2 is whole; when all are: hashfaiss gather" in run(*both, "1/2")
    assert "1 of 2 shards are not whole (number 2)" in run("gather", code=1)
    run("build", "--images", "photos", "--shard", "2/2")  # with the model of the first
    assert "12 encoded" in run("gather")
    found = [json.loads(line) for line in run("query", "photos/cat/0.jpg", "-k", "1", "--json").splitlines()]
    assert [(hit["distance"], os.path.basename(hit["path"])) for hit in found] == [(0, "0.jpg")]
    assert issubclass(IndexFolderError, HashfaissError)
