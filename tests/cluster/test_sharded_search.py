"""Actors that each hold a part of an index answer as one index does, and say what is missing while one is gone."""

from __future__ import annotations

import collections
import itertools
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
from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.storage.store import CodeStore

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


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
    codes = sharded._all()
    queries = np.random.default_rng(0).integers(0, 256, (20, 3), dtype=np.uint8) & np.array([255, 255, 15], np.uint8)
    for k in (1, 5, 12, 40):
        same(codes.search(queries, k, True), index.codes.search(queries, k, True))
    for radius in (0, 6, 20):
        same(codes.within(queries, radius, True), index.codes.within(queries, radius, True))
    asked = [str(photos / name) for name in ("bird/0.jpg", "cat/1.png")]
    for how in ({}, {"paths": "cat/*"}, {"labels": "dog"}, {"rerank": "asymmetric"}):
        assert sharded.query(asked, 9, **how) == index.query(asked, 9, **how)
        assert sharded.within(asked, 8, **how) == index.within(asked, 8, **how)
        assert sharded.combined(asked, photos / "dog/1.png", 9, **how) == index.combined(
            asked, photos / "dog/1.png", 9, **how
        )
    number = int(index.store.ids()[3])
    assert sharded.query(number, 4) == index.query(number, 4)
    gone = min(set(range(index.store.manifest["next_id"])) - set(index.store.ids().tolist()))
    for unknown in (gone, 10**6):
        with pytest.raises(ArgumentError, match="the index has no image of id"):
            sharded.query(unknown, 4)
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


@pytest.fixture
def sharded(ray, index, monkeypatch):
    """The index on two actors, which are waited for long."""
    monkeypatch.setattr(searching, "SECONDS", 60.0)
    sharded = ImageIndex.open(index.path, index.encoder, engine="ray", shards=2)
    yield sharded
    sharded._forget()


def process(ray, codes, number):
    """Of an actor."""
    return ray.get(codes._actors[number].__ray_call__.remote(lambda self: os.getpid()))


def test_a_part_that_is_killed_loads_its_segments_and_is_named_until_it_can(ray, sharded, photos):
    asked, folder = str(photos / "bird/0.jpg"), sharded.path
    whole = sharded.query(asked, 12)
    assert (whole.exact, whole.missing, len(whole)) == (True, (), 12)
    killed = process(ray, sharded._all(), 1)
    os.kill(killed, signal.SIGKILL)
    assert sharded.query(asked, 12) == whole
    folder.rename(folder.with_name("away.index"))  # so it cannot load
    os.kill(process(ray, sharded._all(), 1), signal.SIGKILL)
    for how in ({}, {"rerank": "asymmetric"}, {"paths": "*"}):
        part = sharded.query(asked, 12, **how)
        assert not part.exact
        assert part.missing == (
            f"part 2 of 2 of {str(folder)!r} (there is no index at {str(folder)!r}: make one with `hashfaiss build`, "
            "or give its folder with --index)",
        )
        assert {hit.id for hit in part} < {hit.id for hit in whole}
    folder.with_name("away.index").rename(folder)
    assert sharded.query(asked, 12) == whole
    assert process(ray, sharded._all(), 1) != killed


def test_a_part_that_works_is_waited_for_and_one_that_hangs_is_not(ray, sharded, photos, tmp_path, monkeypatch):
    asked = str(photos / "bird/0.jpg")
    whole, codes = sharded.query(asked, 12), sharded._all()
    codes_of_asked = sharded.encoder.encode([asked])

    def long(now, queries):
        while not (tmp_path / "signs").exists():
            time.sleep(0.01)
        return now.search(queries, 3)

    def waited(of, asked, wait=codes._waited):
        left = wait(asked)
        if not left and asked:  # signs came, and the answers did not
            (tmp_path / "signs").touch()
        return left

    monkeypatch.setattr(searching, "SECONDS", 3.0)
    with monkeypatch.context() as patch:
        patch.setattr(searching.ShardedCodes, "_waited", waited)
        assert not any(part.missing for part in codes.each(long, codes_of_asked))
    hanging = process(ray, codes, 1)
    os.kill(hanging, signal.SIGSTOP)
    part = sharded.query(asked, 12)
    os.kill(hanging, signal.SIGCONT)
    assert (part.exact, part.missing) == (False, (f"part 2 of 2 of {str(sharded.path)!r}",))
    monkeypatch.setattr(searching, "SECONDS", 60.0)
    assert sharded.query(asked, 12) == whole


def test_a_question_that_ends_its_actor_is_given_up(ray, sharded, photos, monkeypatch):
    monkeypatch.setattr(searching, "TRIES", 1)
    codes, asked, query = sharded._all(), str(photos / "bird/0.jpg"), np.zeros((1, 3), np.uint8)
    whole = sharded.query(asked, 12)
    few = min(len(part.ids) for part in codes.each(lambda now, queries: now.within(queries, 20), query))

    def deadly(now, queries):
        return now.search(queries, 3) if len(now) > few else os._exit(1)

    assert [bool(part.missing) for part in codes.each(deadly, query)].count(True) == 1
    assert sharded.query(asked, 12) == whole
    codes.close()
    for actor in codes._actors:
        with pytest.raises(ray.exceptions.RayActorError):  # it ends in its own time
            collections.deque(ray.get(actor.holds.remote(None)) for _ in itertools.count())
    with pytest.raises(HashfaissError, match=r"none of the 2 parts of '.*x.index' answers: ask again"):
        sharded.query(asked, 3)


def test_the_command(ray, index, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    asked = ("query", "photos/cat/1.png", "--index", "x.index", "--json", "--device", "cpu")
    assert run(*asked, "--engine", "ray", "--shards", "3") == run(*asked)
    many = (*asked, "--index", "y.index")
    shutil.copytree("x.index", "y.index")  # several, each on actors
    assert run(*many, "--engine", "ray", "--rerank", "asymmetric") == run(*many, "--rerank", "asymmetric")
    assert "engine is 'spark'" in run(*asked, "--engine", "spark", code=2)
    with pytest.raises(ArgumentError, match="of an index in a folder"):
        searching.ShardedCodes(CodeStore.create(None, 20), 2)


def test_what_the_page_shows_runs(ray, encoder, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    encoder.save("dhida.pt")
    for year in ("2024", "2025"):
        encoder.to_index("photos/cat", f"{year}.index")
    shutil.copy(photos / "cat/0.jpg", "cat.jpg")
    page = Path(__file__).parents[2].joinpath("docs/machines.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, {})
