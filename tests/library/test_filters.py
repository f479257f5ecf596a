"""Searching among labels and paths: as a search of those images alone would answer."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path

import numpy as np
import pytest

from hashfaiss.codes import hamming
from hashfaiss.errors import ArgumentError
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.storage.store import CodeStore

KINDS = ["flat", "hash:b=6,flips=0", "multihash:tables=2,b=6", "ivf:lists=4,probes=1", "hnsw:m=4,ef=8"]


def wanted(index, labels=None, paths=None):
    """Ids by a plain loop over all rows."""
    found = []
    for image_id, row in index.store.rows():
        path = index.store.full_path(row)
        tails = [path, *(path[place + 1 :] for place, letter in enumerate(path) if letter == "/")]
        if labels is not None and not set(labels) & set(row.labels):
            continue
        if paths is not None and not any(fnmatch.fnmatchcase(tail, pattern) for pattern in paths for tail in tails):
            continue
        found.append(image_id)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("labels", "paths"),
    [
        (["cat"], None),
        (["cat", "dog"], None),
        (None, ["*.png"]),
        (None, ["photos/b*"]),
        (["dog", "bird"], ["*/1.png", "[23].*"]),
        (["cat"], ["cat/0.jpg"]),
    ],
)
def test_a_filtered_search_is_a_search_of_what_is_left(encoder, photos, kind, labels, paths):
    index = encoder.to_index(photos, kind=kind)
    chosen = wanted(index, labels, paths)
    assert chosen
    query = encoder.encode(photos / "bird/1.png")
    codes, ids = index.store.codes()
    rows = np.flatnonzero(np.isin(ids, chosen))
    distances = hamming(query, codes[rows])[0].astype(int)
    order = np.lexsort((ids[rows], distances))
    for k in (1, len(chosen), 50):
        hits = index.query(photos / "bird/1.png", k, labels=labels, paths=paths)
        assert hits.exact
        assert [hit.id for hit in hits] == ids[rows][order][:k].tolist()  # k of them where k exist
    within = index.within(photos / "bird/1.png", 9, labels=labels, paths=paths)
    assert [hit.id for hit in within] == ids[rows][order][np.sort(distances) <= 9].tolist()


def test_patterns_are_those_of_find(encoder, photos):
    nested = photos / "cat" / "holiday" / "2020"
    nested.mkdir(parents=True)
    (photos / "cat/0.jpg").rename(nested / "0.jpg")
    index = ImageIndex.create(encoder, photos.parent / "x.index")
    index.build(photos)

    def names(*patterns):
        hits = index.query(photos / "dog/0.jpg", 20, paths=patterns)
        return sorted(os.path.relpath(hit.path, photos) for hit in hits)

    assert names("holiday/*") == ["cat/holiday/2020/0.jpg"]
    assert names("./holiday/*") == ["cat/holiday/2020/0.jpg"]
    assert names("2020/0.jpg") == ["cat/holiday/2020/0.jpg"]
    assert names(f"{photos}/dog/*") == [f"dog/{name}" for name in ("0.jpg", "1.png", "2.jpg", "3.png")]
    assert names("*/0.jpg") == ["bird/0.jpg", "cat/holiday/2020/0.jpg", "dog/0.jpg"]
    for nothing in ("oliday/*", "/dog/*", "2020", "dog/?.gif"):
        with pytest.raises(ArgumentError, match="no image of the index has path"):
            names(nothing)


def test_what_matches_nothing_is_told_before_an_image_is_read(encoder, photos):
    index = encoder.to_index(photos)
    with pytest.raises(ArgumentError, match=r"has label 'cat' or 'dog' and path '\*.gif'"):
        index.query("nowhere.jpg", labels=["dog", "cat"], paths="*.gif")
    for labels in ("", "cow", ["cat", "cow"], {"cow": 1}):
        with pytest.raises(ArgumentError, match=r"no image of the index has label '(cow)?': it has bird, cat, dog$"):
            index.query("nowhere.jpg", labels=labels)
    for wrong in (3, [], [3], Path("cat")):
        for name in ("labels", "paths"):
            with pytest.raises(ArgumentError, match=f"{name} is .*: give a text or a list of texts"):
                index.query("nowhere.jpg", **{name: wrong})


def test_labels_that_are_named_are_few(encoder, photos):
    cats = sorted((photos / "cat").iterdir())
    index = encoder.to_index(cats)
    with pytest.raises(ArgumentError, match=r"it has none$"):
        index.query("nowhere.jpg", labels="cat")
    many = encoder.to_index(cats, labels=[[f"l{n}{m}" for m in range(4)] for n in range(4)])
    with pytest.raises(ArgumentError, match=r"it has l00, l01, .*l21, \.\.\.$"):
        many.query("nowhere.jpg", labels="cat")
    many.remove(cats[:3])
    assert many.store.labels() == {"l30", "l31", "l32", "l33"}


def test_a_filter_follows_changes_of_the_index(encoder, photos):
    index = encoder.to_index(photos)
    assert len(index.query(photos / "cat/0.jpg", 10, labels="cat")) == 4
    assert len(index.query(photos / "cat/0.jpg", 10, labels=["cat"])) == 4
    index.remove(photos / "cat/1.png")
    assert len(index.query(photos / "cat/0.jpg", 10, labels="cat")) == 3


def test_images_from_memory_have_labels_but_no_paths(encoder, photos):
    from PIL import Image

    index = encoder.to_index([Image.open(photos / "cat/0.jpg")], labels=[["cat"]])
    assert index.store.where(["cat"]).tolist() == [0]
    assert index.store.where(None, ["*"]).tolist() == []


def test_rows_of_removed_images_do_not_match(encoder, photos, tmp_path):
    index = encoder.to_index(photos, tmp_path / "x.index")
    index.remove(photos / "cat")
    assert len(index.store.where(["cat"])) == 0
    assert len(index.store.where(None, ["cat/*"])) == 0
    assert len(index.store.where(["dog", "cat"], ["*"])) == 4
    assert CodeStore.create(tmp_path / "y", 8).where(["cat"], ["*"]).tolist() == []


def test_patterns_are_of_letters_not_bytes(encoder, photos):
    (photos / "cat/0.jpg").rename(photos / "cat/café.jpg")
    os.rename(photos / "cat/1.png", os.fsencode(photos / "cat") + b"/\xff.png")
    index = encoder.to_index(photos)
    for pattern in ("caf?.jpg", "caf[éè].jpg", "café*", "*é.jpg"):
        assert len(index.query(photos / "dog/0.jpg", 20, paths=pattern)) == 1
    assert len(index.query(photos / "dog/0.jpg", 20, paths="cat/?.png")) == 2


def test_ways_to_search_that_are_none_are_told(encoder, photos):
    index = encoder.to_index(photos)
    for wrong in ({"label": "cat"}, {"exakt": True}):
        with pytest.raises(ArgumentError, match="is no way to search: give exact, labels, paths, rerank"):
            index.query("nowhere.jpg", **wrong)


def test_labels_and_patterns_compare_in_one_normal_form(encoder, photos):
    composed, apart = "caf\u00e9", "cafe\u0301"
    (photos / "cat").rename(photos / apart)
    index = encoder.to_index(photos, photos.parent / "x.index")
    for name in (composed, apart):
        for how in ({"labels": [name]}, {"paths": [f"{name}/*"]}, {"paths": str(photos / name / "*")}):
            assert len(index.query(photos / "dog/0.jpg", 20, **how)) == 4
    assert index.store.labels() == {composed, "bird", "dog"}
    assert index.remove(photos / composed / "0.jpg") == 1
    assert index.remove(photos / composed) == 3
