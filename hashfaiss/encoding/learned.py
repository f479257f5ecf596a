"""Codes by the digest of an image's file: learned beside the network, or remembered so as not to compute them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from hashfaiss.codes import Codes


@dataclass(frozen=True)
class LearnedCodes:
    """Codes of images known by their files' bytes.

    A method may learn them for the images it was trained on, beside its network (ADSH).

    Attributes:
        digests: BLAKE2b, 16 bytes, of each image file's bytes.
        codes: uint8 (len(digests), ceil(K/8)).
    """

    digests: list[bytes]
    codes: Codes

    @cached_property
    def _rows(self) -> dict[bytes, int]:
        return {digest: row for row, digest in enumerate(self.digests)}

    def get(self, digest: bytes) -> Codes | None:
        """The code (ceil(K/8),) of the image with this digest, or None."""
        row = self._rows.get(digest)
        return None if row is None else self.codes[row]

    def replace(self, digests: Sequence[bytes], codes: Codes) -> Codes:
        """`codes` of images with these digests, with the learned ones in place of the network's."""
        known = [(place, self._rows[digest]) for place, digest in enumerate(digests) if digest in self._rows]
        replaced = codes.copy()
        for place, row in known:
            replaced[place] = self.codes[row]
        return replaced
