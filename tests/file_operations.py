"""What a process does to files below a folder, seen and interfered with one operation after the other.

Python's own calls are watched, which is all that hashfaiss writes with: HDF5, torch and FAISS write into memory.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

LOOKED = ("scandir", "listdir")
CHANGED = ("rename", "replace", "unlink", "remove", "mkdir", "rmdir", "link", "symlink", "truncate", "chmod")


class Operation(NamedTuple):
    """One call: `name` is of `os`, or "create", "read" (a file is opened), "write" or "fsync".

    `path` is where, `target` where to; `handle` numbers what was opened to write, `data` is what is to be written.
    """

    name: str
    path: str
    target: str = ""
    handle: int = 0
    data: bytes = b""


class Watcher:
    """Told of each operation before it is done, which may raise, and after it was. Here it does nothing."""

    def before(self, operation: Operation) -> int | None:
        """Of a "write", how many of its bytes are written; None for all."""

    def after(self, operation: Operation) -> None:
        """It was done."""


class _Written(io.FileIO):
    """A file whose writes are told."""

    def __init__(self, path: str, mode: str, watcher: Watcher, handle: int) -> None:
        super().__init__(path, mode)
        self._about, self._watcher = (path, handle), watcher

    def write(self, data: Any) -> int:
        path, handle = self._about
        told = Operation("write", path, handle=handle, data=bytes(data))
        most = self._watcher.before(told)
        count = super().write(bytes(data)[:most])
        self._watcher.after(told._replace(data=told.data[:count]))
        return count


class _Watch:
    def __init__(self, folder: Path, watcher: Watcher) -> None:
        self.folder, self.watcher, self.opened = os.path.join(folder, ""), watcher, 0
        self.open, self.os_open = io.open, os.open

    def inside(self, path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.path.join(os.fspath(path), "").startswith(self.folder)

    def told(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(path: Any, *given: Any, **named: Any) -> Any:
            target = given[0] if given and isinstance(given[0], (str, os.PathLike)) else ""
            if not (self.inside(path) or (target and self.inside(target))):
                return real(path, *given, **named)
            operation = Operation(
                {"replace": "rename", "remove": "unlink"}.get(name, name), os.fspath(path), str(target)
            )
            self.watcher.before(operation)
            result = real(path, *given, **named)
            self.watcher.after(operation)
            return result

        return call

    def fsync(self, real: Callable[[int], None]) -> Callable[[Any], None]:
        def call(file: Any) -> None:
            path = os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")
            if not self.inside(path):
                return real(file)
            operation = Operation("fsync", path)
            self.watcher.before(operation)
            real(file)
            self.watcher.after(operation)
            return None

        return call

    def opening(
        self, path: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *rest: Any, **named: Any
    ) -> Any:
        if not self.inside(path) or not set(mode) & set("wxa+"):
            self.reading(path)
            return self.open(path, mode, buffering, encoding, *rest, **named)
        assert "+" not in mode
        self.opened += 1
        operation = Operation("create", os.fspath(path), handle=self.opened)
        self.watcher.before(operation)
        raw = _Written(os.fspath(path), mode.replace("b", "").replace("t", ""), self.watcher, operation.handle)
        self.watcher.after(operation)
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, *rest, **named)

    def reading(self, path: Any) -> None:
        if self.inside(path):
            self.watcher.before(Operation("read", os.fspath(path)))

    def opening_number(self, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if not self.inside(path) or not flags & (os.O_CREAT | os.O_TRUNC):
            self.reading(path)
            return self.os_open(path, flags, *rest, **named)
        operation = Operation("create" if flags & os.O_TRUNC else "touch", os.fspath(path))
        self.watcher.before(operation)
        number = self.os_open(path, flags, *rest, **named)
        self.watcher.after(operation)
        return number


@contextlib.contextmanager
def watched(folder: Path, watcher: Watcher) -> Iterator[None]:
    """Tell `watcher` of all that is done to `folder` and below it meanwhile."""
    watch = _Watch(folder, watcher)
    with contextlib.ExitStack() as patches:
        for name in (*CHANGED, *LOOKED):
            patches.enter_context(patch.object(os, name, watch.told(getattr(os, name), name)))
        patches.enter_context(patch.object(os, "fsync", watch.fsync(os.fsync)))
        patches.enter_context(patch.object(os, "open", watch.opening_number))
        for module in (io, builtins):
            patches.enter_context(patch.object(module, "open", watch.opening))
        yield
