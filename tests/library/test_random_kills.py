"""`kill -9` at random moments of builds, additions, removals, tunings and compactions.

After each: the index opens as what was committed last, code for code; the same run again ends as one that was not cut
off; and nothing is left behind. `--kills 500` kills as often as the figure in docs/reliability.md.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
from builds import by_id
from nursery import Nursery
from PIL import Image

from hashfaiss.errors import IndexFolderError
from hashfaiss.library import sync
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.storage import store

SCRIPT = """
import time
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from hashfaiss.encoding.encoder import Encoder
from library.test_random_kills import committing, done
encoder = Encoder.load(sys.argv[1], "cpu", engine="torch")
for run in ("first build", "tune"):  # so that all is imported
    done(encoder, run, *sys.argv[3:5], [])

def main(what, tell):
    with committing(lambda generation: tell(f"committed {generation}")):
        tell("go")
        began = time.monotonic()
        done(encoder, *what)
        tell(f"took {time.monotonic() - began}")
"""

ROWS = 4  # in a segment, so that a build commits several times
FEWEST, MOST = 8, 14  # photos
FEW = 12  # kills where they must not take long


def done(encoder, run, folder, photos, some):
    """One run; `some` are the files that it adds or removes."""
    if run in ("first build", "build"):
        ImageIndex.create(encoder, folder).build(photos)
    elif run == "add":
        ImageIndex.open(folder, encoder).add(some)
    elif run == "remove":
        ImageIndex.open(folder).remove(some)
    elif run == "tune":
        ImageIndex.open(folder).tune()
    else:
        ImageIndex.open(folder).compact()


@contextmanager
def committing(told):
    """Small segments, and `told(generation)` after each commit."""
    write = store.write_manifest

    def call(place, manifest):
        write(place, manifest)
        told(manifest["generation"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "write_manifest", call)
        patch.setattr(sync, "COMMIT_ROWS", ROWS)
        yield


def answers(index):
    """To each image, whatever the ids are."""
    stored = by_id(index)
    return sorted(
        (stored[image], sorted((hit.path, hit.distance) for hit in index.query(image, 50))) for image in stored
    )


class World:
    """Photos that come and go, their index, and a copy of it in which runs are not cut off."""

    def __init__(self, encoder, folder):
        self.encoder, self.photos = encoder, folder / "photos"
        self.index, self.whole = folder / "x.index", folder / "whole.index"
        (self.photos / "cat").mkdir(parents=True)
        random = np.random.default_rng(0)
        self.pictures = [Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)) for _ in range(40)]
        for number in range(FEWEST):
            self.pictures[number].save(self.photos / f"cat/{number}.png")

    def change(self, random):
        """Take away one photo, put others where there are some or none, and choose a run and files for it."""
        there = sorted(self.photos.glob("*/*"))
        if len(there) > FEWEST:
            there.pop(int(random.integers(len(there)))).unlink()
        for number in random.choice(MOST, 3, replace=False).tolist():
            self.pictures[int(random.integers(40))].save(self.photos / f"cat/{number}.png")
        run = str(random.choice(["first build", "build", "build", "add", "remove", "tune", "compact"]))
        if run == "first build" or not self.index.exists():
            shutil.rmtree(self.index, ignore_errors=True)
            return "first build", []
        if run == "remove":
            paths = [path for path, _, _ in by_id(ImageIndex.open(self.index)).values()]
            chosen = [os.fsdecode(path) for path in random.choice(np.array(paths, object), 2, replace=False)]
            return run, [str(self.photos.parent / path) for path in chosen]
        return run, [str(path) for path in random.choice(np.array(sorted(self.photos.glob("*/*")), object), 4, False)]

    def uncut(self, run, some):
        """What each generation holds of the run in the copy, the one before it included."""
        shutil.rmtree(self.whole, ignore_errors=True)
        held = {}
        if self.index.exists():
            shutil.copytree(self.index, self.whole)
            index = ImageIndex.open(self.whole)
            held[index.store.manifest["generation"]] = by_id(index)
        with committing(lambda number: held.__setitem__(number, by_id(ImageIndex.open(self.whole)))):
            done(self.encoder, run, self.whole, self.photos, some)
        return held

    def check(self, held, committed):
        """What is there after a kill is the generation that was committed last, or the one that was being committed."""
        try:
            index = ImageIndex.open(self.index)
        except IndexFolderError:
            assert committed is None, f"generation {committed} was committed"
            return
        generations = sorted(held)
        found = index.store.manifest["generation"]
        assert found in (generations[:1] if committed is None else generations[generations.index(committed) :][:2])
        assert by_id(index) == held[found]

    def finish(self, run, some, held):
        """The same run again ends as the one that was not cut off."""
        with committing(lambda _: None):
            done(self.encoder, run, self.index, self.photos, some)
        index = ImageIndex.open(self.index)
        assert sorted(by_id(index).values()) == sorted(held[max(held)].values())
        assert answers(index) == answers(ImageIndex.open(self.whole))
        assert not any(trouble for _, trouble in index.store.verify())
        assert not list(self.index.rglob("*.tmp"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs fork, kill -9 and /proc")
@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_killed_at_random_moments(encoder, tmp_path, request, few):
    wanted, seed = (FEW, 0) if few else (request.config.getoption("--kills"), 1000)
    encoder.save(tmp_path / "model.pt")
    world, lasts, killed = World(encoder, tmp_path), {}, Counter()
    runs, started = 0, time.monotonic()
    given = (tmp_path / "model.pt", request.config.rootpath / "tests", tmp_path / "warm.index", world.photos)
    with Nursery(SCRIPT, *given) as nursery:
        while killed.total() < wanted:
            seed, runs = seed + 1, runs + 1
            random = np.random.default_rng(seed)
            run, some = world.change(random)
            held = world.uncut(run, some)
            nursery.start([run, str(world.index), str(world.photos), some])
            assert nursery.hear() == "go"
            moment = random.uniform(0, lasts.get(run, 1.0))
            time.sleep(moment)
            told, code = nursery.kill()
            assert code in (0, -9)
            killed[run] += code != 0
            if told and told[-1].startswith("took "):
                lasts[run] = float(told.pop().removeprefix("took "))
            committed = [int(line.removeprefix("committed ")) for line in told]
            before = None if run == "first build" else min(held)
            try:
                world.check(held, committed[-1] if committed else before)
                world.finish(run, some, held)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {run}, killed after {moment:.4f} s, {told}") from error
    print(f"{killed.total()} of {runs} runs killed in {time.monotonic() - started:.0f} s: {dict(killed)}")
