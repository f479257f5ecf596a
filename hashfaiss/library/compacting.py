"""An index of many small segments, and of rows that were taken out, as few and full ones."""

from __future__ import annotations

from hashfaiss.library.faiss_file import commit_faiss
from hashfaiss.storage.store import SEGMENT_ROWS, CodeStore


def compact(store: CodeStore) -> tuple[int, int]:
    """See `ImageIndex.compact`."""
    with store.writing() as writer:
        before = len(store.manifest["segments"])
        rows = sum(map(len, store.live))
        if before > -(-rows // SEGMENT_ROWS) or rows > len(store):
            writer.gather(whole=True)
        commit_faiss(writer, None)
        return before, len(store.manifest["segments"])
