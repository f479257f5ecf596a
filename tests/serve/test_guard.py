"""Who may ask, and how much at once."""

from __future__ import annotations

import threading

import pytest

from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.serve.guard import OPEN, is_loopback
from hashfaiss.serve.limits import Limits
from hashfaiss.serve.server import serve

TOKEN = "a-token-of-24-characters"
CLOSED = ["/info", "/images", "/image/0", "/thumbnail/0", "/duplicates", "/metrics", "/openapi.json", "/nothing"]


def test_without_the_token_only_what_tells_nothing_is_open(serving):
    client = serving(TOKEN)
    for path in CLOSED:
        refused = client.get(path)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert client.post("/search", json={"id": 1}).status_code == 401
    for path in sorted(OPEN - {"/login"}):
        assert client.get(path).status_code == 200
        assert "x.index" not in client.get(path).text
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/info", headers=right).status_code == 200
    for wrong in (TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer", "Bearer \xff"):
        assert client.get("/info", headers={b"Authorization": wrong.encode("latin-1")}).status_code == 401


def test_the_page_is_given_a_cookie_that_is_not_the_token(serving):
    client = serving(TOKEN)
    assert client.post("/login", content="wrong").status_code == 401
    assert client.get("/info").status_code == 401
    given = client.post("/login", content=TOKEN)
    assert given.status_code == 204
    said = given.headers["set-cookie"].lower()
    assert TOKEN not in said
    assert "httponly" in said
    assert "samesite=strict" in said
    assert client.get("/info").status_code == 200
    other = serving("another-token-of-20-chars")
    assert other.get("/info", headers={"Cookie": given.headers["set-cookie"].split(";")[0]}).status_code == 401
    for odd in ("hashfaiss=x", "hashfaiss", "=;;=", 'hashfaiss="\\'):
        assert other.get("/info", headers={"Cookie": odd}).status_code == 401


def test_another_name_or_another_page_may_not_ask(client, serving):
    for host in ("evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "[::2]:1"):
        refused = client.get("/info", headers={"Host": host})
        assert (refused.status_code, "without a token" in refused.text) == (403, True)
    for host in ("127.0.0.1:8765", "localhost", "[::1]:8765", "127.0.0.9"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        assert client.get("/info", headers={"Origin": origin}).status_code == 403
    assert client.get("/info", headers={"Origin": "http://127.0.0.1"}).status_code == 200
    named = serving(TOKEN)
    assert named.get("/healthz", headers={"Host": "photos.example"}).status_code == 200


def test_browsers_are_told_what_pages_may_do(client):
    for path in ("/", "/page.js", "/info", "/nothing", "/thumbnail/0"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    assert "sandbox" in client.get("/image/0").headers["content-security-policy"]


def held(client, monkeypatch):
    """Makes the service wait as it prepares an image; returns what lets it go on, and what tells that it waits."""
    go, waits = threading.Event(), threading.Event()

    def prepare(data):
        waits.set()
        go.wait(60)
        raise ImageError(None, "let go")

    monkeypatch.setattr(client.app.state.desk, "prepare", prepare)
    return go, waits


def test_requests_beyond_those_in_flight_are_told_to_come_again(serving, monkeypatch):
    client = serving(limits=Limits(in_flight=1))
    go, waits = held(client, monkeypatch)
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(client.post("/search", content=b"x", headers={"Content-Type": "image/png"}))
    )
    asking.start()
    assert waits.wait(60)
    refused = client.get("/info")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert client.get("/healthz").status_code == 200
    go.set()
    asking.join(60)
    assert [answer.status_code for answer in answers] == [422]
    assert client.get("/info").status_code == 200


def test_a_request_that_takes_too_long_is_ended(serving, monkeypatch):
    client = serving(limits=Limits(seconds=0.2))
    go, _ = held(client, monkeypatch)
    refused = client.post("/search", content=b"x", headers={"Content-Type": "image/png"})
    go.set()
    assert (refused.status_code, "0.2 seconds" in refused.json()["error"]) == (408, True)


def test_only_routes_that_there_are_get_into_the_metrics(client):
    client.get("/info")
    client.get("/image/0")
    client.get("/a-stranger's-name")
    text = client.get("/metrics").text
    assert 'hashfaiss_requests_total{endpoint="/info",status="200"} 1.0' in text
    assert 'endpoint="/image/{id}"' in text
    assert 'hashfaiss_requests_total{endpoint="none",status="404"} 1.0' in text
    assert "stranger" not in text
    assert "hashfaiss_index_images 12.0" in text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", ""])
def test_no_other_address_is_served_without_a_token(host, tmp_path):
    assert not is_loopback(host)
    with pytest.raises(ArgumentError, match="give a token"):
        serve(tmp_path, host)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"token": "short"}, "16 or more"),
        ({"token": "with a\nline of its own"}, "16 or more"),
        ({"port": 70000}, "0 to 65535"),
    ],
)
def test_what_cannot_be_is_told(how, reason, tmp_path):
    with pytest.raises(ArgumentError, match=reason):
        serve(tmp_path, **how)


def test_limits_are_above_zero():
    with pytest.raises(ArgumentError, match="in_flight is 0"):
        Limits(in_flight=0)
