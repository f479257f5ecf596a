"""CodeStore: immutable HDF5 segments under one manifest.

The manifest is the only file that is ever replaced. What it names is the committed generation; whatever else lies in
the folder is of no account and is cleared by the next writer. One process writes at a time; readers keep the
generation they opened, also when it is replaced.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from hashfaiss.codes import Codes, check_bits, check_codes, code_bytes
from hashfaiss.errors import ArgumentError, IndexFolderError
from hashfaiss.files import DIGEST_BYTES, fast_digest, sync_folder, write_atomic
from hashfaiss.storage.damage import Damaged, corrupt, mend_folder, open_segment, segment_trouble
from hashfaiss.storage.manifest import (
    COPY,
    FORMAT,
    MANIFEST,
    VERSION,
    check_free,
    clear_leftovers,
    manifest_trouble,
    packed_ids,
    read_manifest,
    unpacked_ids,
    write_manifest,
    writer_lock,
)
from hashfaiss.storage.paths import Int64
from hashfaiss.storage.reading import StoredCodes
from hashfaiss.storage.segments import Row, Segment, encode_segment

SEGMENT_ROWS = 1 << 20  # a segment is made in memory; this bounds it
MANY_SEGMENTS = 32  # more than these are gathered into few


class CodeStore(StoredCodes):
    """Codes of images and what is known of their files: `StoredCodes`, in a folder or in memory, that can be added to.

    Make one with `CodeStore.create`, open one with `CodeStore.open`.
    """

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str] | None,
        bits: int,
        prepare: Callable[[Path], None] | None = None,
        **about: Any,
    ) -> CodeStore:
        """A new store, empty.

        Args:
            path: its folder, or None for a store in memory.
            bits: K.
            prepare: called with the folder to put other files there, before there is an index.
            about: goes into the manifest.

        Raises:
            IndexFolderError: `path` is a store already, or holds other things, or cannot be made.
            IndexLockedError: another process is making one there.
        """
        facts = {"format": FORMAT, "version": VERSION, "generation": 0, "bits": check_bits(bits)}
        manifest = {**facts, "next_id": 0, "segments": [], **about}
        if path is None:
            return cls(None, manifest, [])
        folder = Path(os.path.abspath(path))
        check_free(folder)
        new = {place.parent for place in (folder, *folder.parents) if not place.exists()}
        try:
            (folder / "codes").mkdir(parents=True, exist_ok=True)
            with writer_lock(folder):
                check_free(folder)  # another process may have been quicker
                if prepare is not None:
                    prepare(folder)
                # where there is a manifest, its folder's name outlives a power cut, whoever made that and was killed
                for place in folder.parents:
                    with contextlib.nullcontext() if place in new else contextlib.suppress(OSError):
                        sync_folder(place)
                write_manifest(folder, manifest)
        except OSError as error:
            raise IndexFolderError(f"cannot make the index {str(path)!r}: {error.strerror}") from None
        return cls(folder, manifest, [])

    @classmethod
    def open(cls, path: str | os.PathLike[str], damaged: bool = False) -> CodeStore:
        """Open the committed generation for reading.

        Args:
            damaged: open also where segments are damaged, which are then not used: to verify, or to write anew.

        Raises:
            IndexFolderError: there is no index at `path`, or one of another format version.
            CorruptIndexError: the manifest or a segment is damaged.
        """
        folder = Path(os.path.abspath(path))
        for attempt in range(10):
            manifest = read_manifest(folder)
            found = [open_segment(folder, manifest["bits"], entry) for entry in manifest["segments"]]
            gone = any(isinstance(one, Damaged) and not (folder / one.file).exists() for one in found)
            # a writer may have replaced the generation just read
            if not gone or attempt == 9 or read_manifest(folder)["generation"] == manifest["generation"]:
                break
        troubles = [one for one in found if isinstance(one, Damaged)]
        if troubles and not damaged:
            raise corrupt(troubles)
        pairs = [
            (entry, one) for entry, one in zip(manifest["segments"], found, strict=True) if isinstance(one, Segment)
        ]
        store = cls(folder, {**manifest, "segments": [entry for entry, _ in pairs]}, [segment for _, segment in pairs])
        store.damaged = troubles
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of one in a folder is opened there: it shows what was committed last."""
        if self.path is not None:
            return CodeStore.open, (self.path,)
        return CodeStore, (None, self.manifest, self._segments)

    @contextlib.contextmanager
    def writing(self, heal: bool = False) -> Iterator[StoreWriter]:
        """The right to write, for one process at a time; the store then shows what was committed last.

        Args:
            heal: set damaged segments aside, see `StoreWriter.healed`: what they held is then not in the store.

        Raises:
            IndexLockedError: another process has it.
            CorruptIndexError: a segment is damaged, and not to be set aside.
        """
        if self.path is None:
            yield StoreWriter(self)
            return
        with writer_lock(self.path):
            opened = CodeStore.open(self.path, damaged=heal)
            healed, opened.damaged = opened.damaged, []
            self._take(opened)
            if healed:
                self.manifest = _next(self.manifest)
            mend_folder(self.path, healed, self.manifest)
            writer = StoreWriter(self)
            writer.healed = healed
            try:
                yield writer
            finally:
                if writer.held:  # and never committed
                    self._take(CodeStore.open(self.path))

    def _take(self, other: CodeStore) -> None:
        self.manifest, self._segments, self._live = other.manifest, other._segments, None
        self.damaged = other.damaged

    def verify(self) -> Iterator[tuple[str, str | None]]:
        """Read every file of the store whole; yield its name and what is wrong with it, or None."""
        if self.path is not None:
            manifest = read_manifest(self.path)
            yield from ((name, manifest_trouble(self.path, name, manifest)) for name in (MANIFEST, COPY))
        yield from ((one.file, one.trouble) for one in self.damaged)
        for segment, entry in zip(self._segments, self.manifest["segments"], strict=True):
            yield entry["file"], segment_trouble(segment, self.path, entry)


