"""A power cut after any operation leaves what was committed last, or what was being committed, code for code.

What a disk keeps is a model, `power_cuts`: only bytes and names that were synced surely survive. Of a run, each of its
operations is followed by several power cuts, and the folder that each leaves is opened, and the run done again.
`--cuts 50` tries more of what chance may keep.
"""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from builds import by_id, flip, later
from file_operations import watched
from power_cuts import Disk, Recorder, digest_of, write_tree

from hashfaiss.errors import IndexFolderError
from hashfaiss.library.faiss_file import read_faiss
from hashfaiss.library.gathering import gather
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.shards import Shard, build_shard
from hashfaiss.storage import damage, store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not tell what a file handle is"),
]


def begun(encoder, folder, photos):
    """As a process leaves it that was killed before it had written a manifest; then the build."""
    os.makedirs(folder / "codes")
    ImageIndex.create(encoder, folder).build(photos)


RUNS = {
    "first build": lambda encoder, folder, photos: ImageIndex.create(encoder, folder).build(photos),
    "first build, begun": begun,
    "build": lambda encoder, folder, photos: ImageIndex.create(encoder, folder).build(photos),
    "add": lambda encoder, folder, photos: ImageIndex.open(folder, encoder).add([photos / "dog/new.jpg"]),
    "remove": lambda encoder, folder, photos: ImageIndex.open(folder).remove([photos / "cat", photos / "dog/0.jpg"]),
    "tune": lambda encoder, folder, photos: ImageIndex.open(folder).tune(),
    "compact": lambda encoder, folder, photos: ImageIndex.open(folder).compact(),
    "gather": lambda encoder, folder, photos: gather(folder) if (folder / "shards").exists() else None,
    "heal": lambda encoder, folder, photos: ImageIndex.create(encoder, folder).build(photos),
}


@pytest.fixture
def disk(encoder, photos, tmp_path, monkeypatch, request):
    """Where the index of a run lies before it; and photos that changed since."""
    monkeypatch.setattr("hashfaiss.library.sync.COMMIT_ROWS", 3)
    for number in (2, 3):
        for image in photos.glob(f"*/{number}.*"):
            image.unlink()
    root, run = tmp_path / "disk", request.getfixturevalue("run")
    root.mkdir()
    if not run.startswith("first"):
        (root / "new").mkdir()
        index = ImageIndex.create(encoder, root / "new/x.index")
        index.build(photos)
        flip(photos / "cat/0.jpg", photos / "cat/0.jpg")
        later(photos / "cat/0.jpg")
        flip(photos / "dog/0.jpg", photos / "dog/new.jpg")
        (photos / "bird/1.png").unlink()
        if run in ("compact", "tune"):
            index.build(photos)
        if run == "gather":
            for number in (1, 2):
                build_shard(index.path, Shard(number, 2), encoder, photos)
        if run == "heal":
            file = root / "new/x.index" / index.store.manifest["segments"][0]["file"]
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
    return root


def recorded(disk, encoder, photos, run, monkeypatch):
    """All operations of a run, and what each generation held."""
    recorder, folder, held = Recorder(), disk / "new/x.index", {}
    if folder.exists() and run != "heal":
        index = ImageIndex.open(folder)
        held[index.store.manifest["generation"]] = by_id(index)
        recorder.committed[0] = index.store.manifest["generation"]

    def committing(write):
        def call(place, manifest):
            write(place, manifest)
            recorder.committed[len(recorder.operations)] = manifest["generation"]
            held[manifest["generation"]] = by_id(ImageIndex.open(folder))

        return call

    with monkeypatch.context() as patch, watched(disk, recorder):
        patch.setattr(store, "write_manifest", committing(store.write_manifest))
        patch.setattr(damage, "mend_manifest", committing(damage.mend_manifest))
        RUNS[run](encoder, folder, photos)
    return recorder, held


@pytest.mark.parametrize("run", RUNS)
def test_a_power_cut_after_any_operation(encoder, photos, disk, run, monkeypatch, tmp_path, request):
    model = Disk.holding(disk)
    recorder, held = recorded(disk, encoder, photos, run, monkeypatch)
    random, cut, seen, points = np.random.default_rng(0), tmp_path / "cut", set(), 0
    generations = sorted(held)
    known = recorder.committed.get(0)
    for done, operation in enumerate([None, *recorder.operations]):
        if operation is not None:
            model.do(operation)
        known = recorder.committed.get(done, known)
        for tree in model.cuts(random, request.config.getoption("--cuts")):
            points += 1
            if (digest := (digest_of(tree), known)) in seen:
                continue
            seen.add(digest)
            shutil.rmtree(cut, ignore_errors=True)
            cut.mkdir()
            write_tree(tree, cut)
            check(cut / "new/x.index", known, generations, held)
            RUNS[run.partition(",")[0]](encoder, cut / "new/x.index", photos)
            again = ImageIndex.open(cut / "new/x.index")
            assert sorted(by_id(again).values()) == sorted(held[generations[-1]].values())
            assert not any(trouble for _, trouble in again.store.verify())
            assert read_faiss(again.store) is not None
            assert not list(cut.rglob("*.tmp"))
    assert model.tree(lambda folder: folder.now, lambda file: file.now) == {
        str(path.relative_to(disk)): path.read_bytes() if path.is_file() else None for path in disk.rglob("*")
    }  # nothing that was done escaped the model
    print(f"{run}: {len(recorder.operations)} operations, {points} power cuts, {len(seen)} different")


def check(folder, known, generations, held):
    """It opens as the generation that was committed last (None for none that could be opened), or as the next one."""
    try:
        found = ImageIndex.open(folder)
    except IndexFolderError:
        assert known is None, f"generation {known} was committed"
        return
    number = found.store.manifest["generation"]
    assert number in (generations[:1] if known is None else generations[generations.index(known) :][:2])
    assert by_id(found) == held[number]
