"""The FAISS index of an index folder: derived from the codes, checked before FAISS reads it, rebuilt when in doubt."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hashfaiss.errors import CorruptIndexError, IndexFolderError
from hashfaiss.files import check_regular, fast_digest, write_atomic
from hashfaiss.indexes import CodeIndex, Tuning, beside, changes
from hashfaiss.indexes.kinds import usable
from hashfaiss.indexes.trust import Trust
from hashfaiss.indexes.tuning import FLAT_UP_TO, MEASURE_AGAIN, Notice
from hashfaiss.storage.paths import Int64
from hashfaiss.storage.store import CodeStore, StoreWriter

Bytes = npt.NDArray[np.uint8]

# A file from this size on is not read but mapped: it costs no memory of its own, and all processes that search share
# it. It must then not be changed in place (a process that looks at a page that is gone dies), which nothing here does.
MAPPED = 1 << 26


def check_manifest(store: CodeStore) -> None:
    """IndexFolderError unless the manifest says what an index of images needs beside codes."""
    encoder, index = store.manifest.get("encoder"), store.manifest.get("index")
    named = isinstance(encoder, dict) and all(isinstance(encoder.get(key), str) for key in ("identity", "method"))
    if not named or not isinstance(store.manifest.get("kind"), str):
        raise IndexFolderError(f"{str(store.path)!r} holds codes, but not the encoder that made them: use CodeStore")
    sound = isinstance(index, dict) and all(isinstance(index.get(key), str) for key in ("file", "kind"))
    if isinstance(index, dict) and sound:
        try:
            Trust.of(index.get("trust"))
        except (ValueError, TypeError):
            sound = False
    if index is not None and not (sound and isinstance(index.get("generation"), int)):
        raise CorruptIndexError(f"the manifest of {str(store.path)!r} is damaged in what it says of FAISS: restore it")


def read_faiss(store: CodeStore) -> Bytes | None:
    """The FAISS file, if there is one and not a byte was altered; mapped where it is large.

    It may be of an earlier generation than the store's, which the manifest names: see `hashfaiss.indexes.changes`.
    """
    entry = store.manifest.get("index")
    if store.path is None or not entry:
        return None
    path = store.path / "faiss" / Path(entry["file"]).name
    try:
        check_regular(path)
        if path.stat().st_size >= MAPPED:
            data: Bytes = np.memmap(path, np.uint8, mode="r")
        else:
            data = np.fromfile(path, np.uint8)
    except (OSError, ValueError):
        return None
    return data if fast_digest(data.data) == entry.get("xxh3") else None


def load_codes(store: CodeStore) -> CodeIndex:
    """The store's codes, searchable: FAISS's index from its file where that is sound, else built anew.

    A reader measures nothing: until a build has chosen for `auto`, it searches flat.

    Raises:
        CorruptIndexError: a segment is damaged.
    """
    codes, ids = store.codes()
    data = read_faiss(store)
    if data is not None:
        with contextlib.suppress(CorruptIndexError):
            if not _current(store) and changes(data, ids)[1] > beside.GONE:
                raise CorruptIndexError("too much is gone since the FAISS index was built")
            loaded = CodeIndex.restore(data, codes, ids, store.bits, usable(store.manifest["index"]["kind"]))
            return _trusting(loaded, store)
    kind = store.manifest["kind"]
    if kind == "auto":
        kind = (store.manifest.get("index") or {}).get("kind", "flat")
    return _trusting(CodeIndex(codes, ids, store.bits, usable(kind)), store)


def _trusting(index: CodeIndex, store: CodeStore) -> CodeIndex:
    """The index, as far to be believed as tuning measured."""
    entry = store.manifest.get("index") or {}
    if "trust" in entry:
        index.trust = Trust.of(entry["trust"])
    elif entry.get("why"):  # chosen by a version that kept the choice alone
        index.trust = Trust.before(store.bits)
    return index


def _current(store: CodeStore) -> bool:
    """Whether the FAISS file is of the generation of the store."""
    return bool(store.manifest["index"]["generation"] == store.manifest["generation"])


def _serves(data: Bytes, ids: Int64) -> bool:
    """Whether what came and went since is so little that the FAISS index stays as it was built."""
    try:
        came, gone = changes(data, ids)
    except CorruptIndexError:
        return False
    return beside.serves(len(ids) - came + gone, came, gone)


def commit_faiss(writer: StoreWriter, kind: str | None) -> None:
    """Commit what is pending and, where codes or kind changed or its file is not sound, a FAISS index over them.

    Raises:
        IndexFolderError: the disk is full, say; what was committed stands.
    """
    store = writer.store
    kind = kind or store.manifest["kind"]
    data = read_faiss(store) if kind == store.manifest["kind"] else None
    if not writer.waiting and data is not None and _current(store):
        return
    if writer.waiting:
        writer.commit()
    writer.gather()
    ids = store.ids()
    before = (store.manifest.get("index") or {}) if kind == store.manifest["kind"] else {}
    measured = before.get("measured", 0)
    chosen = kind != "auto" or len(ids) <= FLAT_UP_TO or len(ids) < MEASURE_AGAIN * measured
    if chosen and data is not None and _serves(data, ids):
        return
    codes, ids = store.codes()
    if store.path is None and chosen:  # the index itself is made when it is asked for
        writer.commit(kind=kind, index=before or None)
        return
    if kind == "auto" and measured and len(ids) < MEASURE_AGAIN * measured:
        made = CodeIndex(codes, ids, store.bits, usable(before["kind"]))
        _write(store, writer, _trusting(made, store), kind, before.get("why", ""), measured)
        return
    made = CodeIndex(codes, ids, store.bits, usable(kind))
    why = made.tuning.why if made.tuning else ""
    if kind == before.get("kind"):  # what was chosen by tuning stays so
        why = before.get("why", "")
        made = _trusting(made, store)
    _write(store, writer, made, kind, why, len(ids) if made.tuning else 0)


def tune_faiss(writer: StoreWriter, recall: float, memory: int | None, notice: Notice) -> Tuning:
    """Measure kinds on the store's codes, and commit an index of the one chosen; see `hashfaiss.indexes.tune`."""
    store = writer.store
    made = CodeIndex.tuned(*store.codes(), store.bits, recall, memory, notice)
    assert made.tuning is not None
    _write(store, writer, made, made.tuning.kind, made.tuning.why, len(made))
    return made.tuning


def _write(store: CodeStore, writer: StoreWriter, made: CodeIndex, kind: str, why: str, measured: int) -> None:
    generation = store.manifest["generation"] + 1
    trust = made.trust.points if made.trust else None
    about = {"kind": str(made.kind), "generation": generation, "why": why, "measured": measured, "trust": trust}
    if store.path is None:
        writer.commit(index=about, kind=kind)
        return
    data = made.dump()
    name = f"faiss/{generation:06d}.index"
    try:
        (store.path / "faiss").mkdir(exist_ok=True)
        write_atomic(store.path / name, data, read_only=True)
    except OSError as error:
        raise IndexFolderError(
            f"cannot write the FAISS index to {str(store.path)!r}: {error.strerror}. The codes are committed; make "
            "room and run the same command again"
        ) from None
    writer.commit(index={**about, "file": name, "xxh3": fast_digest(data)}, kind=kind)
