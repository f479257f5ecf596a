"""The encoder that an index folder keeps a copy of, and what was compiled of it.

An index of codes that were imported has none: its manifest says so by an empty identity.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hashfaiss.errors import CorruptIndexError, EncoderMismatchError, ModelError
from hashfaiss.storage.store import CodeStore

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.encoding.light import LightEncoder

ENCODER = "encoder.pt"
ENGINE = "engine"  # a folder of what an engine compiled of it
NO_ENCODER = {"identity": "", "method": "imported"}  # in the manifest, of codes that came alone


def has_encoder(manifest: dict[str, Any]) -> bool:
    """Whether an index is of images: the encoder that made its codes is known."""
    return bool(manifest["encoder"]["identity"])


def check_takes_images(manifest: dict[str, Any], folder: str | os.PathLike[str] | None) -> None:
    """EncoderMismatchError where an index has no encoder."""
    if not has_encoder(manifest):
        raise EncoderMismatchError(
            f"the index {str(folder)!r} holds codes that were imported, without the model that made them, so it takes "
            "no images: ask with codes or with the ids that it has, or build an index of the images"
        )


def stored_encoder(store: CodeStore, device: str = "auto") -> Encoder:
    """The encoder that made the codes in a folder.

    Raises:
        CorruptIndexError: it is damaged, gone, or another.
        EncoderMismatchError: the index has none.
    """
    from hashfaiss.encoding.encoder import Encoder

    check_takes_images(store.manifest, store.path)
    assert store.path is not None  # an index in memory is made with its encoder
    file = store.path / ENCODER
    try:
        encoder = Encoder.load(file, device)
    except ModelError as error:
        raise CorruptIndexError(
            f"the index's encoder cannot be used: {error}; a copy of it, given to `hashfaiss build` as --model, "
            "mends this; without one, delete the index folder and build again"
        ) from None
    if encoder.identity != store.manifest["encoder"]["identity"]:
        raise CorruptIndexError(
            f"{str(file)!r} is not the encoder that made the codes: restore it from a copy, or delete the index "
            "folder and build again"
        )
    encoder.cache.folder = store.path / ENGINE
    return encoder


def light_encoder(store: CodeStore) -> LightEncoder | None:
    """What gives codes of a few images without the encoder, if an engine's work lies beside it."""
    from hashfaiss.encoding.engine_cache import EngineCache
    from hashfaiss.encoding.light import LightEncoder

    if store.path is None or not has_encoder(store.manifest):
        return None
    identity = store.manifest["encoder"]["identity"]
    return LightEncoder.find(EngineCache(lambda: {"identity": identity, "bits": store.bits}, store.path / ENGINE))
