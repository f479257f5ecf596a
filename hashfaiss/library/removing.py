"""Taking images out of an index by their paths."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from hashfaiss.errors import ArgumentError
from hashfaiss.library.faiss_file import commit_faiss
from hashfaiss.storage.paths import Int64
from hashfaiss.storage.store import CodeStore


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
