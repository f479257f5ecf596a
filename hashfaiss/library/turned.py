"""Images that are near each other once one is turned or mirrored: each is asked with its 8 views."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hashfaiss.codes import Codes, code_bytes
from hashfaiss.indexes import CodeIndex
from hashfaiss.indexes.near import Group, Progress
from hashfaiss.storage.paths import Int64
from hashfaiss.storage.store import CodeStore

if TYPE_CHECKING:
    from torch import Tensor

    from hashfaiss.encoding.encoder import Encoder

VIEWS = 8  # four quarter turns, and those of the mirrored image
PAIRS = 1 << 22  # pairs that are to be found together
MOST = 4096  # codes that ask together
SLACK = 4  # a batch may find so many times the pairs that those before let expect

Unread = Callable[[str, str], None]


def views_of(image: Tensor) -> Tensor:
    """The 8 views of a square image (3, S, S), itself first: (8, 3, S, S)."""
    import torch

    turned = [side.rot90(quarter, (1, 2)) for side in (image, image.flip(2)) for quarter in range(4)]
    return torch.stack(turned)


class _Turned:
    """An encoder of all views, as the stream takes one: codes (n, 8 * ceil(K/8))."""

    learned = remembered = None

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.device, self.devices = encoder.device, [encoder.device]
        self.batch_size = max(1, encoder.batch_size // VIEWS)
        self.preprocessing = self
        self.least_side = encoder.preprocessing.least_side

    def resize(self, image: Tensor) -> Tensor:
        return views_of(self._encoder.preprocessing.resize(image))

    def no_codes(self) -> Codes:
        return np.empty((0, VIEWS * code_bytes(self._encoder.bits)), np.uint8)

    def encode_resized(self, images: Tensor) -> Codes:
        return self._encoder.encode_resized(images.flatten(0, 1)).reshape(len(images), -1)


def near_turned(
    store: CodeStore,
    codes: CodeIndex,
    encoder: Encoder,
    radius: int,
    unread: Unread,
    progress: Progress | None = None,
) -> list[Group]:
    """As `near_groups`, where one of an image's views need be near another's code; distances are the least of these.

    Args:
        unread: told path and reason of an image that cannot be read as it was indexed: it is asked with as it lies.
        progress: called with (images read, images).
    """
    distinct = codes.distinct
    of_code = distinct.of_code()
    views = np.repeat(distinct.codes[of_code][:, None], VIEWS, axis=1)
    for number, found in _encoded(store, distinct.ids, encoder, unread, progress):
        views[number, 1:] = found[1:]  # what is stored is the first, also where it was learned
    group = _joined(codes, views, of_code, radius)[of_code]
    return _groups(distinct.ids, group, views)


def _encoded(
    store: CodeStore, ids: Int64, encoder: Encoder, unread: Unread, progress: Progress | None
) -> Iterator[tuple[int, Codes]]:
    """Numbers of the images that can be read as they were indexed, and the codes of their views (8, ceil(K/8))."""
    from hashfaiss.encoding.items import Item
    from hashfaiss.encoding.pipeline import encode_stream
    from hashfaiss.images.finding import image_file

    rows = (store.row(number) for number in ids.tolist())
    files = {path: (n, row.digest) for n, row in enumerate(rows) if (path := store.full_path(row)) is not None}
    turned: Any = _Turned(encoder)
    done = 0
    for batch in encode_stream(turned, (Item(image_file(path)) for path in files)):
        for item, reason in batch.skipped:
            unread(item.path or "", reason)
        for item, digest, code in zip(batch.items, batch.digests, batch.codes, strict=True):
            number, indexed = files[item.path or ""]
            if digest == indexed:
                yield number, code.reshape(VIEWS, -1)
            else:
                unread(item.path or "", "altered since it was indexed")
        done += len(batch.items) + len(batch.skipped)
        if progress:
            progress(done, len(files))


def _joined(codes: CodeIndex, views: Codes, of_code: Int64, radius: int) -> Int64:
    """For each distinct code the number of its group: int64 (distinct,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(codes.distinct)
    group = np.arange(count)
    flat = np.ascontiguousarray(views.reshape(-1, views.shape[2]))
    _, first, of_view = np.unique(flat.view(f"V{flat.shape[1]}").ravel(), return_index=True, return_inverse=True)
    owners = of_code[np.arange(len(flat)) // VIEWS]
    order = np.argsort(of_view, kind="stable")
    ends = np.searchsorted(of_view[order], np.arange(len(first) + 1))
    start, step, pairs = 0, max(1, PAIRS // max(1, count)), 0
    while start < len(first):
        asked = first[start : start + step]
        found = codes.codes_within(flat[asked], radius, exact=True)
        sizes = np.diff(found.offsets)
        rows = order[ends[start] : ends[start + len(asked)]]  # images whose view is one of these
        view = of_view[rows] - start
        some = sizes[view] > 0
        ones = np.concatenate([np.repeat(owners[asked], sizes), owners[rows[some]], np.arange(count)])
        others = np.concatenate([found.positions, found.positions[found.offsets[:-1][view[some]]], group])
        graph = coo_array((np.ones(len(ones), np.bool_), (ones, others)), shape=(count, count))
        labels: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
        heads = np.unique(labels, return_index=True)[1]
        group = heads[labels]
        start, pairs = start + len(asked), pairs + len(found.positions)
        step = max(1, min(2 * step, MOST, PAIRS * start // (SLACK * max(1, pairs))))
    return group


def _groups(ids: Int64, group: Int64, views: Codes) -> list[Group]:
    """Images by group, those of two and more, in order of their smallest id."""
    order = np.lexsort((ids, group))
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    several = sorted((part for part in parts if len(part) > 1), key=lambda part: ids[part[0]])
    return [(ids[part], _distances(views[part])) for part in several]


def _distances(views: Codes) -> npt.NDArray[np.int32]:
    """Of each image's views (n, 8, bytes), the distance from the first image: one of either's from the other's code."""
    ours = np.bitwise_count(views ^ views[0, 0]).sum(axis=2, dtype=np.int32)
    firsts = np.bitwise_count(views[:, :1] ^ views[0]).sum(axis=2, dtype=np.int32)
    return np.asarray(np.minimum(ours, firsts).min(axis=1), np.int32)
