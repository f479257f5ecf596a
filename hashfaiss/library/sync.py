"""Bringing an index into step with its images: encode what is new or changed, forget what is gone."""

from __future__ import annotations

import contextlib
import json
import os
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np

from hashfaiss.errors import ArgumentError, EncoderMismatchError, HashfaissError, ImageError, IndexFolderError
from hashfaiss.files import content_digest, write_atomic
from hashfaiss.images.finding import PassedOver
from hashfaiss.indexes import parse_kind
from hashfaiss.library.faiss_file import commit_faiss
from hashfaiss.library.known import Known, KnownFiles
from hashfaiss.library.made_with import note_makers
from hashfaiss.library.undecodable import take_notes
from hashfaiss.storage.damage import Damaged
from hashfaiss.storage.paths import Int64
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
LIGHT_FROM = 64  # images of an index whose encoder is compiled for queries, which takes seconds,
SETTLED_ON = 8  # learned of on so many of them
LOOKED_UP = 1024  # files whose images are looked up together


class Looking(TypedDict, total=False):
    """How a build looks at files.

    Keys:
        check_content: read every file, also those that are unchanged by size, times and inode.
        allow_removals: images whose files are gone leave, also where that is more than half of the folder at once,
            where their folder is empty now, or was reached by a link that leads nowhere.
        exclude: patterns of names to leave out, see `hashfaiss.images.names.Excluded`.
    """

    check_content: bool
    allow_removals: bool
    exclude: Sequence[str]


@dataclass
class BuildReport:
    """What a build did.

    Attributes:
        encoded: images that are new, by their contents.
        unchanged: files that are as they were.
        recognised: files whose contents the index had, which took their code over: moved, renamed, copied, touched or
            labelled otherwise.
        removed: images that left the index.
        skipped: files that cannot be read, with the reason.
        skipped_report: the file that names each of them.
        kept: files and folders that could not be looked at, with the reason: images there stay in the index.
        passed_over: files that are no images, by suffix.
        damaged: segments that were set aside: images they held are encoded anew where they were given, and are else
            not in the index.
        decoders: which kinds of files give other pixels here than where the codes were made; None for none.
    """

    encoded: int = 0
    unchanged: int = 0
    recognised: int = 0
    removed: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    skipped_report: Path | None = None
    kept: list[tuple[str, str]] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=PassedOver)
    damaged: list[Damaged] = field(default_factory=list)
    decoders: str | None = None
    seconds: float = 0.0

    def after(self, first: BuildReport) -> BuildReport:
        """What this build and one of the same folder before it did together."""
        return replace(
            self,
            encoded=self.encoded + first.encoded,
            unchanged=self.unchanged - first.encoded - first.recognised,
            recognised=self.recognised + first.recognised,
            removed=self.removed + first.removed,
            damaged=first.damaged + self.damaged,
            decoders=first.decoders or self.decoders,
            seconds=self.seconds + first.seconds,
        )

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
    **how: Unpack[Looking],
) -> BuildReport:
    """See `ImageIndex.build` (`forget`: images gone from the folder leave the index) and `ImageIndex.add`."""
    if unknown := how.keys() - Looking.__annotations__:
        raise ArgumentError(f"{min(unknown)!r} is nothing a build takes: give {', '.join(Looking.__annotations__)}")
    started = time.monotonic()
    report = BuildReport()
    folder = _folder(images)
    with store.writing(heal=True) as writer:
        report.damaged = writer.healed
        check_encoder(store, encoder)  # the folder may have been replaced since it was opened
        if kind is not None:
            parse_kind(kind, store.bits, 0)
        run = _Run(writer, report, folder, images, labels, forget, how)
        if folder is not None and run.count == 0 and report.unchanged == 0:
            raise _no_images(folder)
        if run.count:
            report.decoders = note_makers(store)
        try:
            run.encode(encoder, strict, progress)
        finally:
            if writer.pending:
                writer.commit()
        if run.first and store.path is not None and len(store) >= LIGHT_FROM:
            encoder.keep_compiled(run.first)
        if forget:
            gone, kept = run.known.gone(how.get("allow_removals", False))
            writer.remove(gone)
            report.removed += len(gone)
            report.kept += kept.items()
        commit_faiss(writer, kind)
        if store.path is not None and folder is not None:
            report.skipped_report = _report_skipped(store.path, folder, report.skipped + report.kept)
    report.seconds = time.monotonic() - started
    return report


