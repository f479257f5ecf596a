"""Codes: sign, packing, bit order, padding and distance, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfaiss.codes import MAX_BITS, check_bits, check_codes, code_bytes, hamming, pack, pack_tensor, unpack, words
from hashfaiss.errors import ArgumentError

ALL_BITS = range(1, 71)


def plain_pack(outputs: list[list[float]]) -> list[list[int]]:
    """Bit j of a code is bit j % 8 of byte j // 8."""
    codes = []
    for row in outputs:
        code = [0] * ((len(row) + 7) // 8)
        for j, value in enumerate(row):
            if not value < 0:
                code[j // 8] += 2 ** (j % 8)
        codes.append(code)
    return codes


def plain_distance(a: list[int], b: list[int]) -> int:
    return sum((x >> bit & 1) != (y >> bit & 1) for x, y in zip(a, b, strict=True) for bit in range(8))


def random_outputs(n: int, bits: int) -> np.ndarray:
    outputs = np.random.default_rng(bits).standard_normal((n, bits))
    outputs[np.random.default_rng(bits + 1).random((n, bits)) < 0.1] = 0
    outputs[0] *= 0.0  # of both signs
    return outputs


@pytest.mark.parametrize("bits", ALL_BITS)
def test_packing_is_that_of_the_loop(bits: int) -> None:
    outputs = random_outputs(9, bits)
    expected = plain_pack(outputs.tolist())
    codes = pack(outputs)
    assert codes.dtype == np.uint8
    assert codes.shape == (9, code_bytes(bits))
    assert codes.tolist() == expected
    packed = pack_tensor(torch.from_numpy(outputs))
    assert packed.dtype == torch.uint8
    assert packed.tolist() == expected
    assert check_codes(codes, bits) is not None  # its padding is zero


@pytest.mark.parametrize("bits", ALL_BITS)
def test_unpack_gives_the_signs_back(bits: int) -> None:
    outputs = random_outputs(9, bits)
    signs = unpack(pack(outputs), bits)
    assert signs.dtype == np.int8
    assert signs.tolist() == [[1 if value >= 0 else -1 for value in row] for row in outputs.tolist()]
    assert (pack(signs) == pack(outputs)).all()


def test_sign_of_zero_is_plus_one() -> None:
    smallest = np.nextafter(np.float32(0), np.float32(1))
    outputs = [[0.0, -0.0, smallest, -smallest, np.inf, -np.inf, 1, -1]]
    assert pack(outputs).tolist() == [[0b01010111]]
    assert pack_tensor(torch.tensor(outputs)).tolist() == [[0b01010111]]
    assert pack(np.array([[0, -1, 1]])).tolist() == [[0b101]]  # whole numbers too


@pytest.mark.parametrize("bits", [1, 8, 12, 64])
def test_no_outputs_are_no_codes(bits: int) -> None:
    assert pack(np.zeros((0, bits))).shape == (0, code_bytes(bits))
    assert tuple(pack_tensor(torch.zeros(0, bits)).shape) == (0, code_bytes(bits))
    assert unpack(np.zeros((0, code_bytes(bits)), np.uint8), bits).shape == (0, bits)


def test_pack_refuses_what_has_no_sign() -> None:
    with pytest.raises(ArgumentError, match="NaN"):
        pack([[1.0, float("nan")], [0.0, 1.0]])
    for shape in ((3,), (2, 3, 4)):
        with pytest.raises(ArgumentError, match=r"give \(images, bits\)"):
            pack(np.zeros(shape))


@pytest.mark.parametrize("bits", [1, 2, 7, 8, 12, 64, MAX_BITS, np.int64(32)])
def test_check_bits_takes(bits: int) -> None:
    found = check_bits(bits)
    assert type(found) is int
    assert found == bits


@pytest.mark.parametrize("bits", [0, -1, MAX_BITS + 1, 8.0, "8", None, True, np.float32(8)])
def test_check_bits_refuses(bits: object) -> None:
    with pytest.raises(ArgumentError, match="whole number from 1 to 1024"):
        check_bits(bits)


@pytest.mark.parametrize(
    ("codes", "bits", "message"),
    [
        ([[1, 2]], 16, "words are a list: give a numpy array of uint8, 2 bytes for each 16-bit code"),
        (np.zeros((3, 2), np.int8), 16, "words are a int8 array"),
        (np.zeros((3, 2), np.uint8), 17, r"words have shape \(3, 2\): give \(n, 3\), 17 bits a code"),
        (np.zeros((3, 2), np.uint8), 8, r"give \(n, 1\)"),
        (np.zeros(2, np.uint8), 16, r"shape \(2,\)"),
        (np.zeros((1, 3, 2), np.uint8), 16, "shape"),
        (np.array([[0, 0], [0, 16]], np.uint8), 12, "words have bits set beyond bit 12: pad"),
        (np.array([[2]], np.uint8), 1, "beyond bit 1"),
    ],
)
def test_check_codes_refuses(codes: object, bits: int, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        check_codes(codes, bits, "words")


def test_check_codes_gives_contiguous_codes_of_the_same_bytes() -> None:
    wide = np.arange(24, dtype=np.uint8).reshape(4, 6)
    found = check_codes(wide[::2, ::3], 16)
    assert found.flags.c_contiguous
    assert found.tolist() == [[0, 3], [12, 15]]
    assert check_codes(np.array([[255, 15]], np.uint8), 12).tolist() == [[255, 15]]
    assert check_codes(np.empty((0, 2), np.uint8), 12).shape == (0, 2)


@pytest.mark.parametrize("bits", [*ALL_BITS, 128, 1024])
def test_distance_is_that_of_the_loop(bits: int) -> None:
    queries, database = random_outputs(4, bits), random_outputs(11, bits + 100)[:, :bits]
    a, b = pack(queries), pack(database)
    found = hamming(a, b)
    assert found.dtype == np.uint16
    assert found.tolist() == [[plain_distance(x, y) for y in b.tolist()] for x in a.tolist()]
    products = unpack(a, bits).astype(int) @ unpack(b, bits).astype(int).T
    assert (found == (bits - products) // 2).all()  # D_H = (K - <h_i, h_j>) / 2


def test_the_largest_distance_is_told() -> None:
    nothing, everything = np.zeros((1, 128), np.uint8), np.full((1, 128), 255, np.uint8)
    assert hamming(nothing, everything).tolist() == [[1024]]


def test_distances_of_no_codes() -> None:
    none, some = np.empty((0, 3), np.uint8), np.ones((2, 3), np.uint8)
    assert hamming(none, some).shape == (0, 2)
    assert hamming(some, none).shape == (2, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.data())
def test_padding_changes_no_distance(bits: int, data: st.DataObject) -> None:
    signs = st.lists(st.sampled_from([-1, 1]), min_size=bits, max_size=bits)
    a, b = data.draw(signs), data.draw(signs)
    differ = sum(x != y for x, y in zip(a, b, strict=True))
    assert hamming(pack([a]), pack([b])).tolist() == [[differ]]
    assert words(pack([a])).shape == (1, (bits + 63) // 64)
