"""Choosing a kind for an index of images: what is measured is shown, stored with its reason, and kept."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from commands import run

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError, CorruptIndexError
from hashfaiss.indexes import CodeIndex, Trust, code_index, trust
from hashfaiss.library import faiss_file
from hashfaiss.library.image_index import ImageIndex


def test_the_choice_is_kept_with_its_reason(encoder: Encoder, photos, tmp_path):
    index = encoder.to_index(photos, tmp_path / "x.index")
    assert index.info()["why"] == "auto: at most 50,000 distinct codes"
    told = []
    tuning = index.tune(0.9, notice=told.append)
    assert len(told) == len(tuning.trials)
    for opened in (index, ImageIndex.open(tmp_path / "x.index")):
        assert opened.info()["kind"] == str(opened.codes.kind) == tuning.kind
        assert opened.info()["why"] == tuning.why
    (photos / "cat/0.jpg").unlink()
    index.build(photos)
    assert (index.info()["kind"].partition(":")[0], index.info()["why"]) == (tuning.kind.partition(":")[0], tuning.why)
    index.build(photos, kind="hash")
    assert index.info()["why"] == "asked for"
    index.build(photos, kind="auto")
    assert index.info()["why"] == "auto: at most 50,000 distinct codes"


def test_an_index_in_memory_is_tuned_too(encoder, photos):
    index = encoder.to_index(photos)
    tuning = index.tune()
    assert (index.info()["kind"], index.info()["why"]) == (tuning.kind, tuning.why)


def test_auto_is_measured_once_and_again_when_there_are_twice_as_many(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(code_index, "FLAT_UP_TO", 1)
    monkeypatch.setattr(faiss_file, "FLAT_UP_TO", 1)
    measured = []
    tune = code_index.tune
    monkeypatch.setattr(code_index, "tune", lambda codes, *a: measured.append(len(codes)) or tune(codes, *a))
    index = ImageIndex.create(encoder, tmp_path / "x.index")
    index.build(photos / "cat")
    assert len(measured) == 1
    index.add(photos / "dog/0.jpg")
    index.remove(photos / "dog/0.jpg")
    assert len(measured) == 1
    index.add(photos / "dog")
    assert len(measured) == 2
    assert index.info()["why"]


def test_a_reader_measures_nothing(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(code_index, "FLAT_UP_TO", 1)
    monkeypatch.setattr(faiss_file, "FLAT_UP_TO", 1)
    index = encoder.to_index(photos, tmp_path / "x.index")
    chosen = str(index.codes.kind)
    monkeypatch.setattr(code_index, "tune", lambda *a: pytest.fail("it was measured"))
    (file,) = (tmp_path / "x.index/faiss").iterdir()
    file.unlink()
    assert str(ImageIndex.open(tmp_path / "x.index").codes.kind).partition(":")[0] == chosen.partition(":")[0]
    manifest = ImageIndex.open(tmp_path / "x.index").store.manifest
    manifest["index"] = None  # a first build under way
    opened = ImageIndex.open(tmp_path / "x.index")
    opened.store.manifest = manifest
    assert str(opened.codes.kind) == "flat"


def test_an_index_in_memory_is_measured_once(encoder, photos, monkeypatch):
    monkeypatch.setattr(code_index, "FLAT_UP_TO", 1)
    monkeypatch.setattr(faiss_file, "FLAT_UP_TO", 1)
    measured = []
    tune = code_index.tune
    monkeypatch.setattr(code_index, "tune", lambda codes, *a: measured.append(len(codes)) or tune(codes, *a))
    index = encoder.to_index(photos)
    for _ in range(2):
        index.remove(photos / f"cat/{len(measured)}.{'png' if len(measured) % 2 else 'jpg'}")
        index.add(photos)
        index.query(photos / "cat/0.jpg")
    assert len(measured) == 1


def test_an_index_made_where_there_is_a_gpu_opens_where_there_is_none(encoder, photos, tmp_path):
    index = encoder.to_index(photos, tmp_path / "x.index")
    with index.store.writing() as writer:
        entry = {**index.store.manifest["index"], "kind": "gpu", "generation": index.store.manifest["generation"] + 1}
        writer.commit(index=entry, kind="gpu")
    opened = ImageIndex.open(tmp_path / "x.index")
    assert opened.query(photos / "cat/0.jpg", 1)[0].distance == 0
    assert opened.remove(photos / "cat/1.png") == 1
    assert len(opened.query(photos / "cat/0.jpg", 20)) == 11


def test_an_entry_of_an_older_version_is_read(encoder, photos, tmp_path):
    index = encoder.to_index(photos, tmp_path / "x.index", "flat")
    with index.store.writing() as writer:
        entry = {n: v for n, v in index.store.manifest["index"].items() if n not in ("why", "measured")}
        writer.commit(index={**entry, "generation": index.store.manifest["generation"] + 1})
    opened = ImageIndex.open(tmp_path / "x.index")
    assert opened.info()["why"] == "asked for"
    assert opened.remove(photos / "cat/1.png") == 1


def test_tune_from_the_command_line(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder.to_index(photos, "photos.index")
    printed = run("tune", "--index", "photos.index", "--recall", "0.9", "--memory", "1MB")
    for title in (
        "kind",
        "recall of 1",
        "at least",
        "confirmed",
        "unlike",
        "again",
        "certified",
        "queries/s in batch",
        "alone",
        "bytes a code",
        "built in",
    ):
        assert title in printed
    assert "chosen: " in printed
    found = json.loads(run("tune", "--index", "photos.index", "--json"))
    assert {trial["kind"].partition(":")[0] for trial in found["trials"]} >= {"flat", "ivf", "hash"}
    assert found["trials"][0]["recall"].keys() >= {"1"}
    assert (found["recall"], found["trust"]) == (0.99, None)
    assert found["why"] in run("info", "--index", "photos.index")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--memory", "much"], "memory is 'much': give bytes, such as 500MB or 4GB"),
        (["--memory", "-1GB"], "give bytes"),
        (["--memory", "3"], "a memory of 3 bytes was asked for"),
        (["--recall", "0"], "recall is 0.0: give a share above 0, at most 1"),
        (["--recall", "1.1"], "recall is 1.1"),
        (["--recall", "nan"], "recall is nan"),
    ],
)
def test_what_cannot_be_asked_for(encoder, photos, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    encoder.to_index(photos, "photos.index")
    before = run("info", "--index", "photos.index")
    assert sentence in run("tune", "--index", "photos.index", *arguments, code=2)
    assert run("info", "--index", "photos.index") == before


def test_nothing_to_tune(encoder, photos, tmp_path):
    index = ImageIndex.create(encoder, tmp_path / "x.index")
    with pytest.raises(ArgumentError, match="the index is empty: build it"):
        index.tune()
    index.add(photos / "cat")
    for wrong in ({"recall": "0.9"}, {"recall": None}, {"memory": "4GB"}, {"memory": 1.5}):
        with pytest.raises(ArgumentError, match=r"give a (share|number of bytes)"):
            index.tune(**wrong)


def test_what_a_kind_holds_is_told_as_measured():
    """mallinfo2's count for 10^6 codes of 64 bits, FAISS 1.15.1: random codes, and round 100 centres at p = 0.05."""
    codes = np.random.default_rng(0).integers(0, 256, (20_000, 8), dtype=np.uint8)
    held = {
        kind: CodeIndex(codes, np.arange(20_000), 64, kind).kind.held_bytes / 20_000
        for kind in ("flat", "ivf:lists=128", "hash:b=10", "hash:b=24", "multihash:tables=4,b=10", "hnsw:m=16")
    }
    assert held["flat"] == 8
    assert 16 < held["ivf:lists=128"] < 25
    assert 20 < held["hash:b=10"] < 32  # 31 with 16 codes a bucket
    assert 130 < held["hash:b=24"] < 160  # 151 with one
    assert 50 < held["multihash:tables=4,b=10"] < 90  # 73
    assert held["hnsw:m=16"] == 152  # 153


