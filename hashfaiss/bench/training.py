"""How near the trainer comes to the bare network: forward, backward and step on batches that are ready."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hashfaiss.errors import ArgumentError
from hashfaiss.networks import NETWORKS
from hashfaiss.train.methods import Shallow, build_method, method_class
from hashfaiss.train.optimisers import build_optimiser
from hashfaiss.train.options import TrainOptions
from hashfaiss.train.phases import phases_of
from hashfaiss.train.progress import Progress
from hashfaiss.train.settings import PRECISIONS, Settings, settle
from hashfaiss.train.trainer import train

CLASSES = 2
READY_BATCHES = 4


@dataclass(frozen=True)
class TrainingBench:
    """Images a second, round by round: the trainer's epoch, then as many steps of the bare network.

    Attributes:
        method, network, backbone, bits, size, batch, device, precision: what ran.
        trainer, bare: images a second in each round; the first round of both, which warms up, is left out.
        ratio: median over rounds of trainer / bare.
    """

    method: str
    network: str
    backbone: str
    bits: int
    size: int
    batch: int
    device: str
    precision: str
    trainer: list[float]
    bare: list[float]
    ratio: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def bench_training(
    method: str = "dhida",
    batches: int = 4,
    rounds: int = 5,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> TrainingBench:
    """Train on generated images, and after each epoch time the bare network on the same device.

    Args:
        method: a name in METHODS; not a shallow one.
        batches: steps of a round.
        rounds: counted ones.
        progress: told rounds done and in all.
        settings: further fields of `TrainOptions`.

    Raises:
        ArgumentError: settings that are none.
    """
    for name, value in (("batches", batches), ("rounds", rounds)):
        if value < 1:
            raise ArgumentError(f"{name} is {value}: give 1 or more")
    if issubclass(method_class(method), Shallow):
        raise ArgumentError(f"{method} is fitted, not trained: give a deep method, such as dhida")
    with tempfile.TemporaryDirectory() as folder:
        options = TrainOptions(
            images=Path(folder) / "images",
            out=Path(folder) / "model.pt",
            method=method,
            weights="none",
            validation=0,
            epochs=rounds + 1,
            evaluate_every=rounds + 1,
            **settings,
        )
        settled = settle(options)
        _write_images(Path(settled.images), batches * settled.batch, settled.preprocessing.size)
        steps = _bare_steps(settled)
        bare: list[float] = []

        def after_epoch(state: Progress) -> None:
            if state.epoch and state.done == state.total:
                bare.append(_rate(steps, batches, settled))
                if progress:
                    progress(state.epoch, rounds + 1)

        result = train(options, progress=after_epoch)
    trainer = [epoch.images_per_second for epoch in result.history][1:]
    return TrainingBench(
        method=settled.method,
        network=settled.network,
        backbone=settled.backbone,
        bits=settled.bits,
        size=settled.preprocessing.size,
        batch=settled.batch,
        device=settled.device,
        precision=settled.precision,
        trainer=trainer,
        bare=bare[1:],
        ratio=statistics.median(ours / bound for ours, bound in zip(trainer, bare[1:], strict=True)),
    )


def _bare_steps(settings: Settings) -> Callable[[int], None]:
    """Forward, backward and step of the same network and optimiser, with a loss that costs nothing."""
    device = torch.device(settings.device)
    network: Any = NETWORKS[settings.network](**settings.network_arguments)
    network = network.to(device).to(memory_format=torch.channels_last).train()
    method: Any = build_method(settings.method, torch.eye(2), settings.bits, settings.method_options)
    optimiser = build_optimiser(settings, network, method.to(device), phases_of(settings)[-1])
    size, precision = settings.preprocessing.size, PRECISIONS[settings.precision]
    ready = [
        torch.randn(settings.batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
        for _ in range(READY_BATCHES)
    ]

    def step(number: int) -> None:
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            outputs = network(ready[number % READY_BATCHES])
        optimiser.zero_grad()
        outputs.float().square().mean().backward()
        optimiser.step()

    return step


def _rate(step: Callable[[int], None], batches: int, settings: Settings) -> float:
    started = time.perf_counter()
    for number in range(batches):
        step(number)
    if settings.device.startswith("cuda"):
        torch.cuda.synchronize(settings.device)
    return batches * settings.batch / (time.perf_counter() - started)


def _write_images(folder: Path, count: int, size: int) -> None:
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / str(number % CLASSES) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path, compress_level=1)
