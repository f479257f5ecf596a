"""Learning: losses by method, recipes, the trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hashfaiss.train.options import TrainOptions
    from hashfaiss.train.records import TrainResult
    from hashfaiss.train.trainer import train

__all__ = ["TrainOptions", "TrainResult", "train"]

_HOMES = {"TrainOptions": "options", "TrainResult": "records", "train": "trainer"}


def __getattr__(name: str) -> Any:
    """Loaded on first use: a method needs no trainer."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
