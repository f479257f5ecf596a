"""Encoding shared out without any engine: shards write stores of their own, and one gathers them.

    photos.index/shards/encoder.pt   the encoder of all shards
    photos.index/shards/2-of-4/      the codes of shard 2: a store, whose paths are relative to the folder of images

Which shard an image belongs to, its path below that folder says. Gathering is a build that takes codes from the shards
instead of a network: it sees the same files in the same order, so that codes and ids are those of a build on one
machine.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hashfaiss.errors import ArgumentError
from hashfaiss.files import content_digest
from hashfaiss.library.build_report import BuildReport, report_skipped
from hashfaiss.library.known import KnownFiles
from hashfaiss.library.made_with import note_makers
from hashfaiss.library.stored_encoder import ENCODER
from hashfaiss.library.sync import Run, check_encoder, folder_of, here
from hashfaiss.storage.manifest import index_at
from hashfaiss.storage.paths import path_key, stored_path
from hashfaiss.storage.store import CodeStore

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.encoding.items import EncodeStream, Item
    from hashfaiss.library.sync import LabelsOf, Progress

SHARDS = "shards"
MOST = 100_000  # shards of one folder


@dataclass(frozen=True, order=True)
class Shard:
    """The part number `number` of `of`, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/4`, or as a folder is called, `2-of-4`. ArgumentError for anything else."""
        found = re.fullmatch(r"([0-9]{1,6})(?:/|-of-)([0-9]{1,6})", text)
        shard = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= shard.number <= shard.of <= MOST:
            raise ArgumentError(f"the shard is {text!r}: give its number and how many there are, such as 2/4")
        return shard

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.number}-of-{self.of}"

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def has(self, path: bytes) -> bool:
        """Whether it encodes the image at this path, relative to the folder of images."""
        return self.number_of(path, self.of) == self.number

    @staticmethod
    def number_of(path: bytes, of: int) -> int:
        """The number of the shard that encodes the image at this path, of so many."""
        return int.from_bytes(path_key(path)[:8], "big") % of + 1


def build_shard(
    index: Path,
    shard: Shard,
    encoder: Encoder,
    images: str | os.PathLike[str],
    labels: LabelsOf = None,
    strict: bool = False,
    progress: Progress | None = None,
    stream: EncodeStream = here,
    exclude: Sequence[str] = (),
) -> BuildReport:
    """Encode what is this shard's of a folder, and new or changed since `index` was built: see `Shard.has`.

    `index` itself is only read; it need not be there yet. Cut off at any point, the same call carries on.

    Raises:
        ArgumentError: `images` is no folder.
        EncoderMismatchError: another encoder made the codes of `index`, or of other shards.
        IndexLockedError: another process builds this very shard.
    """
    folder = folder_of(images)
    if folder is None:
        raise ArgumentError(f"{str(images)!r} is no folder: shards share out a folder of images")
    committed = CodeStore.open(index, damaged=True) if index_at(index) else None
    if committed is not None:
        check_encoder(committed, encoder)
    store = _store_of(index, shard, encoder)
    store.base = folder
    started = time.monotonic()
    share = _Share(shard, folder, committed)
    report = BuildReport()
    with store.writing(heal=True) as writer:
        run = Run(writer, report, images, labels, False, {"exclude": exclude}, share.of)
        about = {"images": folder, "exclude": list(exclude), **_labels(labels)}  # the label file as it was just read
        note_makers(store)
        run.encode(encoder, strict, progress, stream)
        writer.commit(shard=about)
        assert store.path is not None
        report.skipped_report = report_skipped(store.path, folder, report.skipped + report.kept)
    report.seconds = time.monotonic() - started
    return report


def shard_encoder(index: Path) -> Path | None:
    """The file of the encoder that the shards at `index` have, or the index itself; None where there is none yet."""
    return next((file for file in (index / ENCODER, index / SHARDS / ENCODER) if file.exists()), None)


def _store_of(index: Path, shard: Shard, encoder: Encoder) -> CodeStore:
    """The shard's store, made where there is none; all shards have one encoder, which lies beside them."""
    folder = index / SHARDS / shard.name
    file = folder.parent / ENCODER
    if not index_at(folder):
        about = {"identity": encoder.identity, "method": encoder.method, "file": ENCODER}
        CodeStore.create(folder, encoder.bits, encoder=about, kind="flat")
    store = CodeStore.open(folder, damaged=True)
    check_encoder(store, encoder)
    if not file.exists():
        encoder.save(file)
    return store


def _labels(labels: LabelsOf) -> dict[str, str | None]:
    """Where a label file lies, and what it is known by on any machine."""
    if labels is None:
        return {"labels": None, "labels_digest": ""}
    path = os.path.abspath(labels)  # type: ignore[arg-type]
    return {"labels": path, "labels_digest": content_digest(Path(path).read_bytes()).hex()}


class _Share:
    """Which of the files of a folder are a shard's to encode: those that the index does not have as they are."""

    def __init__(self, shard: Shard, folder: str, committed: CodeStore | None) -> None:
        self.shard, self.folder = shard, folder
        self.known = None if committed is None else KnownFiles(committed, None)

    def of(self, items: list[Item]) -> list[Item]:
        mine = [item for item in items if item.path and self.shard.has(stored_path(item.path, self.folder))]
        if self.known is None:
            return mine
        files = [item.file for item in mine if item.file is not None]
        found = self.known.find_all(files, self.known.labels(files))  # a label more needs no other code
        return [item for item, known in zip(mine, found, strict=True) if known is None or not known.same]
