"""Who may ask, and how much at once."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.serve.guard import OPEN, Gate, Guard, is_loopback
from hashfaiss.serve.limits import Limits
from hashfaiss.serve.measured import Measured
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

    def prepare(index, data):
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


def test_what_a_page_of_another_site_shows_is_not_asked_for(client):
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    for site in ("cross-site", "same-site"):
        assert client.get("/thumbnail/0", headers=image | {"Sec-Fetch-Site": site}).status_code == 403
    for site in ("same-origin", "none"):
        assert client.get("/thumbnail/0", headers=image | {"Sec-Fetch-Site": site}).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/", headers=link).status_code == 200
    assert client.get("/duplicates", headers=link | {"Sec-Fetch-Dest": "iframe"}).status_code == 403


def test_bodies_that_are_no_images_are_small(serving):
    client = serving()
    large = client.post(
        "/search", content=b'{"id":[' + b"[]," * (2 << 20), headers={"Content-Type": "application/json"}
    )
    assert (large.status_code, "4,194,304" in large.json()["error"]) == (413, True)
    assert serving(TOKEN).post("/login", content=bytes(1001)).status_code == 413
    long = client.post("/search", json={"id": 1, "exact": "x" * 100_000})
    assert (long.status_code, len(long.content) < 200) == (422, True)


def test_bodies_held_at_once_are_bounded():
    """Three send 60 bytes of their 61 each, where 100 may be held."""

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass

    async def run():
        guard = Guard(app, Gate(None), Limits(in_flight=1, upload_bytes=100), Measured())
        scope = {"type": "http", "path": "/search", "headers": [(b"host", b"localhost")]}
        rest, statuses = asyncio.Event(), []

        async def ask():
            sent = []

            async def receive():
                if sent:
                    await rest.wait()
                sent.append(1)
                return {"type": "http.request", "body": bytes(60 if len(sent) == 1 else 1), "more_body": len(sent) == 1}

            async def send(message):
                statuses.append(message.get("status"))

            await guard(scope, receive, send)

        asking = [asyncio.create_task(ask()) for _ in range(3)]
        await asyncio.sleep(0)
        while not statuses:
            await asyncio.sleep(0.01)
        assert [one.done() for one in asking] == [False, False, True]
        rest.set()
        await asyncio.gather(*asking)
        assert statuses[0] == 503
        assert (guard._held, guard._in_flight) == (0, 0)

    asyncio.run(asyncio.wait_for(run(), 60))
