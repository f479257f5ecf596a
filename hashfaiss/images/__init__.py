"""Images: finding, reading and decoding them, their labels, and preprocessing as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hashfaiss.images.preprocessing import Preprocessing

__all__ = ["Preprocessing"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # torch is loaded on first use: finding images does without it
        from hashfaiss.images.preprocessing import Preprocessing

        return Preprocessing
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
