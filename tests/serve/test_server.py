"""The command, as a process of its own, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import sys
import threading
import time

import httpx
import pytest
import uvicorn
from running import served
from typer.testing import CliRunner

from hashfaiss.cli import app
from hashfaiss.errors import HashfaissError
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.serve import server

HEAD = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"


def test_it_answers_until_it_is_told_to_end(folder, photos):
    index = ImageIndex.open(folder, device="cpu")
    for how in (signal.SIGINT, signal.SIGTERM):
        with served(folder) as (process, url):
            path = photos / "cat" / "0.jpg"
            answer = httpx.post(
                f"{url}search?k=3", content=path.read_bytes(), headers={"Content-Type": "image/jpeg"}, timeout=60
            )
            assert [hit["id"] for hit in answer.json()["answers"][0]["hits"]] == [
                hit.id for hit in index.query(str(path), 3)
            ]
            process.send_signal(how)
            assert process.wait(60) == 0


def test_slow_clients_block_nobody_and_what_was_begun_is_ended(folder, photos):
    with served(folder, "--max-seconds", "3") as (process, url):
        host, port = re.search(r"//(.+):(\d+)/", url).groups()
        slow = [socket.create_connection((host, int(port))) for _ in range(40)]
        for number, one in enumerate(slow):
            if number % 2:
                one.sendall(
                    b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nx"
                )
            else:
                one.sendall(b"GET /inf")
        data = (photos / "dog" / "1.png").read_bytes()
        with httpx.Client(timeout=60) as client:
            for _ in range(20):
                answer = client.post(f"{url}search", content=data, headers={"Content-Type": "image/png"})
                assert answer.status_code == 200
        slow[1].settimeout(60)
        assert b"408" in slow[1].recv(100)  # its upload took longer than a request may
        for one in slow:
            one.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_many_at_once_are_answered_as_one_after_another(folder, photos):
    paths = sorted(photos.rglob("*.*"))
    index = ImageIndex.open(folder, device="cpu")
    expected = {path: [hit.id for hit in index.query(str(path), 4)] for path in paths}
    wrong = []

    def ask(url):
        with httpx.Client(timeout=60) as client:
            for path in paths * 2:
                headers = {"Content-Type": "application/octet-stream"}
                answer = client.post(f"{url}search?k=4", content=path.read_bytes(), headers=headers)
                if [hit["id"] for hit in answer.json()["answers"][0]["hits"]] != expected[path]:
                    wrong.append((path, answer.text))

    with served(folder) as (_, url):
        asking = [threading.Thread(target=ask, args=(url,)) for _ in range(8)]
        for one in asking:
            one.start()
        for one in asking:
            one.join(300)
        batches = httpx.get(f"{url}metrics").text
    assert not wrong
    assert "hashfaiss_batch_images_sum 192.0" in batches


def test_a_client_that_goes_leaves_nothing_behind(folder, photos):
    data = (photos / "dog" / "1.png").read_bytes()
    with served(folder) as (_, url):
        host, port = re.search(r"//(.+):(\d+)/", url).groups()
        head = HEAD % len(data)
        for sent in (b"", head, head + data[:50], head + data):
            for _ in range(10):
                with socket.create_connection((host, int(port))) as one:
                    one.sendall(sent)
        for _ in range(600):
            if "hashfaiss_requests_in_flight 1.0" in httpx.get(f"{url}metrics").text:  # this one
                break
            time.sleep(0.05)
        else:
            raise AssertionError("requests of clients that have gone are still in flight")


def test_what_stands_in_the_way_is_told(folder, monkeypatch):
    monkeypatch.delenv("HASHFAISS_TOKEN", raising=False)
    run = CliRunner().invoke
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run(app, ["serve", "--index", str(folder), "--port", port])
        assert (result.exit_code, "cannot listen at 127.0.0.1" in result.output) == (1, True)
    result = run(app, ["serve", "--index", str(folder), "--host", "0.0.0.0"])
    assert (result.exit_code, "give a token" in result.output) == (2, True)
    result = run(app, ["serve", "--index", str(folder / "none"), "--port", "0"])
    assert (result.exit_code, "there is no index" in result.output) == (1, True)
    monkeypatch.setitem(sys.modules, "hashfaiss.serve.server", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "hashfaiss.serve.server")
        result = run(app, ["serve", "--index", str(folder)])
    assert (result.exit_code, "pip install 'hashfaiss[serve]'" in result.output) == (1, True)


TOKEN = "a-token-of-24-characters"


def test_uploads_that_do_not_come_are_not_at_work(folder):
    with served(folder, "--max-requests", "2", "--token", TOKEN) as (_, url):
        at = re.search(r"//(.+):(\d+)/", url).groups()
        told = f"Authorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"
        slow = []
        for path, more in [("login", ""), ("search", told)] * 4:
            one = socket.create_connection(at)
            head = f"POST /{path} HTTP/1.1\r\nHost: localhost\r\n{more}Content-Length: 900\r\n\r\nx"
            one.sendall(head.encode())
            slow.append(one)
        right = {"Authorization": f"Bearer {TOKEN}"}
        for _ in range(20):
            assert httpx.get(f"{url}info", headers=right, timeout=60).status_code == 200
        for one in slow:
            one.close()


def test_headers_are_bounded(standing):
    _, url = standing
    with socket.create_connection(re.search(r"//(.+):(\d+)/", url).groups()) as one:
        one.settimeout(60)
        one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000)
        assert one.recv(100).startswith(b"HTTP/1.1 400")


def test_connections_that_ask_nothing_are_closed(monkeypatch):
    monkeypatch.setattr(server, "PATIENCE", 0.2)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(50_000_000)})

    async def run():
        uvicorn_server = server._Server(uvicorn.Config(app, http="h11", lifespan="off", log_level="warning"))
        with socket.create_server(("127.0.0.1", 0)) as listening:
            running = asyncio.create_task(server._run(uvicorn_server, listening, lambda _: None))
            for sent, least in ((b"", 0), (b"GET / HT", 0), (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1)):
                reader, writer = await asyncio.open_connection(*listening.getsockname())
                writer.write(sent)
                while not uvicorn_server.server_state.connections:
                    await asyncio.sleep(0.01)
                while uvicorn_server.server_state.connections:  # also one that takes nothing of its answer
                    await asyncio.sleep(0.01)
                with contextlib.suppress(ConnectionError):
                    got = await reader.read()
                    assert least <= len(got) < 50_000_000
                writer.close()
            uvicorn_server.should_exit = True
            await running

    asyncio.run(asyncio.wait_for(run(), 60))


def test_what_is_no_hosts_name_is_told(tmp_path):
    with pytest.raises(HashfaissError, match=r"cannot listen at a\.\.b port 0: that is no address"):
        server.serve(tmp_path, "a..b", 0, TOKEN)
