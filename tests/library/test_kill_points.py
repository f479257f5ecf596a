"""A process that ends at any of its writes, renames, deletions and syncs leaves the last committed generation.

Every boundary of a run is tried: `os._exit` just before it, as `kill -9` would; at an fsync half of the file is lost,
as in a power cut.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from builds import content, flip

from hashfaiss.errors import IndexFolderError
from hashfaiss.library.faiss_file import read_faiss
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.shards import Shard, build_shard

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# Ends itself at its n-th boundary; what it committed by then, it has told.
RUN = """
import json, os, stat, sys
import torch
torch.set_num_threads(1)
from hashfaiss.errors import IndexFolderError
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.storage import manifest
sys.path.insert(0, sys.argv[1])
import runs_to_kill

def child(folder, photos, run, last):
    passed = 0
    def boundary(what, path=None, file=None):
        nonlocal passed
        if str(path).startswith(folder) or file is not None:
            passed += 1
            if passed == last:
                if file is not None and stat.S_ISREG(os.fstat(file).st_mode):
                    os.ftruncate(file, os.fstat(file).st_size // 2)
                os._exit(9)
    def hook(event, given):
        if event in ("os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate"):
            boundary(event, given[0])
        elif event == "open" and isinstance(given[0], str) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            boundary(event, given[0])
    fsync = os.fsync
    def synced(file):
        boundary("fsync", file=file if isinstance(file, int) else file.fileno())
        fsync(file)
    os.fsync = synced
    sys.addaudithook(hook)
    getattr(runs_to_kill, run)(folder, photos)
    sys.stdout.write(f"{passed} ")
    sys.stdout.flush()
    os._exit(0)

print("ready", flush=True)
for line in sys.stdin:
    process = os.fork()
    if not process:
        child(*json.loads(line))
    _, status = os.waitpid(process, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Killed:
    """A process that has imported everything, and runs what is to be killed in copies of itself."""

    def __init__(self):
        given = [sys.executable, "-W", "ignore", "-c", RUN, os.path.dirname(os.path.dirname(__file__))]
        self.process = subprocess.Popen(given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def run(self, folder, photos, run, last=0):
        """How many boundaries were passed, or None where it was killed at one."""
        self.process.stdin.write(json.dumps([str(folder), str(photos), run, last]) + "\n")
        self.process.stdin.flush()
        *passed, code = self.process.stdout.readline().split()
        assert code == ("0" if passed else "9")
        return int(passed[0]) if passed else None


@pytest.fixture(scope="module")
def killed():
    killed = Killed()
    yield killed
    killed.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    "run",
    ["build_first", "build_again", "remove_some", "heal_it", "compact_it", "tune_it", "gather_it", "shard_it"],
)
def test_a_run_that_ends_at_any_boundary_is_made_good_by_the_next(encoder, photos, tmp_path, killed, run):
    folder, kept, model = tmp_path / "x.index", tmp_path / "kept.index", tmp_path / "model.pt"
    encoder.save(model)
    for number in (2, 3):
        for image in photos.glob(f"*/{number}.*"):
            image.unlink()
    if run != "build_first":
        ImageIndex.create(encoder, folder).build(photos)
        flip(photos / "cat/0.jpg", photos / "cat/0.jpg")
        shutil.copy(photos / "dog/0.jpg", photos / "dog/copy.jpg")
        (photos / "bird/1.png").unlink()
        if run == "compact_it":  # of two segments, and of images that were taken out
            ImageIndex.open(folder).build(photos)
        if run == "heal_it":
            file = next((folder / "codes").iterdir())
            file.write_bytes(file.read_bytes()[:-1])
        if run == "gather_it":
            for number in (1, 2):
                build_shard(folder, Shard(number, 2), encoder, photos)
        shutil.copytree(folder, kept)
    boundaries = killed.run(folder, photos, run)
    after = content(ImageIndex.open(folder))
    before = content(ImageIndex.open(kept)) if run not in ("build_first", "heal_it") else {}
    assert boundaries > 5
    for last in range(1, boundaries + 1):
        shutil.rmtree(folder)
        if kept.exists():
            shutil.copytree(kept, folder)
        assert killed.run(folder, photos, run, last) is None
        try:
            found = content(ImageIndex.open(folder))
        except IndexFolderError:
            assert not before  # there was no index, or one that cannot be opened
        else:
            assert found.items() <= before.items() | after.items()
            assert before.keys() & after.keys() <= found.keys()
        assert killed.run(folder, photos, run) is not None
        opened = ImageIndex.open(folder)
        assert content(opened) == after
        assert not any(trouble for _, trouble in opened.store.verify())
        assert read_faiss(opened.store) is not None
        assert not list(folder.rglob("*.tmp"))
