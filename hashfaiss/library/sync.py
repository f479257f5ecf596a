"""Bringing an index into step with its images: encode what is new or changed, forget what is gone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

from hashfaiss.errors import ArgumentError, EncoderMismatchError, HashfaissError, ImageError
from hashfaiss.files import content_digest
from hashfaiss.indexes import parse_kind
from hashfaiss.library.build_report import BuildReport, report_skipped
from hashfaiss.library.faiss_file import commit_faiss
from hashfaiss.library.known import Known, KnownFiles
from hashfaiss.library.made_with import note_makers
from hashfaiss.library.stored_encoder import check_takes_images
from hashfaiss.library.undecodable import take_notes
from hashfaiss.storage.segments import Row
from hashfaiss.storage.store import CodeStore, StoreWriter

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.encoding.items import Batch, EncodeStream, Images, Item
    from hashfaiss.images.finding import ImageFile
    from hashfaiss.images.labels import Labels
    from hashfaiss.images.large import Notes

    LabelsOf = str | os.PathLike[str] | Sequence[Sequence[str]] | None
    Progress = Callable[[int, int], None]

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


def here(encoder: Encoder, items: Iterable[Item], notes: Notes | None) -> Iterator[Batch]:
    """Codes from this machine, on all devices of the encoder: an `EncodeStream`."""
    from hashfaiss.encoding.pipeline import encode_stream

    return encode_stream(encoder, items, learned=True, notes=notes)


class CodesFrom(NamedTuple):
    """How a build comes to codes.

    Attributes:
        stream: what encodes.
        at_once: all is committed in one generation, however long it takes.
        makers: manifests of the stores that the codes come from; None where they are made on this machine.
    """

    stream: EncodeStream = here
    at_once: bool = False
    makers: Sequence[dict[str, Any]] | None = None


HERE = CodesFrom()


def build(
    store: CodeStore,
    encoder: Encoder,
    images: Images,
    labels: LabelsOf,
    forget: bool,
    kind: str | None = None,
    strict: bool = False,
    progress: Progress | None = None,
    codes_from: CodesFrom = HERE,
    **how: Unpack[Looking],
) -> BuildReport:
    """See `ImageIndex.build` (`forget`: images gone from the folder leave the index) and `ImageIndex.add`."""
    if unknown := how.keys() - Looking.__annotations__:
        raise ArgumentError(f"{min(unknown)!r} is nothing a build takes: give {', '.join(Looking.__annotations__)}")
    started = time.monotonic()
    report = BuildReport()
    folder = folder_of(images)
    with store.writing(heal=True) as writer:
        report.damaged = writer.healed
        check_encoder(store, encoder)  # the folder may have been replaced since it was opened
        if kind is not None:
            parse_kind(kind, store.bits, 0)
        run = Run(writer, report, images, labels, forget, how)
        if folder is not None and run.count == 0 and report.unchanged == 0:
            raise no_images(folder)
        if run.count:
            report.decoders = note_makers(store, codes_from.makers)
        writer.holding = codes_from.at_once
        run.encode(encoder, strict, progress, codes_from.stream)
        if run.first and store.path is not None and len(store) >= LIGHT_FROM:
            encoder.keep_compiled(run.first)
        if forget:
            gone, kept = run.known.gone(how.get("allow_removals", False))
            writer.remove(gone)
            report.removed += len(gone)
            report.kept += kept.items()
        writer.holding = False
        commit_faiss(writer, kind)
        if store.path is not None and folder is not None:
            report.skipped_report = report_skipped(store.path, folder, report.skipped + report.kept + report.left)
    report.seconds = time.monotonic() - started
    return report


def check_encoder(store: CodeStore, encoder: Encoder) -> None:
    """EncoderMismatchError unless `encoder` made the codes in `store`, and where that is not known."""
    check_takes_images(store.manifest, store.path)
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

    folder = folder_of(images)
    if folder is not None and next(labelled_files(folder, labels, exclude=exclude), None) is None:  # type: ignore[arg-type]
        raise no_images(folder)


def no_images(folder: str) -> HashfaissError:
    return HashfaissError(f"{folder!r} holds no images (files named .jpg, .png, ...): nothing was changed")


class Run:
    """One build: which images there are to encode, and encoding them.

    Args:
        take: of files that were found, those that are this build's; None: all.
    """

    def __init__(
        self,
        writer: StoreWriter,
        report: BuildReport,
        images: Images,
        labels: LabelsOf,
        forget: bool,
        how: Looking,
        take: Callable[[list[Item]], list[Item]] | None = None,
    ) -> None:
        self.writer, self.report, self.labels, self.how, self.take = writer, report, labels, how, take
        self.folder = folder = folder_of(images)
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
            yield from self._changed(some if self.take is None else self.take(some), counting)

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

    def encode(self, encoder: Encoder, strict: bool, progress: Progress | None, stream: EncodeStream) -> None:
        """Encode what `items` yields; commit now and then, so that little is lost when cut off."""
        try:
            self._encode(encoder, strict, progress, stream)
        finally:
            if self.writer.pending and not self.writer.holding:
                self.writer.commit()

    def _encode(self, encoder: Encoder, strict: bool, progress: Progress | None, stream: EncodeStream) -> None:
        done = 0
        if progress:
            progress(0, self.count)
        folder = self.writer.store.path
        notes = None if folder is None else take_notes(folder, encoder.preprocessing.least_side)
        for batch in stream(encoder, self.items(), notes):
            self.report.left += [(item.path or "", reason) for item, reason in batch.left]
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
            done += len(rows) + len(batch.skipped) + len(batch.left)
            if progress:
                progress(done, self.count)
            late = time.monotonic() - self.writer.last_commit > COMMIT_SECONDS
            if self.writer.pending >= COMMIT_ROWS or (late and self.writer.pending and not self.writer.holding):
                self.writer.commit()
                if not self.writer.holding:
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


def folder_of(images: Images) -> str | None:
    """The real path of a folder given as images; None for anything else; ArgumentError for a missing one."""
    if not isinstance(images, (str, os.PathLike)):
        return None
    name = os.path.realpath(os.fspath(images))
    if not os.path.exists(name):
        raise ArgumentError(f"{os.fspath(images)!r} does not exist: give a folder of images")
    return name if os.path.isdir(name) else None


def file_row(store: CodeStore, item: Item, digest: bytes) -> Row:
    """The row that stands for an image in `store`."""
    file = item.file
    if file is None:
        return Row(b"", 0, 0, digest, item.labels)
    path = store.stored_path(file.path)
    return Row(path, file.size, file.mtime_ns, digest, item.labels, file.ctime_ns, file.inode)
