"""The encoder that an index folder keeps a copy of, and what was compiled of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hashfaiss.errors import CorruptIndexError, ModelError
from hashfaiss.storage.store import CodeStore

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.encoding.light import LightEncoder

ENCODER = "encoder.pt"
ENGINE = "engine"  # a folder of what an engine compiled of it


def stored_encoder(store: CodeStore, device: str = "auto") -> Encoder:
    """The encoder that made the codes in a folder.

    Raises:
        CorruptIndexError: it is damaged, gone, or another.
    """
    from hashfaiss.encoding.encoder import Encoder

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

    if store.path is None:
        return None
    identity = store.manifest["encoder"]["identity"]
    return LightEncoder.find(EngineCache(lambda: {"identity": identity, "bits": store.bits}, store.path / ENGINE))
