"""What an index folder promises of its files, checked; and damage mended where nothing need be encoded for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hashfaiss.errors import CorruptIndexError
from hashfaiss.library.faiss_file import check_manifest, commit_faiss, read_faiss
from hashfaiss.library.known import images_trouble
from hashfaiss.library.made_with import decoders_trouble
from hashfaiss.library.stored_encoder import ENCODER, has_encoder, stored_encoder
from hashfaiss.storage.damage import Damaged
from hashfaiss.storage.manifest import read_manifest
from hashfaiss.storage.store import CodeStore

Checked = tuple[str, str | None]


def verify_folder(path: str | os.PathLike[str], device: str = "auto") -> Iterator[Checked]:
    """Check every file of an index against what was written, damaged or not; see `ImageIndex.verify`.

    Where a build commits meanwhile, what it replaced is of no account: the check begins again.

    Raises:
        IndexFolderError: there is no index at `path`, or none that can be told apart from other things.
    """
    while True:
        store = CodeStore.open(path, damaged=True)
        check_manifest(store)
        for name, trouble in verify_store(store, device):
            if trouble is not None and read_manifest(Path(path))["generation"] != store.manifest["generation"]:
                break
            yield name, trouble
        else:
            return


def verify_store(store: CodeStore, device: str = "auto") -> Iterator[Checked]:
    """The same of a store as it was opened."""
    yield from store.verify()
    if has_encoder(store.manifest):  # else its codes are not of files as they are here
        yield "images", images_trouble(store)
        yield "decoders", decoders_trouble(store)
    if store.path is None:
        return
    if has_encoder(store.manifest):
        trouble = None
        try:
            stored_encoder(store, device)
        except CorruptIndexError as error:
            trouble = str(error)
        yield ENCODER, trouble
    entry = store.manifest.get("index")
    if entry:
        yield (
            entry["file"],
            None if read_faiss(store) is not None else "missing or altered; the next build writes it anew",
        )


def heal_folder(path: str | os.PathLike[str]) -> list[Damaged]:
    """Mend what can be mended without images: the manifest, its copy, FAISS's part.

    Damaged segments, which are returned, are set aside in the folder `damaged`. The images that they held are not in
    the index until they are built again.
    """
    store = CodeStore.open(path, damaged=True)
    check_manifest(store)
    with store.writing(heal=True) as writer:
        commit_faiss(writer, None)
        return writer.healed