def remove(store: CodeStore, images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> int:
    """See `ImageIndex.remove`. A removal that was cut off can be asked for again: what is out already is no error."""
    if isinstance(images, (str, os.PathLike)):
        images = [images]
    wanted = sorted({os.path.abspath(os.fspath(image)) for image in images})
    with store.writing() as writer:
        found = _images_at(store, wanted)
        missing = [path for path, ids in zip(wanted, found, strict=True) if not len(ids)]
        if missing and not all(map(len, _images_at(store, missing, removed=True))):
            raise ArgumentError(f"the index has no image at {missing[0]!r}: nothing was removed")
        gone = np.unique(np.concatenate([np.empty(0, np.int64), *found]))
        writer.remove(gone)
        commit_faiss(writer, None)
    return len(gone)


def _images_at(store: CodeStore, paths: Sequence[str], removed: bool = False) -> list[Int64]:
    """For each file or folder, ids of its image or of all images below it, whatever links lead there."""
    places = store.places(removed)
    found: list[Int64] = []
    for path in paths:
        forms = {path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))}
        names = {name for form in forms for name in (form, real_name(form), os.path.realpath(form))}
        stored = {store.stored_path(name) for name in names}
        stored.add(os.fsencode(path))  # absolute where the index was moved to where it was
        ids = [places.ids[places.at(each)] for each in stored]
        if not any(map(len, ids)) or os.path.isdir(path):
            ids += [store.below(name, removed) for name in names]
        found.append(np.concatenate(ids))
    return found


