"""Ray, as hashfaiss uses it: joined when something is asked of it, and left as it was found."""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import Any

from hashfaiss.errors import HashfaissError

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a worker without GPUs sees them as its parent does
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of a person's is told to anyone
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # `uv run` need not be how the other machines start
SECONDS = 10.0  # in which a cluster is to answer; Ray itself tries for a quarter of an hour
SPACE = "hashfaiss"  # names of actors are their own here
_JOINING = threading.Lock()


def joined(address: str | None = None) -> Any:
    """The module `ray`, connected: to the cluster at `address`, or to one that is made on this machine.

    Args:
        address: of a cluster, such as "10.0.0.1:6379", or "auto" for the one that runs on this machine; None makes one
            that ends with this process. A connection that this process has already is kept.

    Raises:
        HashfaissError: Ray is not installed, or nothing answers at `address`.
    """
    try:
        import ray
    except ImportError:
        raise HashfaissError("many machines need Ray: pip install 'hashfaiss[ray]'") from None
    with _JOINING:
        if not ray.is_initialized():
            if address is not None:
                _knock(address)
            about = {"logging_level": logging.ERROR, "log_to_driver": False, "namespace": SPACE}
            try:
                ray.init(address=address, **({} if address else {"include_dashboard": False}), **about)
            except Exception as error:  # of its own kinds, by what was tried
                reason = str(error).strip().split("\n")[0]
                where = f"the Ray cluster at {address!r} cannot be joined" if address else "Ray cannot be started"
                raise HashfaissError(
                    f"{where} ({reason}): start it with `ray start --head`, or give the address that it printed"
                ) from None
    return ray


def _knock(address: str) -> None:
    """HashfaissError where nothing listens at an address that names host and port."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon and address in ("auto", "local"):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise HashfaissError(
            f"the Ray cluster at {address!r} cannot be joined ({error}): start it with `ray start --head`, and give "
            "the address that it prints, such as 10.0.0.1:6379"
        ) from None
