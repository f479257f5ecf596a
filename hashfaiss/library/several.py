"""Several indexes of one encoder, asked as one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hashfaiss.errors import ArgumentError, EncoderMismatchError
from hashfaiss.indexes import Together
from hashfaiss.library.answering import Wanted
from hashfaiss.library.asking import Asked
from hashfaiss.library.hits import Hit
from hashfaiss.library.queries import HitOf, Queries, Stored
from hashfaiss.library.searching import Searching
from hashfaiss.library.stored_encoder import check_takes_images


class Several(Asked):
    """Several indexes of one encoder, asked as one: an image is encoded once.

    Answers are those that one index of all the images would give, certified where its own would be. Images at the same
    distance come in the order of the indexes, then of their ids. A hit names its index, whose own its id is.
    """

    def __init__(self, indexes: Sequence[Searching]) -> None:
        """What their builds commit, and `refresh` takes up, counts from the next question on.

        Args:
            indexes: of type `ImageIndex`; the first one's encoder is used.

        Raises:
            ArgumentError: there are none, or one is there twice.
            EncoderMismatchError: two are not of the same encoder, or one has none.
        """
        super().__init__()
        if not indexes:
            raise ArgumentError("there is no index to ask: give one, or several")
        self.indexes = list(indexes)
        names = [str(index.path or "(in memory)") for index in indexes]
        for number, index in enumerate(indexes):
            check_takes_images(index.store.manifest, index.path)
            if _made_by(index)["identity"] != _made_by(indexes[0])["identity"]:
                raise EncoderMismatchError(
                    f"the indexes {names[0]!r} ({_encoder(indexes[0])}) and {names[number]!r} ({_encoder(index)}) are "
                    "of different models, whose codes say nothing to each other: ask each alone"
                )
            if any(_same(index, other) for other in indexes[:number]):
                raise ArgumentError(f"the index {names[number]!r} was given twice: give it once")
        self._whole: Together | None = None
        self._of: list[dict[str, Any]] = []  # manifests

    @property
    def bits(self) -> int:
        """K."""
        return self.indexes[0].bits

    def __len__(self) -> int:
        return sum(len(index.store) for index in self.indexes)

    def __repr__(self) -> str:
        return f"Several({self.indexes})"

    def label_names(self) -> set[str]:
        """Every label that an image has."""
        return set[str]().union(*(index.label_names() for index in self.indexes))

    def hit(self, image_id: int, distance: int, score: float | None = None) -> Hit:
        """The image of a number the codes were searched for."""
        index, own = self._all().place(image_id)
        folder = self.indexes[index].path
        name = f"index {index + 1}, in memory" if folder is None else str(folder)
        return replace(self.indexes[index].hit(own, distance, score), index=name)

    def _queries(self) -> Queries:
        return _Queries([index._queries() for index in self.indexes], self.hit)

    def _all(self) -> Together:
        now = [index.store.manifest for index in self.indexes]
        if self._whole is None or any(one is not other for one, other in zip(now, self._of, strict=True)):
            self._ids = [index.store.ids() for index in self.indexes]
            self._whole = Together(self.bits, [index._all() for index in self.indexes], self._ids)
            self._of, self._part = now, None
        return self._whole

    def _only(self, wanted: Wanted) -> Together:
        chosen = wanted.ids([index.store for index in self.indexes])
        pairs = zip(self.indexes, chosen, strict=True)
        return Together(self.bits, [index._all().only(ids) for index, ids in pairs], self._ids)


class _Queries(Queries):
    """Those of the first index, and what is stored in any."""

    def __init__(self, each: Sequence[Queries], hit: HitOf) -> None:
        self._each, self.encoder, self.light, self.hit = each, each[0].encoder, each[0].light, hit

    def known(self, image: Any) -> Any:
        """The stored code of a path whose file is gone, of the first index that has it; else the image itself.

        Raises:
            ArgumentError: an id, which says nothing without its index.
        """
        if isinstance(image, (int, np.integer)) and not isinstance(image, bool):
            raise ArgumentError(f"id {image} may be an image's in each of {len(self._each)} indexes: ask one of them")
        return next((found for one in self._each if isinstance(found := one.known(image), Stored)), image)


def _made_by(index: Searching) -> dict[str, Any]:
    made_by: dict[str, Any] = index.store.manifest["encoder"]
    return made_by


def _encoder(index: Searching) -> str:
    return f"{_made_by(index)['method']}, {index.bits} bits, {_made_by(index)['identity'][:12]}"


def _same(index: Searching, other: Searching) -> bool:
    if index.path is None or other.path is None:
        return index.store is other.store
    return os.path.realpath(index.path) == os.path.realpath(other.path)
