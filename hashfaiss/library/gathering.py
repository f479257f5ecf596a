"""Committing what shards encoded: a build that takes codes from them; see `hashfaiss.library.shards`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hashfaiss.codes import code_bytes
from hashfaiss.errors import CorruptIndexError, EncoderMismatchError, IndexFolderError, IndexLockedError
from hashfaiss.files import sync_folder
from hashfaiss.library.build_report import BuildReport, skipped_before
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.shards import SHARDS, Shard, shard_encoder
from hashfaiss.library.stored_encoder import ENCODER
from hashfaiss.library.sync import CodesFrom
from hashfaiss.storage.manifest import index_at, read_manifest, writer_lock
from hashfaiss.storage.paths import stored_path
from hashfaiss.storage.places import Places
from hashfaiss.storage.store import CodeStore

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.encoding.items import Batch, Item
    from hashfaiss.images.large import Notes
    from hashfaiss.library.sync import LabelsOf, Progress

GATHERED = ".shards-gathered"
LEFT = "the next build takes it"
TOGETHER = 1024  # items that are looked up together


def gather(
    index: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    labels: LabelsOf = None,
    kind: str | None = None,
    progress: Progress | bool | None = None,
    allow_removals: bool = False,
) -> BuildReport:
    """Bring `index` into step with a folder of images that shards have encoded, in one generation; delete the shards.

    Codes and ids are those that `ImageIndex.build` would have given. What came or changed since its shard was built is
    told (`BuildReport.left`), and what the index has of it stays. Killed at any instant, nothing is gathered, or all.

    Args:
        images: where the folder lies now; None: where the shards found it.
        labels: of `ImageIndex.build`; None: those that the shards were given.
        kind: of the FAISS index; None keeps what the index has.
        allow_removals: see `hashfaiss.library.sync.Looking`.

    Raises:
        IndexFolderError: there are no shards, or not all are whole.
        IndexLockedError: a shard is being built, or the index written.
        CorruptIndexError: a shard is damaged.
    """
    from hashfaiss.encoding.encoder import Encoder

    folder = Path(index)
    shutil.rmtree(folder / GATHERED, ignore_errors=True)  # of a process that was killed
    parts = WholeShards(folder, images, labels)
    file = shard_encoder(folder)
    if file is None:
        raise IndexFolderError(
            f"{ENCODER} is gone from {str(parts.folder)!r}: copy it there from where a shard was built"
        )
    encoder = Encoder.load(file)
    parts.check(encoder.identity)
    gathered = ImageIndex.create(encoder, folder, kind or "auto")
    report = gathered.build(
        parts.images,
        labels or parts.about["labels"],
        kind,
        progress=progress,
        codes_from=CodesFrom(parts.stream, at_once=True, makers=[part.store.manifest for part in parts.all]),
        exclude=parts.about["exclude"],
        allow_removals=allow_removals,
    )
    parts.delete()
    return report


@dataclass(frozen=True)
class WholeShard:
    """A shard that is whole, open to be read; of what it skipped, reasons by path relative to the folder of images."""

    shard: Shard
    store: CodeStore
    places: Places
    skipped: dict[bytes, str]

    @property
    def about(self) -> dict[str, Any]:
        """What it was built of."""
        about: dict[str, Any] = self.store.manifest["shard"]
        return about


class WholeShards:
    """The shards of an index, all whole, and what they have of the images.

    Args:
        index: its folder.
        images: where the folder of images lies; None: where the shards found it.
        labels: those to take; None: those of the shards, which must then be alike.

    Raises: see `gather`.
    """

    def __init__(self, index: Path, images: str | os.PathLike[str] | None = None, labels: LabelsOf = None) -> None:
        self.folder = index / SHARDS
        shards = sorted(_shards(self.folder))
        if not shards:
            raise IndexFolderError(
                f"there are no shards at {str(self.folder)!r}: write them with `hashfaiss build --shard 1/4`, and so on"
            )
        counts = sorted({shard.of for shard in shards})
        if len(counts) > 1:
            raise IndexFolderError(
                f"shards of {' and of '.join(map(str, counts))} lie at {str(self.folder)!r}: delete the folders of "
                "those that do not count"
            )
        self.of = counts[0]
        opened = [_opened(self.folder, shard) for shard in shards]
        self.all = [part for part in opened if part is not None]
        missing = sorted(set(range(1, self.of + 1)) - {part.shard.number for part in self.all})
        if missing:
            named = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
            raise IndexFolderError(
                f"{len(missing)} of {self.of} shards are not whole (number {named}): run `hashfaiss build --shard "
                f"{missing[0]}/{self.of}`, and so on, then gather again"
            )
        self.about = self.all[0].about
        other = [part.shard for part in self.all if part.about["exclude"] != self.about["exclude"]]
        if other:
            raise IndexFolderError(f"shards {self.all[0].shard} and {other[0]} leave out other names: build one again")
        other = [part.shard for part in self.all if part.about["labels_digest"] != self.about["labels_digest"]]
        if other and labels is None:
            raise IndexFolderError(
                f"shards {self.all[0].shard} and {other[0]} were given other label files, or one of them none: build "
                "one again, or give the label file"
            )
        self.images = os.path.realpath(self.about["images"] if images is None else images)

    def check(self, identity: str) -> None:
        """EncoderMismatchError unless the encoder of this identity made all codes."""
        for part in self.all:
            if part.store.manifest["encoder"]["identity"] != identity:
                raise EncoderMismatchError(
                    f"shard {part.shard} was encoded by another model than the index or the other shards: delete "
                    f"{str(part.store.path)!r}, and build it again"
                )

    def stream(self, encoder: Encoder, items: Iterable[Item], notes: Notes | None) -> Iterator[Batch]:
        """Items with the codes that the shards have of them: an `EncodeStream`."""
        from hashfaiss.encoding.pipeline import batched

        return map(self._batch, batched(items, TOGETHER))

    def _batch(self, items: Sequence[Item]) -> Batch:
        from hashfaiss.encoding.items import Batch

        paths = [stored_path(item.path or "", self.images) for item in items]
        numbers = [Shard.number_of(path, self.of) for path in paths]
        found = self._found(items, paths, numbers)
        width = code_bytes(self.all[0].store.bits)
        chosen = [at for at, item in enumerate(items) if item.known or at in found]
        known = [items[at].known or found[at] for at in chosen]
        codes = np.frombuffer(b"".join(code for code, _ in known), np.uint8).reshape(-1, width)
        batch = Batch([items[at] for at in chosen], [digest for _, digest in known], codes)
        for at in sorted(set(range(len(items))) - set(chosen)):
            part = self.all[numbers[at] - 1]
            reason = part.skipped.get(paths[at])
            if reason is not None:
                batch.skipped.append((items[at], reason))
            else:
                batch.left.append((items[at], f"it came or changed since shard {part.shard} was built: {LEFT}"))
        return batch

    def _found(
        self, items: Sequence[Item], paths: Sequence[bytes], numbers: Sequence[int]
    ) -> dict[int, tuple[bytes, bytes]]:
        """Codes and digests of those that the shards have as they are."""
        asked: dict[int, list[int]] = defaultdict(list)
        for at, number in enumerate(numbers):
            asked[number].append(at)
        found: dict[int, tuple[bytes, bytes]] = {}
        for number, some in asked.items():
            places = self.all[number - 1].places
            for at, row_at in zip(some, places.first_at([paths[at] for at in some]).tolist(), strict=True):
                file = items[at].file
                if row_at < 0 or file is None:
                    continue
                row = places.row(row_at)
                if (row.size, row.mtime_ns) == (file.size, file.mtime_ns):  # inodes may be another machine's
                    found[at] = places.code(row_at).tobytes(), row.digest
        return found

    def delete(self) -> None:
        """Delete the shards, whose images the index has; all stay where one is being built again, or was."""
        gathered = self.folder.with_name(GATHERED)  # in one step, as some shards alone could not be gathered again
        with contextlib.suppress(IndexLockedError, OSError):
            for part in self.all:
                with writer_lock(self.folder / part.shard.name):
                    if read_manifest(self.folder / part.shard.name) != part.store.manifest:
                        return
            self.folder.rename(gathered)
            sync_folder(gathered.parent)
            shutil.rmtree(gathered)


def _shards(folder: Path) -> Iterator[Shard]:
    for entry in os.scandir(folder) if folder.is_dir() else ():
        if re.fullmatch(r"[0-9]+-of-[0-9]+", entry.name) and entry.is_dir(follow_symlinks=False):
            yield Shard.parse(entry.name)


def _opened(folder: Path, shard: Shard) -> WholeShard | None:
    """A shard, or None where it was never built to its end."""
    path = folder / shard.name
    if not index_at(path):
        return None
    with writer_lock(path):  # else it is being built again
        store = CodeStore.open(path)
    if store.manifest.get("shard") is None:
        return None
    try:
        about = store.manifest["shard"]
        sound = isinstance(about["images"], str) and isinstance(about["labels"], (str, type(None)))
        sound = sound and isinstance(about["labels_digest"], str)
        sound = sound and all(isinstance(name, str) for name in about["exclude"])
        sound = sound and isinstance(store.manifest["encoder"]["identity"], str)
        skipped = {stored_path(name, about["images"]): reason for name, reason in skipped_before(path)}
    except (KeyError, TypeError, ValueError, OSError):
        sound = False
    if not sound:
        raise CorruptIndexError(f"the shard {str(path)!r} is damaged: delete it, and build it again")
    return WholeShard(shard, store, store.places(), skipped)
