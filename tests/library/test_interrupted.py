"""Builds that are killed, refused or run out of disk lose nothing committed, and the next one makes all good."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from builds import content, counts
from PIL import Image

from hashfaiss import files as files_module
from hashfaiss.errors import IndexFolderError, IndexLockedError
from hashfaiss.indexes import CodeIndex
from hashfaiss.indexes.beside import Beside
from hashfaiss.library.image_index import ImageIndex


@pytest.mark.parametrize("victim", ["skipped.jsonl", "000", "manifest.json"])
def test_a_disk_that_fills_at_any_file_is_told_and_the_next_build_completes(encoder, photos, monkeypatch, victim):
    (photos / "cat/broken.jpg").write_bytes(b"no image")
    index = ImageIndex.create(encoder, photos.parent / "x.index")
    real = files_module.write_atomic

    def full(path, data):
        if victim in path.name:
            raise OSError(28, "No space left on device")
        real(path, data)

    with monkeypatch.context() as patch:
        for module in ("storage.manifest", "storage.store", "library.build_report"):
            patch.setattr(f"hashfaiss.{module}.write_atomic", full)
        with pytest.raises(IndexFolderError, match="No space left"):
            index.build(photos)
    assert len(ImageIndex.open(index.path)) == (12 if victim == "skipped.jsonl" else 0)
    assert sum(counts(index.build(photos))) == 13
    assert len(ImageIndex.open(index.path)) == 12
    assert len((index.path / "skipped.jsonl").read_text().splitlines()) == 1


NURSERY = """
import os, sys, time
import torch
torch.set_num_threads(1)
from hashfaiss.encoding import pipeline
from hashfaiss.library import sync
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.library.image_index import ImageIndex
sync.COMMIT_ROWS = 16
real = pipeline.encode_stream
def slow(encoder, items, **how):
    for number, batch in enumerate(real(encoder, items, batch_size=16, workers=1, **how)):
        time.sleep(0.2 if number < 2 else 1000)  # no build gets further, however late it is killed
        yield batch
pipeline.encode_stream = slow
model, folder, photos = sys.argv[1:]
print("ready", flush=True)
for line in sys.stdin:
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        os.read(told, 1)  # its number comes before anything it says
        index = ImageIndex.create(Encoder.load(model, "cpu"), folder)
        if line == "hold\\n":
            with index.store.writing():
                print("held", flush=True)
                time.sleep(1000)
        index.build(photos)
        os._exit(0)
    print(child, flush=True)
    os.write(tell, b".")
    _, status = os.waitpid(child, 0)
    print("killed" if os.WIFSIGNALED(status) else "ended", flush=True)