def trusting(index, entry):
    """The index with this said of FAISS in its manifest."""
    with index.store.writing() as writer:
        generation = index.store.manifest["generation"] + 1
        writer.commit(index={**index.store.manifest["index"], **entry, "generation": generation})
    return ImageIndex.open(index.path)


def test_what_is_believed_is_kept_with_the_choice(encoder, photos, tmp_path, monkeypatch):
    chosen = Trust(((1, 2), (10, 5)))
    real = code_index.tune

    def tune(codes, bits, *_):
        kind = code_index.parse_kind("hash:b=4,flips=0", bits, len(codes))
        kind.build(np.pad(codes, ((0, 0), (0, kind.width - codes.shape[1]))))
        return kind, replace(real(codes, bits)[1], kind=str(kind), trust=chosen)

    monkeypatch.setattr(code_index, "tune", tune)
    for index in (encoder.to_index(photos, tmp_path / "x.index"), encoder.to_index(photos)):
        index.tune()
        assert index.codes.trust == chosen
        index.remove(photos / "cat/0.jpg")
        index.add(photos / "cat/0.jpg")
        assert index.codes.trust == chosen
        assert "tuned for up to 10 nearest" in index.info()["answers"]
        index.query(photos / "cat/0.jpg", exact=False)
    opened = ImageIndex.open(tmp_path / "x.index")
    assert (opened.codes.kind.name, opened.codes.trust) == ("hash", chosen)
    for file in (tmp_path / "x.index/faiss").iterdir():
        file.unlink()
    assert ImageIndex.open(tmp_path / "x.index").codes.trust == chosen  # built anew
    opened.build(photos, kind="hash:b=4,flips=1")
    assert opened.codes.trust is None


