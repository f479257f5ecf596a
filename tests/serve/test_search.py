"""What the service answers is what the index answers; what it refuses, it says why."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hashfaiss.serve.limits import Limits


def plain(hits):
    return [(hit.id, hit.path, hit.distance, list(hit.labels)) for hit in hits]


def found(answer):
    assert answer.status_code == 200, answer.text
    return [
        [(hit["id"], hit["path"], hit["distance"], hit["labels"]) for hit in one["hits"]]
        for one in answer.json()["answers"]
    ]


def post(client, path, data, kind="image/jpeg"):
    return client.post("/search", params=path, content=data, headers={"Content-Type": kind})


@pytest.mark.parametrize("asked", [{"k": 5}, {"radius": 7}, {}, {"k": 3, "exact": "false"}])
def test_an_image_is_answered_as_by_the_index(client, index, photos, asked):
    for path in sorted(photos.rglob("*.*")):
        answer = post(client, asked, path.read_bytes(), "image/png" if path.suffix == ".png" else "image/jpeg")
        ask = index.within if "radius" in asked else index.query
        expected = ask(str(path), asked.get("radius", asked.get("k", 10)))
        assert found(answer) == [plain(expected)]
        assert answer.json()["answers"][0]["exact"]


def test_codes_ids_and_paths_are_answered_as_their_images(client, index, photos):
    codes, ids = index.store.codes()
    for how in ({"k": 4}, {"radius": 6}, {"k": 2, "label": ["cat", "dog"]}, {"k": 2, "under": "bird/*"}):
        own = {{"label": "labels", "under": "paths"}.get(name, name): value for name, value in how.items()}
        expected = [plain(hits) for hits in index.search(codes, **own)]
        several = client.post("/search", json={"codes": [code.tobytes().hex() for code in codes], **how})
        assert found(several) == expected
        for number, image in enumerate(ids.tolist()):
            path = index.hit(image, 0).path
            for what in ({"id": image}, {"path": path}, {"code": codes[number].tobytes().hex()}):
                assert found(client.post("/search", json=what | how)) == [expected[number]]
    hit = several.json()["answers"][0]["hits"][0]
    assert bytes.fromhex(hit["code"]) == codes[ids.tolist().index(hit["id"])].tobytes()


def test_a_path_is_a_name_and_no_file(client, photos, tmp_path):
    (tmp_path / "secret.jpg").write_bytes((photos / "cat" / "0.jpg").read_bytes())
    for path in (str(tmp_path / "secret.jpg"), "/etc/passwd", "../x", "\0", "\ud800", "cat/0.jpg\n", ""):
        body = json.dumps({"path": path})
        refused = client.post("/search", content=body, headers={"Content-Type": "application/json"})
        assert refused.status_code == 404
        assert "has no image" in refused.json()["error"]


def test_more_hits_than_an_answer_holds_are_counted(serving):
    client = serving(limits=Limits(hits=5, k=3))
    answer = client.post("/search", json={"id": 1, "radius": 20}).json()["answers"][0]
    assert len(answer["hits"]) == 5
    assert answer["more"] == 7
    refused = client.post("/search", json={"id": 1, "k": 4})
    assert (refused.status_code, refused.json()["error"]) == (422, "k is 4: give 1 to 3")


def png(size=(4, 4)):
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    return file.getvalue()


BAD_JSON = [
    (400, b"{", "not JSON"),
    (400, b"[1]", "no object"),
    (400, b"[" * 100_000, "not JSON"),
    (400, b"\xff", "not JSON"),
    (400, b"", "empty"),
    (404, b'{"id": 99}', "no image '99'"),
    (404, b'{"id": -1}', "no image '-1'"),
    (404, b'{"id": 9999999999999999999999}', "no image"),
    (422, b"{}", "give one of id, path, code, codes"),
    (422, b'{"id": 1, "path": "x"}', "not id and path"),
    (422, b'{"id": true}', "whole number"),
    (422, b'{"id": 1.5}', "whole number"),
    (422, b'{"id": null}', "whole number"),
    (422, b'{"path": 3}', "give a text"),
    (422, b'{"id": 1, "k": 0}', "k is 0"),
    (422, b'{"id": 1, "k": 2, "radius": 1}', "give one of them"),
    (422, b'{"id": 1, "k": "2"}', "whole number"),
    (422, b'{"id": 1, "radius": 21}', "codes have 20 bits"),
    (422, b'{"id": 1, "radius": -1}', "codes have 20 bits"),
    (422, b'{"id": 1, "exact": 1}', "give true or false"),
    (422, b'{"id": 1, "label": []}', "1 to 100 texts"),
    (422, b'{"id": 1, "label": [3]}', "1 to 100 texts"),
    (422, b'{"id": 1, "label": {"a": 1}}', "1 to 100 texts"),
    (422, b'{"id": 1, "label": "fish"}', "no image of the index has label"),
    (422, b'{"id": 1, "under": "nowhere/*"}', "no image of the index has path"),
    (422, b'{"id": 1, "under": "\\ud800*"}', "no image of the index has path"),
    (422, b'{"id": 1, "label": "\\ud800"}', "no image of the index has label"),
    (422, b'{"id": 1, "colour": "red"}', "no parameter"),
    (422, b'{"code": "00"}', "codes of 20 bits have 3"),
    (422, b'{"code": "zz0000"}', "not hexadecimal"),
    (422, b'{"code": 7}', "not hexadecimal"),
    (422, b'{"code": "0000f0"}', "more than 20 bits"),
    (422, b'{"codes": []}', "list of 1 to"),
    (422, b'{"codes": "000000"}', "list of 1 to"),
]


@pytest.mark.parametrize(("status", "body", "reason"), BAD_JSON, ids=range(len(BAD_JSON)))
def test_json_that_is_wrong_is_refused_with_the_reason(client, status, body, reason):
    refused = client.post("/search", content=body, headers={"Content-Type": "application/json"})
    assert (refused.status_code, list(refused.json())) == (status, ["error"])
    assert reason in refused.json()["error"]


BAD_IMAGES = [
    (422, {}, b"no image", "image/jpeg", "not an image"),
    (422, {}, png((50, 50))[:60], "image/png", "cannot be read"),
    (400, {}, b"", "image/png", "empty"),
    (415, {}, png(), "text/html", "'text/html' is not taken"),
    (415, {}, png(), "", "is not taken"),
    (422, {"k": "many"}, png(), "image/png", "whole number"),
    (422, {"k": "1e3"}, png(), "image/png", "whole number"),
    (422, {"k": ["1", "2"]}, png(), "image/png", "given 2 times"),
    (422, {"exact": "yes"}, png(), "image/png", "give true or false"),
    (422, {"path": "x"}, png(), "image/png", "no parameter"),
]


@pytest.mark.parametrize(("status", "query", "data", "kind", "reason"), BAD_IMAGES, ids=range(len(BAD_IMAGES)))
def test_an_upload_that_is_wrong_is_refused_with_the_reason(client, status, query, data, kind, reason):
    refused = post(client, query, data, kind)
    assert refused.status_code == status
    assert reason in refused.json()["error"]


def test_too_much_is_refused(serving, monkeypatch):
    client = serving(limits=Limits(upload_bytes=1000))
    refused = post(client, {}, bytes(1001))
    assert refused.status_code == 413
    assert "1,000 bytes" in refused.json()["error"]
    chunks = (bytes(400) for _ in range(1000))  # which claims no length
    refused = client.post("/search", content=chunks, headers={"Content-Type": "image/png"})
    assert refused.status_code == 413
    monkeypatch.setenv("HASHFAISS_MAX_MEGAPIXELS", "1")
    bomb = png((1001, 1000))
    refused = serving().post("/search", content=bomb, headers={"Content-Type": "image/png"})
    assert refused.status_code == 422
    assert "pixels" in refused.json()["error"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["id", "path", "code", "codes", "k", "radius", "label", "under", "exact", "x"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(NAMES, JSON | st.integers(0, 30) | st.just("0" * 6), max_size=4))
def test_no_json_is_an_error_of_the_service(client, body):
    answer = client.post("/search", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 404, 422)
    assert answer.status_code == 200 or answer.json()["error"]


def test_the_codes_of_an_answer_are_the_networks(client, encoder, photos):
    path = photos / "dog" / "1.png"
    answer = post(client, {"k": 1}, path.read_bytes(), "application/octet-stream").json()["answers"][0]
    assert bytes.fromhex(answer["code"]) == np.asarray(encoder.encode([str(path)]))[0].tobytes()
