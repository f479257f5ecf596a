"""The manifest: what it names is the index, whatever else lies in the folder or was done to it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from test_store import content, fill

from hashfaiss.errors import CorruptIndexError, IndexFolderError, NewerFormatError
from hashfaiss.storage import manifest as manifest_module
from hashfaiss.storage.store import CodeStore


def test_a_manifest_that_cannot_be_used_is_told(tmp_path):
    store = CodeStore.create(tmp_path / "x", 20)
    fill(store, 3)
    file = tmp_path / "x" / "manifest.json"
    sound = json.loads(file.read_text())
    entry = sound["segments"][0]
    (tmp_path / "x" / "manifest.copy.json").unlink()

    def refused(text, error, match):
        if isinstance(text, dict):  # rightly signed: the rest of it is to be refused
            text = {name: value for name, value in text.items() if name != "sha256"}
            text["sha256"] = manifest_module.digest_of(text)
        file.write_bytes(text if isinstance(text, bytes) else json.dumps(text).encode())
        with pytest.raises(IndexFolderError, match=match) as caught:
            CodeStore.open(tmp_path / "x")
        assert type(caught.value) is error

    refused(b"{", CorruptIndexError, "cannot be read")
    refused(b"", CorruptIndexError, "cannot be read")
    refused(b"\xff\xff", CorruptIndexError, "cannot be read")
    refused({**sound, "version": 3}, NewerFormatError, "format version 3")
    refused({**sound, "format": "other"}, IndexFolderError, "something else's")
    refused({"name": "web app"}, IndexFolderError, "something else's")
    refused([], IndexFolderError, "something else's")
    for name in ("segments", "bits", "generation", "next_id"):
        refused({k: v for k, v in sound.items() if k != name}, CorruptIndexError, "incomplete")
        refused({**sound, name: "many"}, CorruptIndexError, "incomplete|outside")
    refused({**sound, "bits": 21}, CorruptIndexError, "no segment of 21-bit")
    for name in ("../secret.h5", "/etc/passwd", "codes/../../x", "codes/..", "codes/", "faiss/x", "codes/a/b", ""):
        refused({**sound, "segments": [{**entry, "file": name}]}, CorruptIndexError, "outside the index")
    for name, value in (("file", 5), ("rows", "3"), ("rows", None), ("rows", -1), ("xxh3", None)):
        refused({**sound, "segments": [{**entry, name: value}]}, CorruptIndexError, "incomplete|outside")
    refused({**sound, "segments": [{**entry, "rows": 4}]}, CorruptIndexError, "holds 3 rows, not 4")
    refused({**sound, "segments": [{**entry, "xxh3": "0" * 32}]}, CorruptIndexError, "not those that were written")
    refused({**sound, "segments": [{**entry, "file": "codes/."}]}, IndexFolderError, "no regular file")
    for removed in (
        5,
        "?",
        "aGFzaA==",
        manifest_module.packed_ids(np.array([2, 1])),
        manifest_module.packed_ids(np.arange(4)),
    ):
        refused({**sound, "removed": removed}, CorruptIndexError, "incomplete")
    file.write_text(json.dumps(sound))
    assert len(CodeStore.open(tmp_path / "x")) == 3


def test_leftovers_are_cleared_by_the_next_writer_and_by_no_reader(tmp_path):
    store = CodeStore.create(tmp_path / "x", 20)
    fill(store, 4)
    folder = tmp_path / "x"
    (folder / "faiss").mkdir()
    leftovers = [
        "codes/000009-00-abcd.h5",
        ".manifest.copy.json.5.tmp",
        ".skipped.jsonl.5.tmp",
        "codes/.000002-00-1234.h5.77.tmp",
        "faiss/000001.index",
        ".manifest.json.5.tmp",
    ]
    for name in leftovers:
        (folder / name).write_bytes(b"half")
    others = ["codes/mine.h5", "faiss/notes.txt", ".mine.tmp"]  # of no name of ours
    for name in others:
        (folder / name).write_bytes(b"mine")
    (folder / "codes/000008-00-abcd.h5").mkdir()
    before = content(CodeStore.open(folder))
    assert all((folder / name).exists() for name in leftovers)
    with store.writing():
        assert not any((folder / name).exists() for name in leftovers)
        assert all((folder / name).exists() for name in others)
    assert content(CodeStore.open(folder)) == before
    assert (folder / "manifest.json").exists()


def test_create_leaves_other_things_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    for place, match in (
        ("file", "is a file"),
        ("full", "holds other things, such as 'thesis.tex'"),
        ("file/x", "cannot make"),
    ):
        with pytest.raises(IndexFolderError, match=match):
            CodeStore.create(tmp_path / place, 20)
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    CodeStore.create(tmp_path / "x", 20)
    with pytest.raises(IndexFolderError, match="is an index already"):
        CodeStore.create(tmp_path / "x", 20)
    for place in ("nowhere", "full", "file"):
        with pytest.raises(IndexFolderError, match="there is no index at"):
            CodeStore.open(tmp_path / place)


@pytest.mark.parametrize("copy", [True, False])
def test_no_byte_of_the_manifest_can_change_unnoticed(tmp_path, copy):
    """With its copy nothing is lost either."""
    folder = tmp_path / "x"
    fill(CodeStore.create(folder, 20), 3)
    wanted = content(CodeStore.open(folder))
    file = folder / "manifest.json"
    sound, meant = file.read_bytes(), json.loads(file.read_bytes())
    if not copy:
        (folder / "manifest.copy.json").unlink()
    for at in range(len(sound)):
        changed = bytearray(sound)
        changed[at] ^= 1
        file.write_bytes(changed)
        try:
            opened = CodeStore.open(folder)
        except IndexFolderError:
            assert not copy
            continue
        assert content(opened) == wanted
        if not copy:
            assert json.loads(changed) == meant  # white space


def test_of_the_manifest_and_its_copy_the_newer_counts_and_a_writer_mends_the_other(tmp_path):
    folder = tmp_path / "x"
    store = CodeStore.create(folder, 20)
    files = [folder / name for name in ("manifest.json", "manifest.copy.json")]
    fill(store, 3)
    old = files[0].read_bytes()
    fill(store, 2, 1)
    new = files[0].read_bytes()
    assert files[1].read_bytes() == new
    wanted = content(store)
    for data in (old, b"{", None):  # put back, damaged, gone
        for file in files:
            if data is None:
                file.unlink()
            else:
                file.write_bytes(data)
            opened = CodeStore.open(folder)
            assert content(opened) == wanted
            behind = data == old and file == files[1]  # by one: a writer may have been killed before it wrote the copy
            assert [name for name, trouble in opened.verify() if trouble] == [file.name] * (not behind)
            with opened.writing():
                pass
            assert [file.read_bytes() for file in files] == [new, new]
    for file in files:
        file.unlink()
    with pytest.raises(IndexFolderError, match="there is no index"):
        CodeStore.open(folder)


def test_an_older_generation_that_was_put_back_whole_is_told_by_later_files(tmp_path):
    """From two generations on: what is one ahead may be of a writer that was killed, and is no trouble."""
    folder = tmp_path / "x"
    store = CodeStore.create(folder, 20)
    fill(store, 3)
    files = [folder / name for name in ("manifest.json", "manifest.copy.json")]
    old = files[0].read_bytes()
    for generation in (2, 3):
        fill(store, 2, generation)
        assert not any(trouble for _, trouble in CodeStore.open(folder).verify())
        new = files[0].read_bytes()
        for file in files:
            file.write_bytes(old)
        told = [trouble for _, trouble in CodeStore.open(folder).verify() if trouble]
        assert len(told) == 2 * (generation == 3)
        assert all("it is of generation 1, and codes/000003-02-" in trouble for trouble in told)
        for file in files:
            file.write_bytes(new)


@pytest.mark.parametrize("error", [5, 13, 24])
def test_what_cannot_be_read_for_now_is_not_called_damaged(tmp_path, monkeypatch, error):
    """EIO, EACCES, EMFILE."""
    fill(CodeStore.create(tmp_path / "x", 20), 3)

    def refused(*_, **__):
        raise OSError(error, os.strerror(error))

    for name in ("read_text", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, refused)
            with pytest.raises(IndexFolderError, match=os.strerror(error)) as caught:
                CodeStore.open(tmp_path / "x", damaged=True)
            assert type(caught.value) is IndexFolderError
    assert len(CodeStore.open(tmp_path / "x")) == 3


def test_a_file_that_cannot_be_deleted_is_left_for_the_next_writer(tmp_path, monkeypatch):
    store = CodeStore.create(tmp_path / "x", 8)
    left = store.path / "codes/000009-00-dead.h5"
    left.write_bytes(b"x")
    unlink, held = os.unlink, {str(left)}

    def refusing(path):
        if os.fspath(path) in held:
            raise PermissionError(13, "in use", str(path))
        unlink(path)

    monkeypatch.setattr(os, "unlink", refusing)
    for holds in (True, False):
        with store.writing():
            assert left.exists() == holds
        held.clear()


def test_an_index_of_format_1_is_read_and_written_on(tmp_path):
    """It knew files by their sha256."""
    folder = tmp_path / "x"
    store = CodeStore.create(folder, 20)
    fill(store, 3)
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["segments"]:
        del entry["xxh3"]
        entry["sha256"] = hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()
    del manifest["sha256"]
    manifest_module.write_manifest(folder, {**manifest, "version": 1})
    old = CodeStore.open(folder)
    assert (old.codes()[0] == store.codes()[0]).all()
    assert not any(trouble for _, trouble in old.verify())
    fill(old, 2)
    again = CodeStore.open(folder)
    assert len(again) == 5
    assert again.manifest["version"] == manifest_module.VERSION
    assert not any(trouble for _, trouble in again.verify())
    file = folder / manifest["segments"][0]["file"]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptIndexError, match="not those that were written"):
        CodeStore.open(folder)
