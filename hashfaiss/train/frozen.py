"""Features of a network whose backbone stays as it is, computed once: what its head is trained on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hashfaiss.codes import Codes, pack_tensor
from hashfaiss.encoding.pipeline import one_thread_each
from hashfaiss.encoding.precision import images_together
from hashfaiss.errors import TrainingError
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.train.data import TrainingData, empty
from hashfaiss.train.feature_store import FeatureStore
from hashfaiss.train.progress import Clock
from hashfaiss.train.settings import PRECISIONS, Settings

TOGETHER = 1 << 26  # bytes of features that a head takes at once: maps under attention are large
Compute = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Frozen:
    """Features of the training images, float32 (n, ...), and of those held out, as `HashNetwork.frozen` gives them."""

    training: Tensor
    validation: Tensor

    def held_out_codes(self, network: Any, device: torch.device) -> Codes | None:
        """Codes of the images held out by the network's head alone, or None where there are none."""
        if not len(self.validation):
            return None
        network.eval()
        size = max(1, TOGETHER // self.validation[0].nbytes)
        with torch.no_grad():
            outputs = torch.cat([network.head(part.to(device)) for part in torch.split(self.validation, size)])
        codes: Codes = pack_tensor(outputs).cpu().numpy()
        return codes


def freeze(
    network: Any, data: TrainingData, settings: Settings, clock: Clock, store: FeatureStore | None = None
) -> Frozen:
    """What the head of `network` is trained on and validated with: of the store, or in the settings' precision."""
    network.eval()
    if store is not None and settings.network_arguments.get("attention", "none") == "none":
        look, digests = settings.preprocessing, (data.training.digests, data.validation.digests)
        training, validation = (store.rows(network.backbone, settings.backbone, look, part) for part in digests)
        if training is not None and validation is not None:
            return Frozen(training, validation)
    parts = data.training.images, data.validation.images
    clock.start_features(sum(map(len, parts)))
    precision = PRECISIONS["float32" if settings.precision == "float16" else settings.precision]
    device = torch.device(settings.device)
    training, validation = (
        frozen_features(network.frozen, part, settings.preprocessing, device, precision, clock.features)
        for part in parts
    )
    return Frozen(training, validation)


def frozen_features(
    compute: Compute,
    images: Tensor,
    preprocessing: Preprocessing,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    on_done: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """`compute` of all images, float32 on the CPU, in their order; beyond a few GB they lie in a temporary file.

    Args:
        compute: normalised images (n, 3, size, size) → features (n, ...), as `HashNetwork.frozen` or a backbone.
        images: resized, uint8 (n, 3, size, size).
        precision: of the products; what a head is trained on needs no more than bfloat16.
        on_done: told how many more images are done.

    Raises:
        TrainingError: features that are not finite.
    """

    def features(part: Tensor) -> Tensor:
        inputs = preprocessing.normalise(preprocessing.within_margin(part).to(device)).contiguous(
            memory_format=torch.channels_last
        )
        with torch.inference_mode(), torch.autocast(device.type, precision, enabled=precision != torch.float32):
            return compute(inputs).float().cpu()

    workers = torch.get_num_threads() if device.type == "cpu" else 1
    size = images_together(preprocessing.size) if device.type == "cpu" else 256
    found: Any = None
    with (
        ThreadPoolExecutor(workers) as pool,
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
    ):
        if device.type == "cpu":
            one_thread_each(pool, workers)
        done = 0
        for part in pool.map(features, torch.split(images, size)):
            if found is None:
                found = empty((len(images), *part.shape[1:]), torch.float32)
            if not part.isfinite().all():
                raise TrainingError("the backbone's features are not finite: its weights are broken, take others")
            found[done : done + len(part)] = part
            done += len(part)
            on_done(len(part))
    result: Tensor = torch.empty(0) if found is None else found
    return result
