"""Small images as files, and what they are refused for."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hashfaiss.errors import ImageError

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX file names and links")
NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)


def encoded(image: Image.Image | Pixels, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(ImageError) as caught:
        call()
    assert caught.value.reason in str(caught.value)
    assert "\n" not in caught.value.reason
    assert 0 < len(caught.value.reason) <= 210
    assert caught.value.__cause__ is None
    return caught.value.reason
