"""Files of codes that are wrong, damaged or made to harm: one sentence each, and no index."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from commands import run

from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.exchange import export, import_codes

pa = pytest.importorskip("pyarrow", reason="the extra `exchange` is not installed")
pq = pytest.importorskip("pyarrow.parquet")

CODES = np.random.default_rng(3).integers(0, 256, (6, 2), np.uint8)
BYTES = [code.tobytes() for code in CODES]


def table(metadata=None, **columns):
    made = pa.table({"code": pa.array(BYTES, pa.binary(2)), **columns})
    return made.replace_schema_metadata({"hashfaiss": metadata} if metadata else None)


def renamed(made, *names):
    return made.rename_columns(names)


def said(**about):
    return table(json.dumps(about))


PARQUET = {
    "no column of codes": (renamed(table(), "codes"), "has no column code, but codes"),
    "no rows": (table().slice(0, 0), "holds no codes"),
    "codes of two lengths": (table(code=pa.array([b"ab", b"abc"])), "not all of 2 bytes"),
    "lists of two lengths": (table(code=pa.array([[1], [1, 2]], pa.list_(pa.uint8()))), "not all of 1 bytes"),
    "an empty code": (table(code=pa.array([b""])), "codes of 0 bytes"),
    "a code of too many bytes": (table(code=pa.array([bytes(129)])), "codes of 129 bytes"),
    "a null code": (table(code=pa.array([b"ab", None], pa.binary(2))), "a row without a code"),
    "null in a code": (table(code=pa.array([[1, None]], pa.list_(pa.uint8(), 2))), "hold null"),
    "codes that are numbers": (table(code=pa.array([1, 2])), "its codes are int64"),
    "codes that are real": (table(code=pa.array([[0.5]])), "its codes are list"),
    "an id that is null": (table(id=pa.array([1, 2, 3, None, 5, 6])), "1 of them null"),
    "an id that is negative": (table(id=pa.array([-1, 0, 1, 2, 3, 4])), "id -1 is the first"),
    "an id that repeats": (table(id=pa.array([1, 2, 2, 3, 4, 5])), "id 2 comes after 2"),
    "ids out of order": (table(id=pa.array([1, 2, 9, 3, 4, 5])), "id 3 comes after 9: sort by id"),
    "ids that are real": (table(id=pa.array([1.0] * 6)), "its ids are double"),
    "an id beyond int64": (table(id=pa.array([*range(5), (1 << 64) - 1], pa.uint64())), "cannot be taken"),
    "the last id": (table(id=pa.array([*range(5), (1 << 63) - 1])), "is too large"),
    "paths that are numbers": (table(path=pa.array(range(6))), "paths or labels are int64"),
    "a path with NUL": (table(path=pa.array(["a\0b"] * 6)), "holds NUL"),
    "a long path": (table(path=pa.array(["a" * 40_000] * 6)), "more than 32,768 bytes"),
    "a long label": (table(labels=pa.array([["a" * 40_000]] * 6)), "more than 32,768 bytes"),
    "labels that are structs": (table(labels=pa.array([{"a": 1}] * 6)), "paths or labels are struct"),
    "two columns of one name": (renamed(table(id=pa.array(range(6))), "code", "code"), "several columns"),
    "metadata that is no JSON": (table("{"), "cannot be taken for codes"),
    "metadata of another": (table("[1]"), "its metadata is no export's"),
    "a K that is text": (said(bits="16"), "its metadata is no export's"),
    "a K of 0": (said(bits=0), "bits is 0"),
    "a K of other codes": (said(bits=24), "codes of 24 bits have 3 bytes"),
    "an order of its own": (said(bit_order=["big"]), "give 'little' or 'big'"),
    "bits beyond K": (said(bits=9), "bits set beyond bit 9"),
}


def fails(file, folder, words):
    with pytest.raises(HashfaissError, match=words) as told:
        import_codes(file, folder / "x.index")
    code = 2 if isinstance(told.value, ArgumentError) else 1
    assert run("import", str(file), "--index", str(folder / "x.index"), code=code) == f"hashfaiss: {told.value}\n"
    assert {path.name for path in folder.iterdir()} == {file.name}


@pytest.mark.parametrize("name", PARQUET)
def test_parquet_that_is_wrong_is_told(name, tmp_path):
    made, words = PARQUET[name]
    pq.write_table(made, tmp_path / "a.parquet")
    fails(tmp_path / "a.parquet", tmp_path, words)


def npy(values, pickled=False):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(values), allow_pickle=pickled)
    return file.getvalue()


def header(shape, kind="|u1", data=b"ab"):
    """An array whose header says what its data need not be."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


