"""An index of codes that come from anywhere: what it holds, what it answers, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builds import by_id
from commands import run
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from hashfaiss.codes import reversed_bits
from hashfaiss.errors import ArgumentError, EncoderMismatchError
from hashfaiss.evaluation.index_report import evaluate_index
from hashfaiss.exchange import export, import_codes
from hashfaiss.library.image_index import ImageIndex

pa = pytest.importorskip("pyarrow", reason="the extra `exchange` is not installed")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def files(tmp_path):
    """20 codes of 12 bits in an .npz, with ids, paths and labels as anybody would save them."""
    codes = np.random.default_rng(2).integers(0, 256, (20, 2), np.uint8)
    codes[:, 1] &= 15
    np.savez(
        tmp_path / "a.npz",
        codes=codes,
        ids=np.arange(20) * 7,
        paths=[f"a/{number}.jpg" for number in range(20)],
        labels=[["cat", "", "ß"][number % 3] for number in range(20)],
    )
    return tmp_path / "a.npz", codes


@pytest.mark.parametrize("to", ["parquet", "npz"])
@pytest.mark.parametrize("order", ["little", "big"])
def test_what_is_exported_comes_back(to, order, index, tmp_path, monkeypatch):
    monkeypatch.setattr("hashfaiss.exchange.importing.COMMIT_ROWS", 30)
    monkeypatch.setattr("hashfaiss.exchange.read_numpy.ROWS", 7)
    monkeypatch.setattr("hashfaiss.exchange.read_parquet.ROWS", 7)
    export(index, to, tmp_path / "codes", order)
    back = import_codes(tmp_path / "codes", tmp_path / "y.index")
    assert (back.bits, len(back.store.manifest["segments"])) == (20, 3)
    assert all(trouble is None for _, trouble in back.verify())
    before, after = by_id(index), by_id(back)
    not_text = next(number for number, row in before.items() if b"\xff" in row[0])
    assert after[not_text][0] == rb"no text \xff.jpg"
    del before[not_text], after[not_text]
    assert after == before
    codes, _ = index.store.codes()
    for own, theirs in zip(index.search(codes, k=9), back.search(codes, k=9), strict=True):
        assert [(hit.id, hit.distance) for hit in own] == [(hit.id, hit.distance) for hit in theirs]


def columns(ids, codes, labels):
    return pa.table({"id": ids, "code": [code.tobytes() for code in codes], "labels": labels, "more": ids})


@settings(max_examples=40)
@given(
    bits=some.integers(1, 70),
    steps=some.lists(some.integers(1, 1 << 56), min_size=1, max_size=60),
    seed=some.integers(0, 1000),
    order=some.sampled_from(["little", "big"]),
)
def test_answers_are_those_of_counting_bits(tmp_path_factory, bits, steps, seed, order):
    folder, random = tmp_path_factory.mktemp("codes"), np.random.default_rng(seed)
    ids = np.cumsum(steps) - 1
    values = random.integers(0, 2, (len(ids), bits)).astype(bool)
    codes = np.packbits(values, axis=1, bitorder=order)
    if seed % 2:
        np.savez_compressed(folder / "a", codes=codes, ids=ids)
    else:
        pq.write_table(columns(ids, codes, [["a"]] * len(ids)), folder / "a.npz")
    made = import_codes(folder / "a.npz", folder / "x.index", bits, order)
    query = random.integers(0, 2, bits).astype(bool)
    hits = made.search(np.packbits(query, bitorder="little")[None], k=len(ids))[0]
    distances = (values != query).sum(axis=1)
    expected = sorted(zip(distances.tolist(), ids.tolist(), strict=True))
    assert [(hit.distance, hit.id) for hit in hits] == expected
    assert made.query(int(ids[-1]), k=1)[0].distance == 0


def test_plain_arrays_are_taken(files, tmp_path):
    file, codes = files
    made = import_codes(file, tmp_path / "x.index", bits=12)
    rows = dict(made.store.rows())
    assert [*rows] == [*range(0, 140, 7)]
    assert (rows[7].path, rows[0].labels, rows[7].labels, rows[14].labels) == (b"a/1.jpg", ("cat",), (), ("ß",))
    assert made.hit(7, 0).path == str(tmp_path.resolve() / "a/1.jpg")
    assert (made.codes.reconstruct([7 * number for number in range(20)]) == codes).all()
    np.save(tmp_path / "a.npy", reversed_bits(codes))
    made = import_codes(tmp_path / "a.npy", tmp_path / "y.index", 12, "big")
    assert [*made.store.ids()] == [*range(20)]
    assert (made.store.codes()[0] == codes).all()
    np.savez(tmp_path / "b.npz", codes=codes, labels=np.arange(20) % 3, paths=np.array([b"x"] * 20))
    made = import_codes(tmp_path / "b.npz", tmp_path / "z.index")
    assert made.bits == 16
    assert [row.labels for _, row in made.store.rows()][:4] == [("0",), ("1",), ("2",), ("0",)]


KINDS = (pa.binary(2), pa.binary(), pa.large_binary(), pa.list_(pa.uint8()), pa.large_list(pa.uint8()))
LABELS = [
    (pa.list_(pa.string()), ["a", "b"], ("a", "b")),
    (pa.large_string(), "a;b", ("a;b",)),
    (pa.int8(), 3, ("3",)),
]


@pytest.mark.parametrize("kind", [*KINDS, pa.list_(pa.uint8(), 2)], ids=str)
@pytest.mark.parametrize(("label", "given", "taken"), LABELS, ids=["list", "text", "number"])
def test_parquet_of_many_kinds_is_taken(files, tmp_path, kind, label, given, taken):
    _, codes = files
    values = [code.tolist() if "list" in str(kind) else code.tobytes() for code in codes]
    table = pa.table(
        {
            "code": pa.array(values, kind),
            "id": pa.array(range(20), pa.uint16()),
            "path": pa.array([None, "/x/a.jpg"] * 10, pa.large_string()),
            "labels": pa.array([given, None] * 10, label),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=6)
    made = import_codes(tmp_path / "a.parquet", tmp_path / "x.index", 12)
    assert (made.store.codes()[0] == codes).all()
    assert [(row.path, row.labels) for _, row in made.store.rows()] == [(b"", taken), (b"/x/a.jpg", ())] * 10


def test_k_and_order_are_the_files_own(index, tmp_path):
    export(index, "parquet", tmp_path / "a.parquet")
    for asked, words in (
        ({"bits": 24}, "bits is given as 24, and the file says 20"),
        ({"bit_order": "big"}, "bit order is given as 'big', and the file says 'little'"),
        ({"kind": "best"}, "best"),
    ):
        with pytest.raises(ArgumentError, match=words):
            import_codes(tmp_path / "a.parquet", tmp_path / "y.index", **asked)
    assert {path.name for path in tmp_path.iterdir()} == {"x.index", "a.parquet"}
    assert import_codes(tmp_path / "a.parquet", tmp_path / "y.index", 20, "little").bits == 20
    with pytest.raises(ArgumentError, match="is there already"):
        import_codes(tmp_path / "a.parquet", tmp_path / "y.index")


def test_it_answers_as_any_index_does(files, tmp_path, monkeypatch):
    file, _ = files
    monkeypatch.chdir(tmp_path)
    index = import_codes(file, "x.index", 12)
    assert not index.has_encoder
    info = json.loads(run("info", "--index", "x.index", "--json"))
    assert (info["images"], info["bits"], info["method"], info["labels"]) == (20, 12, "imported", 2)
    assert info["encoder"].startswith("none")
    said = run("query", "--id", "7", "--index", "x.index", "--json", "-k", "3").splitlines()
    said = [json.loads(line) for line in said]
    assert (said[0]["id"], said[0]["distance"], said[0]["path"]) == (7, 0, str(tmp_path.resolve() / "a/1.jpg"))
    assert index.query("a/1.jpg", k=1)[0].id == 7  # whose file is not here
    assert "manifest.json: sound" in run("verify", "--index", "x.index")
    report = evaluate_index(index)
    assert (report.neighbours, report.unseen, report.skipped) == (None, None, [])
    assert report.retrieval is not None
    assert "group" in run("duplicates", "--index", "x.index", "--radius", "3")
    assert index.tune().kind
    assert index.compact() == (1, 1)
    assert index.remove("a/1.jpg") == 1
    assert index.hit(14, 0).labels == ("ß",)
    assert "sound" in run("verify", "--index", "x.index", "--heal")


def test_it_refuses_images_in_a_sentence(files, tmp_path, monkeypatch, encoder, photos):
    file, _ = files
    monkeypatch.chdir(tmp_path)
    index = import_codes(file, "x.index", 12)
    encoder.save(tmp_path / "m.pt")
    Image.new("RGB", (9, 9)).save("a.png")
    sentence = "holds codes that were imported, without the model that made them, so it takes no images"
    for asked in (
        ("query", "a.png"),
        ("query", "a.png", "--id", "7", "--combine"),
        ("query", "a.png", "--model", "m.pt"),
        ("evaluate", "--queries", str(photos)),
        ("build", "--images", str(photos)),
        ("build", "--images", str(photos), "--model", "m.pt"),
        ("build", "--images", str(photos), "--model", "m.pt", "--shard", "1/2"),
        ("duplicates", "--rotations"),
    ):
        said = run(*asked, "--index", "x.index", code=1).strip().splitlines()
        assert len(said) == 1, said
        assert sentence in said[0]
    for call in (lambda: index.encoder, lambda: index.build(photos), lambda: index.add(Image.new("RGB", (9, 9)))):
        with pytest.raises(EncoderMismatchError, match=sentence):
            call()
    with pytest.raises(EncoderMismatchError, match=sentence):
        ImageIndex.create(encoder, "x.index")
    assert len(ImageIndex.open("x.index")) == 20


KILLED = """
import os, sys
from hashfaiss.exchange import import_codes, importing
importing.COMMIT_ROWS = 7
commit = importing.commit_faiss
def cut(writer, kind):
    if sys.argv[3] == "killed":
        os._exit(9)
    raise KeyboardInterrupt
importing.commit_faiss = cut
try:
    import_codes(sys.argv[1], sys.argv[2])
except KeyboardInterrupt:
    os._exit(9)
"""


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_one_that_is_cut_off_leaves_no_index(files, tmp_path, how):
    file, _ = files
    place = tmp_path / "x.index"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(file), str(place), how], capture_output=True)
    assert ended.returncode == 9, ended.stderr
    assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} == {"a.npz"}
    assert how == "killed" or not [*tmp_path.glob(".*")]
    assert len(import_codes(file, place)) == 20


def test_python_that_is_shown_runs(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos.index").symlink_to("x.index")
    page = (Path(__file__).parents[2] / "docs/exchange.md").read_text().split("## From anywhere")[1]
    known = {}
    exec(compile(re.search(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[1], "page", "exec"), known)
    assert [hit.distance for hit in known["hits"][0]] == [hit.distance for hit in known["near"]]
