"""Readers keep the generation that they opened, in eight threads as in one, whatever is committed meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from builds import flip, later

from hashfaiss.library.image_index import ImageIndex


def asked(index, number):
    """By a stored code and by a picture: ids, distances, paths and labels."""
    some = [index.query(number, 20), index.within(number, 6)]
    return [[(hit.id, hit.distance, hit.path, hit.labels) for hit in hits] for hits in some]


@pytest.mark.parametrize("kind", ["flat", "ivf:lists=4,probes=2"])
def test_a_reader_outlives_ten_generations(encoder, photos, kind):
    index = ImageIndex.create(encoder, photos.parent / "x.index", kind)
    index.build(photos)
    late, early = ImageIndex.open(index.path), ImageIndex.open(index.path)  # one has read nothing yet
    before = [asked(early, number) for number in range(12)]
    for generation in range(10):
        name = photos / ("bird", "cat", "dog")[generation % 3] / f"{generation % 2 * 2}.jpg"
        flip(name, name)
        later(name)
        if generation % 4 == 3:
            index.remove(photos / f"cat/{generation % 4}.png")
        index.build(photos)
    assert index.store.manifest["generation"] >= early.store.manifest["generation"] + 10
    assert [asked(late, number) for number in range(12)] == before
    assert [asked(early, number) for number in range(12)] == before
    early.refresh()
    with ThreadPoolExecutor(8) as pool:
        ids = early.store.ids().tolist()
        assert list(pool.map(lambda number: asked(early, number), ids * 5)) == [asked(index, n) for n in ids] * 5
