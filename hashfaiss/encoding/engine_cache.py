"""Networks that an engine has compiled, kept in files, so that the next process need not do it again.

A file begins with a line that says what it is of: the encoder's identity, OpenVINO's version, the CPU, the precision,
and the digest of what follows. One that says anything else than is asked for, or is damaged, counts for nothing. It
belongs to the CPU it was made on; delete it and it is made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hashfaiss.files import fast_digest, write_atomic

SUFFIX = ".openvino"
KEPT = 16  # files in the user's own folder; older ones go


@dataclass(frozen=True)
class Learned:
    """What is known of a compiled network: see `hashfaiss.encoding.precision.Tally`."""

    fast_seconds: float
    full_seconds: float
    errors: int
    squares: float


def user_folder() -> Path:
    """Where programs keep such files for this user."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "hashfaiss"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "hashfaiss" / "Cache"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "hashfaiss"


class EngineCache:
    """The files of one encoder.

    Args:
        identity: gives the encoder's, as it is now.
        folder: of the index that the encoder is in; None for the user's.
    """

    def __init__(self, identity: Callable[[], str], folder: Path | None = None) -> None:
        self.identity, self.folder = identity, folder

    def read(self, hint: str) -> tuple[Learned, bytes] | None:
        """What was kept of the network in this precision, and its bytes; None if there is nothing that fits."""
        for path in self._paths(hint):
            try:
                line, _, data = path.read_bytes().partition(b"\n")
                told = json.loads(line)
                learned = Learned(**told.pop("learned"))
                if told == {**self._about(hint), "xxh3": fast_digest(data)}:
                    return learned, data
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                continue
        return None

    def write(self, hint: str, learned: Learned, data: bytes) -> None:
        """Keep a compiled network; a folder that cannot be written does without."""
        line = json.dumps({**self._about(hint), "xxh3": fast_digest(data), "learned": asdict(learned)}).encode()
        with contextlib.suppress(OSError):
            for path in self._paths(hint)[:1]:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, line + b"\n" + data)
                if self.folder is None:
                    self._forget_old(path.parent)

    def _about(self, hint: str) -> dict[str, Any]:
        import openvino

        cpu = openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
        return {"identity": self.identity(), "openvino": version("openvino"), "cpu": cpu, "precision": hint}

    def _paths(self, hint: str) -> list[Path]:
        """Where it may be; the first is where it is written."""
        name = f"{self.identity()[:16]}-{hint}{SUFFIX}"
        with contextlib.suppress(RuntimeError):  # nobody's home
            own = user_folder() / name
            return [own] if self.folder is None else [self.folder / name, own]
        return [] if self.folder is None else [self.folder / name]

    def _forget_old(self, folder: Path) -> None:
        files = sorted(folder.glob(f"*{SUFFIX}"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[KEPT:]:
            file.unlink(missing_ok=True)
