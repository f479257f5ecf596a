"""Actors that each hold a part of an index answer as one index does, and say what is missing while one is gone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from builds import flip
from commands import run

from hashfaiss.cluster import searching
from hashfaiss.cluster.joining import joined
from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.storage.store import CodeStore

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ray():
    ray = joined()
    yield ray
    ray.shutdown()


@pytest.fixture
def index(encoder, photos, monkeypatch):
    """Of 13 photographs in segments of 3 rows or fewer, some taken out again."""
    monkeypatch.setattr("hashfaiss.library.sync.COMMIT_ROWS", 3)
    index = ImageIndex.create(encoder, photos.parent / "x.index", "flat")
    index.build(photos)
    flip(photos / "cat/0.jpg", photos / "cat/new.jpg")
    (photos / "dog/0.jpg").unlink()
    index.build(photos)
    return index


def same(one, other):
    assert len(one) == len(other)
    for name in ("offsets", "ids", "distances", "exact"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()


def test_answers_are_those_of_one_index(ray, index, photos):
    sharded = ImageIndex.open(index.path, index.encoder, engine="ray", shards=2)
    codes = sharded._searched()
    queries = np.random.default_rng(0).integers(0, 256, (20, 3), dtype=np.uint8) & np.array([255, 255, 15], np.uint8)
    for k in (1, 5, 12, 40):
        same(codes.search(queries, k, True), index.codes.search(queries, k, True))
    for radius in (0, 6, 20):
        same(codes.within(queries, radius, True), index.codes.within(queries, radius, True))
    for how in ({}, {"paths": "cat/*"}, {"labels": "dog"}):
        found = sharded.query(str(photos / "bird/0.jpg"), 9, **how)
        assert found == index.query(str(photos / "bird/0.jpg"), 9, **how)
    number = int(index.store.ids()[3])
    assert sharded.query(number, 4) == index.query(number, 4)
    ids = index.store.ids()
    assert (codes.reconstruct(ids.tolist()) == index.codes.reconstruct(ids)).all()
    gone = sorted(set(range(index.store.manifest["next_id"])) - set(ids.tolist()))
    for unknown in (gone[0], 10**6):
        with pytest.raises(ArgumentError, match="the index has no image of id"):
            sharded.query(unknown, 4)
    with pytest.raises(ArgumentError, match="need all codes here"):
        sharded.query(number, rerank="asymmetric")
    with pytest.raises(ArgumentError, match="k is 0"):
        sharded.query(number, 0)
    index.build(photos)  # nothing changes, so the generation stays
    assert sharded.query(number, 4).exact
    flip(photos / "cat/new.jpg", photos / "cat/newer.png")
    index.build(photos)
    codes.close()
    with pytest.raises(HashfaissError, match="it was built again"):  # by actors that had to load it anew
        searching.ShardedCodes(sharded.store, 2)
    sharded.refresh()
    assert sharded.query(number, 4) == index.query(number, 4)
    sharded._forget()


def asked_for_ever(index, image):
    """Actors end in their own time."""
    for _ in range(60):
        index.query(image, 3)
        time.sleep(0.5)


def test_a_part_that_is_gone_is_named_and_comes_back(ray, index, photos, monkeypatch):
    monkeypatch.setattr(searching, "SECONDS", 0.0)
    sharded = ImageIndex.open(index.path, index.encoder, engine="ray", shards=2)
    codes, asked = sharded._searched(), str(photos / "bird/0.jpg")
    monkeypatch.setattr(searching, "SECONDS", 60.0)
    whole = sharded.query(asked, 12)
    assert (whole.exact, whole.missing) == (True, ())
    holder = ray.get(codes._actors[1].__ray_call__.remote(lambda self: os.getpid()))
    os.kill(holder, signal.SIGSTOP)  # it is there, and does not answer
    monkeypatch.setattr(searching, "SECONDS", 2.0)
    part = sharded.query(asked, 12)
    assert not part.exact
    assert part.missing == ("part 2 of 2",)
    assert set(part) < set(whole)
    os.kill(holder, signal.SIGKILL)
    monkeypatch.setattr(searching, "SECONDS", 60.0)
    for _ in range(30):  # the cluster has to see that it is gone
        again = sharded.query(asked, 12)
        if again == whole:
            break
        time.sleep(1)
    assert again == whole
    codes.close()
    with pytest.raises(HashfaissError, match="none of the 2 parts"):
        asked_for_ever(sharded, asked)


def test_the_command(ray, index, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    asked = ("query", "photos/cat/1.png", "--index", "x.index", "--json", "--device", "cpu")
    assert run(*asked, "--engine", "ray", "--shards", "3") == run(*asked)
    assert all(json.loads(line)["exact"] for line in run(*asked, "--engine", "ray").splitlines())
    assert "engine is 'spark'" in run(*asked, "--engine", "spark", code=2)
    with pytest.raises(ArgumentError, match="of an index in a folder"):
        searching.ShardedCodes(CodeStore.create(None, 20), 2)


def test_what_the_page_shows_runs(ray, encoder, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    encoder.save("dhida.pt")
    shutil.copy(photos / "cat/0.jpg", "cat.jpg")
    page = Path(__file__).parents[2].joinpath("docs/machines.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, {})
