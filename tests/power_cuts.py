"""What a power cut leaves of files: bytes and names that were synced, and of the others what chance has it.

A folder keeps the names it had when it was synced last; of the changes since, some are kept. A file keeps the bytes it
had when it was synced last, or a part of those written since, or a part and zeros.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from file_operations import Operation, Watcher


@dataclass(eq=False)
class File:
    """Bytes as they were written, and as they were synced last."""

    now: bytes = b""
    synced: bytes = b""


@dataclass(eq=False)
class Folder:
    """Names as they are, as synced last, and each change since: (name, what it is of or None, name before)."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    synced: dict[str, File | Folder] = field(default_factory=dict)
    changes: list[tuple[str, File | Folder | None, str]] = field(default_factory=list)

    def change(self, name: str, node: File | Folder | None, before: str = "") -> None:
        """Give a name to `node`, in place of the one it had `before`; or take the name away."""
        self.changes.append((name, node, before))
        _apply(self.now, self.changes[-1])


def _apply(names: dict[str, File | Folder], change: tuple[str, File | Folder | None, str]) -> None:
    name, node, before = change
    names.pop(before, None)
    names.pop(name, None)
    if node is not None:
        names[name] = node


Tree = dict[str, bytes | None]  # path below the disk: bytes of a file, or None for a folder
Bytes = Callable[[File], bytes]
Kept = Callable[[Folder], dict[str, File | Folder]]


class Disk:
    """A folder in which operations are done one after the other; it exists for ever."""

    def __init__(self, root: Path) -> None:
        self.root, self.top, self.handles = str(root), Folder(), dict[int, File]()

    @classmethod
    def holding(cls, root: Path) -> Disk:
        """With all that there is at `root`, synced."""
        disk = cls(root)
        for path in sorted(root.rglob("*")):
            folder, name = disk._place(str(path))
            data = path.read_bytes() if path.is_file() else None
            folder.now[name] = folder.synced[name] = Folder() if data is None else File(data, data)
        return disk

    def _place(self, path: str) -> tuple[Folder, str]:
        *above, name = os.path.relpath(path, self.root).split(os.sep)
        folder = self.top
        for each in above:
            folder = folder.now[each]
        return folder, name

    def _node(self, path: str) -> File | Folder:
        folder, name = self._place(path)
        return self.top if name == "." else folder.now[name]

    def do(self, operation: Operation) -> None:
        """Do what succeeded on the real disk."""
        name, path = operation.name, operation.path
        if name == "write":
            self.handles[operation.handle].now += operation.data
        elif name == "fsync":
            node = self._node(path)
            if isinstance(node, Folder):
                node.synced, node.changes = dict(node.now), []
            else:
                node.synced = node.now
        elif name in ("create", "touch"):
            folder, last = self._place(path)
            if last not in folder.now:
                folder.change(last, File())
            elif name == "create":
                folder.now[last].now = b""
            self.handles[operation.handle] = folder.now[last]
        elif name == "mkdir":
            folder, last = self._place(path)
            folder.change(last, Folder())
        elif name in ("unlink", "rmdir"):
            folder, last = self._place(path)
            folder.change(last, None)
        elif name == "rename":
            (old, before), (new, last) = self._place(path), self._place(operation.target)
            if old is new:
                old.change(last, old.now[before], before)
            else:
                new.change(last, old.now[before])
                old.change(before, None)
        else:
            assert name == "chmod", f"a power cut knows nothing of {name}"

    def tree(self, kept: Kept, data: Bytes) -> Tree:
        """What there is, where folders keep these names and files these bytes."""

        def below(folder: Folder, path: str) -> Iterator[tuple[str, bytes | None]]:
            for name, node in kept(folder).items():
                place = os.path.join(path, name)
                yield place, None if isinstance(node, Folder) else data(node)
                if isinstance(node, Folder):
                    yield from below(node, place)

        return dict(below(self.top, ""))

    def cuts(self, random: np.random.Generator, chances: int) -> Iterator[Tree]:
        """What a power cut may leave now: nothing that was not synced; all names; all; and by chance, so many times."""

        def by_chance(folder: Folder) -> dict[str, File | Folder]:
            names = dict(folder.synced)
            for change in folder.changes:
                if random.random() < 0.5:
                    _apply(names, change)
            return names

        def some(file: File) -> bytes:
            if file.now == file.synced:
                return file.now
            whole, half = len(file.now), len(file.now) // 2
            choices = (file.synced, file.now[:half], file.now[:half] + bytes(whole - half), file.now, bytes(whole))
            return choices[int(random.integers(len(choices)))]

        yield self.tree(lambda folder: folder.synced, lambda file: file.synced)
        yield self.tree(lambda folder: folder.now, lambda file: file.synced)
        yield self.tree(lambda folder: folder.now, lambda file: file.now)
        for _ in range(chances):
            yield self.tree(by_chance, some)


def write_tree(tree: Tree, root: Path) -> None:
    """Make it at `root`."""
    for path, data in tree.items():
        if data is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(data)


def digest_of(tree: Tree) -> bytes:
    """By which two trees are told apart."""
    told = hashlib.blake2b()
    for path, data in sorted(tree.items()):
        told.update(f"{path}\0{-1 if data is None else len(data)}\0".encode() + (data or b""))
    return told.digest()


class Recorder(Watcher):
    """Keeps all that was done, and at which place in it which generation was committed."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.committed: dict[int, int] = {}  # operations done by then: generation

    def after(self, operation: Operation) -> None:
        if operation.name not in ("read", "scandir", "listdir"):
            self.operations.append(operation)
