"""An encoder for a folder of photographs without labels: ITQ on the features of a pretrained backbone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hashfaiss.codes import pack_tensor
from hashfaiss.encoding.devices import choose_devices
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.engine_cache import CLOSE
from hashfaiss.encoding.items import Item
from hashfaiss.encoding.learned import LearnedCodes
from hashfaiss.encoding.pipeline import encode_stream
from hashfaiss.encoding.precision import close_rows
from hashfaiss.errors import ArgumentError, TrainingError
from hashfaiss.images.finding import ImageFile
from hashfaiss.images.labels import labelled_files
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.images.typical import typical_size
from hashfaiss.networks.backbone import Backbone
from hashfaiss.networks.backbones import backbone_facts
from hashfaiss.networks.features import FeatureHash
from hashfaiss.networks.timm_backbones import LITE0
from hashfaiss.networks.weights import published_weights
from hashfaiss.train.methods.itq import ITQ
from hashfaiss.train.shallow import fixed_backbone

SAMPLE = 20_000  # images ITQ is fitted to: twice as many change nothing that can be measured
LEAST = 9  # images, for 8 bits


def fit_to_folders(
    folders: Sequence[str | os.PathLike[str]],
    bits: int = 64,
    labels: str | os.PathLike[str] | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
    exclude: Sequence[str] = (),
    reduced: bool = False,
) -> Encoder:
    """Fit ITQ to EfficientNet-Lite0's features (ImageNet weights, no download) of images below `folders`.

    The encoder remembers the codes of the images it was fitted to, so that an index of them computes no feature twice.

    Args:
        folders: of images; what names folders in them have does not matter.
        bits: K; of fewer than K + 1 different images, the largest power of two that they allow, 8 at least.
        labels: a label file, of which the images it lists are taken and no label.
        sample: images it is fitted to at most, drawn with `seed`.
        device, precision, engine: see `Encoder.load`; with several devices, the first looks at the images.
        progress: called with (images done, images to do).
        exclude: patterns of names to leave out, see `hashfaiss.images.find_images`.
        reduced: see `Preprocessing.reduced`.

    Raises:
        ArgumentError: one of `folders` is not a folder, or K is out of range.
        TrainingError: fewer than 9 images that can be read.
    """
    found = (labelled_files(folder, labels, exclude=exclude) for folder in folders)
    files = list({file.path: file for file, _ in chain.from_iterable(found)}.values())
    named = ", ".join(repr(os.fspath(folder)) for folder in folders)
    if len(files) > sample:
        drawn = np.random.default_rng(seed).choice(len(files), sample, replace=False)
        files = [files[number] for number in np.sort(drawn)]
    backbone = fixed_backbone(LITE0, "imagenet", choose_devices(device)[0])
    first = _encoder(backbone, bits, files, str(choose_devices(device)[0]), precision, engine, reduced)
    features, digests, skipped = _features(first, files, progress)
    count, different = len(digests), len(set(digests))
    if count < LEAST:
        reason = f"; {skipped[0][0]!r} cannot be read: {skipped[0][1]}" if skipped else ""
        raise TrainingError(
            f"{named}: {count} image{'s' * (count != 1)} that can be read{reason}: fitting a model "
            f"to images without labels takes {LEAST} or more; give more, or a model with --model"
        )
    method = ITQ(torch.zeros(count, 0), _bits_that_fit(bits, different))
    try:
        tensors = method.fit(features, torch.Generator().manual_seed(seed))
    except ArgumentError as error:  # images that are all alike
        raise TrainingError(f"a model cannot be fitted to {named}: {error}") from None
    encoder = _encoder(backbone, method.bits, files, device, precision, engine, reduced)
    network: Any = encoder.network
    network.fill(tensors)
    encoder.facts = {
        "backbone": LITE0,
        "weights": "imagenet",
        "published_weights": published_weights(LITE0, "imagenet"),
        "method_options": {"iterations": method.iterations},
        "training_images": count,
        "skipped_images": len(skipped),
        "seed": seed,
        "torch": str(torch.__version__),
    }
    encoder.remembered = _clear_codes(network.hash_features(features), digests)
    return encoder


def _bits_that_fit(bits: int, different: int) -> int:
    """K, or where so many images do not span as many directions, the largest power of two below their number."""
    return bits if bits < different else 1 << max(3, (different - 1).bit_length() - 1)


def _encoder(
    backbone: Backbone, bits: int, files: list[ImageFile], device: str, precision: str, engine: str, reduced: bool
) -> Encoder:
    arguments = {"backbone": LITE0, "bits": bits, "kind": "linear"}
    network = FeatureHash(LITE0, bits)
    network.backbone = backbone
    facts, size = network.backbone.facts, typical_size(files)
    preprocessing = Preprocessing(size, "crop", facts.mean, facts.std, facts.crop, facts.interpolation, reduced)
    return Encoder(
        network, "features", arguments, preprocessing, "itq", device=device, precision=precision, engine=engine
    )


def _clear_codes(outputs: Tensor, digests: list[bytes]) -> LearnedCodes:
    """Codes of outputs u (n, K), but of those that float32 cannot tell from zero: they are computed again."""
    clear = torch.ones(len(outputs), dtype=torch.bool)
    clear[close_rows(outputs, CLOSE)] = False
    known = [digest for digest, sure in zip(digests, clear.tolist(), strict=True) if sure]
    return LearnedCodes(known, pack_tensor(outputs[clear]).numpy())


def _features(
    encoder: Encoder, files: list[ImageFile], progress: Callable[[int, int], None]
) -> tuple[Tensor, list[bytes], list[tuple[str, str]]]:
    """Features (n, dim), digests of the files, and the images that cannot be read."""
    features = [torch.empty(0, backbone_facts(LITE0).dim)]
    digests: list[bytes] = []
    skipped: list[tuple[str, str]] = []
    done = 0
    for batch in encode_stream(encoder, (Item(file) for file in files), features=True):
        if batch.features is not None:
            features.append(torch.from_numpy(batch.features))
        digests += batch.digests
        skipped += [(item.path or "", reason) for item, reason in batch.skipped]
        done += len(batch.items) + len(batch.skipped)
        progress(done, len(files))
    return torch.cat(features), digests, skipped
