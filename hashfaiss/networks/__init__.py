"""Networks: images → K real numbers.

A network is a module, normalised images (n, 3, size, size) → real outputs (n, K), that tells the least size it works
with in `smallest_size`, and gives the real features it hashes by `vectors`. One that is trained has its last layer in
`hash_layer`, and in `backbones` what pretrained weights are for and half precision computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from hashfaiss.errors import ArgumentError, ModelError
from hashfaiss.networks.dual_stream import DualStreamNetwork
from hashfaiss.networks.features import FeatureHash
from hashfaiss.networks.hashing import HashNetwork

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "hash": HashNetwork,
    "dual-stream": DualStreamNetwork,
    "features": FeatureHash,
}


def build_network(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build the network a model file describes, with random weights; nothing is downloaded.

    Args:
        name: a key of NETWORKS.
        arguments: for its class.

    Raises:
        ModelError: no such network, or arguments it does not take.
    """
    if name not in NETWORKS:
        raise ModelError(f"unknown network {name!r}: this version has {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name](**arguments)
    except (ArgumentError, TypeError) as error:
        raise ModelError(f"the network {name!r} cannot be built from {dict(arguments)}: {error}") from None
