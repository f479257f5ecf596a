"""A stream of images → a stream of codes, in order, with a bounded number of images on the way.

On a CPU, each core takes some images all the way from file to code: nothing waits for anything, and one thread a
network is faster than one network in several threads. On a GPU, threads read, decode and resize (torchcodec releases
the GIL) while the network works on the images before. Of several devices, each has a process that does so.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from hashfaiss.codes import Codes, pack_tensor
from hashfaiss.encoding.crew import Crew
from hashfaiss.encoding.items import Batch, Item
from hashfaiss.encoding.learned import LearnedCodes
from hashfaiss.encoding.precision import Precision
from hashfaiss.ending import over, stepwise, submit
from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.files import content_digest
from hashfaiss.images.decoding import decode_image, from_pillow, read_bytes
from hashfaiss.images.finding import ImageFile
from hashfaiss.images.large import TWICE, Notes
from hashfaiss.images.preprocessing import Preprocessing

if hasattr(os, "register_at_fork"):  # OpenMP's threads do not survive a fork: a child that waits for them hangs
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

ALONE = 4  # images so few that all threads take them one after the other
DECODED = 16  # images a thread decodes for a GPU before it hands them on
ASKED = {"cpu": 1, "cuda": 16}  # batches one of several devices is asked for at once; what is not answered can be lost

Given = TypeVar("Given")
Made = TypeVar("Made")


class Encodes(Protocol):
    """What the stream needs of an encoder; `Encoder` is one."""

    preprocessing: Preprocessing
    precision: Precision
    device: torch.device
    devices: list[torch.device]
    engine_asked: str
    learned: LearnedCodes | None
    remembered: LearnedCodes | None

    @property
    def batch_size(self) -> int: ...
    @classmethod
    def load(cls, path: str, device: str = ..., precision: str = ..., engine: str = ...) -> Encodes: ...
    def save(self, path: str) -> None: ...
    def no_codes(self) -> Codes: ...
    def outputs(self, images: Tensor) -> Tensor: ...
    def features(self, images: Tensor) -> Tensor: ...
    def encode_resized(self, images: Tensor) -> Codes: ...


def encode_stream(
    encoder: Encodes,
    items: Iterable[Item],
    batch_size: int | None = None,
    workers: int | None = None,
    learned: bool = False,
    outputs: bool = False,
    features: bool = False,
    notes: Notes | None = None,
) -> Iterator[Batch]:
    """Encode `items` in their order, some at a time.

    Images whose codes the encoder remembers are read, not decoded. With `learned`, images the encoder has learned codes
    for get those, as a database takes them; a query gets the network's.

    Args:
        outputs: batches hold the network's outputs too.
        features: batches hold the real features that the network hashes, in place of codes.
        batch_size: images encoded together; default: the encoder's.
        workers: threads; default: as many as torch may use on a CPU, one a processor to decode for a GPU. Neither
            changes a code.
        notes: of large images, see `hashfaiss.images.large`.
    """
    size = encoder.batch_size if batch_size is None else batch_size
    if size < 1 or (workers is not None and workers < 1):
        raise ArgumentError(f"batch_size is {batch_size} and workers {workers}: give 1 or more of each")
    work = Work(encoder, learned, outputs, features, notes)
    on_cpu = encoder.device.type == "cpu"
    with _STARTING:
        threads = torch.get_num_threads() if on_cpu else os.cpu_count()
    return stepwise(_stream(work, items, size, workers or threads or 1))


def _stream(work: Work, items: Iterable[Item], size: int, workers: int) -> Iterator[Batch]:
    try:
        devices = len(work.encoder.devices)
        least = devices * ASKED[work.encoder.device.type] * size if devices > 1 else 0
        first = tuple(islice(items := iter(items), least))
        items = chain(first, items)
        # images in memory would have to be sent there and back
        if devices > 1 and len(first) == least and all(item.file for item in first):
            yield from _on_devices(work, items, size, -(-workers // devices))
        elif work.encoder.device.type == "cpu":
            yield from _on_cores(work, batched(items, size), workers)
        else:
            yield from _on_gpu(work, items, size, workers)
    finally:
        work.given_up = True


@dataclass
class Work:
    """What is done with images, until it is given up."""

    encoder: Encodes
    learned: bool = False
    outputs: bool = False
    features: bool = False
    notes: Notes | None = None
    given_up: bool = False

    def prepare(self, items: Sequence[Item]) -> list[tuple[Item, Prepared]]:
        """Read, decode and resize; nothing more once the stream is given up."""
        remembered = None if self.outputs or self.features else self.encoder.remembered
        prepared: list[tuple[Item, Prepared]] = []
        for item in items:
            if not self.given_up:
                prepared.append((item, _prepare(self.encoder, item, remembered, self.notes)))
        return prepared

    def encode(self, prepared: Sequence[tuple[Item, Prepared]]) -> Batch:
        """Codes of what could be read."""
        skipped = [(item, made) for item, made in prepared if isinstance(made, str)]
        good = [(item, *made) for item, made in prepared if not isinstance(made, str)]
        items, digests = [item for item, _, _ in good], [digest for _, _, digest in good]
        if not good or self.given_up:
            return Batch(items, digests, self.encoder.no_codes(), skipped)
        real = features = None
        codes = self.encoder.no_codes()
        if self.features:
            features = self.encoder.features(self._stack(good)).numpy()
        elif self.outputs:
            numbers = self.encoder.outputs(self._stack(good))
            real, codes = numbers.cpu().numpy(), pack_tensor(numbers).cpu().numpy()
        else:
            codes = self._codes(good)
        if self.learned and self.encoder.learned is not None:
            codes = self.encoder.learned.replace(digests, codes)
        return Batch(items, digests, codes, skipped, real, features)

    def _codes(self, good: Sequence[tuple[Item, Tensor | Codes, bytes]]) -> Codes:
        """Codes of images, in their order: those that are remembered, and the network's of the others."""
        seen = [isinstance(made, Tensor) for _, made, _ in good]
        if all(seen):
            return self.encoder.encode_resized(self._stack(good))
        codes = np.empty((len(good), self.encoder.no_codes().shape[1]), np.uint8)
        for row, (_, made, _) in enumerate(good):
            if not isinstance(made, Tensor):
                codes[row] = made
        if any(seen):
            codes[seen] = self.encoder.encode_resized(self._stack(good))
        return codes

    def _stack(self, good: Sequence[tuple[Item, Tensor | Codes, bytes]]) -> Tensor:
        images = torch.stack([made for _, made, _ in good if isinstance(made, Tensor)])
        return images.pin_memory() if self.encoder.device.type == "cuda" else images

    def whole(self, items: Sequence[Item]) -> Batch:
        """From files to codes."""
        return self.encode(self.prepare(items))


