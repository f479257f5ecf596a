"""How many epochs fit into the minutes a person gives, from what the machine is seen to do."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch

from hashfaiss.train.data import TrainingData, views_of
from hashfaiss.train.frozen import frozen_features
from hashfaiss.train.methods import build_method
from hashfaiss.train.recipes import with_changes
from hashfaiss.train.settings import PRECISIONS, Settings
from hashfaiss.wording import counted

MEASURED = 3  # batches, after one that warms up
INFERENCE = 3  # times as fast as training, about: there is no way back through the network
MOST = 200  # epochs, however few the images
LENGTH = ("epochs", "lr_step", "lr_factor")  # settings that follow it


def fit_into_minutes(
    settings: Settings, network: Any, data: TrainingData, spent: float, say: Callable[[str], None]
) -> Settings:
    """`settings` with as many epochs of the whole network as fit into its minutes.

    Args:
        network: on its device, and left as it is.
        spent: seconds that are over already.
        say: told how many, and why.
    """
    assert settings.minutes is not None
    time_given = f"{settings.minutes:g} minute{'s' * (settings.minutes != 1)}"
    head = f"{counted(settings.epochs, 'epoch')} of the hash layer on features computed once"
    training, validation = len(data.training), len(data.validation)
    rate = training_rate(settings, network, data)
    seconds = settings.minutes * 60 - spent
    if settings.freeze:
        seconds -= (training + validation) / features_rate(settings, network, data)
        seconds -= settings.epochs * training / head_rate(settings, network, data)
    epochs = min(MOST, epochs_that_fit(seconds, training, validation / settings.evaluate_every, rate))
    if settings.freeze and not epochs:
        say(f"{head}, and none of the whole network: at {rate:,.0f} images/s not one fits into {time_given}")
    elif settings.freeze:
        say(f"{head}, then {epochs} of the whole network: at {rate:,.0f} images/s they fit into {time_given}")
    if settings.freeze:
        return dataclasses.replace(settings, finetune=epochs)
    method: Any = build_method(settings.method, torch.eye(2), settings.bits, settings.method_options)
    chosen = max(epochs, method.least_epochs)
    fit = "they fit" if chosen == epochs else "that is the least there can be, and does not fit"
    say(f"{counted(chosen, 'epoch')}: at {rate:,.0f} images/s {fit} into {time_given}")
    changed = with_changes({name: getattr(settings, name) for name in LENGTH}, {"epochs": chosen})
    return dataclasses.replace(settings, **changed)


def epochs_that_fit(seconds: float, training: int, validation: float, rate: float) -> int:
    """Epochs of `training` images at `rate` images a second, each with so many that are validated, in `seconds`."""
    return max(0, int(seconds / ((training + validation / INFERENCE) / rate)))


def training_rate(settings: Settings, network: Any, data: TrainingData) -> float:
    """Images a second through augmentation, network and back, on a copy of the network."""
    device, precision = torch.device(settings.device), PRECISIONS[settings.precision]
    made = copy.deepcopy(network).train()
    batch = data.training.images[: settings.batch]
    generator = torch.Generator().manual_seed(settings.seed)

    def step() -> None:
        images = views_of(batch.to(device), settings.augments, settings.preprocessing, generator)
        inputs = settings.preprocessing.normalise(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            outputs = made(inputs)
        torch.autograd.backward(outputs.float().square().mean())

    return len(batch) / _quickest(step, device)


def head_rate(settings: Settings, network: Any, data: TrainingData) -> float:
    """Images a second through the hash layer, the method's loss and back, once their features are there."""
    device = torch.device(settings.device)
    made = copy.deepcopy(network)
    indices = torch.arange(min(settings.batch, len(data.training)))
    with torch.inference_mode():
        shape = (
            made.eval()
            .frozen(
                settings.preprocessing.normalise(settings.preprocessing.within_margin(data.training.images[:1])).to(
                    device
                )
            )
            .shape
        )
    features = torch.zeros(len(indices), *shape[1:], device=device)
    method: Any = build_method(settings.method, data.training.labels, settings.bits, settings.method_options)
    method.to(device)

    def step() -> None:
        outputs = torch.cat([made.head(features)] * len(settings.augments))
        torch.autograd.backward(method(outputs, indices.to(device)))

    return len(indices) / _quickest(step, device)


def _quickest(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of the quickest of a few steps."""
    best = float("inf")
    for _ in range(1 + MEASURED):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best


def features_rate(settings: Settings, network: Any, data: TrainingData) -> float:
    """Images a second through the backbone alone."""
    images = data.training.images[: 2 * settings.batch]
    made = copy.deepcopy(network).eval()
    started = time.perf_counter()
    frozen_features(made.frozen, images, settings.preprocessing, torch.device(settings.device))
    return len(images) / (time.perf_counter() - started)
