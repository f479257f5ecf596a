"""Networks that an engine has compiled, kept in files, so that the next process need not do it again.

A file begins with a line that says what it is of: the encoder's identity, OpenVINO's version, the CPU.
One that says anything else than is asked for, or is damaged, counts for nothing. It belongs to the CPU it was made on;
delete it and it is made again.

What is in it is run, and so it is taken only from this user: the line ends in a keyed digest (BLAKE2b) of all the rest,
whose key lies in the user's own folder. Files in an index that came from elsewhere count for nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import math
import os
import secrets
import stat
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hashfaiss.files import write_atomic

SUFFIX = ".openvino"
KEPT = 16  # files in the user's own folder; older ones go
KEY = "key"  # the file of the key
KEY_BYTES = 32
MOST_LINE = 1 << 16
# An output is close to zero, and computed again in the next precision, if it is smaller than this share of the image's
# own output size (root mean square over its K outputs). float32 errs by at most a quarter of it: less than 2e-5 in
# 33 trained networks, and 2.3e-5 in one that had learned next to nothing (each 200 images against float64).
CLOSE = 1e-4
SIGMAS = 5  # root mean squares of its errors that a fast way must be away from zero


@dataclass(frozen=True)
class Learned:
    """What is known of a compiled network: see `hashfaiss.encoding.precision.Tally`."""

    fast_seconds: float
    full_seconds: float
    errors: int
    squares: float
    pays: bool

    @property
    def close(self) -> float:
        """The share of an image's output size below which an output is too close to zero for it."""
        return max(CLOSE, SIGMAS * math.sqrt(self.squares / max(1, self.errors)))


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
        about: gives its identity, and all else that a file shall say of it, as it is now, in plain values.
        folder: of the index that the encoder is in; None for the user's.
    """

    def __init__(self, about: Callable[[], dict[str, Any]], folder: Path | None = None) -> None:
        self.about, self.folder = about, folder

    def read(self) -> tuple[Learned, bytes] | None:
        """What was kept of the network, and its bytes; None if there is nothing that fits."""
        found = self.read_all()
        return found and found[1:]

    def read_all(self) -> tuple[dict[str, Any], Learned, bytes] | None:
        """As `read`, and before it what the file says of the encoder."""
        for path in self._paths():
            try:
                with path.open("rb") as file:
                    told = json.loads(file.readline(MOST_LINE))
                    if not _says(told, self.about()) or not _says(told, self._here()):
                        continue
                    data = file.read()
                if hmac.compare_digest(told.pop("mac"), _mac(_key(), told, data)):
                    return told, Learned(**told.pop("learned")), data
            except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, RuntimeError):
                continue
        return None

    def write(self, learned: Learned, data: bytes) -> None:
        """Keep a compiled network; where a folder cannot be written, it does without."""
        told = {**self._here(), **self.about(), "learned": asdict(learned)}
        with contextlib.suppress(OSError, RuntimeError):
            line = json.dumps({**told, "mac": _mac(_key(), told, data)}).encode()
            for path in self._paths()[:1]:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, line + b"\n" + data)
                if self.folder is None:
                    self._forget_old(path.parent)

    def _here(self) -> dict[str, str]:
        import openvino

        cpu = openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
        return {"openvino": version("openvino"), "cpu": cpu}

    def _paths(self) -> list[Path]:
        """Where it may be; the first is where it is written."""
        name = f"{self.about()['identity'][:16]}{SUFFIX}"
        with contextlib.suppress(RuntimeError):  # nobody's home
            own = user_folder() / name
            return [own] if self.folder is None else [self.folder / name, own]
        return [] if self.folder is None else [self.folder / name]

    def _forget_old(self, folder: Path) -> None:
        files = sorted(folder.glob(f"*{SUFFIX}"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[KEPT:]:
            file.unlink(missing_ok=True)


def _says(told: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(told.get(name) == value for name, value in wanted.items())


def _mac(key: bytes, told: dict[str, Any], data: bytes) -> str:
    digest = hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=32, key=key)
    digest.update(data)
    return digest.hexdigest()


def _key() -> bytes:
    """This user's, made where there is none.

    Raises:
        OSError: it cannot be read or written, or others could have.
        RuntimeError: nobody's home.
    """
    path = user_folder() / KEY
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{KEY}.{secrets.token_hex(8)}.tmp")
        if not path.exists():
            with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
            try:
                os.link(aside, path)  # whole, and never in the place of another
            finally:
                aside.unlink()
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is no file")
    if os.name == "posix" and (status.st_uid != os.getuid() or status.st_mode & 0o077):
        raise OSError(f"{path} is not this user's alone")
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise OSError(f"{path} is damaged")
    return key
