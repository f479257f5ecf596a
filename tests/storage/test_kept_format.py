"""An index that an earlier hashfaiss wrote stays readable; one of a later hashfaiss is refused, and left as it is."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import h5py
import pytest
from storage.format import make

from hashfaiss.errors import NewerFormatError
from hashfaiss.files import fast_digest
from hashfaiss.library.faiss_file import read_faiss
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.verifying import heal_folder, verify_folder
from hashfaiss.storage import manifest as manifest_module
from hashfaiss.storage.manifest import read_manifest, write_manifest

KEPT = Path(__file__).parent / "format"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The folder that `format/make.py` made, beside files of the sizes and times that it knows."""
    folder = tmp_path / "kept.index"
    with zipfile.ZipFile(KEPT / "version-2.zip") as archive:
        archive.extractall(folder)
    told = json.loads((KEPT / "version-2.json").read_text())
    for path, (size, mtime_ns, *_) in zip(told["paths"], told["states"], strict=True):
        if path:
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_bytes(bytes(size))
            os.utime(tmp_path / path, ns=(1, mtime_ns))
    return folder


def test_all_that_was_written_is_read(kept: Path) -> None:
    told = json.loads((KEPT / "version-2.json").read_text())
    index = ImageIndex.open(kept, device="cpu")
    assert make.content(index) == told
    assert read_faiss(index.store) is not None
    assert not any(trouble for _, trouble in verify_folder(kept, "cpu"))
    for row, image in enumerate(told["ids"]):
        for hits in (index.query(image, 50), index.within(image, 20)):
            assert {hit.id: hit.distance for hit in hits} == dict(zip(told["ids"], told["distances"][row], strict=True))


def test_it_is_written_on(kept: Path) -> None:
    told = json.loads((KEPT / "version-2.json").read_text())
    index = ImageIndex.open(kept, device="cpu")
    index.remove(kept.parent / told["paths"][0])
    index.compact()
    opened = ImageIndex.open(kept, device="cpu")
    assert opened.store.ids().tolist() == told["ids"][1:]
    assert [code.tobytes().hex() for code in opened.store.codes()[0]] == told["codes"][1:]
    assert not any(trouble for _, trouble in opened.verify())


def refused(folder: Path) -> None:
    """By who reads, writes and mends; and no byte is changed."""
    own = make.encoder()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for use in (
        lambda: ImageIndex.open(folder),
        lambda: list(verify_folder(folder)),
        lambda: heal_folder(folder),
        lambda: ImageIndex.create(own, folder).build(folder.parent),
    ):
        with pytest.raises(NewerFormatError, match=r"has format version 9, and this hashfaiss reads up to \d: install"):
            use()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"} == before


@pytest.mark.parametrize("name", ["manifest.json", "manifest.copy.json"])
def test_a_manifest_of_a_later_format_is_refused_whatever_the_other_is(kept: Path, name: str) -> None:
    told = {**read_manifest(kept), "version": 9}
    (kept / name).write_bytes(manifest_module._signed(told))
    refused(kept)
    (kept / name).write_bytes(json.dumps({**told, "sha256": ""}).encode())  # a bit that flipped is damage
    assert len(ImageIndex.open(kept)) == 9


def test_a_segment_of_a_later_format_is_refused_and_not_set_aside(kept: Path) -> None:
    told = read_manifest(kept)
    entry = told["segments"][1]
    with h5py.File(kept / entry["file"], "r+") as file:
        file.attrs["version"] = 9
    entry["xxh3"] = fast_digest((kept / entry["file"]).read_bytes())
    write_manifest(kept, told)
    refused(kept)
