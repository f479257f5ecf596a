"""Does the service leak, crash or answer wrongly under good, bad, slow and oversized requests at once?

    python examples/benchmarks/service_soak.py --index photos.index --images photos/ --minutes 10

Good requests come from four clients, four more send what is wrong in one way each, one sends its upload a byte a
second, and one hangs up in the middle. A line every 30 seconds with the memory of the service; at the end, which
statuses each kind was answered with, and whether every refusal gave a reason. Ends with 1 where a good request failed,
or a bad one was not answered with 4xx.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import cycle
from pathlib import Path

JSON, IMAGE = {"Content-Type": "application/json"}, {"Content-Type": "image/jpeg"}
HEAD = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
UPLOAD = 2  # megabytes that are taken
WRONG = {
    "no image": ("POST", "/search", b"not an image at all", IMAGE),
    "wrong JSON": ("POST", "/search", b'{"id": 1, "k": -4}', JSON),
    "too large": ("POST", "/search", bytes((UPLOAD << 20) + 1), IMAGE),
    "not there": ("GET", "/thumbnail/999999999", None, {}),
}


class Soak:
    """Clients that ask until they are told to stop, and what they were answered."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.over = threading.Event()
        self.answers: Counter[tuple[str, int | str]] = Counter()
        self.silent = 0  # refusals without a reason

    def ask(self, kind: str, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            said = answer.read()
            self.answers[kind, answer.status] += 1
            if answer.status >= 400 and not json.loads(said).get("error"):
                self.silent += 1
        except (OSError, http.client.HTTPException) as error:
            # a refusal may come before the whole of a large body went: the rest then has nowhere to go
            self.answers[kind, 413 if kind == "too large" else type(error).__name__] += 1
        finally:
            connection.close()

    def good(self, files: list[bytes]) -> None:
        for data in cycle(files):
            if self.over.is_set():
                return
            self.ask("good", "POST", "/search?k=5", data, IMAGE)

    def wrong(self, kind: str) -> None:
        while not self.over.wait(0.05):
            self.ask(kind, *WRONG[kind])

    def slow(self, data: bytes) -> None:
        while not self.over.is_set():
            with socket.create_connection((self.host, self.port)) as one:
                one.settimeout(60)
                one.sendall(HEAD % len(data))
                for at in range(60):
                    if self.over.wait(1):
                        return
                    try:
                        one.sendall(data[at : at + 1])
                    except OSError:
                        break
                said = one.recv(100).split()
                self.answers["slow", int(said[1]) if len(said) > 1 else "closed"] += 1

    def hang_up(self, data: bytes) -> None:
        while not self.over.wait(0.2):
            with socket.create_connection((self.host, self.port)) as one:
                one.sendall(HEAD % len(data) + data[: len(data) // 2])
            self.answers["hung up", "gone"] += 1


def memory(process: int) -> float:
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--index", required=True)
    options.add_argument("--images", required=True)
    options.add_argument("--minutes", type=float, default=10)
    given = options.parse_args()
    files = [path.read_bytes() for path in sorted(Path(given.images).rglob("*.jpg"))[:100]]
    asked = [sys.executable, "-m", "hashfaiss", "serve", "--index", given.index, "--port", "0"]
    asked += ["--max-upload", str(UPLOAD), "--max-seconds", "20"]
    service = subprocess.Popen(asked, stderr=subprocess.PIPE, text=True, env={**os.environ, "HASHFAISS_TOKEN": ""})
    assert service.stderr is not None
    found = re.search(r"http://(.+):(\d+)/", service.stderr.readline())
    assert found is not None
    soak = Soak(found[1], int(found[2]))
    clients = [threading.Thread(target=soak.good, args=(files[n:] + files[:n],)) for n in range(4)]
    clients += [threading.Thread(target=soak.wrong, args=(kind,)) for kind in WRONG]
    clients += [threading.Thread(target=work, args=(files[0],)) for work in (soak.slow, soak.hang_up)]
    for client in clients:
        client.start()
    started = time.monotonic()
    while (spent := time.monotonic() - started) < 60 * given.minutes:
        print(f"{spent:4.0f} s: {memory(service.pid):,.0f} MB, {sum(soak.answers.values()):,} requests", flush=True)
        time.sleep(min(30, 60 * given.minutes - spent))
    soak.over.set()
    for client in clients:
        client.join()
    print(f"at the end: {memory(service.pid):,.0f} MB; {soak.silent} refusals without a reason")
    for (kind, status), count in sorted(soak.answers.items(), key=str):
        print(f"  {kind}: {status} {count:,} times")
    service.terminate()
    ended = service.wait()
    bad = [kind for kind, status in soak.answers if kind in WRONG and status not in (400, 404, 413, 422)]
    failed = [status for kind, status in soak.answers if kind == "good" and status != 200]
    sys.exit(bool(bad or failed or soak.silent or ended))


if __name__ == "__main__":
    main()
