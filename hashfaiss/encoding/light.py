"""Codes of a few images without importing torch: from what OpenVINO compiled when the index was built.

To import torch and load a network takes seconds, what this does tenths. Codes are the same: pixels are those that torch
would see, and an image with an output near zero, or of a kind that only torchcodec decodes, is left to the encoder.
"""

from __future__ import annotations

import os

import numpy as np

from hashfaiss.codes import Codes, pack
from hashfaiss.encoding.compiled import Compiled
from hashfaiss.encoding.engine_cache import EngineCache, Learned
from hashfaiss.errors import HashfaissError
from hashfaiss.images.decoding import decode_alone, read_bytes
from hashfaiss.images.preprocessing import Preprocessing

THREADS = 8  # that answer at once, each an image of its own


class LightEncoder:
    """The signs of one network's outputs, where they are clear."""

    def __init__(self, compiled: Compiled, preprocessing: Preprocessing, learned: Learned) -> None:
        self._compiled, self._preprocessing, self._learned = compiled, preprocessing, learned

    @classmethod
    def find(cls, cache: EngineCache) -> LightEncoder | None:
        """One for the encoder of this cache; None where nothing that fits lies there, or OpenVINO is missing."""
        try:
            found = cache.read_all()
            if found is None:
                return None
            about, learned, data = found
            return cls(
                Compiled.read(data, threads=min(THREADS, os.cpu_count() or 1)),
                Preprocessing.from_dict(about["preprocessing"]),
                learned,
            )
        except Exception:  # whatever OpenVINO says: the encoder is there
            return None

    def code(self, path: str) -> Codes | None:
        """The code, uint8 (1, ceil(K/8)), of an image file; None where the encoder must tell."""
        try:
            pixels = decode_alone(read_bytes(path), path, self._preprocessing.least_side)
            resized = self._preprocessing.resize_alone(pixels)
        except (HashfaissError, MemoryError):  # whose reasons are the encoder's to give
            return None
        outputs = self._compiled(resized[None])
        size = np.sqrt(np.square(outputs).mean())
        clear = outputs.shape[1] > 1 and (np.abs(outputs) > self._learned.close * size).all()
        return pack(outputs) if clear else None