OBJECTS = npy(np.array([{"a": 1}], object), pickled=True)
NPZ = {
    "no codes": ({"vectors": npy(CODES)}, "has no array codes, but vectors"),
    "objects": ({"codes": OBJECTS}, "an array of object"),
    "paths that are objects": ({"codes": npy(CODES), "paths": OBJECTS}, "an array of object"),
    "fields": ({"codes": npy(np.zeros(3, "u1,u1"))}, "save plain numbers"),
    "real numbers": ({"codes": npy(np.zeros((3, 2)))}, "save plain numbers"),
    "numbers of two bytes": ({"codes": npy(np.zeros((3, 2), np.uint16))}, "give packed codes, uint8"),
    "bits that are not packed": ({"codes": npy(np.zeros((3, 16), bool))}, "numpy.packbits makes them"),
    "one axis": ({"codes": npy(np.zeros(3, np.uint8))}, "of shape"),
    "no axis": ({"codes": npy(np.uint8(3))}, "of shape"),
    "column by column": ({"codes": npy(np.asfortranarray(CODES))}, "ascontiguousarray"),
    "no rows": ({"codes": npy(CODES[:0])}, "holds no codes"),
    "no bytes": ({"codes": npy(CODES[:, :0])}, "codes of 0 bytes"),
    "a huge shape": ({"codes": header((1 << 60, 2))}, "not of the size that its header says"),
    "a negative shape": ({"codes": header((-1, 2), data=b"")}, "cannot be taken"),
    "a shape beyond numbers": ({"codes": header((1 << 40, 1 << 40))}, "not of the size"),
    "a huge header": ({"codes": header(tuple([1] * 9000), data=b"a")}, "cannot be taken"),
    "a huge text": ({"codes": npy(CODES), "paths": header((6,), "<U99999999", b"")}, "save plain numbers or texts"),
    "an array of nothing": ({"codes": b""}, "cannot be taken"),
    "another version": ({"codes": b"\x93NUMPY\x03\x00" + bytes(9)}, "NumPy's format"),
    "ids of another number": ({"codes": npy(CODES), "ids": npy(range(5))}, "ids are 5, and there are 6"),
    "ids that are real": ({"codes": npy(CODES), "ids": npy(np.arange(6.0))}, "save plain numbers"),
    "ids in columns": ({"codes": npy(CODES), "ids": npy(np.zeros((6, 1), int))}, "give a whole number for each"),
    "an id beyond int64": ({"codes": npy(CODES), "ids": npy(np.arange(6, dtype=np.uint64) + (1 << 63))}, "too large"),
    "ids that repeat": ({"codes": npy(CODES), "ids": npy([0, 1, 1, 2, 3, 4])}, "id 1 comes after 1"),
    "negative ids": ({"codes": npy(CODES), "ids": npy(np.arange(6) - 5)}, "id -5 is the first"),
    "paths in columns": ({"codes": npy(CODES), "paths": npy([["a"]] * 6)}, "give one for each row"),
    "paths of another number": ({"codes": npy(CODES), "paths": npy(["a"])}, "paths are 1, and there are 6"),
    "paths that are no text": ({"codes": npy(CODES), "paths": npy([b"\xff"] * 6)}, "cannot be taken"),
    "labels of another number": ({"codes": npy(CODES), "labels": npy(["a"])}, "labels are 1, and there are 6"),
    "ends that go back": (
        {"codes": npy(CODES), "paths": npy(np.zeros(9, np.uint8)), "paths_end": npy([1, 2, 1, 3, 4, 5])},
        "paths_end do not ascend",
    ),
    "ends that are too far": (
        {"codes": npy(CODES), "paths": npy(np.zeros(9, np.uint8)), "paths_end": npy([9, 9, 9, 9, 9, 19])},
        "paths is cut off",
    ),
    "ends of texts that are long": (
        {"codes": npy(CODES), "paths": npy(np.zeros(9, np.uint8)), "paths_end": npy([1 << 62] * 6)},
        "paths_end do not ascend",
    ),
    "too many labels": (
        {"codes": npy(CODES), "labels": npy(["a"] * 9), "labels_of": npy([9000] * 6)},
        "labels_of do not ascend",
    ),
    "labels that are not there": (
        {"codes": npy(CODES), "labels": npy(["a"] * 9), "labels_of": npy([2, 4, 6, 8, 10, 12])},
        "labels is cut off",
    ),
    "metadata that is no text": ({"codes": npy(CODES), "about": npy([1, 2])}, "cannot be taken"),
    "a K that is text": ({"codes": npy(CODES), "about": npy(np.array('{"bits": "a"}'))}, "no export's"),
}


