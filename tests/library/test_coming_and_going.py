"""An index that images come to and leave: FAISS's file stays as it was built until there is too much beside it."""

from __future__ import annotations

import numpy as np
import pytest
from builds import counts
from PIL import Image

from hashfaiss.errors import CorruptIndexError
from hashfaiss.indexes import CodeIndex, beside, changes
from hashfaiss.indexes.beside import Beside
from hashfaiss.library import faiss_file
from hashfaiss.library.image_index import ImageIndex

KINDS = ["flat", "hash:b=4,flips=1", "ivf:lists=3,probes=1", "hnsw:m=4,ef=8", "auto"]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """As if an index of 8 images were large, and more than 8 beside it, or 3 gone, too many."""
    monkeypatch.setattr(beside, "BESIDE", 8)
    monkeypatch.setattr(beside, "GONE", 3)


def picture(path, seed):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return path


def faiss_files(index):
    file = index.path / index.store.manifest["index"]["file"]
    return file.name, file.stat().st_mtime_ns


def as_if_built_anew(index):
    """Every answer, exact and of flat search, is what an index of the same codes says."""
    anew = CodeIndex(*index.store.codes(), index.bits, "flat")
    queries = anew.distinct.codes
    for k in (1, 5, 100):
        answers, wanted = index.codes.search(queries, k, exact=True), anew.search(queries, k)
        assert answers.exact.all()
        assert (answers.ids.tolist(), answers.distances.tolist()) == (wanted.ids.tolist(), wanted.distances.tolist())
    assert index.codes.distinct.codes.tolist() == queries.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_images_come_and_go_and_faiss_is_not_built_again(encoder, photos, tmp_path, kind):
    index = encoder.to_index(photos, tmp_path / "x.index", kind)
    before, held = faiss_files(index), index.faiss.ntotal
    new = picture(photos / "cat/new.png", 1)
    assert counts(index.add([new], [["cat"]])) == (1, 0, 0, 0)
    assert index.query(new, 1, exact=True)[0].path == str(new)
    assert index.remove(photos / "dog/0.jpg") == 1
    (photos / "cat/1.png").write_bytes((photos / "bird/1.png").read_bytes())  # changed: goes, and comes again
    new.unlink()
    (photos / "dog/0.jpg").unlink()
    report = index.build(photos)
    assert (counts(report), report.recognised) == ((0, 10, 1, 0), 1)
    for seen in (index, ImageIndex.open(index.path)):
        as_if_built_anew(seen)
        assert len(seen) == 11
        assert seen.faiss.ntotal == held
        assert all(trouble is None for _, trouble in seen.verify())
        assert str(seen.codes.kind) == seen.info()["kind"] == seen.store.manifest["index"]["kind"]
    assert faiss_files(index) == before
    assert index.build(photos).encoded == 0
    assert faiss_files(index) == before


def test_too_much_beside_or_gone_is_built_anew(encoder, photos, tmp_path):
    index = encoder.to_index(photos, tmp_path / "x.index", "ivf:lists=3,probes=1")
    before = faiss_files(index)
    new = [picture(photos / f"new/{number}.png", number) for number in range(9)]
    index.add(new[:8])
    assert faiss_files(index) == before
    assert isinstance(index.codes.kind, Beside)
    index.add(new[8:])
    assert faiss_files(index) != before
    assert index.faiss.ntotal == len(index.codes.distinct)
    before = faiss_files(index)
    index.remove(new[:3])
    assert faiss_files(index) == before
    as_if_built_anew(index)
    index.remove(new[3])
    assert faiss_files(index) != before
    assert not isinstance(index.codes.kind, Beside)
    as_if_built_anew(index)


def test_a_reader_builds_in_memory_where_too_much_is_gone(encoder, photos, tmp_path):
    index = encoder.to_index(photos, tmp_path / "x.index", "flat")
    with index.store.writing() as writer:  # a process cut off before it built the index anew
        writer.remove(index.store.ids()[:4])
        writer.commit()
    opened = ImageIndex.open(index.path)
    assert not isinstance(opened.codes.kind, Beside)
    as_if_built_anew(opened)


def test_a_file_that_was_altered_is_built_anew(encoder, photos, tmp_path):
    index = encoder.to_index(photos, tmp_path / "x.index", "flat")
    (file,) = (index.path / "faiss").iterdir()
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    index.add([picture(photos / "cat/new.png", 1)])
    assert not isinstance(index.codes.kind, Beside)
    as_if_built_anew(index)


def test_a_file_that_does_not_tell_ids_is_taken_for_its_own_generation_only(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "hashfaiss.indexes.distinct.Distinct.of", classmethod(lambda made, *given: made(*given[:1], None, given[1]))
    )
    index = encoder.to_index(photos, tmp_path / "x.index", "flat")
    monkeypatch.setattr("hashfaiss.indexes.distinct.Distinct.arrays", lambda self: {})  # as earlier versions did
    index.build(photos, kind="ivf:lists=3,probes=1")
    assert index.faiss.ntotal == 12
    data = faiss_file.read_faiss(index.store)
    monkeypatch.undo()
    monkeypatch.setattr(beside, "BESIDE", 8)
    with pytest.raises(CorruptIndexError, match="not one that others can lie beside"):
        changes(data, index.store.ids())
    before = faiss_files(index)
    opened = ImageIndex.open(index.path, encoder)
    assert (opened.build(photos).encoded, faiss_files(opened)) == (0, before)
    (photos / "cat/0.jpg").unlink()
    picture(photos / "cat/4.png", 4)  # as many as before
    opened.build(photos)
    assert faiss_files(opened) != before
    as_if_built_anew(opened)


def test_duplicates_are_found_across_index_and_tail(encoder, photos, tmp_path):
    index = encoder.to_index(photos, tmp_path / "x.index", "flat")
    copy = photos / "cat/copy.jpg"
    copy.write_bytes((photos / "cat/0.jpg").read_bytes())
    index.add([copy])
    assert isinstance(index.codes.kind, Beside)
    groups = [{hit.path for hit in group} for group in index.duplicates()]
    assert any({str(photos / "cat/0.jpg"), str(copy)} <= group for group in groups)
