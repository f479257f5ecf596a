"""Encoding on the machines of a Ray cluster: actors that read, decode and encode, and one driver that commits.

An actor that ends is started again and asked for its chunk once more; the model comes with each question, from Ray's
store, where an actor that is new finds it too.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hashfaiss.cluster.joining import joined
from hashfaiss.encoding.crew import told
from hashfaiss.encoding.items import Batch, Item
from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.images.large import Notes
from hashfaiss.wording import counted

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder

CHUNK = 512  # images an actor is asked for at once: what is lost with it
AHEAD = 2  # chunks that each actor has, so that it never waits
TRIES = 3  # of a chunk that ended its actor
MEGAPIXELS = "HASHFAISS_MAX_MEGAPIXELS"


class RayStream:
    """Encodes on a Ray cluster, in the order of the items: a `hashfaiss.encoding.items.EncodeStream`.

    Every machine must see the images under the same paths, and have the same hashfaiss and image decoders.
    """

    def __init__(
        self, address: str | None = None, workers: int | None = None, gpus_per_worker: float = 0, chunk: int = CHUNK
    ) -> None:
        """Nothing is started before there is something to encode.

        Args:
            address: see `hashfaiss.cluster.joining.joined`.
            workers: actors; None: one for each `gpus_per_worker` GPUs there are, or one a machine.
            gpus_per_worker: GPUs that each actor has for itself; 0.5 lets two share one.
            chunk: images an actor is asked for at once.
        """
        for name, number, least in (
            ("workers", workers, 1),
            ("gpus_per_worker", gpus_per_worker, 0),
            ("chunk", chunk, 1),
        ):
            if number is not None and number < least:
                raise ArgumentError(f"{name} is {number}: give {least} or more")
        self.address, self.workers, self.gpus, self.chunk = address, workers, gpus_per_worker, chunk

    def __call__(self, encoder: Encoder, items: Iterable[Item], notes: Notes | None) -> Iterator[Batch]:
        """See `EncodeStream`.

        Raises:
            HashfaissError: Ray cannot be joined, a worker does not see the images or decodes them otherwise, or a chunk
                ended its worker again and again.
        """
        from hashfaiss.encoding.pipeline import batched

        items = iter(items)
        first = next(items, None)
        if first is None:
            return
        ray = joined(self.address)
        actors = _Actors(ray, encoder, notes, self._workers(ray), self.gpus)
        waiting: deque[tuple[Any, Sequence[Item]]] = deque()
        try:
            for some in batched(chain([first], items), self.chunk):
                waiting.append((actors.ask(some), some))
                while len(waiting) > AHEAD * len(actors.free):
                    yield from actors.answer(*waiting.popleft())
            while waiting:
                yield from actors.answer(*waiting.popleft())
        finally:
            actors.end()

    def _workers(self, ray: Any) -> int:
        """How many there are to be. HashfaissError where there are no GPUs for one."""
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not self.gpus:
            return self.workers or len(alive)
        most = sum(int(resources.get("GPU", 0) / self.gpus) for resources in alive)
        if most < (self.workers or 1):
            raise HashfaissError(
                f"{counted(self.workers or 1, 'worker')} of {self.gpus:g} GPUs were asked for, and the cluster has "
                f"GPUs for {most}: ask for fewer, or add machines"
            )
        return self.workers or most


class _Task(NamedTuple):
    """What an actor is to know beside the images."""

    precision: str
    engine: str
    threads: int
    notes: Notes | None
    megapixels: str | None
    like: dict[str, str]  # the driver's decoders


class _Actors:
    """One or more that encode."""

    def __init__(self, ray: Any, encoder: Encoder, notes: Notes | None, workers: int, gpus: float) -> None:
        from hashfaiss.images.probes import decoders

        threads = max(1, int(ray.cluster_resources().get("CPU", 1)) // workers)
        self._ray, self._here = ray, encoder
        self._model = ray.put(_file_of(encoder))
        self._task = _Task(
            encoder.precision.name, encoder.engine_asked, threads, notes, os.environ.get(MEGAPIXELS), decoders()
        )
        again = {"max_restarts": -1, "max_task_retries": TRIES}  # restarts end with the tries of a chunk
        made = ray.remote(Worker).options(num_cpus=0, num_gpus=gpus, scheduling_strategy="SPREAD", **again)
        self.free = [made.remote() for _ in range(workers)]
        self._asked: dict[Any, int] = {}  # what is not answered yet, and by which of them

    def ask(self, items: Sequence[Item]) -> Any:
        """Have the one that has least to do encode a chunk; images in memory wait to be encoded here."""
        if any(item.file is None for item in items):
            return None
        if self._asked:
            done, _ = self._ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0, fetch_local=False)
            for one in done:
                del self._asked[one]
        has = list(self._asked.values())
        number = min(range(len(self.free)), key=has.count)
        asked = self.free[number].encode.remote(self._model, self._task, list(items))
        self._asked[asked] = number
        return asked

    def answer(self, asked: Any, items: Sequence[Item]) -> list[Batch]:
        """Its batches. HashfaissError where there are none."""
        from hashfaiss.encoding.pipeline import encode_stream

        if asked is None:
            return list(encode_stream(self._here, items, learned=True, notes=self._task.notes))
        try:
            answer = self._ray.get(asked)
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().split("\n")[0]
            raise HashfaissError(
                f"a worker that encoded images from {items[0].path!r} to {items[-1].path!r} ended {TRIES + 1} times "
                f"({reason}): was it killed, or memory short? What was committed stands"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        batches: list[Batch] = answer
        return batches

    def end(self) -> None:
        """End all, whatever they do."""
        for actor in self.free:
            self._ray.kill(actor)


class Worker:
    """What an actor does; it keeps the encoder of the last model it was given."""

    def __init__(self) -> None:
        self._encoder: Encoder | None = None

    def encode(self, model: npt.NDArray[np.uint8], task: _Task, items: list[Item]) -> list[Batch] | HashfaissError:
        """Batches of the items, or why there are none."""
        from hashfaiss.encoding.pipeline import encode_stream

        try:
            if self._encoder is None:
                self._encoder = self._load(model, task)
            folder = os.path.dirname(items[0].path or "")
            if not os.path.isdir(folder):
                return HashfaissError(
                    f"the worker on {socket.gethostname()!r} does not see {folder!r}: mount the images under the same "
                    "path on all machines"
                )
            notes = task.notes if task.notes is not None and task.notes.folder.is_dir() else None
            return list(encode_stream(self._encoder, items, learned=True, notes=notes))
        except Exception as error:
            return told(error)

    def _load(self, model: npt.NDArray[np.uint8], task: _Task) -> Encoder:
        import torch

        from hashfaiss.encoding.encoder import Encoder
        from hashfaiss.images.probes import decoders

        other = sorted(name for name, digest in decoders().items() if task.like.get(name, digest) != digest)
        if other:
            raise HashfaissError(
                f"the worker on {socket.gethostname()!r} decodes {', '.join(other)} files to other pixels than the "
                "machine that builds: install the same versions of torchcodec, Pillow and pillow-heif on both"
            )
        if task.megapixels is not None:
            os.environ[MEGAPIXELS] = task.megapixels
        torch.set_num_threads(task.threads)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "encoder.pt")
            file.write_bytes(model.tobytes())
            return Encoder.load(file, "auto", task.precision, task.engine)


def _file_of(encoder: Encoder) -> npt.NDArray[np.uint8]:
    """An encoder's file, uint8 (bytes,)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "encoder.pt")
        encoder.save(file)
        return np.fromfile(file, np.uint8)
