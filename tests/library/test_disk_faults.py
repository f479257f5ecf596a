"""A disk that refuses any one operation of a build, an addition or a removal, or all from there on.

It is told in one sentence; what was committed last is there; and once the disk is well, the same run finishes. Each
operation meets one of the faults; `--every-fault` has each meet all.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter

import pytest
from builds import content, flip, later
from file_operations import Watcher, watched

from hashfaiss.errors import HashfaissError
from hashfaiss.library.faiss_file import read_faiss
from hashfaiss.library.image_index import ImageIndex

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not tell what a file handle is"),
]

LOOKS = ("read", "scandir", "listdir")
ROOM = ("create", "write", "mkdir", "rename", "fsync")  # what a full disk refuses


class Faulty(Watcher):
    """Refuses the operation of a number, the first being 0, in one of the ways of `TROUBLES`."""

    def __init__(self, folder, number, trouble):
        self.folder, self.number, self.trouble = folder, number, trouble
        self.met, self.begun = 0, False

    def before(self, operation):
        self.met += 1
        self.begun |= self.met == self.number + 1
        return TROUBLES[self.trouble](self, operation) if self.begun else None

    def refuse(self, code, operation):
        raise OSError(code, os.strerror(code), operation.path)


def full(faulty, operation):
    """The disk is full from now on."""
    if operation.name in ROOM:
        faulty.refuse(errno.ENOSPC, operation)


def short(faulty, operation):
    """Half of what is to be written finds room, and nothing after it."""
    if operation.name == "write" and len(operation.data) > 1:
        faulty.trouble = "full"
        return len(operation.data) // 2
    return None


def once(faulty, operation):
    """One input error."""
    if faulty.met == faulty.number + 1:
        faulty.refuse(errno.EIO, operation)


def read_only(faulty, operation):
    """The file system was mounted anew, read-only, as Linux does after an error."""
    if operation.name not in LOOKS and operation.name != "fsync":
        faulty.refuse(errno.EROFS, operation)


def forbidden(faulty, operation):
    """Somebody took the rights away."""
    if operation.name != "write" and operation.name != "fsync":  # what is open stays so
        faulty.refuse(errno.EACCES, operation)


def vanish(faulty, operation):
    """The folder is gone, and with it its name: a disk that was unplugged."""
    if faulty.met == faulty.number + 1 and os.path.exists(faulty.folder):
        os.rename(faulty.folder, faulty.folder.with_name("elsewhere"))


TROUBLES = {"full": full, "short": short, "once": once, "read-only": read_only, "forbidden": forbidden, "gone": vanish}
SPOKEN = (
    "No space left",
    "Input/output error",
    "Read-only",
    "Permission denied",
    "No such file",
    "no index at",
    "gone",
)
RUNS = {
    "first build": lambda encoder, folder, photos: ImageIndex.create(encoder, folder).build(photos),
    "build": lambda encoder, folder, photos: ImageIndex.create(encoder, folder).build(photos),
    "add": lambda encoder, folder, photos: ImageIndex.open(folder, encoder).add([photos / "dog/new.jpg"]),
    "remove": lambda encoder, folder, photos: ImageIndex.open(folder).remove([photos / "cat", photos / "dog/0.jpg"]),
}


def after_all(folder, kept, run, encoder, photos, watcher):
    """The folder as it was before, and the run in it; what it raised."""
    shutil.rmtree(folder.parent)
    shutil.copytree(kept, folder.parent)
    try:
        with watched(folder, watcher):
            RUNS[run](encoder, folder, photos)
    except HashfaissError as error:
        return error
    finally:
        if (elsewhere := folder.with_name("elsewhere")).exists():
            shutil.rmtree(folder, ignore_errors=True)  # what was made in its place
            os.rename(elsewhere, folder)
    return None


@pytest.mark.parametrize("run", RUNS)
def test_a_disk_that_refuses_any_operation(encoder, photos, tmp_path, run, request):
    for number in (2, 3):
        for image in photos.glob(f"*/{number}.*"):
            image.unlink()
    folder, kept = tmp_path / "disk/x.index", tmp_path / "kept"
    folder.parent.mkdir()
    before = None
    if run != "first build":
        index = ImageIndex.create(encoder, folder)
        index.build(photos)
        flip(photos / "cat/0.jpg", photos / "cat/0.jpg")
        later(photos / "cat/0.jpg")
        flip(photos / "dog/0.jpg", photos / "dog/new.jpg")
        before = content(index)
    shutil.copytree(folder.parent, kept)
    counting = Watcher()
    counting.before = lambda operation: names.append(operation.name)
    names, told = [], Counter()
    assert after_all(folder, kept, run, encoder, photos, counting) is None
    after = content(ImageIndex.open(folder))
    every = request.config.getoption("--every-fault")
    for number in range(len(names)):
        for which, trouble in enumerate(TROUBLES):
            if not every and which != number % len(TROUBLES):
                continue
            error = after_all(folder, kept, run, encoder, photos, Faulty(folder, number, trouble))
            about = f"{trouble} at operation {number}, {names[number]}: {error}"
            if error is not None:
                assert any(word in str(error) for word in SPOKEN), about
                assert "\n" not in str(error), about
            if before is not None or error is None:
                found = content(ImageIndex.open(folder))
                assert found in ([after] if error is None else [before, after]), about
            RUNS[run](encoder, folder, photos)
            index = ImageIndex.open(folder)
            assert content(index) == after, about
            assert not any(trouble for _, trouble in index.store.verify()), about
            assert read_faiss(index.store) is not None, about
            assert not list(folder.rglob("*.tmp")), about
            told["told" if error else "did without"] += 1
    print(f"{run}: {len(names)} operations, {told.total()} faults: {dict(told)}")


def test_writes_that_write_a_part_are_carried_on(encoder, photos, tmp_path):
    """As a signal, or a network's file system, has them."""
    watcher = Watcher()
    watcher.before = lambda operation: max(1, len(operation.data) // 3) if operation.name == "write" else None
    with watched(tmp_path / "x.index", watcher):
        ImageIndex.create(encoder, tmp_path / "x.index").build(photos)
    index = ImageIndex.open(tmp_path / "x.index")
    assert len(index) == 12
    assert not any(trouble for _, trouble in index.verify())
