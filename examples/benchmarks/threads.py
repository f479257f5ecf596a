"""Queries a second that one thread answers, and eight together: python examples/benchmarks/threads.py

Of the index of 200 small images by path and by id, and of codes alone. Threads of Python do not add up, since one runs
at a time; nor should they take from one another, as they do where each call lets others run for a few microseconds.
"""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hashfaiss import Encoder, ImageIndex
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.indexes import CodeIndex
from hashfaiss.networks import build_network

IMAGES, SECONDS = 200, 3.0


def rate(ask: Callable[[int], object], threads: int) -> float:
    """Answers a second."""
    done, end = [0] * threads, time.perf_counter() + SECONDS

    def work(number: int) -> None:
        while time.perf_counter() < end:
            ask((number * 31 + done[number]) % IMAGES)
            done[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(done) / SECONDS


def index_of(folder: Path) -> ImageIndex:
    """Images of noise, and a small network that has learned nothing."""
    random, arguments = np.random.default_rng(0), {"backbone": "resnet-small", "bits": 64}
    for number in range(IMAGES):
        Image.fromarray(random.integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    network = build_network("hash", arguments).eval()
    return Encoder(network, "hash", arguments, Preprocessing(32), "none", device="cpu").to_index(folder)


if __name__ == "__main__":
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        index = index_of(Path(folder))
        codes = CodeIndex(np.random.default_rng(1).integers(0, 256, (100_000, 8)).astype(np.uint8), kind="flat")
        some = codes.distinct.codes[:IMAGES]
        for name, ask in (
            ("an image's path", lambda at: index.query(f"{folder}/{at}.png")),
            ("an image's id", lambda at: index.query(at)),
            ("a code of 100,000", lambda at: codes.search(some[at : at + 1], exact=True)),
        ):
            ask(0)
            print(f"{name}: {rate(ask, 1):,.0f} a second by one thread, {rate(ask, 8):,.0f} by eight", flush=True)
