"""Codes and ids out of an index that FAISS made for somebody else."""

from __future__ import annotations

import os
from typing import Any

import faiss
import numpy as np

from hashfaiss.codes import Codes, check_bits
from hashfaiss.errors import ArgumentError, HashfaissError
from hashfaiss.indexes.kind import Int64

KNOWN = "IndexBinaryFlat, IVF, Hash, MultiHash, HNSW, or an IDMap over one"


def codes_of(given: Any) -> tuple[Codes, Int64, str]:
    """Codes (n, d / 8) and ids (n,) of a FAISS binary index or its file, and the kind that is most like it.

    Raises:
        ArgumentError: an index of which codes cannot be had.
        HashfaissError: a file that FAISS does not read.
    """
    owner = _read(given) if isinstance(given, (str, os.PathLike)) else _checked(given)
    index = faiss.downcast_IndexBinary(owner)  # does not keep what it looks at
    check_bits(owner.d)
    if not isinstance(index, (faiss.IndexBinaryIDMap, faiss.IndexBinaryIDMap2)):
        return _contents(index)
    codes, positions, kind = _contents(faiss.downcast_IndexBinary(index.index))
    ids = faiss.vector_to_array(index.id_map)
    if len(ids) != len(codes) or (len(positions) and not 0 <= positions.min() <= positions.max() < len(ids)):
        raise ArgumentError("the FAISS index has lost ids (IndexBinaryIDMap over IVF does when some are removed)")
    return codes, ids[positions], kind


def _read(path: str | os.PathLike[str]) -> Any:
    name = os.fspath(path)
    try:
        with open(path, "rb"):
            pass
        return faiss.read_index_binary(name)
    except OSError as error:
        raise HashfaissError(f"cannot read {name!r}: {error.strerror or error}") from None
    except (RuntimeError, MemoryError) as error:
        why = " ".join(str(error).rpartition(": ")[2].split())[:120]
        raise HashfaissError(
            f"{name!r} is no binary index that FAISS {faiss.__version__} reads ({why}): give a file of "
            "faiss.write_index_binary, written by this version or an earlier one"
        ) from None


def _checked(given: Any) -> Any:
    if not isinstance(given, faiss.IndexBinary):
        what = "an index of floats" if isinstance(given, faiss.Index) else f"a {type(given).__name__}"
        raise ArgumentError(f"{what} was given: give a FAISS binary index ({KNOWN}), or the path of one")
    return given


def _contents(index: Any) -> tuple[Codes, Int64, str]:
    """Codes, ids and kind, by the class FAISS itself says it is of."""
    positions, name = np.arange(index.ntotal), type(index).__name__.removeprefix("IndexBinary")
    if name == "Flat":
        return _held(index), positions, "flat"
    if name.startswith("HNSW"):
        kind = f"hnsw:m={index.hnsw.nb_neighbors(1)},ef={index.hnsw.efSearch}"
        return _held(faiss.downcast_IndexBinary(index.storage)), positions, kind
    if name == "MultiHash":
        return _held(index.storage), positions, f"multihash:tables={index.nhash},b={index.b},flips={index.nflip}"
    if name == "IVF":
        return *_listed(index), f"ivf:lists={index.nlist},probes={index.nprobe}"
    if name == "Hash":
        return *_bucketed(index), f"hash:b={index.b},flips={index.nflip}"
    raise ArgumentError(f"codes cannot be had of an IndexBinary{name}: give an {KNOWN}")


def _held(flat: Any) -> Codes:
    width = flat.code_size
    codes: Codes = faiss.vector_to_array(flat.xb).reshape(-1, width)
    return codes[: flat.ntotal]


def _listed(index: Any) -> tuple[Codes, Int64]:
    codes, ids = [np.empty((0, index.code_size), np.uint8)], [np.empty(0, np.int64)]
    lists = index.invlists
    for number in range(index.nlist):
        if size := lists.list_size(number):
            held = faiss.rev_swig_ptr(lists.get_codes(number), size * index.code_size)
            codes.append(held.reshape(size, index.code_size).copy())
            ids.append(faiss.rev_swig_ptr(lists.get_ids(number), size).copy())
    return np.concatenate(codes), np.concatenate(ids)


def _bucketed(index: Any) -> tuple[Codes, Int64]:
    """FAISS shows the buckets of a hash index to nobody: they are read from what it writes.

    Behind d, bytes of a code, ntotal, b, flips and the number of buckets come the buckets' names and sizes, bit by bit,
    then each bucket's ids and codes (faiss/impl/index_write.cpp, write_binary_hash_invlists).
    """
    data = faiss.serialize_index_binary(index).tobytes()
    at = 4 + 4 + 4 + 8 + 1 + 4 + 4 + 4  # up to the number of buckets

    def number(size: int = 8) -> int:
        nonlocal at
        at += size
        return int.from_bytes(data[at - size : at], "little")

    buckets = number()
    number(4)  # bits of a size
    named = number()
    at += named
    codes, ids = [np.empty(0, np.uint8)], [np.empty(0, np.int64)]
    for _ in range(buckets):
        for kind, parts in ((np.int64, ids), (np.uint8, codes)):
            count = number()
            parts.append(np.frombuffer(data, kind, count, at))
            at += parts[-1].nbytes
    return np.concatenate(codes).reshape(-1, index.code_size), np.concatenate(ids)
