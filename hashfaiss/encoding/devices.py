"""Which devices compute."""

from __future__ import annotations

import torch

from hashfaiss.errors import ArgumentError


def choose_devices(device: str) -> list[torch.device]:
    """Devices separated by commas; ArgumentError for one that is not there, or several that do not go together."""
    chosen = [choose_device(one.strip()) for one in device.split(",")]
    gpus = [str(one) for one in chosen if one.type != "cpu"]
    if len({one.type for one in chosen}) > 1 or len(set(gpus)) < len(gpus):
        raise ArgumentError(f"device {device!r} names a GPU twice, or other devices beside it: give each GPU once")
    return chosen


def choose_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one, Apple's too; ArgumentError for a device that is not there."""
    if device == "auto":
        apple = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else apple)
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or ["unknown"])[0].split(". ")[0][:200]
        if "Expected one of" in reason or not device:  # torch lists all it has ever known
            reason = "none is called so"
        raise ArgumentError(
            f"device {device!r} cannot be used here ({reason}): give auto, cpu, cuda, cuda:1 or mps"
        ) from None
    return chosen
