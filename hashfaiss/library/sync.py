"""Bringing an index into step with its images: encode what is new or changed, forget what is gone."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hashfaiss.errors import ArgumentError, EncoderMismatchError, HashfaissError, ImageError, IndexFolderError
from hashfaiss.files import write_atomic
from hashfaiss.indexes import parse_kind
from hashfaiss.library.faiss_file import commit_faiss
from hashfaiss.storage.paths import Int64
from hashfaiss.storage.places import Places
from hashfaiss.storage.segments import Row
from hashfaiss.storage.store import CodeStore, StoreWriter

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.encoding.items import Images, Item
    from hashfaiss.images.finding import ImageFile
    from hashfaiss.images.labels import Labels

    LabelsOf = str | os.PathLike[str] | Sequence[Sequence[str]] | None
    Progress = Callable[[int, int], None]

SKIPPED = "skipped.jsonl"
COMMIT_ROWS = 65536
COMMIT_SECONDS = 30.0
LOOKED_UP = 1024  # files whose images are looked up together


@dataclass
class BuildReport:
    """What a build did. `skipped_report` is the file that names each image left out, with the reason."""

    encoded: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    skipped_report: Path | None = None
    seconds: float = 0.0

    @property
    def images_per_second(self) -> float:
        """Encoded images a second, listing and indexing included."""
        return self.encoded / self.seconds if self.seconds else 0.0


def build(
    store: CodeStore,
    encoder: Encoder,
    images: Images,
    labels: LabelsOf,
    forget: bool,
    kind: str | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> BuildReport:
    """See `ImageIndex.build` (`forget`: images gone from the folder leave the index) and `ImageIndex.add`."""
    started = time.monotonic()
    report = BuildReport()
    folder = _folder(images)
    with store.writing() as writer:
        check_encoder(store, encoder)  # the folder may have been replaced since it was opened
        if kind is not None:
            parse_kind(kind, store.bits, 0)
        run = _Run(writer, report, folder, images, labels, forget)
        if folder is not None and run.count == 0 and report.unchanged == 0:
            raise _no_images(folder)
        try:
            run.encode(encoder, strict, progress)
        finally:
            if writer.pending:
                writer.commit()
        if forget:
            gone = run.known.gone()
            writer.remove(gone)
            report.removed += len(gone)
        commit_faiss(writer, kind)
        if store.path is not None and folder is not None:
            report.skipped_report = _report_skipped(store.path, folder, report.skipped)
    report.seconds = time.monotonic() - started
    return report


def remove(store: CodeStore, images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> int:
    """See `ImageIndex.remove`."""
    if isinstance(images, (str, os.PathLike)):
        images = [images]
    wanted = sorted({os.path.abspath(os.fspath(image)) for image in images})
    with store.writing() as writer:
        places = store.places()
        found = [_images_at(store, places, path) for path in wanted]
        missing = [path for path, ids in zip(wanted, found, strict=True) if not len(ids)]
        if missing:
            raise ArgumentError(f"the index has no image at {missing[0]!r}: nothing was removed")
        gone = np.unique(np.concatenate([np.empty(0, np.int64), *found]))
        writer.remove(gone)
        commit_faiss(writer, None)
    return len(gone)


def _images_at(store: CodeStore, places: Places, path: str) -> Int64:
    """Ids of the image of this file, or of all images below this folder."""
    stored = {store.stored_path(path), os.fsencode(path)}  # absolute where the index was moved to where it was
    ids = [places.ids[places.at(each)] for each in stored]
    if not any(map(len, ids)) or os.path.isdir(path):
        ids.append(store.below(path))
    return np.concatenate(ids)


def check_encoder(store: CodeStore, encoder: Encoder) -> None:
    """EncoderMismatchError unless `encoder` made the codes in `store`."""
    made_by = store.manifest["encoder"]
    if encoder.identity != made_by["identity"]:
        raise EncoderMismatchError(
            f"the index {str(store.path)!r} was made by another model ({made_by['method']}, {store.bits} bits, "
            f"{made_by['identity'][:12]}) than the one given ({encoder.method}, {encoder.bits} bits, "
            f"{encoder.identity[:12]}): use the model that made it, or build another index with this one"
        )


def check_images(images: Images, labels: LabelsOf) -> None:
    """Raise what `build` would raise of missing images and labels, before an index is made for them."""
    from hashfaiss.images.labels import labelled_files

    folder = _folder(images)
    if folder is not None and next(labelled_files(folder, labels), None) is None:  # type: ignore[arg-type]
        raise _no_images(folder)


def _no_images(folder: str) -> HashfaissError:
    return HashfaissError(f"{folder!r} holds no images (files named .jpg, .png, ...): nothing was changed")


class _Run:
    """One build: which images there are to encode, and encoding them."""

    def __init__(
        self,
        writer: StoreWriter,
        report: BuildReport,
        folder: str | None,
        images: Images,
        labels: LabelsOf,
        forget: bool,
    ) -> None:
        self.writer, self.report, self.folder, self.labels = writer, report, folder, labels
        self.given = _given(images, labels) if folder is None else []
        self.known = KnownFiles(writer.store, folder if forget else None)
        self.replaced: dict[str, int] = {}
        self.count = sum(1 for _ in self.items(counting=True))

    def items(self, counting: bool = False) -> Iterator[Item]:
        """What is new or changed. The pass that counts them also notes what is unchanged and cannot be listed."""
        from hashfaiss.encoding.items import Item
        from hashfaiss.images.labels import labelled_files

        def unlisted(path: str, reason: str) -> None:
            if counting:
                self.report.skipped.append((path, reason))
                self.known.keep_below(path)

        files = labelled_files(self.folder, self.labels, unlisted) if self.folder is not None else ()  # type: ignore[arg-type]
        items = chain(self.given, (Item(file, labels) for file, labels in files))
        while some := list(islice(items, LOOKED_UP)):
            yield from self._changed(some, counting)

    def _changed(self, items: Sequence[Item], counting: bool) -> Iterator[Item]:
        """Those of `items` that are new or changed."""
        files = [item.file for item in items if item.file is not None]
        labels = [item.labels for item in items if item.file is not None]
        if self.folder is None and self.labels is None:  # those that a known file has stay
            labels = self.known.labels(files)
        looked_up = zip(labels, self.known.find_all(files, labels), strict=True)
        for item in items:
            if item.file is not None:
                its_labels, (known, same) = next(looked_up)
                if same:
                    self.report.unchanged += counting
                    continue
                if known is not None:
                    self.replaced[item.file.path] = known
                item = replace(item, labels=its_labels)
            yield item

    def encode(self, encoder: Encoder, strict: bool, progress: Progress | None) -> None:
        """Encode what `items` yields; commit now and then, so that little is lost when cut off."""
        from hashfaiss.encoding.pipeline import encode_stream

        done = 0
        if progress:
            progress(0, self.count)
        for batch in encode_stream(encoder, self.items(), learned=True):
            for item, reason in batch.skipped:
                if strict:
                    raise ImageError(item.path, reason)
                self.report.skipped.append((item.path or "an image in memory", reason))
                self.report.removed += self._forget_old(item)
            rows = []
            for item, digest in zip(batch.items, batch.digests, strict=True):
                rows.append(file_row(self.writer.store, item, digest))
                self._forget_old(item)
            self.writer.append(batch.codes, rows)
            self.report.encoded += len(rows)
            done += len(rows) + len(batch.skipped)
            if progress:
                progress(done, self.count)
            late = time.monotonic() - self.writer.last_commit > COMMIT_SECONDS
            if self.writer.pending >= COMMIT_ROWS or (late and self.writer.pending):
                self.writer.commit()
                self.writer.gather()  # each segment is an open file, of which there are only so many

    def _forget_old(self, item: Item) -> bool:
        """The image that was at this path before leaves with the next commit. Returns whether there was one."""
        old = self.replaced.pop(item.path or "", None)
        if old is not None:
            self.writer.remove([old])
        return old is not None


def _given(images: Images, labels: LabelsOf) -> list[Item]:
    """Images given one by one, with their labels; a file given twice is one image."""
    from hashfaiss.encoding.items import Item, as_items

    items = list(as_items(images))
    each_of = [()] * len(items) if labels is None else [] if isinstance(labels, (str, os.PathLike)) else list(labels)
    names = [tuple(each) for each in each_of]
    if any(isinstance(each, str) for each in each_of) or not all(isinstance(name, str) for name in chain(*names)):
        raise ArgumentError('labels are not lists of names: give such as [["cat"], ["dog", "pet"]]')
    if len(names) != len(items):
        raise ArgumentError(f"{len(items)} images were given: give labels for each, or a folder with a label file")
    labelled = [Item(item.source, its_names) for item, its_names in zip(items, names, strict=True)]
    return list({item.path or number: item for number, item in enumerate(labelled)}.values())


def _folder(images: Images) -> str | None:
    """The absolute path of a folder given as images; None for anything else; ArgumentError for a missing one."""
    if not isinstance(images, (str, os.PathLike)):
        return None
    name = os.path.abspath(os.fspath(images))
    if not os.path.exists(name):
        raise ArgumentError(f"{os.fspath(images)!r} does not exist: give a folder of images")
    return name if os.path.isdir(name) else None


def _report_skipped(path: Path, folder: str, skipped: list[tuple[str, str]]) -> Path | None:
    """Replace what the report says of `folder` by `skipped`, and keep what it says of other folders."""
    report = path / SKIPPED
    lines = {name: json.dumps({"path": name, "reason": reason}) for name, reason in skipped}
    try:
        for line in report.read_text().splitlines() if report.exists() else []:
            with contextlib.suppress(ValueError, TypeError, KeyError):  # a damaged line tells nothing
                name = str(json.loads(line)["path"])
                if not name.startswith(folder.rstrip(os.sep) + os.sep):
                    lines.setdefault(name, line)
        if not lines:
            report.unlink(missing_ok=True)
            return None
        write_atomic(report, ("\n".join(lines.values()) + "\n").encode())
    except (OSError, UnicodeDecodeError) as error:
        raise IndexFolderError(
            f"cannot write {str(report)!r}: {error}. All images are committed; make room or delete that file, and run "
            "the same command again"
        ) from None
    return report


class KnownFiles:
    """The files in a store, by path.

    Args:
        store: what was committed.
        folder: absolute path; `gone` speaks of the files below it. None: of no file.
    """

    def __init__(self, store: CodeStore, folder: str | None) -> None:
        self._store, self._places = store, store.places()
        self._below = np.zeros(len(self._places.ids), np.bool_)
        if folder is not None:
            self._below[self._numbers_below(folder)] = True
        self._seen = np.zeros(len(self._places.ids), np.bool_)

    def _numbers_below(self, folder: str) -> Int64:
        return np.searchsorted(self._places.ids, self._store.below(folder))

    def find_all(self, files: Sequence[ImageFile], labels: Sequence[Labels]) -> list[tuple[int | None, bool]]:
        """For each file the id of the image at its path, or None, and whether file and labels are as they were.

        The files count as seen from now on.
        """
        places = self._places
        numbers = places.first_at([self._store.stored_path(file.path) for file in files])
        known = np.flatnonzero(numbers >= 0)
        self._seen[numbers[known]] = True
        states = [(files[at].size, files[at].mtime_ns, labels[at]) for at in known.tolist()]
        same = np.zeros(len(files), np.bool_)
        same[known] = places.unchanged(numbers[known], states)
        ids = [int(places.ids[number]) if number >= 0 else None for number in numbers.tolist()]
        return list(zip(ids, same.tolist(), strict=True))

    def find(self, file: ImageFile, labels: Labels) -> tuple[int | None, bool]:
        """As `find_all`, for one file."""
        return self.find_all([file], [labels])[0]

    def labels(self, files: Sequence[ImageFile]) -> list[Labels]:
        """The labels that the image at each path has, () for an unknown one."""
        numbers = self._places.first_at([self._store.stored_path(file.path) for file in files]).tolist()
        return [self._places.labels(number) if number >= 0 else () for number in numbers]

    def keep_below(self, folder: str) -> None:
        """Count every file below `folder` as seen: it could not be listed, which does not mean they are gone."""
        self._seen[self._numbers_below(folder)] = True

    def gone(self) -> Int64:
        """Ids of the files below the folder that were not seen."""
        return self._places.ids[self._below & ~self._seen]


def file_row(store: CodeStore, item: Item, digest: bytes) -> Row:
    """The row that stands for an image in `store`."""
    file = item.file
    if file is None:
        return Row(b"", 0, 0, digest, item.labels)
    return Row(store.stored_path(file.path), file.size, file.mtime_ns, digest, item.labels)