@pytest.mark.parametrize("name", NPZ)
def test_an_npz_that_is_wrong_is_told(name, tmp_path):
    arrays, words = NPZ[name]
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for array, data in arrays.items():
            archive.writestr(f"{array}.npy", data)
    fails(tmp_path / "a.npz", tmp_path, words)


def test_a_bomb_is_not_unpacked(tmp_path):
    """1.1 GB of zeros in few megabytes; and an archive of two arrays of one name."""
    packed = zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with packed as archive, archive.open("codes.npy", "w") as member:
        member.write(header((11 << 20, 100), data=b""))
        for _ in range(1100):
            member.write(bytes(1 << 20))
    fails(tmp_path / "a.npz", tmp_path, "as a bomb has")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("codes.npy", npy(CODES))
        archive.writestr("codes", npy(CODES))
    fails(tmp_path / "a.npz", tmp_path, "several arrays of one name")


def test_files_that_hold_no_codes_are_told(tmp_path):
    file = tmp_path / "a.npy"
    for data, words in (
        (OBJECTS, "an array of object"),
        (header((1 << 50, 8)), "not of the size"),
        (npy(CODES)[:-1], "not of the size"),
        (b"\x93NUMPY", "cannot be taken"),
        (b"id,code\n1,2\n", "neither Parquet nor .npz nor .npy"),
        (b"", "neither Parquet"),
        (b"PAR1", "cannot be taken"),
        (b"PK\x03\x04", "cannot be taken"),
    ):
        file.write_bytes(data)
        fails(file, tmp_path, words)
    file.unlink()
    with pytest.raises(HashfaissError, match="there is no file"):
        import_codes(file, tmp_path / "x.index")
    file.mkdir()
    fails(file, tmp_path, "no regular file")
    if hasattr(os, "mkfifo"):
        file.rmdir()
        os.mkfifo(file)
        fails(file, tmp_path, "no regular file")


@pytest.mark.parametrize("to", ["parquet", "npz"])
def test_damage_is_told_or_does_no_harm(to, index, tmp_path, request):
    """Bits that flip, and ends that are cut off: what is taken all the same is a sound index."""
    export(index, to, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    random = np.random.default_rng(4)
    told = 0
    for _ in range(request.config.getoption("--mutations")):
        data = bytearray(whole)
        if random.random() < 0.2:
            del data[random.integers(len(data)) :]
        for at in random.integers(0, max(1, len(data)), random.integers(0, 4)).tolist():
            data[at : at + 1] = bytes([random.integers(256)])
        (tmp_path / "a").write_bytes(data)
        try:
            made = import_codes(tmp_path / "a", tmp_path / "y.index")
        except HashfaissError:
            told += 1
            assert not (tmp_path / "y.index").exists()
            continue
        assert all(trouble is None for _, trouble in made.verify())
        shutil.rmtree(tmp_path / "y.index")
    assert told > 10
