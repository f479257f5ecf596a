"""docs/formats.md is enough to read an index folder: its own lines are run on one, beside hashfaiss."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import faiss
import h5py
import numpy as np
import pytest
import torch
from builds import flip, later

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.storage import manifest, segments
from hashfaiss.storage.columns import NUMBERS

PAGE = (Path(__file__).parents[2] / "docs/formats.md").read_text(encoding="utf-8")


def table(heading: str) -> dict[str, str]:
    """Names in the first column of a section's table, and the column beside it."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {name: row[1] for row in rows for name in re.findall(r"`(\w+)`", row[0])}


@pytest.fixture
def index(encoder: Encoder, photos: Path) -> ImageIndex:
    """Three segments, images that were taken out, a file whose name is no text, and two alike from memory."""
    index = ImageIndex.create(encoder, photos.parent / "x.index")
    index.build(photos)
    flip(photos / "cat/0.jpg", photos / "cat/0.jpg")
    later(photos / "cat/0.jpg")
    (photos / "dog/1.png").rename(photos / "dog/\udcff\n é.png")
    index.build(photos)
    index.remove(photos / "bird/1.png")
    index.add(torch.zeros((2, 3, 40, 40), dtype=torch.uint8), [["two", "labels"], []])
    return ImageIndex.open(index.path)


def test_the_lines_of_the_page_read_what_hashfaiss_does(index: ImageIndex) -> None:
    lines = PAGE.partition("```python\n")[2].partition("```")[0]
    assert "hashfaiss" not in lines
    read = {"folder": str(index.path)}
    exec(lines, read)
    codes, ids = index.store.codes()
    rows = [row for _, row in index.store.rows()]
    assert list(read["images"]) == ids.tolist()
    assert len(index.store.manifest["segments"]) > 2
    assert 0 < len(ids) < index.store.manifest["next_id"]
    assert [path for path, _, _ in read["images"].values()] == [row.path for row in rows]
    assert [tuple(labels) for _, labels, _ in read["images"].values()] == [row.labels for row in rows]
    np.testing.assert_array_equal(read["codes"], codes)
    for at, image in enumerate(ids.tolist()):
        hits = {hit.id: hit.distance for hit in index.query(image, 50)}
        assert hits == dict(zip(ids.tolist(), read["distances"][at].tolist(), strict=True))


def test_every_dataset_attribute_and_key_is_on_the_page(index: ImageIndex) -> None:
    assert manifest.VERSION == 2
    assert segments.VERSION == 1
    told = table("A segment")
    for entry in index.store.manifest["segments"]:
        with h5py.File(index.path / entry["file"], locking=False) as file:
            assert set(file) == set(told) == {"codes", *NUMBERS}
            for name, column in file.items():
                shape = re.fullmatch(rf"{column.dtype} \((.*)\)", told[name])
                assert shape, name
                assert shape[1].rstrip(",").count(",") + 1 == column.ndim
            section = PAGE.partition("\n## A segment\n")[2]
            assert all(f"`{name}`" in section for name in file.attrs)
    raw = json.loads((index.path / "manifest.json").read_bytes())
    assert set(raw) == set(table("The manifest"))
    saved = torch.load(index.path / "encoder.pt", weights_only=True)
    assert set(saved) == set(table("The model"))


def test_the_faiss_part_is_laid_out_as_the_page_says(index: ImageIndex) -> None:
    data = (index.path / index.store.manifest["index"]["file"]).read_bytes()
    assert data[:8] == b"hfindex1"
    at = 16 + int.from_bytes(data[8:16], "little")
    arrays = {}
    for name, kind, shape in json.loads(data[16:at]):
        assert name in table("FAISS's part")
        at += -at % 64
        array = np.frombuffer(data, kind, int(np.prod(shape)), at)
        arrays[name], at = array.reshape(shape), at + array.nbytes
    assert at == len(data)
    held = faiss.deserialize_index_binary(arrays["faiss"].copy())
    codes, ids = index.store.codes()
    starts, its_ids = arrays["starts"].tolist(), arrays["ids"].tolist()  # in this index codes repeat
    of_position = [its_ids[a:b] for a, b in pairwise(starts)]
    assert len(of_position) == held.ntotal < len(ids)
    assert sorted(its_ids) == ids.tolist()
    assert of_position == sorted(of_position)
    wide = np.zeros((len(codes), held.d // 8), np.uint8)
    wide[:, : codes.shape[1]] = codes
    distances, positions = held.search(wide, 1)
    assert not distances.any()
    assert all(image in of_position[at] for image, at in zip(ids.tolist(), positions[:, 0].tolist(), strict=True))