def _on_cores(work: Work, chunks: Iterator[tuple[Item, ...]], workers: int) -> Iterator[Batch]:
    first = list(islice(chunks, workers + 1))
    if 0 < len(first) <= workers:  # few images: shared out evenly, or all threads for the very few
        items = tuple(chain.from_iterable(first))
        if workers == 1 or len(items) <= ALONE:
            yield work.whole(items)
            return
        first = list(batched(items, -(-len(items) // workers)))
    with _pool(workers, "encode") as pool:
        one_thread_each(pool, workers)
        yield from _in_order(pool, work.whole, chain(first, chunks), 2 * workers)


def _on_gpu(work: Work, items: Iterable[Item], size: int, workers: int) -> Iterator[Batch]:
    with _pool(workers, "decode") as decoders, _pool(1, "encode") as gpu:
        ahead = 2 * (-(-size // DECODED) + workers)
        decoded = _in_order(decoders, work.prepare, batched(items, DECODED), ahead)
        together = batched(chain.from_iterable(decoded), size)
        yield from _in_order(gpu, work.encode, together, 2)


def _on_devices(work: Work, items: Iterable[Item], size: int, workers: int) -> Iterator[Batch]:
    encoder = work.encoder
    asked = ASKED[encoder.device.type] * size
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "encoder.pt")
        encoder.save(model)
        asked_for = (work.learned, work.outputs, work.features, work.notes)
        alike = (encoder.precision.name, encoder.engine_asked, size, workers, *asked_for)
        load = type(encoder).load
        crew = Crew(_on_one_device, [(load, model, str(device), *alike) for device in encoder.devices])
    with crew, _pool(len(encoder.devices), "ask") as pool:
        for batches in _in_order(pool, crew.ask, batched(items, asked), len(encoder.devices) + 1):
            yield from batches


def _on_one_device(
    load: Callable[[str, str, str, str], Encodes],
    model: str,
    device: str,
    precision: str,
    engine: str,
    size: int,
    workers: int,
    learned: bool,
    outputs: bool,
    features: bool,
    notes: Notes | None,
) -> Callable[[Sequence[Item]], list[Batch]]:
    """What a process of several does: items → batches."""
    torch.set_num_threads(workers)
    encoder = load(model, device, precision, engine)
    return lambda items: list(encode_stream(encoder, items, size, workers, learned, outputs, features, notes))


@contextmanager
def _pool(workers: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that are let go, not waited for, when the stream is given up."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def one_thread_each(pool: ThreadPoolExecutor, workers: int) -> None:
    """Let each of the pool's threads compute alone. torch has a number for threads to come, which is put back."""
    started = threading.Barrier(workers + 1)

    def start() -> None:
        torch.get_num_threads()  # a thread takes the number for threads to come when it first asks
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)  # a softmax makes many, and processors are slow with them
        started.wait()

    with _STARTING:
        before = torch.get_num_threads()
        try:
            for _ in range(workers):
                pool.submit(start)
            started.wait()
        except BaseException as error:  # those that wait already would do so for ever
            started.abort()
            if not (isinstance(error, RuntimeError) and over()):
                raise
        finally:
            torch.set_num_threads(before)


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Given], Made], given: Iterable[Given], ahead: int
) -> Iterator[Made]:
    """Results in the order of what was given; at most `ahead` are begun and not yet taken."""
    waiting: deque[Future[Made]] = deque()
    for one in given:
        waiting.append(submit(pool, work, one))
        while len(waiting) >= ahead or (waiting and waiting[0].done()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def prepare_bytes(encoder: Encodes, data: bytes) -> Tensor | Codes:
    """The bytes of an image file → what the network sees, uint8 (3, size, size), or its code where that is remembered.

    Raises:
        ImageError: see `decode_image`.
    """
    code = None if encoder.remembered is None else encoder.remembered.get(content_digest(data))
    if code is not None:
        return code
    return encoder.preprocessing.resize(decode_image(data, None, encoder.preprocessing.least_side))


Prepared = tuple[Tensor | Codes, bytes] | str  # resized or remembered, with its digest; or why it cannot be read
_STARTING = threading.Lock()  # torch's number for threads to come is not what it was while a pool starts
_PILLOW = threading.Lock()  # a Pillow image reads its file late, and may be given more than once


def batched(items: Iterable[Given], size: int) -> Iterator[tuple[Given, ...]]:
    """Tuples of `size` items, the last maybe shorter (itertools has it from Python 3.12)."""
    rest = iter(items)
    while chunk := tuple(islice(rest, size)):
        yield chunk


def _prepare(encoder: Encodes, item: Item, remembered: LearnedCodes | None, notes: Notes | None) -> Prepared:
    if item.known is not None:
        packed, digest = item.known
        return np.frombuffer(packed, np.uint8), digest
    try:
        if isinstance(item.source, ImageFile):
            data = read_bytes(item.source.path)
            digest = content_digest(data)
            if remembered is not None and (code := remembered.get(digest)) is not None:
                return code, digest
            if notes is not None and (item.source.path, item.source.size, item.source.mtime_ns) in notes.avoid:
                return f"decoding it ended the process, twice: was memory short? To try again, delete {TWICE}"
            note = None if notes is None else notes.own
            image = decode_image(data, item.source.path, encoder.preprocessing.least_side, note)
        else:
            image = _from_memory(item.source)
            digest = content_digest(np.ascontiguousarray(image.cpu().numpy()).tobytes())
        return encoder.preprocessing.resize(image), digest
    except ImageError as error:
        return error.reason


def _from_memory(source: Image | Tensor) -> Tensor:
    if isinstance(source, Tensor):
        return source
    with _PILLOW:
        return from_pillow(source)
