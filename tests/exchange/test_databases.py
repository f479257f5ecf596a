"""Codes in other people's databases: what lies there, and what is found there by Hamming distance."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from commands import run

from hashfaiss.cli import exchanging
from hashfaiss.codes import reversed_bits
from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.exchange import FORMATS, export
from hashfaiss.library.image_index import ImageIndex

pytest.importorskip("lancedb", reason="the extra `exchange` is not installed")
PAGE = (Path(__file__).parents[2] / "docs/exchange.md").read_text()
FILES = {
    "parquet": "photos.parquet",
    "npz": "photos.npz",
    "duckdb": "photos.duckdb",
    "lance": "photos.lance",
    "sqlite-vec": "photos.db",
    "usearch": "photos.usearch",
    "qdrant": "photos.qdrant",
}
HEADINGS = dict(
    zip(
        FORMATS,
        ("Parquet", "NumPy", "DuckDB", "LanceDB", "PostgreSQL", "SQLite", "usearch", "Qdrant"),
        strict=True,
    )
)


@pytest.fixture
def place(request, tmp_path, monkeypatch):
    """Where the format `to` is written, in the current folder."""
    monkeypatch.chdir(tmp_path)
    to = request.getfixturevalue("to")
    return request.getfixturevalue("database") if to == "pgvector" else FILES[to]


def arrow_rows(table, code="code"):
    said = json.loads(table.schema.metadata[b"hashfaiss"])
    return said, [(r["id"], bytes(r[code]), r["path"], r["labels"], r.get("ids")) for r in table.to_pylist()]


def parquet(place):
    import pyarrow.parquet as pq

    return arrow_rows(pq.read_table(place))


def lance(place):
    import lancedb

    return arrow_rows(lancedb.connect(".").open_table("photos").to_arrow(), "vector")


def npz(place):
    held = np.load(place, allow_pickle=False)

    def parts(values, name):
        ends = [0, *held[name].tolist()]
        return [values[a:b] for a, b in pairwise(ends)]

    paths = [part.tobytes().decode() or None for part in parts(held["paths"], "paths_end")]
    labels = [part.tobytes().decode() for part in parts(held["labels"], "labels_end")]
    shared = (
        [part.tolist() for part in parts(held["shared"], "shared_end")] if "shared" in held else [None] * len(paths)
    )
    codes = [code.tobytes() for code in held["codes"]]
    rows = zip(held["ids"].tolist(), codes, paths, parts(labels, "labels_of"), shared, strict=True)
    return json.loads(str(held["about"])), list(rows)


def duckdb(place):
    import duckdb as package

    with package.connect(place) as connection:
        (said,) = connection.execute("select comment from duckdb_tables()").fetchone()
        rows = connection.execute("select * replace (code::blob as code) from codes").fetchall()
    return json.loads(said), [(*row, None)[:5] for row in rows]


def sqlite_vec(place):
    import apsw
    import sqlite_vec as package

    connection = apsw.Connection(place)
    connection.enable_load_extension(True)
    connection.load_extension(package.loadable_path())
    rows = [
        (number, code, path, *map(json.loads, texts))
        for number, code, path, *texts in connection.execute("select * from codes")
    ]
    ((said,),) = connection.execute("select about from codes_about")
    connection.close()
    return json.loads(said), [(*row, None)[:5] for row in rows]


def usearch(place):
    from usearch.index import Index

    said, rows = npz(f"{place}.npz")
    held = Index.restore(place)
    assert len(held) == len(rows)
    assert all(held.get(row[0]).tobytes() == row[1] for row in rows)
    return said, rows


def qdrant(place):
    from qdrant_client import QdrantClient

    client = QdrantClient(path=place)
    said = client.get_collection("codes").config.metadata["hashfaiss"]
    assert said.pop("complete")
    points = client.scroll("codes", limit=1000, with_vectors=True)[0]
    client.close()
    rows = [(p.id, bytes.fromhex(p.payload["code"]), *map(p.payload.get, ("path", "labels", "ids"))) for p in points]
    for point, row in zip(points, rows, strict=True):
        bits = np.unpackbits(np.frombuffer(row[1], np.uint8), count=said["bits"], bitorder=said["bit_order"])
        assert point.vector == bits.tolist()
    return said, rows


def pgvector(place):
    import psycopg

    with psycopg.connect(place) as connection:
        (said,) = connection.execute("select obj_description('codes'::regclass)").fetchone()
        rows = connection.execute("select * from codes").fetchall()
    rows = [(row[0], np.packbits(np.array([*row[1]]) == "1").tobytes(), *row[2:]) for row in rows]
    return json.loads(said), [(*row, None)[:5] for row in rows]


READ = {
    "parquet": parquet,
    "npz": npz,
    "duckdb": duckdb,
    "lance": lance,
    "pgvector": pgvector,
    "sqlite-vec": sqlite_vec,
    "usearch": usearch,
    "qdrant": qdrant,
}


def held(index, order="little", distinct=False):
    """What an index holds, row by row."""
    codes, _ = index.store.codes()
    rows, having = [], defaultdict(list)
    for code, (number, row) in zip(codes, index.store.rows(), strict=True):
        path = index.store.full_path(row)
        path = None if path is None else os.fsencode(path).decode("utf-8", "backslashreplace")
        having[code.tobytes()].append(number)
        written = code if order == "little" else reversed_bits(code)
        ids = having[code.tobytes()] if distinct else None
        if not distinct or len(ids) == 1:
            rows.append((number, written.tobytes(), path, [*row.labels], ids))
    return rows


def test_formats_are_those_that_are_told() -> None:
    named = get_type_hints(exchanging.export)["to"]
    assert [*get_args(named)] == [*FORMATS]
    assert set(READ) == set(FORMATS) == set(HEADINGS)
    assert all(f"| `{name}` |" in PAGE for name in FORMATS)


@pytest.mark.parametrize(("order", "distinct"), [(None, False), ("big", True)])
@pytest.mark.parametrize("to", FORMATS)
def test_all_that_an_index_holds_is_written(to, place, index, order, distinct, monkeypatch):
    monkeypatch.setattr("hashfaiss.storage.reading.CHUNK_ROWS", 7)  # many batches
    seen = []
    done = export(index, to, place, order, distinct, progress=lambda *at: seen.append(at))
    assert (done.rows, done.images, seen[-1]) == (20 if distinct else 90, 90, (90, 90))
    written = "big" if to == "pgvector" else order or "little"
    said, rows = READ[to](place)
    assert said == {
        "bits": 20,
        "bit_order": written,
        "rows": done.rows,
        "distinct": distinct,
        "method": "imported",
        "encoder": "",
    }
    assert sorted(rows) == held(index, written, distinct)
    assert bool(done.trouble) == (FORMATS[to].graph and not distinct)


@pytest.mark.parametrize("to", FORMATS)
def test_a_search_there_finds_what_ours_finds(to, place, encoder, photos, request):
    """The search that the page shows, on an index of images."""
    index = ImageIndex.of(encoder, photos, "photos.index")
    export(index, to, place)
    section = PAGE.split(f"### {HEADINGS[to]}\n")[1]
    block = re.search(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[1]
    codes, ids = index.store.codes()
    for query in (codes[7], codes[0] ^ np.array([5, 0, 1], np.uint8)):
        known = {"query": query, "address": place}
        exec(compile(block, to, "exec"), known)
        true = dict(zip(ids.tolist(), np.bitwise_count(codes ^ query).sum(axis=1).tolist(), strict=True))
        assert [distance for _, distance in known["found"]] == sorted(true.values())[:5]
        assert all(true[number] == distance for number, distance in known["found"])
        assert len({number for number, _ in known["found"]}) == 5
        assert [hit.distance for hit in index.search(query[None], k=5)[0]] == sorted(true.values())[:5]


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_is_overwritten(to, place, index):
    export(index, to, place)
    before = READ[to](place)
    with pytest.raises(ArgumentError, match="already"):
        export(index, to, place, distinct=True)
    assert READ[to](place) == before


def test_a_file_beside_is_not_overwritten_either(index, tmp_path):
    (tmp_path / "a.usearch.npz").write_text("mine")
    with pytest.raises(ArgumentError, match=r"a\.usearch\.npz' is there already"):
        export(index, "usearch", tmp_path / "a.usearch")
    assert {path.name for path in tmp_path.iterdir()} == {"a.usearch.npz", "x.index"}


KILLED = """
import os, sys
from hashfaiss.exchange import export
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.storage import reading
from hashfaiss.storage.store import CodeStore
reading.CHUNK_ROWS = 7
whole = CodeStore.batches
def batches(store):
    for number, batch in enumerate(whole(store)):
        if number == 3:
            raise KeyboardInterrupt if sys.argv[4] == "stopped" else os._exit(9)
        yield batch
