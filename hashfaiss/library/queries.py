"""What an index is asked with: images, which are encoded, and images of its own, whose codes it has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hashfaiss.codes import Codes
from hashfaiss.errors import ArgumentError
from hashfaiss.library.hits import Hit
from hashfaiss.storage.places import Places
from hashfaiss.storage.store import CodeStore

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.encoding.light import LightEncoder

HitOf = Callable[[int, int, float | None], Hit]  # id, distance, score → hit


class Stored(NamedTuple):
    """An image of the index that is asked with its code, (1, bytes)."""

    path: str | None
    code: Codes


class Queries:
    """Tells what is to be encoded from what the index has a code of.

    Args:
        encoder, light, places: made when they are first asked for, which takes seconds for the encoder.
        hit: makes hits of ids.
    """

    def __init__(
        self,
        store: CodeStore,
        encoder: Callable[[], Encoder],
        light: Callable[[], LightEncoder | None],
        hit: HitOf,
        places: Callable[[], Places],
    ) -> None:
        self._store, self.encoder, self.light, self.hit, self._places = store, encoder, light, hit, places

    def parts(self, images: Iterable[Any]) -> Iterator[tuple[bool, Any]]:
        """Whether images that follow one another are stored, and these: an iterator of `Stored`, or of images."""
        return groupby(map(self.known, images), key=lambda image: isinstance(image, Stored))

    def known(self, image: Any) -> Any:
        """The stored code of an id, or of a path whose file is gone; else the image itself.

        Raises:
            ArgumentError: no image of the index has the id.
        """
        if isinstance(image, (int, np.integer)) and not isinstance(image, bool):
            return self._stored(int(image))
        if isinstance(image, (str, os.PathLike)) and not os.path.lexists(image):
            for name in (os.path.realpath(image), os.path.abspath(image)):  # a link may lead there, or be called so
                at = self._places().at(self._store.stored_path(name))
                if len(at):
                    break
            if len(at):
                return self._stored(int(self._places().ids[at[-1]]))
        return image

    def _stored(self, number: int) -> Stored:
        try:
            code, row = self._store.code(number)[None], self._store.row(number)
        except KeyError:
            raise ArgumentError(
                f"the index has no image of id {number}: ids are those that `query --json` shows"
            ) from None
        return Stored(self._store.full_path(row) or f"id {number}", code)
