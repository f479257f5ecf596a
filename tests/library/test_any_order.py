"""Files and an index are changed in any order, beside a dictionary that says what the index must hold.

`--examples 200` tries more orders than a test's time allows.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from builds import flip_bit
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from PIL import Image

from hashfaiss.codes import hamming
from hashfaiss.errors import ArgumentError, CorruptIndexError
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.verifying import verify_folder

PICTURES = 12
NAMES = st.sampled_from([f"{folder}/{number}.png" for folder in ("cat", "dog") for number in range(4)])
STEPS = 25


class File(NamedTuple):
    """A file on disk: which picture it is, and a number that is another whenever it may look changed."""

    picture: int
    version: int


class Stored(NamedTuple):
    """An image of the index."""

    name: str
    file: File
    labels: tuple[str, ...]


class Library(RuleBasedStateMachine):
    """`disk` is what lies in the folder of photos, `stored` by id what the index holds, `seen` what a reader saw."""

    encoder, pictures, codes = None, [], []  # set by the test: bytes of files, and the code of each

    def __init__(self):
        super().__init__()
        self.top = Path(tempfile.mkdtemp())
        self.photos, self.folder = self.top / "photos", self.top / "x.index"
        self.disk: dict[str, File] = {}
        self.stored: dict[int, Stored] = {}
        self.version = self.next_id = 0

    def teardown(self):
        shutil.rmtree(self.top)

    @initialize(kind=st.sampled_from(["auto", "flat", "ivf:lists=2,probes=1", "hash:b=4,flips=0"]))
    def begin(self, kind):
        for folder in ("cat", "dog"):
            (self.photos / folder).mkdir(parents=True)
            (self.photos / folder / "notes.txt").touch()  # an empty folder is one that may be away
        for number, name in enumerate(("cat/0.png", "cat/1.png", "dog/0.png")):
            self.put(name, number)
        self.index = ImageIndex.create(self.encoder, self.folder, kind)
        self.build()
        self.reader = ImageIndex.open(self.folder, self.encoder)
        self.seen = dict(self.stored)

    # ---- files --------------------------------------------------------------------------------------------------

    @rule(name=NAMES, picture=st.integers(0, PICTURES - 1))
    def put(self, name, picture):
        (self.photos / name).write_bytes(self.pictures[picture])
        self.noted(name, picture)

    def noted(self, name, picture):
        self.version += 1
        os.utime(self.photos / name, ns=(1, self.version * 10**9))
        self.disk[name] = File(picture, self.version)

    @precondition(lambda self: len(self.disk) > 1)
    @rule(data=st.data())
    def delete(self, data):
        name = data.draw(st.sampled_from(sorted(self.disk)))
        (self.photos / name).unlink()
        del self.disk[name]

    @rule(data=st.data(), new=NAMES)
    def rename(self, data, new):
        name = data.draw(st.sampled_from(sorted(self.disk)))
        (self.photos / name).replace(self.photos / new)
        self.noted(new, self.disk.pop(name).picture)

    # ---- the index ----------------------------------------------------------------------------------------------

    @rule()
    def build(self):
        self.index.build(self.photos)
        self.expect({name: (file, (name[:3],)) for name, file in self.disk.items()})

    @rule(data=st.data())
    def add(self, data):
        names = data.draw(st.lists(st.sampled_from(sorted(self.disk)), min_size=1, unique=True))
        self.index.add([self.photos / name for name in names])
        expected = {one.name: (one.file, one.labels) for one in self.stored.values()}
        gone = {one.name: image for image, one in sorted(self.stored.items()) if one.name not in self.disk}
        labels = {name: expected.get(name, (None, ()))[1] for name in names}
        for name in names:
            file, known = self.disk[name], expected.get(name, (None, ()))[0]
            expected[name] = file, labels[name]
            if known is None or known.picture != file.picture:  # an image of these bytes whose name is gone was moved
                moved = [old for old in gone if self.stored[gone[old]].file.picture == file.picture]
                for old in moved[:1]:
                    del expected[old], gone[old]
        self.expect(expected)

    @precondition(lambda self: self.stored)
    @rule(data=st.data())
    def remove(self, data):
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.stored)), min_size=1, unique=True))
        assert self.index.remove([self.photos / self.stored[image].name for image in chosen]) == len(chosen)
        self.expect({one.name: (one.file, one.labels) for image, one in self.stored.items() if image not in chosen})

    @rule()
    def remove_what_is_not_there(self):
        with pytest.raises(ArgumentError, match="no image at"):
            self.index.remove(self.photos / "cat/never.png")

    @precondition(lambda self: self.stored)
    @rule()
    def tune(self):
        self.index.tune()
        self.expect({one.name: (one.file, one.labels) for one in self.stored.values()})

    @rule()
    def compact(self):
        before, after = self.index.compact()
        assert after <= max(1, before)
        self.expect({one.name: (one.file, one.labels) for one in self.stored.values()})

    @rule()
    def reopen(self):
        self.index = ImageIndex.open(self.folder, self.encoder)

    @rule()
    def refresh(self):
        self.reader.refresh()
        self.seen = dict(self.stored)

    @rule()
    def read(self):
        check(self.reader, self.seen, self.codes)

    # ---- damage -------------------------------------------------------------------------------------------------

    @rule()
    def verify(self):
        told = dict(verify_folder(self.folder, "cpu"))
        sound = all(self.disk.get(one.name) == one.file for one in self.stored.values())
        assert (told.pop("images") is None) == sound
        assert not any(told.values()), told

    @precondition(lambda self: self.index.store.manifest.get("index"))
    @rule()
    def damage_faiss(self):
        file = ImageIndex.open(self.folder).store.manifest["index"]["file"]
        flip_bit(self.folder / file)
        assert dict(verify_folder(self.folder, "cpu"))[file] is not None
        check(ImageIndex.open(self.folder), self.stored, self.codes)
        self.build()

    @precondition(lambda self: self.stored)
    @rule(data=st.data())
    def damage_a_segment(self, data):
        names = [entry["file"] for entry in ImageIndex.open(self.folder).store.manifest["segments"]]
        flip_bit(self.folder / data.draw(st.sampled_from(names)))
        for use in (lambda: ImageIndex.open(self.folder), self.compact, self.tune):
            with pytest.raises(CorruptIndexError, match="hashfaiss build"):
                use()
        self.index = ImageIndex.create(self.encoder, self.folder)
        self.index.build(self.photos)
        self.expect({name: (file, (name[:3],)) for name, file in self.disk.items()}, lost=True)

    # ---- what must hold -----------------------------------------------------------------------------------------

    def expect(self, expected, lost=False):
        """The index holds this by name; what stayed as it was has its id, unless it was lost; no id is given twice."""
        index = ImageIndex.open(self.folder)
        found = {
            image: (str(Path(row.path.decode()).relative_to("photos")), row.labels) for image, row in index.store.rows()
        }
        assert sorted(found.values()) == sorted((name, labels) for name, (_, labels) in expected.items())
        now = {image: Stored(name, *expected[name]) for image, (name, _) in found.items()}
        for image, one in now.items():
            assert self.stored.get(image) == one if image < self.next_id else one not in self.stored.values() or lost
        before, self.next_id = self.next_id, index.store.manifest["next_id"]
        self.stored = now
        assert before <= self.next_id > max(now, default=-1)

    @invariant()
    def what_is_committed_is_found(self):
        if hasattr(self, "index"):
            check(self.index, self.stored, self.codes)


def check(index, stored, codes):
    """Every image answers as brute force over its picture's code does."""
    ids = sorted(stored)
    assert index.store.ids().tolist() == ids
    if not ids:
        return
    of = np.array([codes[stored[image].file.picture] for image in ids])
    np.testing.assert_array_equal(index.store.codes()[0], of)
    for row in {0, len(ids) // 2, len(ids) - 1}:
        distances = hamming(of[row : row + 1], of)[0].tolist()
        expected = sorted(zip(distances, ids, strict=True))
        for hits, wanted in (
            (index.query(ids[row], 3), expected[:3]),
            (index.query(ids[row], 99), expected),
            (index.within(ids[row], 5), [pair for pair in expected if pair[0] <= 5]),
        ):
            assert [(hit.distance, hit.id) for hit in hits] == wanted
            assert [Path(hit.path).parts[-2:] for hit in hits] == [
                Path(stored[image].name).parts for _, image in wanted
            ]


@pytest.mark.slow
def test_whatever_order_things_are_done_in(encoder, request):
    random = np.random.default_rng(0)
    Library.encoder, Library.pictures = encoder, []
    for _ in range(PICTURES):
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(coarse).save(data := io.BytesIO(), "png")
        Library.pictures.append(data.getvalue())
    Library.codes = encoder.encode([Image.open(io.BytesIO(data)) for data in Library.pictures])
    assert len({code.tobytes() for code in Library.codes}) > PICTURES // 2
    examples = request.config.getoption("--examples")
    # to look for the shortest order that fails takes many minutes, and tells little more than the first
    how = settings(max_examples=examples, stateful_step_count=STEPS, phases=[Phase.generate])
    run_state_machine_as_test(Library, settings=how)
