"""Which images of an index are near each other, told by folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

from hashfaiss.errors import ArgumentError
from hashfaiss.indexes import CodeIndex, near_groups, near_reference
from hashfaiss.indexes.near import Group, Progress, check_radius
from hashfaiss.library.turned import near_turned
from hashfaiss.storage.paths import Int64
from hashfaiss.storage.store import CodeStore

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder

Folder = str | os.PathLike[str]


class Among(TypedDict, total=False):
    """Which near images count.

    Keys:
        link: "chain" (where it is left out) groups images near each other directly or through others; "complete" only
            those of which every two are near, see `hashfaiss.indexes.near_groups`.
        between: two folders: only who is near an image of the other one, in groups that have images of both.
        reference: a folder: each image of the index beside it that is near one of its images, in a group that begins
            with the nearest of these.
        rotations: also images that are near once one is turned by quarters, or mirrored: all of them are read again.
        unread: called with the path and the reason of each that cannot be read for that; it counts as it lies.
    """

    link: str
    between: tuple[Folder, Folder] | None
    reference: Folder | None
    rotations: bool
    unread: Callable[[str, str], None]


def near_images(
    store: CodeStore,
    codes: CodeIndex,
    radius: int,
    among: Among,
    encoder: Callable[[], Encoder],
    progress: Progress | None = None,
) -> list[Group]:
    """Groups of ids and distances from the first.

    Args:
        encoder: loads the one that made the codes, where it is needed.

    Raises:
        ArgumentError: a radius outside 0 to K, folders of which the index has no image or that overlap, ways to group
            that do not go together.
    """
    if unknown := among.keys() - Among.__annotations__:
        raise ArgumentError(f"{min(unknown)!r} is no way to group: give {', '.join(Among.__annotations__)}")
    check_radius(radius, codes.bits)
    link, between, reference = among.get("link", "chain"), among.get("between"), among.get("reference")
    if among.get("rotations"):
        if between is not None or reference is not None or link != "chain":
            raise ArgumentError("rotations go with all images of the index, linked by chains: leave the others out")
        unread = among.get("unread", lambda path, reason: None)
        return near_turned(store, codes, encoder(), radius, unread, progress)
    if reference is not None:
        if between is not None or link != "chain":
            raise ArgumentError(
                "a group about an image of the reference folder is neither linked nor between two folders"
            )
        return near_reference(codes, radius, _below(store, reference), progress)
    if between is None:
        return near_groups(codes, radius, progress, link)
    if isinstance(between, (str, os.PathLike)) or len(between) != 2:
        raise ArgumentError(f"between is {between!r}: give two folders")
    one, other = (_below(store, folder) for folder in between)
    if len(both := set(one.tolist()) & set(other.tolist())):
        path = store.full_path(store.row(min(both)))
        raise ArgumentError(f"{path!r} lies below both folders: give two that have no image in common")
    return near_groups(codes, radius, progress, link, (one, other))


def _below(store: CodeStore, folder: Folder) -> Int64:
    ids = store.below(os.path.realpath(folder))
    if not len(ids):  # or a link below the index's folder, called so in it
        ids = store.below(os.path.abspath(folder))
    if not len(ids):
        raise ArgumentError(
            f"the index has no image below {os.fspath(folder)!r}: give a folder that was built from, or add it first"
        )
    return ids