CodeStore.batches = batches
try:
    export(ImageIndex.open(sys.argv[1]), sys.argv[2], sys.argv[3])
except KeyboardInterrupt:
    os._exit(9)
"""


@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.parametrize("to", FORMATS)
def test_one_that_is_cut_off_leaves_nothing_that_looks_whole(to, place, how, index, tmp_path):
    ended = subprocess.run([sys.executable, "-c", KILLED, str(index.path), to, place, how], capture_output=True)
    assert ended.returncode == 9, ended.stderr
    there = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert there == {"x.index"}
    assert how == "killed" or not [*tmp_path.glob(".*")]
    assert export(index, to, place).rows == 90


def test_a_qdrant_server_is_given_a_collection_that_says_when_it_is_whole(index, monkeypatch):
    """A client in memory stands for one of a server, which it behaves as."""
    import qdrant_client

    made = []

    class Client(qdrant_client.QdrantClient):
        def __init__(self, url):
            made.append(url)
            super().__init__(":memory:")

        def upsert(self, name, points, **options):
            made.append(self.get_collection(name).config.metadata["hashfaiss"]["complete"])
            return super().upsert(name, points, **options)

        def update_collection(self, name, **options):
            done = super().update_collection(name, **options)
            made.append(self.get_collection(name).config.metadata["hashfaiss"]["complete"])
            return done

    monkeypatch.setattr(qdrant_client, "QdrantClient", Client)
    export(index, "qdrant", "http://localhost:6333", table="mine")
    assert made == ["http://localhost:6333", False, False, True]


@pytest.mark.parametrize("to", [name for name, form in FORMATS.items() if form.modules])
def test_a_missing_package_is_told_with_what_installs_it(to, index, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, FORMATS[to].modules[0], None)
    with pytest.raises(HashfaissError, match=r"is missing: pip install .*hashfaiss\[exchange\]"):
        export(index, to, "postgresql://nobody" if to == "pgvector" else tmp_path / "a.lance")
    assert [path.name for path in tmp_path.iterdir()] == ["x.index"]


def test_what_cannot_be_asked_is_told(index, tmp_path):
    for asked, words in (
        (("csv", "a"), "format is 'csv': give parquet, npz"),
        (("npz", "a", "middle"), "give 'little' or 'big'"),
        (("pgvector", "postgresql://x", "little"), "leave the order out"),
        (("pgvector", "a"), "needs the address of a database"),
        (("lance", "a"), r"give it the suffix \.lance"),
        (("duckdb", "a", None, False, "codes; drop"), "give a name of up to 51 letters"),
    ):
        with pytest.raises(ArgumentError, match=words):
            export(index, *asked)
    with pytest.raises(HashfaissError, match="cannot write to"):
        export(index, "npz", tmp_path / "nowhere" / "a.npz")
    with pytest.raises(HashfaissError, match="cannot write the codes for pgvector"):
        export(index, "pgvector", "postgresql://nobody:secret@127.0.0.1:1/none")
    index.remove([index.hit(number, 0).path for number in index.store.ids().tolist() if number != 25])
    with index.store.writing() as writer:
        writer.remove([25])
        writer.commit()
    with pytest.raises(ArgumentError, match="the index is empty"):
        export(ImageIndex.open(index.path), "npz", tmp_path / "a.npz")


def test_commands(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        run("export", "--index", "x.index", "--to", "npz", "--out", "a.npz") == "90 codes of 20 bits written for npz\n"
    )
    said = run("export", "--index", "x.index", "--to", "parquet", "--out", "a.parquet", "--distinct")
    assert said == "20 codes of 20 bits of 90 images written for parquet\n"
    assert "is there already" in run("export", "--index", "x.index", "--to", "npz", "--out", "a.npz", code=2)
    assert run("import", "a.npz", "--index", "y.index") == "y.index: 90 codes of 20 bits\n"
    assert len(run("query", "--id", "30", "--index", "y.index", "-k", "7", "--json").splitlines()) == 7
    assert "sound" in run("verify", "--index", "y.index")
