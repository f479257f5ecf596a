"""Would SPDL's threads encode faster than ours?

uv run --with spdl python examples/benchmarks/spdl_threads.py MODEL IMAGES COUNT

The same decoding and network in the same pieces, on a CPU; images a second, medians of three rounds.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from spdl.pipeline import PipelineBuilder

from hashfaiss import Encoder
from hashfaiss.bench.encoding import spread
from hashfaiss.encoding.items import Batch, Item
from hashfaiss.encoding.pipeline import Work, batched, encode_stream, one_thread_each
from hashfaiss.images.finding import find_images


def with_spdl(encoder: Encoder, items: Iterable[Item], workers: int) -> list[Batch]:
    with ThreadPoolExecutor(workers) as pool:
        one_thread_each(pool, workers)
        builder = PipelineBuilder().add_source(batched(items, encoder.batch_size))
        builder = builder.pipe(Work(encoder).whole, concurrency=workers, executor=pool).add_sink(2 * workers)
        pipeline = builder.build(num_threads=workers)
        with pipeline.auto_stop():
            return list(pipeline)


def rate(work: Callable[[], object], images: int) -> float:
    started = time.perf_counter()
    work()
    return images / (time.perf_counter() - started)


def main(model: str, images: str, count: str) -> None:
    encoder, workers = Encoder.load(model, "cpu"), torch.get_num_threads()
    items = spread([Item(file) for file in find_images(images)], int(count))
    rounds = [
        (
            rate(lambda: list(encode_stream(encoder, items)), len(items)),
            rate(lambda: with_spdl(encoder, items, workers), len(items)),
        )
        for _ in range(3)
    ]
    ours, spdl = (statistics.median(rates) for rates in zip(*rounds, strict=True))
    print(f"ours {ours:,.1f}, SPDL {spdl:,.1f} images/s: {spdl / ours:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
