"""Fit a shallow method: features of a fixed network, once, and what the method solves on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.networks.backbone import Backbone
from hashfaiss.networks.backbones import build_backbone
from hashfaiss.networks.features import FeatureHash
from hashfaiss.networks.weights import load_weights
from hashfaiss.train.data import TrainingData
from hashfaiss.train.feature_store import FeatureStore
from hashfaiss.train.frozen import frozen_features
from hashfaiss.train.methods import Shallow, build_method
from hashfaiss.train.methods.method import BLOCK, sign
from hashfaiss.train.progress import Clock, Progress
from hashfaiss.train.records import Epoch, TrainResult, draw_curves, training_facts, write_metrics
from hashfaiss.train.selection import Selection
from hashfaiss.train.settings import Settings


def fit_shallow(
    settings: Settings,
    data: TrainingData,
    folder: Path,
    tell: Callable[[Progress], None],
    store: FeatureStore | None = None,
) -> TrainResult:
    """Fit `settings.method` and write its model file, metrics.csv and loss.png.

    The backbone is the one the weights name, or random of torch's global generator; the method draws from a generator
    of the settings' seed.

    Args:
        settings: of a shallow method; features are always float32, because the encoder takes them so.
        data: decoded without a margin for augmentation.
        folder: of the training; an older training's state there is given up.
        store: where the backbone's features may lie.
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
    clock = Clock(1, 0, tell)
    clock.start_epoch(1, len(data.training))
    zero = torch.zeros(())
    backbone = fixed_backbone(settings.backbone, settings.weights, torch.device(settings.device))
    look, features = settings.preprocessing, None
    if store is not None:
        features = store.rows(backbone, settings.backbone, look, data.training.digests)
    if features is None:
        features = frozen_features(
            backbone,
            data.training.images,
            settings.preprocessing,
            torch.device(settings.device),
            on_done=lambda more: clock.tick(more, zero),
        )
    clock.stop()
    network, arguments = solve(method, backbone, settings.backbone, features, settings.seed)
    encoder = Encoder(
        network,
        "features",
        arguments,
        settings.preprocessing,
        settings.method,
        data.classes,
        device=settings.device,
    )
    return _left(settings, data, folder, encoder, quantisation_error(network, features), started, clock)


def _left(
    settings: Settings, data: TrainingData, folder: Path, encoder: Encoder, loss: float, started: float, clock: Clock
) -> TrainResult:
    """Measure the fitted encoder, and write all that a training leaves."""
    selection = Selection(settings, data)
    score = selection.score(encoder)
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
        validation_score=score,
        measure=selection.measure,
        seconds=seconds,
        images=len(data.training),
        validation_images=len(data.validation),
        skipped=data.skipped,
        history=history,
    )


def fixed_backbone(name: str, weights: str, device: torch.device) -> Backbone:
    """A backbone with pretrained weights that stays as it is, on `device`; ModelError where they cannot be had."""
    backbone = build_backbone(name)
    load_weights(backbone, weights)
    return backbone.requires_grad_(False).to(device).to(memory_format=torch.channels_last).eval()


def solve(
    method: Shallow, backbone: Backbone, backbone_name: str, features: Tensor, seed: int
) -> tuple[FeatureHash, dict[str, Any]]:
    """The network fitted to features (n, dim) of `backbone`, and the arguments it is built with."""
    tensors = method.fit(features, torch.Generator().manual_seed(seed))
    arguments: dict[str, Any] = {"backbone": backbone_name, "bits": method.bits, "kind": "linear"}
    if "anchors" in tensors:
        arguments.update(kind="kernel", anchors=len(tensors["anchors"]))
    network = FeatureHash(**arguments)
    network.fill(tensors)
    network.backbone = backbone
    return network, arguments


def quantisation_error(network: FeatureHash, features: Tensor) -> float:
    """Mean of (sign(u) - u)² over bits and images."""
    total = 0.0
    for part in torch.split(features, BLOCK):
        outputs = network.hash_features(part).double()
        total += float((sign(outputs) - outputs).square().mean()) * len(part)
    return total / len(features)
