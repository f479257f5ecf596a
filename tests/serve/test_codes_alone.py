"""A service of codes that were imported: it answers codes and ids, and takes no images."""

from __future__ import annotations

import numpy as np

from hashfaiss.exchange import import_codes


def test_codes_are_answered_and_images_refused(serving, encoder, photos, tmp_path):
    codes = np.random.default_rng(0).integers(0, 256, (30, 3), np.uint8)
    np.save(tmp_path / "a.npy", codes)
    index = import_codes(tmp_path / "a.npy", tmp_path / "y.index")
    client = serving(at=tmp_path / "y.index")
    assert client.get("/info").json()["method"] == "imported"
    for asked in ({"id": 4, "k": 3}, {"code": codes[4].tobytes().hex(), "k": 3}):
        (answer,) = client.post("/search", json=asked).json()["answers"]
        assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in index.query(4, k=3)]
        assert answer["hits"][0]["distance"] == 0
    data = (photos / "cat" / "0.jpg").read_bytes()
    refused = client.post("/search", content=data, headers={"Content-Type": "image/jpeg"})
    assert (refused.status_code, "no model for images" in refused.text) == (422, True)
    assert client.get("/thumbnail/4").status_code == 404
    # an index of images that takes its place, and the other way round
    desk = client.app.state.desk
    for other, has in ((encoder.to_index(photos, tmp_path / "z.index"), True), (index, False)):
        desk.folder = other.path
        assert desk.renew()
        assert desk.index.has_encoder == has
