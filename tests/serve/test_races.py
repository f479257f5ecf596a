"""What goes on beside a request: threads of those that ended, other generations, groups that take long."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from hashfaiss.library.image_index import ImageIndex
from hashfaiss.serve import app as serving_app
from hashfaiss.serve.app import MOST_THREADS, SEARCHED, Service
from hashfaiss.serve.asked import Asked
from hashfaiss.serve.desk import Desk
from hashfaiss.serve.guard import Gate
from hashfaiss.serve.limits import Limits


def until(true):
    for _ in range(600):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


@pytest.fixture
def service(folder):
    limits = Limits()
    return Service(Desk(folder, "cpu", limits.thumbnail_bytes), limits, Gate(None), False)


def test_work_for_those_who_went_takes_no_more_threads(service):
    go, begun = threading.Event(), []

    def work():
        begun.append(1)
        go.wait(60)

    async def run():
        for _ in range(5):
            asked = [asyncio.ensure_future(service.thread(work)) for _ in range(MOST_THREADS)]
            await asyncio.sleep(0.05)
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        busy = len(begun)
        go.set()
        assert await service.thread(lambda: 7) == 7
        await service.close()
        return busy

    assert asyncio.run(run()) == MOST_THREADS
    assert len(begun) == MOST_THREADS


def test_a_search_that_is_over_goes_no_further(service, monkeypatch):
    index, over, searched = service.desk.index, threading.Event(), []
    real = ImageIndex.search

    def search(self, codes, *asked, **how):
        searched.append(len(codes))
        over.set()
        return real(self, codes, *asked, **how)

    monkeypatch.setattr(ImageIndex, "search", search)
    codes = np.zeros((2 * SEARCHED, -(-index.bits // 8)), np.uint8)
    for asked, together in (({"k": 3}, SEARCHED), ({"radius": index.bits}, 1)):
        over.clear()
        made = service._answers(index, codes, Asked.of(asked, index.bits, service.limits), over)
        assert (len(made), searched.pop()) == (together, together)
        assert not searched


def test_more_codes_than_are_searched_at_once_are_answered_in_order(client, index):
    stored = [index.codes.reconstruct([number])[0].tobytes().hex() for number in range(12)] * 6
    answers = client.post("/search", json={"codes": stored, "k": 12}).json()["answers"]
    assert [answer["code"] for answer in answers] == stored
    for number, answer in enumerate(answers):
        assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in index.query(number % 12, 12)]


def test_an_image_is_encoded_for_the_index_it_is_searched_in(client, photos, monkeypatch):
    desk, data = client.app.state.desk, (photos / "dog" / "1.png").read_bytes()
    ask = {"content": data, "headers": {"Content-Type": "image/png"}}
    before = client.post("/search", **ask).json()
    real, index = desk.prepare, desk.index

    def prepare(*given):
        desk.index = SimpleNamespace(encoder=None, store=index.store, codes=None)  # another takes its place
        return real(*given)

    monkeypatch.setattr(desk, "prepare", prepare)
    answer = client.post("/search", **ask)
    desk.index = index
    assert answer.json() == before


def test_files_alike_in_size_and_time_have_pictures_of_their_own(service, tmp_path, monkeypatch):
    paths = [str(tmp_path / f"{colour}.bmp") for colour in ("red", "blue")]
    for path, colour in zip(paths, ("red", "blue"), strict=True):
        Image.new("RGB", (9, 9), colour).save(path)
        os.utime(path, (1, 1))
    shown = []
    for path in paths:  # one id, of an index that was built anew
        monkeypatch.setattr(
            service.desk, "index", SimpleNamespace(hit=lambda *of, path=path: SimpleNamespace(path=path))
        )
        shown.append(service.desk.thumbnail(0, 160).jpeg)
    assert shown[0] != shown[1]


def test_whatever_goes_wrong_at_a_newer_generation_the_next_is_taken_up(serving, folder, photos, monkeypatch):
    monkeypatch.setattr(serving_app, "LOOK_SECONDS", 0.05)
    client = serving()
    before = client.get("/healthz").json()["generation"]
    index = ImageIndex.open(folder, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(ImageIndex, "open", lambda *how: (_ for _ in ()).throw(OSError("gone")))
        index.remove(str(photos / "cat" / "0.jpg"))
        until(lambda: "hashfaiss_reload_failures_total 1.0" in client.get("/metrics").text)
    index.remove(str(photos / "cat" / "1.png"))
    until(lambda: client.get("/healthz").json()["generation"] > before)


@pytest.fixture
def slow(monkeypatch):
    """Groups that are found when they are let go; their radii."""
    monkeypatch.setattr(serving_app, "LOOK_SECONDS", 0.05)
    go, asked = threading.Event(), []
    real = ImageIndex.duplicates

    def duplicates(self, radius, progress, **among):
        asked.append(radius)
        while not go.wait(0.01):
            progress(3, 12)
        return real(self, radius, progress, **among)

    monkeypatch.setattr(ImageIndex, "duplicates", duplicates)
    yield go, asked
    go.set()


def test_groups_that_nobody_waits_for_are_not_sought(client, slow):
    go, asked = slow
    for radius in (8, 5, 6, 7, 5, 6, 7):
        assert client.get("/duplicates", params={"radius": radius}).status_code == 202
    go.set()
    for radius in (8, 9):
        until(lambda radius=radius: client.get("/duplicates", params={"radius": radius}).status_code == 200)
    assert asked == [8, 9]


def test_the_end_does_not_wait_for_groups(serving, slow):
    client = serving()
    assert client.get("/duplicates", params={"radius": 8}).status_code == 202
    (finding,) = [one for one in threading.enumerate() if one.name == "duplicates"]
    assert finding.daemon
    client.__exit__(None, None, None)
    finding.join(60)
    assert not finding.is_alive()
    client.__enter__()
