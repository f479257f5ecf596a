"""A Ray cluster encodes what one machine does, code for code, and outlives those that end in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from builds import by_id
from commands import run
from PIL import Image

from hashfaiss.cluster import encoding
from hashfaiss.cluster.encoding import RayStream, Worker, _Task
from hashfaiss.cluster.joining import joined
from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.sync import CodesFrom

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture
def alone(encoder, photos):
    """The index that one machine makes, of images some of which cannot be read."""
    (photos / "cat/broken.jpg").write_bytes(b"no image")
    index = ImageIndex.create(encoder, photos.parent / "alone.index")
    index.build(photos)
    return index


def test_codes_ids_and_reasons_are_those_of_one_machine(ray, encoder, photos, alone):
    index = ImageIndex.create(encoder, photos.parent / "x.index")
    report = index.build(photos, codes_from=CodesFrom(RayStream(workers=2, chunk=3)))
    assert by_id(index) == by_id(alone)
    assert (report.encoded, len(report.skipped)) == (12, 1)
    assert (index.path / "skipped.jsonl").read_text() == (alone.path / "skipped.jsonl").read_text()
    assert index.build(photos, codes_from=CodesFrom(RayStream())).encoded == 0  # which starts nothing


def test_images_in_memory_are_encoded_here(ray, encoder, photos):
    images = [Image.open(path) for path in sorted(photos.rglob("*.png"))]
    index, alone = ImageIndex.create(encoder), ImageIndex.create(encoder)
    index.build(images, codes_from=CodesFrom(RayStream(workers=1)))
    alone.build(images)
    assert (index.store.codes()[0] == alone.store.codes()[0]).all()


def test_a_worker_that_is_killed_costs_its_chunk(ray, encoder, photos, alone, monkeypatch):
    made, killed = [], []

    class Seen(encoding._Actors):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

    def stream(encoder, items, notes):
        for number, batch in enumerate(RayStream(workers=2, chunk=1)(encoder, items, notes)):
            if number in (1, 6):
                worker = made[0].free[len(killed)]
                killed.append(ray.get(worker.__ray_call__.remote(lambda self: os.getpid())))
                os.kill(killed[-1], signal.SIGKILL)
            yield batch

    monkeypatch.setattr(encoding, "_Actors", Seen)
    index = ImageIndex.create(encoder, photos.parent / "x.index")
    index.build(photos, codes_from=CodesFrom(stream))
    assert len(set(killed)) == 2
    assert by_id(index) == by_id(alone)


def test_an_image_that_ends_every_worker_is_told(ray, encoder, photos, monkeypatch):
    class Mortal(Worker):
        def encode(self, model, task, items):
            if any("dog" in item.path for item in items):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().encode(model, task, items)

    monkeypatch.setattr(encoding, "Worker", Mortal)
    monkeypatch.setattr(encoding, "TRIES", 1)
    index = ImageIndex.create(encoder, photos.parent / "x.index")
    with pytest.raises(HashfaissError, match=r"dog.* ended 2 times .* What was committed stands"):
        index.build(photos, codes_from=CodesFrom(RayStream(workers=1, chunk=4)))
    assert len(ImageIndex.open(index.path)) == 8  # bird and cat


DRIVER = """
import os, signal, sys
from hashfaiss.cluster import encoding
from hashfaiss.cluster.encoding import RayStream
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.library import sync
from hashfaiss.library.image_index import ImageIndex
sync.COMMIT_ROWS = 2
def stream(encoder, items, notes):
    for number, batch in enumerate(RayStream(workers=1, chunk=2)(encoder, items, notes)):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch
model, index, photos = sys.argv[1:]
encoder = Encoder.load(model, "cpu")
ImageIndex.create(encoder, index).build(photos, codes_from=sync.CodesFrom(stream))
"""


def test_a_driver_that_is_killed_is_continued(ray, encoder, photos, alone, tmp_path):
    encoder.save(tmp_path / "model.pt")
    given = [sys.executable, "-W", "ignore", "-c", DRIVER, tmp_path / "model.pt", tmp_path / "x.index", photos]
    assert subprocess.run(given, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL
    index = ImageIndex.open(tmp_path / "x.index", encoder)
    before = by_id(index)
    assert 0 < len(before) < 12
    report = index.build(photos, codes_from=CodesFrom(RayStream(workers=1, chunk=2)))
    assert report.encoded == 12 - len(before)
    assert by_id(index) == by_id(alone)


def test_a_worker_that_does_not_see_the_images_says_so(encoder, photos, tmp_path):
    from hashfaiss.cluster.encoding import _file_of
    from hashfaiss.encoding.items import as_items
    from hashfaiss.images.probes import decoders

    task, items = _Task("float32", "auto", 1, None, None, decoders()), list(as_items(photos))
    worker, model = Worker(), _file_of(encoder)
    assert sum(len(batch.items) for batch in worker.encode(model, task, items)) == 12
    photos.rename(tmp_path / "elsewhere")
    told = worker.encode(model, task, items)
    assert isinstance(told, HashfaissError)
    assert "does not see" in str(told)
    other = Worker().encode(model, task._replace(like={"JPEG": "other"}), items)
    assert isinstance(other, HashfaissError) == ("JPEG" in decoders())


def test_wrong_numbers_and_missing_gpus_are_told(ray, encoder, photos):
    for how in ({"workers": 0}, {"gpus_per_worker": -1}, {"chunk": 0}):
        with pytest.raises(ArgumentError, match="or more"):
            RayStream(**how)
    index = ImageIndex.create(encoder, photos.parent / "x.index")
    with pytest.raises(HashfaissError, match="the cluster has GPUs for 0"):
        index.build(photos, codes_from=CodesFrom(RayStream(gpus_per_worker=1)))


def test_the_command(ray, encoder, photos, alone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder.save(tmp_path / "model.pt")
    given = ("build", "--model", "model.pt", "--images", "photos", "--index", "x.index", "--device", "cpu")
    assert "is of --engine ray" in run(*given, "--workers", "2", code=2)
    assert "12 encoded" in run(*given, "--engine", "ray", "--workers", "1")
    assert by_id(ImageIndex.open(tmp_path / "x.index")) == by_id(alone)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "ray://", "127.0.0.1:x", "127.0.0.1:99999999"])
def test_a_cluster_that_does_not_answer_is_told(address, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(HashfaissError, match="cannot be joined"):
        joined(address)
