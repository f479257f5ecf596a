"""What a code is: the only place that knows sign, packing, bit order and padding.

A code of K bits is ceil(K / 8) bytes. Bit j is 1 where output j is >= 0 (so sign(0) = +1, DHIDA Eq. 2) and stands
in byte j // 8 at position j % 8, least significant first: the order in which FAISS reads hash prefixes. Where K is
not a multiple of 8 the last byte is padded with zeros, which changes no Hamming distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hashfaiss.errors import ArgumentError

if TYPE_CHECKING:
    import torch

Codes = npt.NDArray[np.uint8]

BIT_ORDER = "lsb"
MAX_BITS = 1024


def check_bits(bits: Any) -> int:
    """Return `bits` as an int from 1 to MAX_BITS, or raise ArgumentError."""
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 1 <= bits <= MAX_BITS:
        raise ArgumentError(f"bits is {bits!r}: give a whole number from 1 to {MAX_BITS}")
    return int(bits)


def code_bytes(bits: int) -> int:
    """Bytes that hold a code of `bits` bits."""
    return (bits + 7) // 8


def pack(outputs: npt.ArrayLike) -> Codes:
    """Sign and pack real outputs (n, K), or ±1 values, or bits that are bool, into codes (n, ceil(K/8)).

    Raises:
        ArgumentError: another shape or type, NaN, and whole numbers of which none is below 0, which have no sign.

    >>> pack([[-0.5, 0.0, 2.0]]).tolist()
    [[6]]
    """
    values = np.asarray(outputs)
    if values.ndim != 2:
        raise ArgumentError(f"outputs have shape {values.shape}: give (images, bits)")
    if values.dtype == np.bool_:
        return np.packbits(values, axis=1, bitorder="little")
    if not np.issubdtype(values.dtype, np.number) or np.issubdtype(values.dtype, np.complexfloating):
        raise ArgumentError(f"outputs are of type {values.dtype}: give real numbers, ±1, or bool")
    if values.size and np.issubdtype(values.dtype, np.integer) and values.max() > values.min() >= 0:
        raise ArgumentError(
            f"outputs are {values.dtype} from {values.min()} to {values.max()}, all of sign +1: give real numbers or "
            "±1; for bits that are 0 or 1, astype(bool)"
        )
    if np.isnan(values).any():
        raise ArgumentError("outputs hold NaN, which has no sign: the network or its input is broken")
    return np.packbits(values >= 0, axis=1, bitorder="little")


def pack_tensor(outputs: torch.Tensor) -> torch.Tensor:
    """`pack` for a tensor (n, K), on its own device: uint8 (n, ceil(K/8)). Of operators that ONNX has, too."""
    import torch

    bits = outputs.shape[1]
    width = code_bytes(bits)
    ones = torch.nn.functional.pad((outputs >= 0).to(torch.int32), (0, width * 8 - bits))
    weights = 2 ** torch.arange(8, dtype=torch.int32, device=outputs.device)
    return (ones.view(-1, width, 8) * weights).sum(dim=2, dtype=torch.int32).to(torch.uint8)


def unpack(codes: Codes, bits: int) -> npt.NDArray[np.int8]:
    """Codes (n, ceil(K/8)) as ±1 values (n, K).

    >>> unpack(np.array([[6]], dtype=np.uint8), 3).tolist()
    [[-1, 1, 1]]
    """
    ones = np.unpackbits(codes, axis=1, count=bits, bitorder="little")
    return ones.astype(np.int8) * np.int8(2) - np.int8(1)


def reversed_bits(codes: Codes) -> Codes:
    """Codes (n, bytes) with the bits of each byte the other way round: most significant first, and back again.

    >>> reversed_bits(np.array([[6, 1]], dtype=np.uint8)).tolist()
    [[96, 128]]
    """
    each = np.arange(256, dtype=np.uint8)[:, None]
    other = np.packbits(np.unpackbits(each, axis=1, bitorder="little"), axis=1, bitorder="big")[:, 0]
    return np.asarray(other[codes])


def check_codes(codes: Any, bits: int, name: str = "codes") -> Codes:
    """Return `codes` as a contiguous uint8 array (n, ceil(bits/8)) with zero padding, or raise ArgumentError."""
    width = code_bytes(bits)
    if not isinstance(codes, np.ndarray) or codes.dtype != np.uint8:
        kind = f"{codes.dtype} array" if isinstance(codes, np.ndarray) else type(codes).__name__
        unpacked = isinstance(codes, np.ndarray) and (codes.dtype == np.bool_ or codes.dtype.kind in "if")
        how = "; hashfaiss.codes.pack makes it of signs (n, bits) or bools" if unpacked else ""
        raise ArgumentError(
            f"{name} are a {kind}: give a numpy array of uint8, {width} bytes for each {bits}-bit code{how}"
        )
    if codes.ndim != 2 or codes.shape[1] != width:
        raise ArgumentError(f"{name} have shape {codes.shape}: give (n, {width}), {bits} bits a code")
    if bits % 8 and (codes[:, -1] >> (bits % 8)).any():
        raise ArgumentError(f"{name} have bits set beyond bit {bits}: pad the last byte with zeros")
    return np.ascontiguousarray(codes)


def widened(codes: Codes, width: int) -> Codes:
    """Codes (n, bytes) with zeros behind them, (n, width): bits that are the same in all change no distance."""
    if codes.shape[1] == width:
        return codes
    padded = np.zeros((len(codes), width), dtype=np.uint8)
    padded[:, : codes.shape[1]] = codes
    return padded


def words(codes: Codes) -> npt.NDArray[np.uint64]:
    """Codes (n, bytes) as zero-padded 64-bit words (n, ceil(bytes/8)): the same bits, counted and sorted faster."""
    width = codes.shape[1]
    if width % 8 == 0 and codes.flags.c_contiguous:
        return codes.view(np.uint64)
    return widened(codes, (width + 7) // 8 * 8).view(np.uint64)


def hamming(queries: Codes, database: Codes) -> npt.NDArray[np.uint16]:
    """Hamming distances (queries, database) of packed codes of one width; D_H = (K - <h_i, h_j>) / 2."""
    return hamming_of_words(words(queries), words(database))


def hamming_of_words(queries: npt.NDArray[np.uint64], database: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint16]:
    """Hamming distances (queries, database) of what `words` made of codes of one width."""
    distances = np.zeros((len(queries), len(database)), dtype=np.uint16)
    for word in range(queries.shape[1]):
        distances += np.bitwise_count(queries[:, word, None] ^ database[None, :, word])
    return distances


def asymmetric_distances(output: npt.NDArray[np.floating[Any]], codes: Codes, bits: int) -> npt.NDArray[np.float64]:
    """Of one query's real outputs u (K,) from codes (n, bytes): the sum of |u_j| over bits that differ / mean |u_j|.

    Rounded to four places: what batch size and threads do to float32 outputs shows in one of a hundred, by one.
    """
    weights = np.zeros(8 * codes.shape[1])
    weights[:bits] = np.abs(output.astype(np.float64))
    asked = pack(output[None])[0]
    of_byte = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.float64)
    total: npt.NDArray[np.float64] = np.zeros(len(codes))
    for place in range(codes.shape[1]):  # what each of 256 bytes weighs, looked up
        total += (of_byte @ weights[8 * place : 8 * place + 8])[codes[:, place] ^ asked[place]]
    total /= max(weights[:bits].mean(), np.finfo(np.float64).tiny)
    return total.round(4)


@dataclass(frozen=True)
class Comparison:
    """How two codes of K = `bits` bits differ.

    Attributes:
        differ: the numbers of the bits that are not the same, ascending.
    """

    bits: int
    differ: tuple[int, ...]

    @property
    def distance(self) -> int:
        """The Hamming distance."""
        return len(self.differ)


def compare_codes(codes: Codes, bits: int) -> Comparison:
    """How the second of two packed codes, uint8 (2, ceil(bits/8)), differs from the first.

    >>> compare_codes(pack([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]]), 3)
    Comparison(bits=3, differ=(1, 2))
    """
    one, other = check_codes(codes, bits)
    ones = np.unpackbits(one ^ other, count=bits, bitorder="little")
    return Comparison(bits, tuple(np.flatnonzero(ones).tolist()))