def test_a_choice_of_an_older_version_is_believed_for_what_it_measured(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(trust, "BEFORE", 5)  # instead of 10, of which there are few
    index = encoder.to_index(photos, tmp_path / "x.index", "hnsw:m=16,ef=32")
    entry = {n: v for n, v in index.store.manifest["index"].items() if n != "trust"}
    with index.store.writing() as writer:
        writer.commit(index={**entry, "why": "it was fast", "generation": index.store.manifest["generation"] + 1})
    opened = ImageIndex.open(index.path)
    assert opened.codes.trust == Trust.before(20)
    image = photos / "cat/0.jpg"
    assert not opened.query(image, k=5, exact=False).exact
    assert opened.query(image, k=6, exact=False).exact  # more than was tuned for


@pytest.mark.parametrize("wrong", [[[0, 1]], "much", [[10, 1], [1, 1]], 3])
def test_a_damaged_trust_is_told(encoder, photos, tmp_path, wrong):
    index = encoder.to_index(photos, tmp_path / "x.index", "hash")
    with pytest.raises(CorruptIndexError, match="damaged in what it says of FAISS"):
        trusting(index, {"trust": wrong})


@pytest.mark.parametrize("kind", ["hash:b=12,flips=0", "ivf:lists=6,probes=1", "hnsw:m=2,ef=1"])
def test_a_query_is_exact_unless_asked_otherwise(encoder, photos, kind):
    index, flat = encoder.to_index(photos, kind=kind), encoder.to_index(photos, kind="flat")
    images = sorted(map(str, photos.glob("*/*.jpg")))

    def found(answers):
        return [[(hit.id, hit.distance) for hit in hits] for hits in answers]

    asks = [
        lambda index, **how: index.query(images, k=7, **how),
        lambda index, **how: index.within(images, radius=8, **how),
        lambda index, **how: list(index.stream(images, k=7, **how)),
        lambda index, **how: list(index.stream(images, radius=8, **how)),
        lambda index, **how: index.query(images, k=7, rerank="asymmetric", **how),
    ]
    for ask in asks:
        for how in ({}, {"exact": True}):
            answers = ask(index, **how)
            assert all(hits.exact for hits in answers)
            assert found(answers) == found(ask(flat))
        assert not all(hits.exact for hits in ask(index, exact=False))
    assert index.info()["answers"].startswith("exact by default")
