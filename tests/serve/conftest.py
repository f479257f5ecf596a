"""A service in this process, of an index of the 12 photos."""

from __future__ import annotations

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from drawn import draw_photos
from running import served
from starlette.testclient import TestClient

from hashfaiss.serve.app import create_app
from hashfaiss.serve.desk import Desk
from hashfaiss.serve.limits import Limits

HERE = "http://127.0.0.1"


@pytest.fixture
def folder(encoder, photos):
    encoder.to_index(photos, photos.parent / "x.index")
    return photos.parent / "x.index"


@pytest.fixture(scope="module")
def standing(encoder, tmp_path_factory):
    """Photos, and the URL of a process that serves their index: for tests that change nothing."""
    photos = draw_photos(tmp_path_factory.mktemp("standing"))
    encoder.to_index(photos, photos.parent / "x.index")
    with served(photos.parent / "x.index") as (_, url):
        yield photos, url


@pytest.fixture
def serving(folder):
    """Opens a client of a service with these limits; `raising` what goes wrong in it is off, as on a network."""
    opened = []

    def make(token=None, limits=None, at=folder, **how):
        limits = limits or Limits()
        app = create_app(Desk(at, "cpu", limits.thumbnail_bytes), limits, token)
        client = TestClient(app, base_url=HERE, raise_server_exceptions=False, **how)
        opened.append(client)
        return client.__enter__()

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serving):
    return serving()


@pytest.fixture
def index(client):
    """What the service answers from."""
    from hashfaiss.library.image_index import ImageIndex

    return ImageIndex.open(client.app.state.desk.folder, device="cpu")
