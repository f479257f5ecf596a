"""Fit a shallow method: features of a fixed network, once, and what the method solves on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import TrainingError
from hashfaiss.networks.backbone import Backbone
from hashfaiss.networks.backbones import build_backbone
from hashfaiss.networks.features import FeatureHash
from hashfaiss.networks.weights import load_weights
from hashfaiss.train.data import TrainingData
from hashfaiss.train.methods import Shallow, build_method
from hashfaiss.train.methods.method import sign
from hashfaiss.train.progress import Clock, Progress
from hashfaiss.train.records import Epoch, TrainResult, draw_curves, training_facts, write_metrics
from hashfaiss.train.selection import Selection
from hashfaiss.train.settings import Settings


def fit_shallow(settings: Settings, data: TrainingData, folder: Path, tell: Callable[[Progress], None]) -> TrainResult:
    """Fit `settings.method` and write its model file, metrics.csv and loss.png.

    The backbone is the one the weights name, or random of torch's global generator; the method draws from a generator
    of the settings' seed.

    Args:
        settings: of a shallow method; `batch` images go through the backbone at a time, always in float32, because the
            encoder takes it so.
        data: decoded without a margin for augmentation.
        folder: of the training; an older training's state there is given up.
        tell: called as images go through the backbone: one epoch, with loss 0 until the method is solved.

    Returns:
        One epoch. Its loss is the mean of (sign(u) - u)² over bits and training images: what ITQ minimises; of LSH it
        tells the scale of the features only. Its learning rate is 0.

    Raises:
        ArgumentError: K is not possible with the method and these images.
        ModelError: the pretrained weights cannot be had.
        TrainingError: the features are not finite.
        OSError: no room to write.
    """
    started = time.monotonic()
    method: Any = build_method(settings.method, data.training.labels, settings.bits, settings.method_options)
    backbone = build_backbone(settings.backbone)
    load_weights(backbone, settings.weights)
    clock = Clock(1, 0, tell)
    clock.start_epoch(1, len(data.training))
    features = _features(settings, backbone, data.training.images, clock)
    clock.stop()
    network, arguments = _solve(settings, method, backbone, features)
    loss = _quantisation_error(network, features, settings.batch)
    encoder = Encoder(
        network,
        "features",
        arguments,
        settings.preprocessing,
        settings.method,
        data.classes,
        device=settings.device,
    )
    score = Selection(settings, data).score(encoder)
    seconds = time.monotonic() - started
    encoder.facts = training_facts(settings, data, 1, score, loss, seconds)
    encoder.save(settings.out)
    (folder / "state.pt").unlink(missing_ok=True)
    history = [Epoch(1, loss, score, 0.0, clock.images_per_second, seconds)]
    write_metrics(folder, history)
    draw_curves(folder, history)
    clock.finish_epoch(loss, score)
    return TrainResult(
        out=Path(settings.out),
        folder=folder,
        best_epoch=1,
        validation_map=score,
        seconds=seconds,
        images=len(data.training),
        validation_images=len(data.validation),
        skipped=data.skipped,
        history=history,
    )


def _features(settings: Settings, backbone: Backbone, images: Tensor, clock: Clock) -> Tensor:
    """The backbone's vectors (n, dim), float32 on the CPU, of resized images uint8 (n, 3, size, size)."""
    device = torch.device(settings.device)
    backbone.to(device).to(memory_format=torch.channels_last).eval()
    features = torch.empty(len(images), backbone.facts.dim)
    loss = torch.zeros(())
    done = 0
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        for batch in torch.split(images, settings.batch):
            inputs = settings.preprocessing.normalise(batch.to(device))
            vectors = backbone(inputs.contiguous(memory_format=torch.channels_last))
            features[done : done + len(batch)] = vectors.cpu()
            done += len(batch)
            clock.tick(len(batch), loss)
    if not features.isfinite().all():
        raise TrainingError(f"features of {settings.backbone} are not finite: its weights are broken, take others")
    return features


def _solve(
    settings: Settings, method: Shallow, backbone: Backbone, features: Tensor
) -> tuple[FeatureHash, dict[str, Any]]:
    """The fitted network, and the arguments it is built with."""
    tensors = method.fit(features, torch.Generator().manual_seed(settings.seed))
    arguments: dict[str, Any] = {"backbone": settings.backbone, "bits": settings.bits, "kind": "linear"}
    if "anchors" in tensors:
        arguments.update(kind="kernel", anchors=len(tensors["anchors"]))
    network = FeatureHash(**arguments)
    network.fill(tensors)
    network.backbone = backbone.requires_grad_(False)
    return network, arguments


def _quantisation_error(network: FeatureHash, features: Tensor, batch: int) -> float:
    total = 0.0
    for part in torch.split(features, batch):
        outputs = network.hash_features(part).double()
        total += float((sign(outputs) - outputs).square().mean()) * len(part)
    return total / len(features)
