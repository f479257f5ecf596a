"""ImageIndex: encoder, codes and FAISS index in one folder, or in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hashfaiss.errors import ArgumentError, CorruptIndexError
from hashfaiss.indexes import Tuning, parse_kind
from hashfaiss.indexes.tuning import RECALL, Notice
from hashfaiss.library.build_report import BuildReport
from hashfaiss.library.compacting import compact
from hashfaiss.library.facts import describe
from hashfaiss.library.faiss_file import check_manifest, tune_faiss
from hashfaiss.library.progress import shown
from hashfaiss.library.removing import remove
from hashfaiss.library.searching import Searching
from hashfaiss.library.stored_encoder import ENCODER, ENGINE, stored_encoder
from hashfaiss.library.sync import HERE, CodesFrom, Looking, build, check_encoder, check_images
from hashfaiss.library.verifying import verify_folder, verify_store
from hashfaiss.storage.manifest import index_at
from hashfaiss.storage.store import CodeStore

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.encoding.items import Images
    from hashfaiss.library.sync import LabelsOf, Progress


class ImageIndex(Searching):
    """A searchable index of images.

    Make one with `Encoder.to_index` or `ImageIndex.create`, open one with `ImageIndex.open`. An index in a folder is
    read as it was when opened; `refresh` takes up what other processes have committed since.
    """

    @classmethod
    def create(cls, encoder: Encoder, path: str | os.PathLike[str] | None = None, kind: str = "auto") -> ImageIndex:
        """A new index at `path` (in memory without one), or the one that is there if `encoder` made it.

        Raises:
            EncoderMismatchError: the index there was made by another encoder, or of imported codes.
            IndexFolderError: `path` holds other things or cannot be written.
            ArgumentError: an unknown kind.
        """
        parse_kind(kind, encoder.bits, 0)
        about = {"identity": encoder.identity, "method": encoder.method, "file": ENCODER}
        if path is None:
            return cls(CodeStore.create(None, encoder.bits, encoder=about, kind=kind), encoder)
        folder = Path(path)
        encoder.cache.folder = folder / ENGINE
        if not index_at(folder):
            store = CodeStore.create(
                folder, encoder.bits, lambda made: encoder.save(made / ENCODER), encoder=about, kind=kind
            )
            return cls(store, encoder)
        index = cls(CodeStore.open(folder, damaged=True), encoder)  # a build mends what is damaged
        check_manifest(index.store)
        check_encoder(index.store, encoder)
        try:
            stored_encoder(index.store, index._device)
        except CorruptIndexError:  # the right one is at hand
            encoder.save(folder / ENCODER)
        return index

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        images: Images,
        path: str | os.PathLike[str] | None = None,
        kind: str = "auto",
        labels: LabelsOf = None,
        progress: Progress | bool | None = None,
        **how: Unpack[Looking],
    ) -> ImageIndex:
        """`images`, indexed: see `Encoder.to_index`. Nothing is made where there are no images."""
        check_images(images, labels, how.get("exclude", ()))
        index = cls.create(encoder, path, kind)
        index.build(images, labels, None if kind == "auto" else kind, progress=progress, **how)
        return index

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        encoder: Encoder | None = None,
        device: str = "auto",
        engine: str | None = None,
        shards: int = 2,
        address: str | None = None,
    ) -> ImageIndex:
        """Open the index at `path`; its own encoder is loaded when first needed, unless one is given.

        Args:
            engine: "ray": actors search, each a part of the codes; see `hashfaiss.cluster.searching.ShardedCodes`.
            shards: parts, of "ray".
            address: of the cluster, see `hashfaiss.cluster.joining.joined`.

        Raises:
            IndexFolderError: there is no index of images at `path`.
            CorruptIndexError: it is damaged.
            EncoderMismatchError: `encoder` is not the one that made the codes.
        """
        index = cls(CodeStore.open(path), device=device)
        check_manifest(index.store)
        if encoder is not None:
            check_encoder(index.store, encoder)
            index._encoder = encoder
        if engine == "ray":
            index._shards = shards, address
        elif engine is not None:
            raise ArgumentError(f"engine is {engine!r}: give 'ray', or leave it out")
        return index

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of one in a folder is opened there, as by a worker process; one in memory takes all along."""
        if self.path is not None:
            return _opened, (self.path, self._device if self._encoder is None else str(self._encoder.device))
        return ImageIndex, (self.store, self._encoder, self._device)

    def __len__(self) -> int:
        return len(self.store)

    def __repr__(self) -> str:
        return f"ImageIndex({str(self.path) if self.path else 'in memory'}, {len(self):,} images, {self.bits} bits)"

    def info(self) -> dict[str, Any]:
        """What the index holds and how it is searched, as plain values."""
        return describe(self.store, self.codes)

    def refresh(self) -> None:
        """Take up the generation committed last."""
        if self.path is not None:
            self.store = CodeStore.open(self.path)
            self._forget()
            self._light = None
            if self._encoder is not None:
                check_encoder(self.store, self._encoder)

    def build(
        self,
        images: Images,
        labels: LabelsOf = None,
        kind: str | None = None,
        strict: bool = False,
        progress: Progress | bool | None = None,
        codes_from: CodesFrom = HERE,
        **how: Unpack[Looking],
    ) -> BuildReport:
        """Bring the index into step with `images`.

        A folder is synchronised: images that are new by their contents are encoded, all others are not, whatever they
        are called now, and those that are gone leave the index; images of other folders stay, and so do those that
        cannot be looked at (`BuildReport.kept`). Paths, Pillow images and tensors are added. Cut off at any point, the
        index opens as it was last committed, and the same call carries on.

        Args:
            images: a folder, paths, Pillow images or a tensor batch (n, 3, height, width).
            labels: for a folder, a label file (only images it lists are taken), or None for class folders; else the
                labels of each image, or None.
            kind: of the FAISS index, such as "flat" or "hash:b=16,flips=2"; None keeps what the index has.
            strict: raise ImageError for the first image that cannot be read, instead of reporting it.
            progress: True shows how far it is on stderr; or called with (images done, images to do).
            codes_from: what encodes, if not this machine.
            how: see `hashfaiss.library.sync.Looking`.

        Raises:
            IndexLockedError: another process is writing.
            IndexFolderError: the disk is full, say; what was committed stands.
        """
        try:
            with shown(progress, "encode") as call:
                return build(self.store, self.encoder, images, labels, True, kind, strict, call, codes_from, **how)
        finally:
            self._forget()

    def add(
        self, images: Images, labels: LabelsOf = None, progress: Progress | bool | None = None, **how: Unpack[Looking]
    ) -> BuildReport:
        """Add a folder, paths, Pillow images or a tensor batch; like `build`, but no image leaves the index."""
        try:
            with shown(progress, "encode") as call:
                return build(self.store, self.encoder, images, labels, forget=False, progress=call, **how)
        finally:
            self._forget()

    def remove(self, images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> int:
        """Take out the images at this path or these paths, or below these folders; the files stay. Returns how many.

        Raises:
            ArgumentError: the index has no image at one of the paths; nothing is removed.
        """
        try:
            return remove(self.store, images)
        finally:
            self._forget()

    def compact(self) -> tuple[int, int]:
        """Rewrite segments that are small, and rows that were taken out, as few full segments; ids stay.

        Readers that have the index open keep what they opened. Builds do so themselves where it pays.

        Returns:
            Segments before and after.
        """
        try:
            return compact(self.store)
        finally:
            self._forget()

    def tune(self, recall: float = RECALL, memory: int | None = None, notice: Notice = lambda _: None) -> Tuning:
        """Measure kinds on the codes at hand, and take the one that is fastest of those that reach `recall`.

        The choice and its reason are stored; later builds keep it.

        Args:
            recall: share of the nearest, by distance, that must be found: of the 1, of the 10 and of the 100 nearest,
                each surely (see `hashfaiss.indexes.tune`).
            memory: bytes that codes and FAISS index may take.
            notice: told of each trial.

        Raises:
            ArgumentError: an empty index, a recall outside 0 to 1, a memory that nothing fits.
        """
        if not len(self):
            raise ArgumentError("the index is empty: build it from a folder of images first")
        try:
            with self.store.writing() as writer:
                return tune_faiss(writer, recall, memory, notice)
        finally:
            self._forget()

    def verify(self) -> Iterator[tuple[str, str | None]]:
        """Check every stored file against what was written (`evaluate_index` checks FAISS's answers).

        Of the images' own files, those that are not there or not as they were are told. An index in a folder is checked
        as it was committed last; one too damaged to be opened, by `hashfaiss.library.verifying.verify_folder`.

        Yields:
            what was checked, and what is wrong with it, or None.
        """
        return verify_store(self.store) if self.path is None else verify_folder(self.path, self._device)


def _opened(path: Path, device: str) -> ImageIndex:
    return ImageIndex.open(path, device=device)
