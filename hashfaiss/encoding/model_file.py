"""Model files: a torch archive of tensors and plain values, see docs/architecture.md."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hashfaiss.errors import ModelError
from hashfaiss.files import check_regular
from hashfaiss.networks.archives import check_archive

FORMAT = "hashfaiss-model"
VERSION = 1


def read_file(name: str) -> bytes:
    """Its bytes; ModelError where it cannot be read."""
    try:
        check_regular(name)
        return Path(name).read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model {name!r}: {error.strerror}") from None


def read_model(name: str, data: bytes) -> dict[str, Any]:
    """What the bytes of a model file hold, without running code from it; `name` names it in errors.

    Raises:
        ModelError: it is no model file, or of a version that is not known here.
    """
    try:
        check_archive(file := io.BytesIO(data), len(data))
        values = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # hostile bytes make the unpickler raise anything
        values = None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ModelError(
            f"{name!r} is not a hashfaiss model, but {_seems(data, values)}: give a file that `hashfaiss train` wrote"
        )
    version = values.get("version")
    if not isinstance(version, int) or version != VERSION:
        raise ModelError(
            f"the model {name!r} has format version {version!r}, and this hashfaiss reads {VERSION}: "
            "install the hashfaiss that wrote it, or train again"
        )
    return values


_MAGIC = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89HDF": "an HDF5 file",
    b"IBx": "a FAISS index",
    b"\x80": "a pickle that holds more than tensors (it was not run)",
}


def _seems(data: bytes, values: Any) -> str:
    if isinstance(values, dict) and values and all(isinstance(value, Tensor) for value in values.values()):
        return f"a bare state dict of {len(values)} tensors (for `hashfaiss train --weights`)"
    if values is not None:
        return f"a torch file that holds a {type(values).__name__}"
    if not data:
        return "empty"
    if data.startswith(b"PK"):
        try:
            check_archive(io.BytesIO(data), len(data))
        except ValueError as error:
            return f"an archive that torch.save does not make ({error})"
        except Exception:  # damaged in any way
            return "a truncated or damaged archive"
        return "an archive whose pickle holds more than tensors (it was not run)"
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    return "a file of unknown kind"
