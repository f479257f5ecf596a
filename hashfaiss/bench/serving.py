"""How near the service comes to its encoder: searches with images over loopback, against encoding the same files."""

from __future__ import annotations

import http.client
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from hashfaiss.encoding.items import as_items
from hashfaiss.encoding.pipeline import encode_stream
from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.images.decoding import read_bytes
from hashfaiss.images.finding import find_images
from hashfaiss.library.image_index import ImageIndex

FILES = 256  # asked with, again and again
WARM_UP = 200  # images of the encoder, and requests, before anything counts


@dataclass(frozen=True)
class Load:
    """What so many clients saw, each asking again when it was answered: medians over rounds."""

    clients: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    ratio: float  # to the encoder alone, in the same round


@dataclass(frozen=True)
class ServingBench:
    """Of one run.

    Attributes:
        images: of the index.
        encoder: images a second that it encodes by itself, from the same files.
    """

    images: int
    bits: int
    encoder: float
    loads: list[Load]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def bench_serving(
    index: Path,
    images: Path,
    clients: Sequence[int] = (1, 8, 64),
    seconds: float = 5.0,
    rounds: int = 3,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> ServingBench:
    """Serve the index in another process, and ask it with images of a folder; in turn with encoding them here.

    Args:
        clients: numbers of clients that ask at once.
        seconds: that each number of clients asks, and that the encoder works, in a round.

    Raises:
        ArgumentError: no clients, rounds or seconds, or a folder without images.
        HashfaissError: the service does not start, or refuses.
    """
    if not clients or min(clients) < 1 or rounds < 1 or seconds <= 0:
        raise ArgumentError("give 1 or more clients and rounds, and a time above 0")
    paths = [file.path for file in islice(find_images(images), FILES)]
    if not paths:
        raise ArgumentError(f"{str(images)!r} has no images: give a folder of photographs to ask with")
    opened = ImageIndex.open(index)
    files = [read_bytes(path) for path in paths]
    alone: list[float] = []
    found: dict[int, list[tuple[float, float, float, float]]] = {many: [] for many in clients}
    with _service(index, max(clients)) as (host, port):
        _encoded(opened, paths, WARM_UP)
        _asked(host, port, files, min(8, max(clients)), float("inf"), WARM_UP)
        for number in range(rounds):
            alone.append(_encoded(opened, paths, max(1, round(_encoded(opened, paths, 64) * seconds))))
            for many in clients:
                took, times = _asked(host, port, files, many, seconds)
                rate = len(times) / took
                p50, p99 = statistics.median(times), sorted(times)[int(0.99 * (len(times) - 1))]
                found[many].append((rate, 1000 * p50, 1000 * p99, rate / alone[-1]))
            progress(number + 1, rounds)
    loads = [Load(many, *map(statistics.median, zip(*rows, strict=True))) for many, rows in found.items()]
    return ServingBench(len(opened), opened.bits, statistics.median(alone), loads)


@contextmanager
def _service(index: Path, most: int) -> Iterator[tuple[str, int]]:
    asked = [sys.executable, "-m", "hashfaiss", "serve", "--index", str(index), "--port", "0"]
    asked += ["--max-requests", str(2 * most)]
    environment = {name: value for name, value in os.environ.items() if name != "HASHFAISS_TOKEN"}
    process = subprocess.Popen(asked, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        said = process.stderr.readline()
        address = re.search(r"http://(.+):(\d+)/", said)
        if address is None:
            raise HashfaissError(f"the service did not start: {said.strip() or 'it said nothing'}")
        yield address[1], int(address[2])
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def _encoded(index: ImageIndex, paths: list[str], count: int) -> float:
    """Images a second of the encoder, from files to codes."""
    started = time.perf_counter()
    for _ in encode_stream(index.encoder, as_items(list(islice(cycle(paths), count)))):
        pass
    return count / (time.perf_counter() - started)


def _asked(
    host: str, port: int, files: list[bytes], clients: int, seconds: float, most: float = float("inf")
) -> tuple[float, list[float]]:
    """How long clients asked, and how long each answer took, in seconds."""
    times: list[float] = []
    trouble: list[str] = []
    begun = time.perf_counter()

    def ask(first: int) -> None:
        asking = http.client.HTTPConnection(host, port, timeout=120)
        try:
            for data in islice(cycle(files), first, None):
                started = time.perf_counter()
                if started - begun >= seconds or len(times) >= most or trouble:
                    return
                asking.request("POST", "/search?k=10", data, {"Content-Type": "application/octet-stream"})
                answer = asking.getresponse()
                said = answer.read()
                if answer.status != 200:
                    trouble.append(f"{answer.status}: {said[:200].decode(errors='replace')}")
                times.append(time.perf_counter() - started)
        except (OSError, http.client.HTTPException) as error:
            trouble.append(str(error))
        finally:
            asking.close()

    threads = [threading.Thread(target=ask, args=(number * len(files) // clients,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if trouble:
        raise HashfaissError(f"the service did not answer: {trouble[0]}")
    return time.perf_counter() - begun, times
