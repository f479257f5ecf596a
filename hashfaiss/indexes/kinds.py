"""The kinds there are, and how one is asked for."""

from __future__ import annotations

import faiss

from hashfaiss.errors import ArgumentError
from hashfaiss.indexes.flat import Flat
from hashfaiss.indexes.gpu import GpuFlat
from hashfaiss.indexes.hash import Hash
from hashfaiss.indexes.hnsw import HNSW
from hashfaiss.indexes.ivf import IVF
from hashfaiss.indexes.kind import Kind
from hashfaiss.indexes.multihash import MultiHash

KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Flat, Hash, MultiHash, IVF, HNSW, GpuFlat)}


def parse_kind(text: str, bits: int, distinct: int) -> Kind:
    """Read `flat`, `hash` or `hash:b=16,flips=2` for `distinct` codes of `bits` bits.

    `auto` is read as flat: `hashfaiss.indexes.tuning` chooses by measuring, where there are codes to measure.

    Raises:
        ArgumentError: an unknown kind or parameter, or a value outside its range.
    """
    name, colon, settings = text.partition(":") if isinstance(text, str) else ("", "", "")
    if name == "auto" and not colon:
        name = "flat"
    if name not in KINDS:
        raise ArgumentError(
            f"there is no index kind {text!r}: give auto, {', '.join(KINDS)}, or such as hash:b=16,flips=2"
        )
    known = KINDS[name].abilities.parameters
    values: dict[str, int] = {}
    for setting in settings.split(",") if colon else []:
        key, _, value = setting.partition("=")
        if key not in known:
            give = f"give {', '.join(known)}, each with a whole number" if known else "it has none"
            raise ArgumentError(f"{setting!r} is no parameter of the {name} kind: {give}")
        if not value.isdecimal() or len(value) > 9:
            raise ArgumentError(f"{setting!r} was given to the {name} kind: give {key} a whole number below 10**9")
        if key in values:
            raise ArgumentError(f"{key} was given twice to the {name} kind: give it once")
        values[key] = int(value)
    return KINDS[name](bits, distinct, values)


def usable(kind: str) -> str:
    """A kind as it can be made on this machine: without a GPU, flat answers as `gpu` does."""
    return "flat" if kind.partition(":")[0] == "gpu" and not faiss.get_num_gpus() else kind
