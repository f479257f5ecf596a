"""A large FAISS file is mapped, not read: the same answers, from a file that is checked and never changed in place."""

from __future__ import annotations

import gc
import stat

import numpy as np
import pytest

from hashfaiss.indexes import CodeIndex
from hashfaiss.library import faiss_file
from hashfaiss.library.image_index import ImageIndex

KINDS = ["flat", "hash:b=6,flips=1", "multihash:tables=2,b=6", "ivf:lists=4,probes=2", "hnsw:m=4,ef=8"]


@pytest.fixture
def mapped(monkeypatch):
    monkeypatch.setattr(faiss_file, "MAPPED", 0)


def answers(index, photos):
    return [
        (hits.exact, [(hit.id, hit.distance) for hit in hits])
        for hits in index.stream(sorted(photos.glob("*/*")), k=5, exact=True)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mapped_file_answers_the_same(encoder, photos, tmp_path, mapped, kind):
    made = encoder.to_index(photos, tmp_path / "x.index", kind)
    expected = answers(encoder.to_index(photos, kind=kind), photos)
    opened = ImageIndex.open(tmp_path / "x.index")
    data = faiss_file.read_faiss(opened.store)
    assert isinstance(data, np.memmap)
    assert not data.flags.writeable
    assert answers(opened, photos) == answers(made, photos) == expected


def test_what_is_mapped_stays_while_faiss_needs_it(encoder, photos, tmp_path, mapped):
    encoder.to_index(photos, tmp_path / "x.index", "ivf:lists=4,probes=2")
    opened = ImageIndex.open(tmp_path / "x.index")
    alone = opened.faiss
    codes = opened.codes.distinct.codes.copy()
    width = alone.code_size
    expected = alone.search(np.pad(codes, ((0, 0), (0, width - codes.shape[1]))), 3)[0]
    del opened
    gc.collect()
    filler = [np.ones(4096, np.uint8) for _ in range(1000)]
    again = alone.search(np.pad(codes, ((0, 0), (0, width - codes.shape[1]))), 3)[0]
    assert (again == expected).all()
    assert filler


@pytest.mark.parametrize("kind", KINDS)
def test_later_builds_do_not_touch_what_is_mapped(encoder, photos, tmp_path, mapped, kind):
    encoder.to_index(photos, tmp_path / "x.index", kind)
    reader = ImageIndex.open(tmp_path / "x.index")
    before = answers(reader, photos)
    writer = ImageIndex.open(tmp_path / "x.index")
    for number in range(3):
        (photos / f"cat/{number}.{'png' if number % 2 else 'jpg'}").rename(tmp_path / str(number))
        writer.build(photos)
        for other in range(number + 1):  # asked with again, wherever they lie now
            assert (tmp_path / str(other)).exists()
    for number in range(3):
        (tmp_path / str(number)).rename(photos / f"cat/{number}.{'png' if number % 2 else 'jpg'}")
    assert answers(reader, photos) == before


def test_the_file_cannot_be_written_to_by_mistake(encoder, photos, tmp_path):
    encoder.to_index(photos, tmp_path / "x.index")
    (file,) = (tmp_path / "x.index/faiss").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o444


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "gone", "grow"])
def test_a_mapped_file_that_is_not_sound_is_not_used(encoder, photos, tmp_path, mapped, harm):
    index = encoder.to_index(photos, tmp_path / "x.index", "ivf:lists=4,probes=2")
    expected = answers(index, photos)
    (file,) = (tmp_path / "x.index/faiss").iterdir()
    data = bytearray(file.read_bytes())
    file.unlink()
    if harm == "flip":
        data[len(data) // 2] ^= 4
    new = {"truncate": data[:-1], "flip": data, "empty": b"", "grow": data + b"\0"}.get(harm)
    if new is not None:
        file.write_bytes(new)
    opened = ImageIndex.open(tmp_path / "x.index")
    assert faiss_file.read_faiss(opened.store) is None
    assert answers(opened, photos) == expected


def test_bytes_and_arrays_load_the_same():
    codes = np.random.default_rng(0).integers(0, 256, (500, 6), dtype=np.uint8)
    for kind in ("flat", "ivf:lists=8,probes=2"):
        made = CodeIndex(codes, np.arange(500), 48, kind)
        data = made.dump()
        for given in (data, np.frombuffer(data, np.uint8)):
            loaded = CodeIndex.restore(given, codes, np.arange(500), 48, kind)
            assert (loaded.search(codes[:40], 4).ids == made.search(codes[:40], 4).ids).all()


def test_what_is_not_mapped_may_be_changed(encoder, photos, tmp_path):
    """A view would end the process here."""
    for kind in ("flat", "ivf:lists=4,probes=2"):
        encoder.to_index(photos, tmp_path / f"{kind[:3]}.index", kind)
        opened = ImageIndex.open(tmp_path / f"{kind[:3]}.index")
        before = opened.faiss.ntotal
        opened.faiss.add(np.zeros((1, opened.faiss.code_size), np.uint8))
        assert opened.faiss.ntotal == before + 1