def real_name(path: str) -> str:
    """The name of a file or link in the folder that it really lies in."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def check_encoder(store: CodeStore, encoder: Encoder) -> None:
    """EncoderMismatchError unless `encoder` made the codes in `store`."""
    made_by = store.manifest["encoder"]
    if encoder.identity != made_by["identity"]:
        raise EncoderMismatchError(
            f"the index {str(store.path)!r} was made by another model ({made_by['method']}, {store.bits} bits, "
            f"{made_by['identity'][:12]}) than the one given ({encoder.method}, {encoder.bits} bits, "
            f"{encoder.identity[:12]}): use the model that made it, or build another index with this one"
        )


def check_images(images: Images, labels: LabelsOf, exclude: Sequence[str] = ()) -> None:
    """Raise what `build` would raise of missing images and labels, before an index is made for them."""
    from hashfaiss.images.labels import labelled_files

    folder = _folder(images)
    if folder is not None and next(labelled_files(folder, labels, exclude=exclude), None) is None:  # type: ignore[arg-type]
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
        how: Looking,
    ) -> None:
        self.writer, self.report, self.folder, self.labels, self.how = writer, report, folder, labels, how
        self.given = _given(images, labels) if folder is None else []
        self.known = KnownFiles(writer.store, folder if forget else None)
        self.replaced: dict[str, list[int]] = {}
        self.first: list[str] = []  # of the files that were encoded
        self.count = sum(1 for _ in self.items(counting=True))

    def items(self, counting: bool = False) -> Iterator[Item]:
        """What is new or changed. The pass that counts them also notes what is unchanged and cannot be listed."""
        from hashfaiss.encoding.items import Item
        from hashfaiss.images.labels import labelled_files

        def unlisted(path: str, reason: str) -> None:
            if counting:
                self.report.kept.append((path, reason))
                self.known.keep_below(path)

        files: Iterable[tuple[ImageFile, Labels]] = ()
        if self.folder is not None:
            exclude = self.how.get("exclude", ())
            files = labelled_files(self.folder, self.labels, unlisted, exclude, opened=False)  # type: ignore[arg-type]
        items = chain(self.given, (Item(file, labels) for file, labels in files))
        while some := list(islice(items, LOOKED_UP)):
            yield from self._changed(some, counting)

    def _changed(self, items: Sequence[Item], counting: bool) -> Iterator[Item]:
        """Those of `items` that are new or changed; while counting, without looking at what is in them."""
        from hashfaiss.images.finding import is_image

        files = [item.file for item in items if item.file is not None]
        labels = [item.labels for item in items if item.file is not None]
        if self.folder is None and self.labels is None:  # those that a known file has stay
            labels = self.known.labels(files)
        passed = self.report.passed_over if counting else None
        looked_up = zip(labels, self.known.find_all(files, labels), strict=True)
        for item in items:
            file = item.file
            if file is None:
                yield item
                continue
            its_labels, known = next(looked_up)
            if known is not None and known.same and not self.how.get("check_content"):
                self.report.unchanged += counting
            elif self.folder is None or known is not None or is_image(file, passed):
                item = replace(item, labels=its_labels)
                looked_at = item if counting else self._looked_at(item, file, known)
                if looked_at is not None:
                    yield looked_at

    def _looked_at(self, item: Item, file: ImageFile, known: Known | None) -> Item | None:
        """The item with the code of these bytes, if the index has it; None where there is nothing to do."""
        from hashfaiss.images.decoding import read_bytes

        if known is None and not self.known.may_have(file):
            return item
        try:
            digest = content_digest(read_bytes(file.path))
        except ImageError as error:  # when it is read to be encoded, that is told
            return item if known is None or not self._away(file, known, error.reason) else None
        alike = list(self.known.with_digest(digest))
        if known is not None and known.same and any(number == known.number for number, _ in alike):
            self.report.unchanged += 1
            return None
        old = [] if known is None else [known.id]
        if known is None or all(number != known.number for number, _ in alike):
            if any(self.known.same_file(row, file) for _, row in alike):  # a second name of an image that is there
                self.writer.remove(old)
                self.report.unchanged += 1
                return None
            moved = next((number for number, row in alike if self.known.moved(number, row, file)), None)
            old += [] if moved is None else [self.known.id(moved)]
        if old:
            self.replaced[file.path] = old
        return replace(item, known=(self.known.code(alike[0][0]), digest)) if alike else item

    def _away(self, file: ImageFile, known: Known, reason: str) -> bool:
        """Whether a file that cannot be read may be there another time: its image stays, and that is told."""
        if not os.path.exists(file.path):  # it vanished since it was listed, or is a link into nowhere
            self.known.missed(known.number)
            return self.folder is not None
        self.report.kept.append((file.path, reason))
        return True

    def encode(self, encoder: Encoder, strict: bool, progress: Progress | None) -> None:
        """Encode what `items` yields; commit now and then, so that little is lost when cut off."""
        from hashfaiss.encoding.pipeline import encode_stream

        done = 0
        if progress:
            progress(0, self.count)
        folder = self.writer.store.path
        notes = None if folder is None else take_notes(folder, encoder.preprocessing.least_side)
        for batch in encode_stream(encoder, self.items(), learned=True, notes=notes):
            for item, reason in batch.skipped:
                if strict:
                    raise ImageError(item.path, reason)
                self.report.skipped.append((item.path or "an image in memory", reason))
                self.report.removed += self._forget_old(item)
            rows = []
            for item, digest in zip(batch.items, batch.digests, strict=True):
                rows.append(file_row(self.writer.store, item, digest))
                self._forget_old(item)
                self.report.recognised += item.known is not None
                self.report.encoded += item.known is None
                if item.path is not None and item.known is None and len(self.first) < SETTLED_ON:
                    self.first.append(item.path)
            self.writer.append(batch.codes, rows)
            done += len(rows) + len(batch.skipped)
            if progress:
                progress(done, self.count)
            late = time.monotonic() - self.writer.last_commit > COMMIT_SECONDS
            if self.writer.pending >= COMMIT_ROWS or (late and self.writer.pending):
                self.writer.commit()
                self.writer.gather()  # each segment is an open file, of which there are only so many

    def _forget_old(self, item: Item) -> bool:
        """What this image takes the place of leaves with the next commit. Returns whether there was anything."""
        old = self.replaced.pop(item.path or "", [])
        self.writer.remove(old)
        return bool(old)


def _given(images: Images, labels: LabelsOf) -> list[Item]:
    """Images given one by one, with their labels; a file given twice is one image."""
    from hashfaiss.encoding.items import Item, as_items

    items = [_by_real_name(item) for item in as_items(images)]
    each_of = [()] * len(items) if labels is None else [] if isinstance(labels, (str, os.PathLike)) else list(labels)
    names = [tuple(each) for each in each_of]
    if any(isinstance(each, str) for each in each_of) or not all(isinstance(name, str) for name in chain(*names)):
        raise ArgumentError('labels are not lists of names: give such as [["cat"], ["dog", "pet"]]')
    if len(names) != len(items):
        raise ArgumentError(f"{len(items)} images were given: give labels for each, or a folder with a label file")
    labelled = [Item(item.source, its_names) for item, its_names in zip(items, names, strict=True)]
    return list({item.path or number: item for number, item in enumerate(labelled)}.values())


def _by_real_name(item: Item) -> Item:
    """The file that a path leads to, whatever links are on the way."""
    if item.file is None:
        return item
    return replace(item, source=replace(item.file, path=os.path.realpath(item.file.path)))


def _folder(images: Images) -> str | None:
    """The real path of a folder given as images; None for anything else; ArgumentError for a missing one."""
    if not isinstance(images, (str, os.PathLike)):
        return None
    name = os.path.realpath(os.fspath(images))
    if not os.path.exists(name):
        raise ArgumentError(f"{os.fspath(images)!r} does not exist: give a folder of images")
    return name if os.path.isdir(name) else None


def _report_skipped(path: Path, folder: str, skipped: list[tuple[str, str]]) -> Path | None:
    """Replace what the report says of `folder` by `skipped`, and keep what it says of other folders."""
    report = path / SKIPPED
    lines = {name: json.dumps({"path": name, "reason": reason}) for name, reason in skipped}
    try:
        for line in report.read_text("utf-8", "replace").splitlines() if report.exists() else []:
            with contextlib.suppress(ValueError, TypeError, KeyError):  # a damaged line tells nothing
                name = str(json.loads(line)["path"])
                if not name.startswith(folder.rstrip(os.sep) + os.sep):
                    lines.setdefault(name, line)
        if not lines:
            report.unlink(missing_ok=True)
            return None
        write_atomic(report, ("\n".join(lines.values()) + "\n").encode())
    except OSError as error:
        raise IndexFolderError(
            f"cannot write {str(report)!r}: {error}. All images are committed; make room or delete that file, and run "
            "the same command again"
        ) from None
    return report


def file_row(store: CodeStore, item: Item, digest: bytes) -> Row:
    """The row that stands for an image in `store`."""
    file = item.file
    if file is None:
        return Row(b"", 0, 0, digest, item.labels)
    path = store.stored_path(file.path)
    return Row(path, file.size, file.mtime_ns, digest, item.labels, file.ctime_ns, file.inode)
