"""Many small segments become few; ids, answers and removals stay."""

from __future__ import annotations

import shutil
from pathlib import Path

from builds import content
from commands import run

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.library.image_index import ImageIndex


def test_compact(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x.index"
    index = ImageIndex.create(encoder, folder)
    for file in sorted(photos.glob("*/*")):
        index.add(file)
    index.remove(photos / "cat/0.jpg")
    before = content(index)
    reader = ImageIndex.open(folder)
    asked = photos / "dog/0.jpg"
    expected = [(hit.id, hit.distance) for hit in reader.query(asked, k=11)]
    assert len(index.store.manifest["segments"]) > 2
    assert index.compact() == (len(reader.store.manifest["segments"]), 1)
    assert [(hit.id, hit.distance) for hit in index.query(asked, k=11)] == expected
    assert [(hit.id, hit.distance) for hit in reader.query(asked, k=11)] == expected
    opened = ImageIndex.open(folder)
    assert content(opened) == before
    assert not any(trouble for _, trouble in opened.verify())
    assert opened.compact() == (1, 1)
    assert opened.store.manifest["generation"] == ImageIndex.open(folder).store.manifest["generation"]
    new = photos / "dog/new.jpg"
    shutil.copy(photos / "cat/0.jpg", new)
    opened.add(new)
    assert {hit.path: hit.id for hit in opened.query(new, k=12)}[str(new)] == 12  # none is given twice
    assert "2 segments before, 1 now, 12 images" in run("compact", "--index", str(folder))


def test_in_memory_and_empty(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    index = encoder.to_index(photos)
    assert index.compact() == (1, 1)
    empty = ImageIndex.create(encoder, tmp_path / "empty.index")
    assert empty.compact() == (0, 0)
