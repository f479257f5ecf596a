"""How fast files become codes: the pipeline against decoding alone, the network alone, and the usual script."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hashfaiss.bench.engines import OPENVINO, by_themselves, onnxruntime_pipeline
from hashfaiss.codes import pack_tensor
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.engine import COMPILED_FROM
from hashfaiss.encoding.items import Item
from hashfaiss.encoding.pipeline import Given, Work, batched, encode_stream, one_thread_each
from hashfaiss.encoding.precision import TIMED, computes_in_bfloat16
from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.images.decoding import read_image
from hashfaiss.images.finding import find_images

ROUNDS = 3
SINGLES = 40  # images encoded alone
FLIPS = 10_000  # images whose codes are compared with float32's
READY = 16  # batches that lie ready for the network

Notice = Callable[[str], None]


@dataclass(frozen=True)
class EncodingBench:
    """Images a second, medians over rounds; in each round all are measured, one after the other.

    Attributes:
        images, size, bits, device, precision, workers: what ran.
        decode: reading, decoding and resizing alone, in as many threads.
        network: the network alone on ready batches, in the same precision, in as many threads.
        engine: what computed it.
        float32: the same by torch in float32.
        engines: the network alone by each engine and precision that this machine computes in.
        pipeline: from files to codes.
        itself: engines by themselves on ready batches: no sign decided, none looked at again.
        onnxruntime: from files to codes by Pillow and onnxruntime; None where that is not installed.
        plain: the script everyone writes; None where not asked for.
        bound_ratio: pipeline / the slower of decode and network.
        engine_ratio: pipeline / the slower of decode and OpenVINO by itself in float32; None without it.
        shared_ratio: pipeline / what both together allow where they share the same cores (1 / (1/decode + 1/network)).
        plain_ratio: pipeline / plain.
        again: share of the images that half precision left to float32.
        compared, flipped: bits compared with float32's, and how many differ; largest_flipped: the greatest output of
            these in float32, as a share of the image's output size.
        alone: milliseconds of `Encoder.encode` for one file, warm; bare: of decoding it and one forward pass.
        cold: seconds of a first `hashfaiss query`, a process of its own; torch_import: of a process that imports torch
            and nothing else; load: of loading the model with torch at hand.
        memory: images encoded in a new process → its peak resident size in MB.
    """

    images: int
    size: int
    bits: int
    device: str
    precision: str
    engine: str
    workers: int
    decode: float
    network: float
    float32: float
    engines: dict[str, float]
    itself: dict[str, float]
    pipeline: float
    onnxruntime: float | None
    plain: float | None
    bound_ratio: float
    engine_ratio: float | None
    shared_ratio: float
    plain_ratio: float | None
    again: float
    compared: int
    flipped: int
    largest_flipped: float
    alone: float
    bare: float
    cold: float
    torch_import: float
    load: float
    memory: dict[int, float]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def bench_encoding(
    model: Path,
    images: Path,
    count: int = 2000,
    device: str = "auto",
    precision: str = "auto",
    with_plain: bool = True,
    memory: Sequence[int] = (),
    notice: Notice = lambda _: None,
    engine: str = "auto",
) -> EncodingBench:
    """Measure encoding `count` images of a folder, spread evenly over it.

    Args:
        engine: see `Encoder.load`.
        memory: numbers of images whose encoding, each in a new process, is watched for its peak memory.
        notice: told what is being measured.

    Raises:
        ArgumentError: a folder of too few images.
    """
    encoder = Encoder.load(model, device, precision, engine)
    if len(encoder.devices) > 1:
        raise ArgumentError(f"device is {device!r}: this measures one device")
    files = [Item(file) for file in find_images(images)]
    if len(files) < SINGLES or count < SINGLES:
        what = f"count is {count:,}" if count < SINGLES else f"{str(images)!r} holds {len(files):,} images"
        raise ArgumentError(f"{what}: give {SINGLES} or more")
    some = spread(files, count)
    workers = torch.get_num_threads() if encoder.device.type == "cpu" else os.cpu_count() or 1
    plain_encoder = Encoder.load(model, device, "float32", "torch")
    ready = _ready(encoder, some)
    _settle(encoder, ready)
    others = _engines(model, encoder, ready)
    itself = by_themselves(encoder, ready, workers)
    peer = onnxruntime_pipeline(encoder, some, workers)
    rates: dict[str, list[float]] = defaultdict(list)
    for number in range(ROUNDS):
        notice(f"round {number + 1} of {ROUNDS}")
        rates["decode"].append(_decode(encoder, some, workers))
        rates["network"].append(_network(encoder, ready, len(some), workers))
        rates["pipeline"].append(_pipeline(encoder, some))
        rates["float32"].append(_network(plain_encoder, ready, len(some), workers))
        for name, other in others.items():
            rates[name].append(_network(other, ready, len(some), workers))
        for name, work in (*itself.items(), *([("onnxruntime", peer)] if peer else [])):
            rates[name].append(_counted(work))
        if with_plain:
            rates["plain"].append(_plain(model, images, len(some)))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    decode, network, pipeline = (medians[name] for name in ("decode", "network", "pipeline"))
    plain, exact = medians.get("plain"), medians.get(f"{OPENVINO}, float32")
    notice("flips")
    compared, flipped, largest = _flips(encoder, plain_encoder, spread(files, FLIPS))
    notice("one image, a cold query, memory")
    alone, bare = _alone(encoder, [str(item.path) for item in spread(files, SINGLES)])
    cold, torch_import, load = _cold(model, str(files[0].path))
    tally = encoder.precision.tally
    return EncodingBench(
        images=len(some),
        size=encoder.preprocessing.size,
        bits=encoder.bits,
        device=_device_name(encoder.device),
        precision=encoder.precision.name,
        engine="openvino" if encoder.precision.computing_engine() else "torch",
        workers=workers,
        decode=decode,
        network=network,
        float32=medians["float32"],
        engines={name: medians[name] for name in others},
        itself={name: medians[name] for name in itself},
        pipeline=pipeline,
        onnxruntime=medians.get("onnxruntime"),
        plain=plain,
        bound_ratio=pipeline / min(decode, network),
        engine_ratio=exact and pipeline / min(decode, exact),
        shared_ratio=pipeline * (1 / decode + 1 / network),
        plain_ratio=None if plain is None else pipeline / plain,
        again=tally.again / max(1, tally.images),
        compared=compared,
        flipped=flipped,
        largest_flipped=largest,
        alone=alone,
        bare=bare,
        cold=cold,
        torch_import=torch_import,
        load=load,
        memory={number: _memory(model, images, number) for number in memory},
    )


def _settle(encoder: Encoder, ready: Sequence[Tensor]) -> None:
    """Have what is measured on the first images measured: which engine pays, and what is close to zero for it."""
    images = 0
    for batch in cycle(ready):
        encoder.encode_resized(batch)
        images += len(batch)
        if images >= COMPILED_FROM + (TIMED + 1) * encoder.batch_size:
            return


def _engines(model: Path, encoder: Encoder, ready: Sequence[Tensor]) -> dict[str, Encoder]:
    """Each engine and precision beside torch's float32 that this CPU computes in, whether it pays or not."""
    if encoder.device.type != "cpu":
        return {}
    precisions = ("float32", "bfloat16") if computes_in_bfloat16() else ("float32",)
    asked = [("torch", name) for name in precisions if name != "float32"]
    if find_spec("openvino"):
        asked += [("openvino", name) for name in precisions]
    found = {}
    for engine, name in asked:
        made = Encoder.load(model, "cpu", name, engine)
        made.precision.give_up = False
        _settle(made, ready)
        if not made.engine_trouble:
            found[f"{engine} {name}"] = made
    return found