class StoreWriter:
    """Collects rows and removals, and commits them as a new generation.

    Attributes:
        healed: damaged segments that were set aside.
        holding: commits write segments, and leave the manifest to the first one after it.
        held: whether some were written that no manifest names.
    """

    def __init__(self, store: CodeStore) -> None:
        self.store = store
        self._codes: list[Codes] = []
        self._ids: list[Int64] = []
        self._rows: list[Row] = []
        self._removed: list[int] = []
        self.healed: list[Damaged] = []
        self.holding = self.held = False
        self.last_commit = time.monotonic()

    @property
    def pending(self) -> int:
        """Rows not committed yet."""
        return len(self._rows)

    @property
    def waiting(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self._rows or self._removed or self.held)

    def append(self, codes: Codes, rows: Sequence[Row], ids: Int64 | None = None) -> None:
        """Add images: codes (n, ceil(K/8)) and a row for each. They get the next ids, in order, or those given.

        Args:
            ids: int64 (n,), which ascend from the next one on.
        """
        checked = check_codes(codes, self.store.bits)
        first = int(self._ids[-1][-1]) + 1 if self._ids else self.store.manifest["next_id"]
        ids = np.arange(first, first + len(checked), dtype=np.int64) if ids is None else ids
        if len(checked) != len(rows) or any(len(row.digest) != DIGEST_BYTES for row in rows):
            raise ArgumentError(
                f"{len(checked)} codes and {len(rows)} rows were given: give a row for each code, with a digest of "
                f"{DIGEST_BYTES} bytes"
            )
        if len(ids) != len(checked) or (np.diff(ids, prepend=first - 1) < 1).any():
            raise ArgumentError(f"ids are given that do not ascend from {first}, the next one: sort them, each once")
        if len(checked):
            self._codes.append(checked)
            self._ids.append(ids)
            self._rows.extend(rows)

    def remove(self, ids: Sequence[int] | Int64) -> None:
        """Take out images that were committed before."""
        self._removed.extend(np.asarray(ids, np.int64).tolist())

    def commit(self, **about: Any) -> None:
        """Write what was collected as one segment and replace the manifest, with `about` set in it.

        Raises:
            IndexFolderError: the disk is full or the folder cannot be written; the generation before stands.
        """
        manifest = {**(self.store.manifest if self.held else _next(self.store.manifest)), **about}
        segments = list(self.store._segments)
        try:
            if self._rows or self._removed:
                ids = np.concatenate([np.empty(0, np.int64), *self._ids])
                codes = (
                    np.concatenate(self._codes) if self._codes else np.empty((0, code_bytes(self.store.bits)), np.uint8)
                )
                manifest["next_id"] = int(ids[-1]) + 1 if len(ids) else manifest["next_id"]
                removed = np.array(self._removed, np.int64)
                known = unpacked_ids(manifest.get("removed", ""), manifest["next_id"])
                manifest["removed"] = packed_ids(np.union1d(known, removed[removed < manifest["next_id"]]))
                entry, segment = self._write(manifest, len(segments), codes, ids, self._rows, removed)
                manifest["segments"] = [*manifest["segments"], entry]
                segments.append(segment)
            if self.store.path is not None and not self.holding:
                write_manifest(self.store.path, manifest)
        except OSError as error:
            raise IndexFolderError(
                f"cannot write to the index {str(self.store.path)!r}: {error.strerror or error}. What was committed "
                "before stands; make room or give rights, and run the same command again"
            ) from None
        self.store.manifest, self.store._segments, self.store._live = manifest, segments, None
        self._codes, self._ids, self._rows, self._removed, self.held = [], [], [], [], self.holding
        self.last_commit = time.monotonic()

    def _write(
        self, manifest: dict[str, Any], number: int, codes: Codes, ids: Int64, rows: Sequence[Row], removed: Int64
    ) -> tuple[dict[str, Any], Segment]:
        provenance = {"encoder": manifest.get("encoder", {}).get("identity", "")}
        data = encode_segment(codes, ids, rows, removed, self.store.bits, provenance)
        digest = fast_digest(data)
        name = f"codes/{manifest['generation']:06d}-{number:02d}-{digest[:4]}.h5"
        entry = {"file": name, "rows": len(rows), "removed": len(removed), "xxh3": digest}
        if self.store.path is None:
            return entry, Segment(data, self.store.bits)
        write_atomic(self.store.path / name, data)
        return entry, Segment(self.store.path / name, self.store.bits)

    def gather(self, whole: bool = False) -> None:
        """Rewrite live rows into few segments: of all where most rows are dead, of those that came last where many are.

        So one image more, again and again, rewrites what is small, and a million rows seldom.
        """
        store = self.store
        total, live = sum(len(segment) for segment in store._segments), len(store)
        if whole or total > 2 * live + SEGMENT_ROWS // 16:
            self._rewrite(0)
        elif len(store._segments) > MANY_SEGMENTS + live // SEGMENT_ROWS:
            self._rewrite(self._recent())

    def _recent(self) -> int:
        """Where the segments begin that came last and are small or no larger than those after; 0 if these are few."""
        rows = [len(segment) for segment in self.store._segments]
        first, after = len(rows), 0
        while first and rows[first - 1] < min(SEGMENT_ROWS, after + SEGMENT_ROWS // 16):
            first -= 1
            after += rows[first]
        return first if len(rows) - first > MANY_SEGMENTS // 2 else 0

    def _rewrite(self, first: int) -> None:
        """The segments from number `first` on as few as can be."""
        store = self.store
        kept, old, live = store._segments[:first], store._segments[first:], store.live[first:]
        manifest = _next(store.manifest)
        manifest["segments"] = manifest["segments"][:first]
        nothing = np.empty(0, np.int64)
        ids = np.concatenate([nothing, *(segment.ids[mask] for segment, mask in zip(old, live, strict=True))])
        width = (0, code_bytes(store.bits))
        codes = np.concatenate([np.empty(width, np.uint8), *(s.codes[mask] for s, mask in zip(old, live, strict=True))])
        removed = np.concatenate([nothing, *(segment.removed for segment in old)])
        removed = removed[removed <= max((int(segment.ids[-1]) for segment in kept if len(segment)), default=-1)]
        rows = chain.from_iterable(segment.rows(mask) for segment, mask in zip(old, live, strict=True))
        dead = (segment.ids[~mask] for segment, mask in zip(kept, store.live, strict=False))
        manifest["removed"] = packed_ids(np.concatenate([nothing, *dead]))
        segments = list(kept)
        try:
            for start in range(0, max(len(ids), min(1, len(removed))), SEGMENT_ROWS):
                part = slice(start, start + SEGMENT_ROWS)
                gathered = [row for _, row in islice(rows, SEGMENT_ROWS)]
                entry, segment = self._write(manifest, len(segments), codes[part], ids[part], gathered, removed)
                manifest["segments"] = [*manifest["segments"], entry]
                segments.append(segment)
                removed = nothing
            if store.path is not None:
                write_manifest(store.path, manifest)
        except OSError as error:
            raise IndexFolderError(
                f"cannot write to the index {str(store.path)!r}: {error.strerror or error}"
            ) from None
        store.manifest, store._segments, store._live = manifest, segments, None
        if store.path is not None:
            clear_leftovers(store.path, manifest)


def _next(manifest: dict[str, Any]) -> dict[str, Any]:
    return {**manifest, "version": VERSION, "generation": manifest["generation"] + 1}
