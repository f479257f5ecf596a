"""Near images of two folders, and of a reference folder."""

from __future__ import annotations

import pytest

from hashfaiss.errors import ArgumentError


@pytest.fixture
def index(encoder, photos):
    for copy, of in {"dog/cat.jpg": "cat/0.jpg", "dog/again.jpg": "cat/0.jpg", "bird/cat.jpg": "cat/2.jpg"}.items():
        (photos / copy).write_bytes((photos / of).read_bytes())
    (photos / "dog/dog.jpg").write_bytes((photos / "dog/0.jpg").read_bytes())
    return encoder.to_index(photos, photos.parent / "x.index")


def names(groups, photos):
    return [[hit.path.removeprefix(f"{photos}/") for hit in group] for group in groups]


def folders(group):
    return {path.partition("/")[0] for path in group}


def test_across_two_folders_only(index, photos):
    found = names(index.duplicates(between=(photos / "cat", photos / "dog")), photos)
    assert any({"cat/0.jpg", "dog/again.jpg", "dog/cat.jpg"} <= set(group) for group in found)
    assert all(folders(group) == {"cat", "dog"} for group in found)
    assert any({"dog/0.jpg", "dog/dog.jpg"} <= set(group) for group in names(index.duplicates(), photos))
    (every,) = index.duplicates(20, between=(photos / "cat", photos / "dog"))
    assert len(every) == 11
    for group in index.duplicates(4, link="complete"):
        ids = {hit.id for hit in group}
        assert all(ids <= {hit.id for hit in index.within(one.path, 4)} for one in group)


def test_near_a_folder(index, photos):
    found = names(index.duplicates(reference=photos / "cat"), photos)
    assert [group[0] for group in found] == ["cat/0.jpg", "cat/2.jpg"]
    assert {"dog/again.jpg", "dog/cat.jpg"} <= set(found[0])
    assert "bird/cat.jpg" in found[1]
    groups = list(index.duplicates(20, reference=str(photos / "cat")))
    assert sum(len(group) - 1 for group in groups) == 12  # each once
    for group in groups:
        assert group[0].distance == 0
        for hit in group[1:]:
            nearest = index.query(hit.path, 1, paths="cat/*")[0]
            assert (nearest.distance, nearest.path) == (hit.distance, group[0].path)


def test_what_cannot_be_grouped_is_told(index, photos):
    for among, message in [
        ({"between": (photos / "cat", photos)}, "lies below both folders"),
        ({"between": (photos / "cat", photos / "cow")}, "no image below .*cow"),
        ({"between": photos / "cat"}, "give two folders"),
        ({"reference": photos / "ca"}, "no image below"),
        ({"reference": photos / "cat", "link": "complete"}, "neither linked nor between"),
        ({"reference": photos / "cat", "between": (photos / "cat", photos / "dog")}, "neither linked nor between"),
        ({"link": "single"}, "link is 'single'"),
        ({"folder": photos}, "'folder' is no way to group"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            list(index.duplicates(1, **among))
