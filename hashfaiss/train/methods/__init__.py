"""Losses by method.

A method is an `nn.Module` built as `Class(images, bits, classes, **options)`: how many training images and classes
there are, K, and options of its own with the paper's values as defaults. Its
`forward(outputs (n, K), labels 0/1 (n, classes), indices (n,)) -> loss` gets a batch of the network's raw outputs,
their labels, and which training images they are; the loss is a scalar to minimise. Its parameters are trained with
the network's; what it must remember between batches are buffers, so that a continued training finds them again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods.dhida import DHIDA

METHODS: dict[str, Callable[..., nn.Module]] = {"dhida": DHIDA}


def method_defaults(name: str) -> dict[str, Any]:
    """The options of the method called `name` and their defaults, in the order of its class's signature."""
    parameters = inspect.signature(METHODS[name]).parameters.values()
    return {option.name: option.default for option in parameters if option.default is not option.empty}


def build_method(name: str, images: int, bits: int, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The loss of the method called `name`; ArgumentError for an unknown one, or options it does not take."""
    if name not in METHODS:
        raise ArgumentError(f"unknown method {name!r}: give one of {', '.join(METHODS)}")
    try:
        return METHODS[name](images, bits, classes, **options)
    except TypeError as error:
        raise ArgumentError(f"the method {name!r} does not take {dict(options)}: {error}") from None
