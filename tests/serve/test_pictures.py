"""What is shown: files of the index, small pictures of them, groups of near-duplicates, and newer generations."""

from __future__ import annotations

import io
import os
import threading
import time
from itertools import chain
from pathlib import Path

import pytest
from PIL import Image

from hashfaiss.errors import HashfaissError
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.serve import app as serving_app
from hashfaiss.serve import desk
from hashfaiss.serve.limits import Limits


def test_files_of_the_index_and_no_others_are_served(client, index, photos):
    for number in range(12):
        path = index.hit(number, 0).path
        shown = client.get(f"/image/{number}")
        assert shown.content == Path(path).read_bytes()
        assert shown.headers["content-type"] == ("image/png" if path.endswith("png") else "image/jpeg")
    page = photos / "cat" / "0.jpg"
    number = index.find(str(page))
    page.write_text("<script>alert(1)</script>")
    assert client.get(f"/image/{number}").status_code == 404
    page.unlink()
    os.mkfifo(page)
    assert client.get(f"/image/{number}").status_code == 404
    page.unlink()
    assert "no such file" in client.get(f"/image/{number}").json()["error"]
    for odd in ("12", "-1", "99999999999999999999", "1.0", "%2e%2e%2fetc%2fpasswd", "..%2f..", "1%00"):
        assert client.get(f"/image/{odd}").status_code in (404, 422)


@pytest.mark.parametrize("side", [160, 320, 1024])
def test_small_pictures(client, index, side):
    for number in range(12):
        shown = client.get(f"/thumbnail/{number}", params={"side": side})
        assert shown.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(shown.content)) as picture, Image.open(index.hit(number, 0).path) as whole:
            assert max(picture.size) == side
            assert picture.width / picture.height == pytest.approx(whole.width / whole.height, rel=0.05)
    assert client.get("/thumbnail/12").status_code == 404


def test_small_pictures_are_kept_up_to_a_number_of_bytes_and_follow_their_files(serving, photos, monkeypatch):
    client = serving(limits=Limits(thumbnail_bytes=20_000))
    pictures = client.app.state.desk._pictures
    for number in [*range(12), 3]:
        client.get(f"/thumbnail/{number}", params={"side": 320})
        assert pictures._bytes == sum(len(one.jpeg) for one in pictures._kept.values()) <= 20_000
    assert 0 < len(pictures._kept) < 12
    path = client.app.state.desk.index.hit(3, 0).path
    before = client.get("/thumbnail/3").content
    made = []
    real = client.app.state.desk.thumbnail.__globals__["thumbnail"]
    monkeypatch.setitem(
        client.app.state.desk.thumbnail.__globals__, "thumbnail", lambda *how: made.append(1) or real(*how)
    )
    assert client.get("/thumbnail/3").content == before
    assert not made
    Image.new("RGB", (30, 30), "red").save(path)
    assert client.get("/thumbnail/3").content != before
    assert len(made) == 1


def test_images_come_in_order_and_parts(client, index):
    whole = client.get("/images", params={"most": 500}).json()
    assert (whole["total"], [one["id"] for one in whole["images"]]) == (12, index.store.ids().tolist())
    parts = [client.get("/images", params={"first": first, "most": 5}).json()["images"] for first in (0, 5, 10, 15)]
    assert [len(part) for part in parts] == [5, 5, 2, 0]
    assert list(chain(*parts)) == whole["images"]


def test_near_duplicates(client, index):
    for radius in (0, 6, 9):
        groups = client.get("/duplicates", params={"radius": radius}).json()
        expected = [[(hit.id, hit.distance) for hit in group] for group in index.duplicates(radius)]
        assert [[(hit["id"], hit["distance"]) for hit in group["hits"]] for group in groups["groups"]] == expected
        assert groups["more_groups"] == 0
    assert client.get("/duplicates", params={"radius": 21}).status_code == 422


def test_near_duplicates_that_take_long_are_waited_for(client, monkeypatch):
    monkeypatch.setattr(serving_app, "LOOK_SECONDS", 0.05)
    go, asked = threading.Event(), []
    real = ImageIndex.duplicates

    def slow(self, radius, progress, **among):
        asked.append(radius)
        progress(3, 12)
        go.wait(60)
        return real(self, radius, progress, **among)

    monkeypatch.setattr(ImageIndex, "duplicates", slow)
    for _ in range(3):
        answer = client.get("/duplicates", params={"radius": 8})
        assert (answer.status_code, answer.headers["retry-after"], answer.json()["of"]) == (202, "1", 12)
    go.set()
    for _ in range(600):
        answer = client.get("/duplicates", params={"radius": 8})
        if answer.status_code == 200:
            break
        time.sleep(0.05)
    assert answer.json()["groups"]
    assert asked == [8]


def until(true):
    for _ in range(600):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def test_a_newer_generation_is_taken_up(serving, folder, photos, monkeypatch):
    monkeypatch.setattr(serving_app, "LOOK_SECONDS", 0.05)
    client = serving()
    before = client.get("/healthz").json()["generation"]
    index = ImageIndex.open(folder, device="cpu")
    index.remove(str(photos / "cat" / "0.jpg"))
    made = index.store.manifest["generation"]  # of two commits, maybe, of which each is taken up
    assert made > before
    until(lambda: client.get("/healthz").json()["generation"] == made)
    answer = client.post("/search", json={"id": 11, "k": 100}).json()
    assert len(answer["answers"][0]["hits"]) == 11
    stored = {name: (folder / name).read_bytes() for name in ("manifest.copy.json", "manifest.json")}
    for name in stored:
        (folder / name).write_bytes(b"{}")
    until(lambda: "hashfaiss_reload_failures_total 1.0" in client.get("/metrics").text)
    assert client.post("/search", json={"id": 11, "k": 100}).json() == answer
    for name, data in stored.items():
        (folder / name).write_bytes(data)
    index.remove(str(photos / "cat" / "1.png"))
    until(lambda: client.get("/healthz").json()["generation"] > answer["generation"])


def test_a_generation_that_cannot_be_opened_is_no_end(client, monkeypatch):
    at = client.app.state.desk
    assert not at.renew()
    os.utime(at.folder / "manifest.json")
    with monkeypatch.context() as patch:
        patch.setattr(ImageIndex, "open", lambda *how: (_ for _ in ()).throw(HashfaissError("no")))
        with pytest.raises(HashfaissError):
            at.renew()
        assert not at.renew()  # once told, for a while
        patch.setattr(desk, "AGAIN", 0.0)
        os.utime(at.folder / "manifest.json")
        for _ in range(2):
            with pytest.raises(HashfaissError):
                at.renew()
        assert client.get("/info").status_code == 200
    assert at.renew()
    assert not at.renew()
