"""Several indexes of one model answer as one."""

from __future__ import annotations

import json

import pytest
from commands import run
from encoders import altered

from hashfaiss.errors import ArgumentError, EncoderMismatchError
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.several import Several


@pytest.fixture
def parts(encoder, photos):
    """One index of all photographs, and one of each of their folders."""
    whole = ImageIndex.create(encoder, photos.parent / "whole.index")
    whole.build(photos)
    made = []
    for name in ("bird", "cat", "dog"):
        made.append(ImageIndex.create(encoder, photos.parent / f"{name}.index"))
        made[-1].build(photos / name)
    return whole, made


def found(hits):
    return [(hit.path, hit.distance) for hit in hits]


def test_they_answer_as_one_index_of_all(parts, photos):
    whole, several = parts[0], Several(parts[1])
    assert len(several) == len(whole) == 12
    asked = [str(path) for path in sorted(photos.rglob("*.*"))]
    for one, all_ in zip(several.query(asked, 5), whole.query(asked, 5), strict=True):
        assert found(one) == found(all_)
        assert one.exact
        assert all(hit.path in hit.index.replace(".index", "") or hit.index for hit in one)
    assert found(several.within(asked[0], 20)) == found(whole.within(asked[0], 20))
    codes = whole.store.codes()[0][:3]
    assert [found(hits) for hits in several.search(codes, 4)] == [found(hits) for hits in whole.search(codes, 4)]
    cats = several.query(asked[0], 12, paths="cat/*")
    assert found(cats) == found(whole.query(asked[0], 12, paths="cat/*"))
    hit = several.query(asked[-1], 1)[0]
    assert hit.index == str(photos.parent / "dog.index")
    assert parts[1][2].hit(hit.id, 0).path == hit.path


def test_what_is_of_one_index_is_refused(parts, photos, encoder):
    several = Several(parts[1])
    path = str(photos / "cat/0.jpg")
    with pytest.raises(ArgumentError, match="may be of any of several"):
        several.query(3)
    with pytest.raises(ArgumentError, match="are of one index"):
        several.query(path, rerank="asymmetric")
    with pytest.raises(ArgumentError, match="no image of the index has path"):
        several.query(path, paths="fish/*")
    with pytest.raises(ArgumentError, match="no index was given"):
        Several([])
    other = altered(encoder, preprocessing=encoder.preprocessing.__class__(32, "crop"))
    with pytest.raises(EncoderMismatchError, match="are of different models"):
        Several([parts[0], ImageIndex.create(other, photos.parent / "other.index")])


def test_the_command(parts, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    many = [text for name in ("bird", "cat", "dog") for text in ("--index", f"{name}.index")]
    asked = ("query", "photos/cat/0.jpg", "-k", "6", "--json")
    one = [json.loads(line) for line in run(*asked, "--index", "whole.index").splitlines()]
    all_ = [json.loads(line) for line in run(*asked, *many, "--montage", "hits.png").splitlines()]
    assert [(hit["path"], hit["distance"]) for hit in one] == [(hit["path"], hit["distance"]) for hit in all_]
    assert all("index" not in hit for hit in one)
    assert {hit["index"].rpartition("/")[2] for hit in all_} <= {"bird.index", "cat.index", "dog.index"}
    assert (photos.parent / "hits.png").exists()
    assert "dog.index" in run("query", "photos/dog/0.jpg", "-k", "1", *many)
    assert "are of one, give one" in run("query", "photos/cat/0.jpg", "--combine", *many, code=2)