"""


class Nursery:
    """A process that has imported everything, and starts builds to be killed."""

    def __init__(self, *arguments):
        given = [sys.executable, "-W", "ignore", "-c", NURSERY, *map(str, arguments)]
        self.process = subprocess.Popen(given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.child = None
        assert self.hear() == "ready"

    def hear(self):
        return self.process.stdout.readline().strip()

    def start(self, what="build"):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        self.child = int(self.hear())

    def kill(self):
        os.kill(self.child, signal.SIGKILL)
        self.child = None
        return self.hear()

    def close(self):
        if self.child is not None:  # the test failed
            self.kill()
        self.process.communicate()


@pytest.fixture
def nursery(encoder, tmp_path):
    encoder.save(tmp_path / "model.pt")
    nursery = Nursery(tmp_path / "model.pt", tmp_path / "x.index", tmp_path / "photos")
    yield nursery
    nursery.close()


def segments(folder):
    """How many segments are committed; -1 where there is no index yet."""
    try:
        return len(json.loads((folder / "manifest.json").read_text())["segments"])
    except FileNotFoundError:
        return -1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill -9")
def test_killed_at_any_moment_a_build_loses_nothing_committed(encoder, tmp_path, nursery):
    random = np.random.default_rng()  # of no seed: other moments each time
    photos, folder = tmp_path / "photos", tmp_path / "x.index"
    for number in range(320):
        (photos / f"class {number % 4}").mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"class {number % 4}/{number}.png")
    whole = ImageIndex.create(encoder, tmp_path / "whole.index")
    whole.build(photos)
    wanted, committed = content(whole), {}
    for attempt in range(8):
        before = segments(folder)
        nursery.start()
        if attempt < 5:
            time.sleep(random.uniform(0.02, 0.6))
        else:  # right after a commit, or soon
            while segments(folder) <= max(0, before):
                time.sleep(0.002)
            time.sleep((attempt - 5) * 0.01)
        assert nursery.kill() == "killed"
        if segments(folder) < 0:
            continue
        index = ImageIndex.open(folder)
        found = content(index)
        assert committed.items() <= found.items() <= wanted.items()
        troubles = [name for name, trouble in index.verify() if trouble is not None]
        assert troubles in ([], ["encoder.pt"])
        assert not troubles or not found  # killed before the encoder was written, and so before any image
        if found:
            assert len(index.query(photos / "class 0/0.png", 400)) == len(found)
        committed = found
    assert 0 < len(committed) < len(wanted)
    index = ImageIndex.create(encoder, folder)
    report = index.build(photos)
    assert counts(report) == (len(wanted) - len(committed), len(committed), 0, 0)
    index = ImageIndex.open(folder)
    assert content(index) == wanted
    assert all(trouble is None for _, trouble in index.verify())
    assert not [file for file in folder.rglob("*") if file.name.endswith(".tmp")]
    named = {entry["file"] for entry in index.store.manifest["segments"]} | {index.store.manifest["index"]["file"]}
    assert {str(file.relative_to(folder)) for room in ("codes", "faiss") for file in (folder / room).iterdir()} == named


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill -9")
def test_a_build_while_another_process_builds_is_refused(index, photos, nursery):
    nursery.start("hold")
    try:
        assert nursery.hear() == "held"
        for change in (
            lambda: index.build(photos),
            lambda: index.add([photos / "cat/0.jpg"]),
            lambda: index.remove([photos]),
        ):
            with pytest.raises(IndexLockedError, match="another process is writing"):
                change()
        assert len(index.query(photos / "cat/0.jpg", 20)) == 12  # reading goes on
    finally:
        assert nursery.kill() == "killed"
    assert counts(index.build(photos)) == (0, 12, 0, 0)  # a killed process holds nothing


def test_a_maker_killed_before_it_wrote_the_encoder_is_made_good(encoder, photos):
    index = ImageIndex.create(encoder, photos.parent / "x.index")
    (index.path / "encoder.pt").unlink()
    ImageIndex.create(encoder, index.path).build(photos)
    assert len(ImageIndex.open(index.path).query(photos / "cat/0.jpg")) == 10


def test_a_folder_of_codes_without_a_manifest_is_left_alone(encoder, photos):
    index = encoder.to_index(photos, photos.parent / "x.index")
    (index.path / "manifest.json").unlink()
    assert counts(encoder.to_index(photos, index.path).build(photos)) == (0, 12, 0, 0)  # its copy is there
    for name in ("manifest.json", "manifest.copy.json"):
        (index.path / name).unlink()
    before = sorted(path.name for path in (index.path / "codes").iterdir())
    with pytest.raises(IndexFolderError, match=r"manifest\.json is gone"):
        encoder.to_index(photos, index.path)
    assert sorted(path.name for path in (index.path / "codes").iterdir()) == before


def test_a_damaged_encoder_is_replaced_by_the_right_one(encoder, photos):
    index = encoder.to_index(photos, photos.parent / "x.index")
    damaged = bytearray((index.path / "encoder.pt").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (index.path / "encoder.pt").write_bytes(damaged)
    ImageIndex.create(encoder, index.path).build(photos)
    assert all(trouble is None for _, trouble in ImageIndex.open(index.path).verify())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill -9")
def test_what_a_killed_build_committed_lies_beside_the_index_that_was(index, photos, nursery):
    random = np.random.default_rng(0)
    built = index.store.manifest["index"]
    for number in range(60):
        pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"cat/new{number}.png")
    (photos / "dog/0.jpg").unlink()
    nursery.start()
    while segments(index.path) < 2:
        time.sleep(0.002)
    assert nursery.kill() == "killed"
    opened = ImageIndex.open(index.path)
    assert opened.store.manifest["index"] == built
    assert isinstance(opened.codes.kind, Beside)
    assert len(opened) > 12
    assert opened.faiss.ntotal == len(index.codes.distinct)
    anew = CodeIndex(*opened.store.codes(), opened.bits, "flat")
    queries = opened.codes.distinct.codes
    for found, wanted in zip(opened.codes.search(queries, 9), anew.search(queries, 9), strict=True):
        assert [part.tolist() for part in found] == [part.tolist() for part in wanted]
    assert [name for name, trouble in opened.verify() if trouble] == ["images"]  # the one that is gone
    index.build(photos)
    assert len(index) == 71
    assert index.faiss.ntotal == len(index.codes.distinct)  # an index so small is built anew
