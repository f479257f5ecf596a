"""Builds: what is encoded, kept and forgotten."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from builds import content, counts, flip, later
from PIL import Image

from hashfaiss.encoding import pipeline
from hashfaiss.errors import ArgumentError, HashfaissError, ImageError, IndexFolderError, LabelError
from hashfaiss.images import decoding, finding
from hashfaiss.library import sync
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.storage.segments import Row
from hashfaiss.storage.store import CodeStore


def test_a_build_encodes_what_is_new_or_changed_and_forgets_what_is_gone(index, encoder, photos):
    first, generation = content(index), index.store.manifest["generation"]
    assert len(index) == 12
    assert {labels for _, labels in first.values()} == {("bird",), ("cat",), ("dog",)}
    assert counts(index.build(photos)) == (0, 12, 0, 0)
    assert index.store.manifest["generation"] == generation  # nothing was written

    later(photos / "cat/0.jpg")  # touched
    report = index.build(photos)
    assert (counts(report), report.recognised) == ((0, 11, 0, 0), 1)
    assert content(index) == first

    flip(photos / "dog/1.png", photos / "cat/1.png")  # changed
    (photos / "bird/2.jpg").unlink()
    (photos / "fish").mkdir()
    flip(photos / "dog/0.jpg", photos / "fish/new.jpg")
    (photos / "cat/broken.jpg").write_bytes(b"no image")
    (photos / "cat/notes.txt").write_text("not looked at")
    report = index.build(photos)
    assert counts(report) == (2, 10, 1, 1)
    now = content(index)
    assert [now[f"photos/{name}"][1] for name in ("cat/1.png", "fish/new.jpg")] == [("cat",), ("fish",)]
    assert set(first) - set(now) == {"photos/bird/2.jpg"}
    assert set(now) - set(first) == {"photos/fish/new.jpg"}
    assert [json.loads(line)["path"] for line in report.skipped_report.read_text().splitlines()] == [
        str(photos / "cat/broken.jpg")
    ]
    np.testing.assert_array_equal(
        index.store.codes()[0][-2:], encoder.encode([photos / "cat/1.png", photos / "fish/new.jpg"])
    )
    assert content(ImageIndex.open(index.path)) == now

    shutil.move(photos / "fish", photos / "carp")  # another label
    report = index.build(photos)
    assert (counts(report), report.recognised) == ((0, 11, 0, 1), 1)
    assert content(index)["photos/carp/new.jpg"] == (now["photos/fish/new.jpg"][0], ("carp",))
    (photos / "cat/broken.jpg").unlink()
    assert index.build(photos).skipped_report is None
    assert not (index.path / "skipped.jsonl").exists()


def test_an_image_that_became_unreadable_leaves_and_is_named(index, photos):
    (photos / "dog/0.jpg").write_bytes(b"")
    report = index.build(photos)
    assert counts(report) == (0, 11, 1, 1)
    assert report.skipped == [(str(photos / "dog/0.jpg"), "empty file")]
    assert "photos/dog/0.jpg" not in content(index)
    assert len(index) == 11


def test_labels_from_a_file(encoder, photos):
    table = photos.parent / "labels.csv"
    table.write_text("path,label\ncat/0.jpg,cat;pet\n./dog/0.jpg,dog\nbird/gone.jpg,bird\n")
    index = ImageIndex.create(encoder)
    report = index.build(photos, table)
    assert (counts(report), report.skipped) == ((2, 0, 0, 1), [(str(photos / "bird/gone.jpg"), "no such file")])
    labels = {index.store.full_path(row): row.labels for _, row in index.store.rows()}
    assert labels == {str(photos / "cat/0.jpg"): ("cat", "pet"), str(photos / "dog/0.jpg"): ("dog",)}
    table.write_text("path,label\ncat/0.jpg,cat\n")
    assert counts(index.build(photos, table)) == (0, 0, 1, 0)
    assert counts(index.build(photos)) == (11, 1, 0, 0)  # by folder, the one image's labels are the same
    table.write_text("path,label\nnowhere.jpg,cat\n")
    with pytest.raises(LabelError):
        index.build(photos, table)
    assert len(index) == 12


def test_images_of_other_folders_stay(index, encoder, photos):
    other = photos.parent / "photos2"  # begins with the same letters
    shutil.copytree(photos / "cat", other / "cat")
    (other / "cat/bad.png").write_bytes(b"bad")
    report = index.build(other)
    assert (counts(report), report.recognised) == ((0, 0, 0, 1), 4)  # copies
    (photos / "cat/bad.png").write_bytes(b"bad")
    (photos / "cat/0.jpg").unlink()
    assert counts(index.build(photos)) == (0, 11, 1, 1)
    assert len(index) == 15
    named = [json.loads(line) for line in (index.path / "skipped.jsonl").read_text().splitlines()]
    assert {entry["path"] for entry in named} == {str(photos / "cat/bad.png"), str(other / "cat/bad.png")}
    assert all(entry["reason"] for entry in named)
    (index.path / "skipped.jsonl").write_text('{"half of a li\n[1]\n{}\n')  # a damaged report stops nothing
    assert counts(index.build(photos)) == (0, 11, 0, 1)
    assert len((index.path / "skipped.jsonl").read_text().splitlines()) == 1


def test_what_cannot_be_listed_is_not_taken_for_gone(index, photos, monkeypatch):
    before, scandir = content(index), os.scandir
    hidden = {str(photos / "dog")}

    def refusing(folder):
        if os.fspath(folder) in hidden:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(finding.os, "scandir", refusing)
    (photos / "cat/0.jpg").unlink()
    report = index.build(photos)
    assert (counts(report), report.kept) == (
        (0, 7, 1, 0),
        [(str(photos / "dog"), "folder cannot be listed: Permission denied")],
    )
    assert content(index) == {path: known for path, known in before.items() if path != "photos/cat/0.jpg"}
    hidden.add(str(photos))
    with pytest.raises(HashfaissError, match="holds no images"):
        index.build(photos)
    assert len(index) == 11


def test_an_emptied_or_missing_folder_changes_nothing(index, photos):
    before, generation = content(index), index.store.manifest["generation"]
    shutil.rmtree(photos)
    with pytest.raises(ArgumentError, match="does not exist"):
        index.build(photos)
    photos.mkdir()
    for change in (index.build, index.add):
        with pytest.raises(HashfaissError, match="holds no images.*nothing was changed"):  # noqa: RUF043
            change(photos)
    assert (content(index), index.store.manifest["generation"]) == (before, generation)
    assert content(ImageIndex.open(index.path)) == before


def test_files_that_vanish_during_a_build_are_named(index, photos, monkeypatch):
    for name in ("cat/0.jpg", "cat/1.png"):
        flip(photos / "dog/0.jpg", photos / name)

    def vanishing(path):
        (photos / "cat/0.jpg").unlink(missing_ok=True)
        return decoding.read_bytes(path)

    monkeypatch.setattr(pipeline, "read_bytes", vanishing)
    report = index.build(photos)
    assert counts(report) == (1, 10, 1, 1)
    assert report.skipped == [(str(photos / "cat/0.jpg"), "no such file")]
    assert len(index) == 11


def test_strict_stops_at_what_cannot_be_read_and_keeps_the_rest(encoder, photos):
    (photos / "cat/broken.jpg").write_bytes(b"no image")
    index = ImageIndex.create(encoder, photos.parent / "x.index")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        index.build(photos, strict=True)
    assert len(ImageIndex.open(index.path)) == len(index) <= 12
    (photos / "cat/broken.jpg").unlink()
    assert sum(counts(index.build(photos, strict=True))) == 12
    assert len(index) == 12


def test_add_forgets_nothing_and_one_path_is_one_image(encoder, photos):
    index = ImageIndex.create(encoder, photos.parent / "x.index")
    one, two = photos / "cat/0.jpg", photos / "cat/1.png"
    assert counts(index.add([one, two, str(one)], [["cat"], ["cat", "pet"], ["cat"]])) == (2, 0, 0, 0)
    assert counts(index.add([one], [["cat"]])) == (0, 1, 0, 0)
    assert counts(index.add(str(one))) == (0, 1, 0, 0)  # no labels given: as they are
    assert index.add([one], [[]]).recognised == 1
    assert content(index)["photos/cat/0.jpg"][1] == ()
    assert counts(index.add([photos / "nowhere.jpg"])) == (0, 0, 0, 1)
    two.unlink()
    report = index.add(photos)
    assert (counts(report), report.recognised) == ((10, 0, 0, 0), 1)  # labelled by its folder now
    assert "photos/cat/1.png" in content(index)
    assert counts(index.build(photos)) == (0, 11, 1, 0)
    picture = Image.open(one)
    assert counts(index.add([picture, picture], [["x"], []])) == (2, 0, 0, 0)
    assert len(index) == 13
    for labels in ([["a"]], "labels.csv", ["cat", "dog"], [["a"], [1]], []):
        with pytest.raises(ArgumentError, match="labels"):
            index.add([one, two], labels)
    for images in (5, [5], [None], [b"x"]):
        with pytest.raises((ArgumentError, TypeError)):
            index.add(images)
    assert len(ImageIndex.open(index.path)) == 13


def test_remove_paths_and_folders(index, photos):
    before = content(index)
    for missing in (["nowhere.jpg"], [photos / "cat/0.jpg", photos / "nowhere"], [photos / "ca"]):
        with pytest.raises(ArgumentError, match="nothing was removed"):
            index.remove(missing)
    assert content(index) == content(ImageIndex.open(index.path)) == before
    assert index.remove([photos / "cat", photos / "cat/0.jpg", str(photos / "dog/1.png")]) == 5
    assert index.remove(photos / "dog/0.jpg") == 1
    wanted = {path for path in before if "/cat/" not in path} - {"photos/dog/1.png", "photos/dog/0.jpg"}
    assert set(content(ImageIndex.open(index.path))) == wanted
    assert not {hit.path for hit in index.query(photos / "cat/0.jpg", 20)} & {str(photos / "cat/0.jpg")}
    assert index.remove([photos]) == 6
    assert (len(index), list(index.query(photos / "cat/0.jpg"))) == (0, [])
    assert counts(index.build(photos)) == (12, 0, 0, 0)
    assert content(index) == before


def test_progress_runs_from_nothing_to_all(encoder, photos):
    seen = []
    (photos / "cat/broken.jpg").write_bytes(b"no image")
    ImageIndex.create(encoder).build(photos, progress=lambda done, todo: seen.append((done, todo)))
    assert (seen[0], seen[-1]) == ((0, 13), (13, 13))
    assert seen == sorted(seen)


def test_the_kind_of_a_later_build_is_kept(index, photos):
    report = index.build(photos, kind="hash:b=4,flips=4")
    assert (counts(report), index.info()["kind"]) == ((0, 12, 0, 0), "hash:b=4,flips=4")
    later(photos / "cat/0.jpg")
    index.build(photos)
    assert ImageIndex.open(index.path).info()["kind"] == "hash:b=4,flips=4"
    for kind in ("lsh", "hash:b=99", ""):
        with pytest.raises(ArgumentError):
            index.build(photos, kind=kind)
    assert len(index.query(photos / "cat/0.jpg", 20)) == 12


def test_known_files_are_few_bytes_and_found_by_path(index, photos):
    known = sync.KnownFiles(index.store, str(photos))
    file = finding.image_file(str(photos / "cat/0.jpg"))
    found = known.find(file, ("cat",))
    assert (index.store.row(found.id).path, found.same) == (b"photos/cat/0.jpg", True)
    assert known.find(file, ("dog",)) == replace(found, same=False)
    assert known.find(finding.image_file(str(photos / "cat/9.jpg")), ()) is None
    assert len(known.gone()[0]) == 11  # as if they were left out
    known.keep_below(str(photos / "dog"))
    assert len(known.gone()[0]) == 7


def test_known_files_take_few_bytes_however_long_their_paths():
    store, count = CodeStore.create(None, 8), 20_000
    with store.writing() as writer:
        rows = [Row(b"folder" * 30 + str(number).encode(), 1, 1, bytes(16), ("a",)) for number in range(count)]
        writer.append(np.zeros((count, 1), np.uint8), rows)
        writer.commit()
    len(store)  # reads ids and removals, which stay
    tracemalloc.start()
    try:
        known = sync.KnownFiles(store, None)
        retained, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not len(known.gone()[0])
    assert retained < 60 * count


def test_any_iterable_of_paths_is_taken_once(encoder, photos):
    index = encoder.to_index(photos.rglob("*.png"))
    assert len(index) == 6
    assert index.add(path for path in photos.rglob("*.jpg")).encoded == 6


def test_nothing_is_made_for_images_that_are_not_there(encoder, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    for images, error in (("gone", ArgumentError), ("empty", HashfaissError)):
        with pytest.raises(error):
            encoder.to_index(tmp_path / images, tmp_path / "x.index")
    assert not (tmp_path / "x.index").exists()


def test_an_index_of_codes_alone_is_no_image_index(tmp_path):
    CodeStore.create(tmp_path / "x", 20)
    with pytest.raises(IndexFolderError, match="not the encoder that made them"):
        ImageIndex.open(tmp_path / "x")


def test_removing_many_paths_takes_one_pass(index, photos):
    gone = [*photos.rglob("*.png"), photos / "dog", photos]
    assert index.remove(gone) == 12


def test_adding_a_known_file_keeps_its_labels(index, photos):
    (photos / "cat/0.jpg").write_bytes((photos / "dog/0.jpg").read_bytes())
    report = index.add([photos / "cat/0.jpg", photos / "cat/1.png"])
    assert (counts(report), report.recognised) == ((0, 1, 0, 0), 1)
    labels = {row.path: row.labels for _, row in index.store.rows()}
    assert labels[b"photos/cat/0.jpg"] == labels[b"photos/cat/1.png"] == ("cat",)