def spread(given: Sequence[Given], count: int) -> Sequence[Given]:
    """At most `count` of what is given, at even distances."""
    return given[:: max(1, len(given) // count)][:count]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _counted(work: Callable[[], int]) -> float:
    started = time.perf_counter()
    return work() / (time.perf_counter() - started)


def _rate(work: Callable[[], object], images: int) -> float:
    started = time.perf_counter()
    work()
    return images / (time.perf_counter() - started)


def _ready(encoder: Encoder, items: Sequence[Item]) -> list[Tensor]:
    """Resized batches of real images."""
    count = READY * encoder.batch_size
    paths = islice(cycle(str(item.path) for item in spread(items, count)), count)
    least = encoder.preprocessing.least_side
    resized = [encoder.preprocessing.resize(read_image(path, least)) for path in paths]
    return [torch.stack(batch) for batch in batched(resized, encoder.batch_size)]


def _decode(encoder: Encoder, items: Sequence[Item], workers: int) -> float:
    work = Work(encoder)
    with ThreadPoolExecutor(workers) as pool:
        one_thread_each(pool, workers)
        return _rate(lambda: list(pool.map(work.prepare, batched(items, encoder.batch_size))), len(items))


def _network(encoder: Encoder, ready: Sequence[Tensor], images: int, workers: int) -> float:
    """The network alone on batches that are ready, of so many images; on a CPU one batch a core, as in encoding."""
    batches = list(islice(cycle(ready), -(-images // encoder.batch_size)))
    count = sum(map(len, batches))
    if encoder.device.type != "cpu":
        moved = [batch.to(encoder.device) for batch in ready]
        encoder.encode_resized(moved[0])
        return _rate(lambda: [encoder.encode_resized(moved[n % READY]) for n in range(len(batches))], count)
    with ThreadPoolExecutor(workers) as pool:
        one_thread_each(pool, workers)
        list(pool.map(encoder.encode_resized, ready[: 2 * workers]))
        return _rate(lambda: list(pool.map(encoder.encode_resized, batches)), count)


def _pipeline(encoder: Encoder, items: Sequence[Item]) -> float:
    return _rate(lambda: [batch.codes for batch in encode_stream(encoder, items)], len(items))


def _plain(model: Path, images: Path, count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "codes.npy")
        return float(_python("-m", "hashfaiss.bench.plain", str(model), str(images), str(count), out))


def _python(*arguments: str) -> str:
    """What a new Python process prints."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise HashfaissError(f"a process that was to be measured failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout.strip()


def _flips(encoder: Encoder, exact: Encoder, items: Sequence[Item]) -> tuple[int, int, float]:
    """Bits compared with those of float32 on the same device, bits that differ, and the largest output of these."""
    fast = np.concatenate([batch.codes for batch in encode_stream(encoder, items)])
    flipped, largest, place = 0, 0.0, 0
    for batch in encode_stream(exact, items, outputs=True):
        part = fast[place : place + len(batch.codes)]
        place += len(batch.codes)
        changed = np.unpackbits(part ^ batch.codes, axis=1, count=encoder.bits, bitorder="little").astype(np.bool_)
        if changed.any() and batch.outputs is not None:
            size = np.sqrt(np.square(batch.outputs).mean(axis=1, keepdims=True))
            flipped += int(changed.sum())
            largest = max(largest, float((np.abs(batch.outputs) / size)[changed].max()))
    return place * encoder.bits, flipped, largest


def _alone(encoder: Encoder, paths: Sequence[str]) -> tuple[float, float]:
    """Medians in milliseconds: `Encoder.encode` of one file, and its decoding with one forward pass and packing."""

    engine = encoder.precision.computing_engine()

    def bare(path: str) -> None:
        image = encoder.preprocessing.resize(read_image(path, encoder.preprocessing.least_side))[None]
        with torch.inference_mode():
            if engine is not None:
                pack_tensor(engine(image))
                return
            inputs = encoder.preprocessing.normalise(image.to(encoder.device))
            pack_tensor(encoder.network(inputs.contiguous(memory_format=torch.channels_last))).cpu()

    seconds: tuple[list[float], list[float]] = ([], [])
    for path in paths:
        started = time.perf_counter()
        encoder.encode(path)
        between = time.perf_counter()
        bare(path)
        seconds[0].append(1000 * (between - started))
        seconds[1].append(1000 * (time.perf_counter() - between))
    warm = len(paths) // 4  # from there on
    return statistics.median(seconds[0][warm:]), statistics.median(seconds[1][warm:])


def _cold(model: Path, image: str) -> tuple[float, float, float]:
    """Seconds of new processes: a query of an index of one image, one that imports torch, and loading the model."""
    with tempfile.TemporaryDirectory() as folder:
        index = os.path.join(folder, "one.index")
        Encoder.load(model).to_index([image], index)
        code = (
            "import time, torch; start = time.perf_counter(); from hashfaiss.encoding.encoder import Encoder\n"
            f"Encoder.load({str(model)!r}); print(time.perf_counter() - start)"
        )
        seconds: tuple[list[float], list[float], list[float]] = ([], [], [])
        for _ in range(ROUNDS):
            started = time.perf_counter()
            _python("-m", "hashfaiss", "query", image, "--index", index, "--json")
            between = time.perf_counter()
            _python("-c", "import torch")
            seconds[0].append(between - started)
            seconds[1].append(time.perf_counter() - between)
            seconds[2].append(float(_python("-c", code)))
    return statistics.median(seconds[0]), statistics.median(seconds[1]), statistics.median(seconds[2])


def _memory(model: Path, images: Path, count: int) -> float:
    # not getrusage, whose peak is at least that of the process which started this one
    code = (
        "import re\nfrom pathlib import Path\nfrom itertools import islice\n"
        "from hashfaiss.encoding.encoder import Encoder\n"
        "from hashfaiss.images.finding import find_images\n"
        "from hashfaiss.encoding.items import Item\nfrom hashfaiss.encoding.pipeline import encode_stream\n"
        f"items = (Item(file) for file in islice(find_images({str(images)!r}), {count}))\n"
        f"for batch in encode_stream(Encoder.load({str(model)!r}), items): pass\n"
        "print(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text()).group(1))"
    )
    return int(_python("-c", code)) / 1024
