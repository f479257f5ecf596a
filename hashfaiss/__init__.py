"""hashfaiss: from a folder of images to a verified FAISS index of learned binary codes.

    from hashfaiss import Encoder, ImageIndex
    encoder = Encoder.load("dhida.pt")
    index = encoder.to_index("photos/", "photos.index")
    hits = index.query("cat.jpg", k=10)

The public names are loaded on first use: importing hashfaiss imports neither torch nor faiss.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.errors import HashfaissError
    from hashfaiss.indexes import CodeIndex
    from hashfaiss.library.hits import Hit, Hits
    from hashfaiss.library.image_index import ImageIndex
    from hashfaiss.storage.store import CodeStore

_HOMES = {
    "CodeIndex": "hashfaiss.indexes",
    "CodeStore": "hashfaiss.storage.store",
    "Encoder": "hashfaiss.encoding.encoder",
    "HashfaissError": "hashfaiss.errors",
    "Hit": "hashfaiss.library.hits",
    "Hits": "hashfaiss.library.hits",
    "ImageIndex": "hashfaiss.library.image_index",
}

__all__ = [
    "CodeIndex",
    "CodeStore",
    "Encoder",
    "HashfaissError",
    "Hit",
    "Hits",
    "ImageIndex",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hashfaiss' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
