"""What the tests of encoders and of their files share."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hashfaiss.encoding.encoder import Encoder

ARGUMENTS = {"backbone": "resnet-small", "bits": 20}


def altered(encoder: Encoder, **changes: Any) -> Encoder:
    """A copy with other parts."""
    parts = {
        "network": copy.deepcopy(encoder.network),
        "network_name": encoder.network_name,
        "network_arguments": encoder.network_arguments,
        "preprocessing": encoder.preprocessing,
        "method": encoder.method,
        "labels": encoder.labels,
        "facts": encoder.facts,
    }
    return Encoder(**{**parts, **changes}, device="cpu")


def noise(n: int, size: int = 32) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 3, size, size)).astype(np.uint8))
