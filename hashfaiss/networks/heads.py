"""Heads: what makes K real outputs of a backbone's vector, as methods ask for it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from hashfaiss.codes import check_bits
from hashfaiss.errors import ArgumentError

Head = Literal["linear", "linear-bn", "layernorm-tanh", "mlp"]

HIDDEN = 1024  # of an MLP
STD = 0.01  # of the weights of the layer that gives the outputs, at the start


def build_head(kind: Head, dim: int, bits: int) -> nn.Module:
    """Vectors (n, dim) → outputs (n, K).

    - "linear": W x + b.
    - "linear-bn": W x, each bit then to mean 0 and variance 1 over the batch, with a learned scale and offset; one
      linear layer in a model file, see `for_use`.
    - "layernorm-tanh": tanh of W x with mean 0 and variance 1 over an image's bits, with a learned scale and offset.
    - "mlp": a linear layer of 1024, ReLU, and the linear one.

    Raises:
        ArgumentError: no such head, or K out of range.
    """
    if kind not in get_args(Head):
        raise ArgumentError(f"unknown head {kind!r}: give one of {', '.join(get_args(Head))}")
    check_bits(bits)
    head: nn.Module
    if kind == "linear":
        head = nn.Linear(dim, bits)
    elif kind == "linear-bn":
        head = nn.Sequential(nn.Linear(dim, bits, bias=False), nn.BatchNorm1d(bits))
    elif kind == "layernorm-tanh":
        head = nn.Sequential(nn.Linear(dim, bits, bias=False), nn.LayerNorm(bits), nn.Tanh())
    else:
        head = nn.Sequential(nn.Linear(dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, bits))
    draw_head(head)
    return head


def draw_head(head: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw the weights of a head anew: N(0, 0.01²) for the outputs, He's for a hidden layer; offsets are 0."""
    layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
    for layer in layers[:-1]:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.normal_(layers[-1].weight, std=STD, generator=generator)
    for layer in layers:
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def for_use(network: Any, arguments: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A network that was trained, and its arguments, as a model file has them: a "linear-bn" is one linear layer.

    What is not changed is shared with `network`, which is in evaluation mode from now on.
    """
    network.eval()
    head = network.hash_layer
    if arguments["head"] != "linear-bn":
        return network, dict(arguments)
    made = copy.copy(network)
    made._modules = {**network._modules, "hash_layer": fuse_linear_bn_eval(head[0], head[1])}
    return made, {**arguments, "head": "linear"}
