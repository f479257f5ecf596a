"""A segment that a stranger made, its digest and all: no other file is read, nothing is allocated, no traceback."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from test_store import fill

from hashfaiss.errors import CorruptIndexError, IndexFolderError
from hashfaiss.files import fast_digest
from hashfaiss.storage.manifest import read_manifest, write_manifest
from hashfaiss.storage.store import CodeStore


@pytest.fixture
def store(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(range(256)) * 100)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["ids"] = np.arange(10)
        file["codes"] = np.zeros((10, 3), np.uint8)
    store = CodeStore.create(tmp_path / "x", 20)
    fill(store, 10)
    return store


def external_storage(file, secret):
    file.create_dataset("codes", (10, 3), np.uint8, external=[(str(secret), 0, 30)])


def external_link(file, secret):
    file["codes"] = h5py.ExternalLink(str(secret.with_name("other.h5")), "codes")


def soft_link(file, secret):
    file["codes"] = h5py.SoftLink("/digest")


def virtual(file, secret):
    layout = h5py.VirtualLayout((10, 3), np.uint8)
    layout[:] = h5py.VirtualSource(str(secret.with_name("other.h5")), "codes", (10, 3))
    file.create_virtual_dataset("codes", layout)


def as_group(file, secret):
    file.create_group("codes")


def of(name, values, **options):
    def change(file, secret):
        if name in file:
            del file[name]
        file.create_dataset(name, data=values, **options)

    return change


def fill_of(name, shape, kind, **options):
    """So many rows of which not one is stored."""

    def change(file, secret):
        del file[name]
        file.create_dataset(name, shape, kind, **options)

    return change


TEXTS = np.array([b"text"] * 10, h5py.string_dtype())
CHANGES = {
    "external storage": external_storage,
    "external link": external_link,
    "soft link": soft_link,
    "virtual": virtual,
    "group": as_group,
    "wide codes": of("codes", np.zeros((10, 4), np.uint8)),
    "flat codes": of("codes", np.zeros(30, np.uint8)),
    "few codes": of("codes", np.zeros((9, 3), np.uint8)),
    "real codes": of("codes", np.zeros((10, 3), np.float64)),
    "pointers": of("ids", TEXTS),
    "scalar": of("ids", np.int64(3)),
    "ids of rank 2": of("ids", np.arange(10).reshape(10, 1)),
    "ids unsigned": of("ids", np.arange(10, dtype=np.uint64)),
    "ids descending": of("ids", np.arange(10)[::-1]),
    "ids twice": of("ids", np.arange(10) // 2),
    "ids negative": of("ids", np.arange(10) - 5),
    "fill": fill_of("label", (1 << 40,), np.int32, chunks=(1 << 20,)),
    "compressed fill": fill_of("label", (1 << 40,), np.int32, chunks=(1 << 20,), compression="gzip"),
    "a filter": of("codes", np.zeros((10, 3), np.uint8), compression="lzf"),
    "no digests": lambda file, secret: file.__delitem__("digest"),
    "paths end nowhere": of("path_end", np.full(10, 1 << 40)),
    "paths end before they begin": of("path_end", np.arange(10)[::-1]),
    "paths end below 0": of("path_end", np.arange(10) - 5),
    "keys of no row": of("path_row", np.full(9, 10, np.int32)),
    "labels of no name": of("label", np.full(1000, 1 << 30, np.int32)),
    "labels below 0": of("label", np.full(1000, -1, np.int32)),
    "names end nowhere": of("label_name_end", np.full(3, 1 << 40)),
}


def everything(store):
    """All that is asked of a store."""
    store.codes()
    list(store.rows())
    store.labels(), store.where(labels=["cat"]), store.where(paths=["*.jpg"])
    store.places().first_at([b"a/b.jpg"])
    return [store.row(number) for number in store.ids().tolist()]


@pytest.mark.parametrize("change", CHANGES)
def test_a_column_that_is_not_one_of_ours_is_refused(store, tmp_path, change):
    entry = store.manifest["segments"][0]
    path = store.path / entry["file"]
    made = tmp_path / "made.h5"  # HDF5 has the one of that name open
    made.write_bytes(path.read_bytes())
    with h5py.File(made, "r+") as file:
        if change in ("external storage", "external link", "soft link", "virtual", "group"):
            del file["codes"]
        CHANGES[change](file, tmp_path / "secret")
    made.replace(path)
    manifest = read_manifest(store.path)
    manifest["segments"][0]["xxh3"] = fast_digest(path.read_bytes())
    write_manifest(store.path, manifest)
    with pytest.raises(CorruptIndexError, match="is damaged"):
        everything(CodeStore.open(store.path))


def test_what_is_no_file_is_not_waited_for(store):
    """A pipe in place of a file: whoever opened it would hang."""
    for name in ("manifest.json", store.manifest["segments"][0]["file"]):
        (store.path / name).rename(store.path / "kept")
        (store.path / "manifest.copy.json").rename(store.path / "copy")
        os.mkfifo(store.path / name)
        with ThreadPoolExecutor(1) as pool, pytest.raises(IndexFolderError, match=r"no regular file|Invalid argument"):
            pool.submit(CodeStore.open, store.path).result(60)
        (store.path / name).unlink()
        (store.path / "kept").rename(store.path / name)
        (store.path / "copy").rename(store.path / "manifest.copy.json")
    assert len(everything(CodeStore.open(store.path))) == 10
