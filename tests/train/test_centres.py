"""Hash centres: how far apart they are, counted pair by pair."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hashfaiss.train.methods.centres import (
    hash_centres,
    least_distance,
    linear_code,
    linear_distance,
    random_centres,
)


def distances(centres: Tensor) -> list[int]:
    rows = centres.tolist()
    return [sum(a != b for a, b in zip(rows[i], rows[j], strict=True)) for i in range(len(rows)) for j in range(i)]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("classes", "bits"), [(2, 1), (3, 8), (8, 8), (9, 8), (16, 8), (100, 64)])
def test_hadamard_centres_are_half_of_the_bits_apart(classes: int, bits: int) -> None:
    centres = hash_centres(classes, bits, generator())
    assert centres.shape == (classes, bits)
    assert torch.equal(centres.abs(), torch.ones(classes, bits))
    assert set(distances(centres)) <= {bits // 2, bits} if bits > 1 else {1}


@pytest.mark.parametrize(("classes", "bits"), [(40, 16), (80, 32), (150, 64)])
def test_random_centres_meet_the_papers_conditions(classes: int, bits: int) -> None:
    centres = random_centres(classes, bits, generator())
    assert centres.shape == (classes, bits)
    assert not centres.sum(dim=1).any()  # each half +1
    apart = distances(centres)
    assert min(apart) > bits / 4
    assert sum(apart) / len(apart) >= bits / 2
    assert least_distance(centres) == min(apart)


@pytest.mark.parametrize(
    ("classes", "bits", "least"),
    [
        *[(100, 16, 6), (100, 32, 12), (100, 64, 32)],
        *[(1000, 16, 4), (1000, 32, 12), (1000, 64, 28)],
    ],
)
def test_many_centres_are_as_far_apart_as_a_linear_code_allows(classes: int, bits: int, least: int) -> None:
    centres = hash_centres(classes, bits, generator())
    assert centres.shape == (classes, bits)
    assert torch.equal(centres.abs(), torch.ones(classes, bits))
    products = centres @ centres.T
    assert int((bits - products.fill_diagonal_(-bits).max()) / 2) == least
    assert linear_distance(classes, bits) == least


@given(classes=st.integers(2, 70), bits=st.integers(1, 40))
@settings(deadline=None, max_examples=40)
def test_words_of_the_code_are_closed_under_addition(classes: int, bits: int) -> None:
    dimensions = min((classes - 1).bit_length(), bits)
    code = linear_code(1 << dimensions, bits)
    words = {tuple(row) for row in code.tolist()}
    assert len(words) == 1 << dimensions
    assert {tuple(row) for row in (code[3 % len(code)] * code).tolist()} == words
    assert torch.equal(linear_code(min(classes, len(code)), bits), code[:classes])
    if len(code) >= classes:
        assert linear_distance(classes, bits) == min(distances(code))


@pytest.mark.parametrize(("classes", "bits"), [(20, 24), (100, 24), (10, 12)])
def test_centres_are_no_nearer_than_random_ones_or_the_code(classes: int, bits: int) -> None:
    found = min(distances(hash_centres(classes, bits, generator())))
    drawn, code = random_centres(classes, bits, generator()), linear_code(classes, bits)
    assert found == max(min(distances(drawn)), min(distances(code)))


@pytest.mark.parametrize(("classes", "bits"), [(20, 8), (9, 2), (5, 1), (1, 3)])
def test_more_classes_than_distant_vectors_still_get_centres(classes: int, bits: int) -> None:
    assert hash_centres(classes, bits, generator()).shape == (classes, bits)


def test_forty_thousand_classes_get_different_centres() -> None:
    centres = hash_centres(40_000, 64, generator())
    assert centres.shape == (40_000, 64)
    assert len((centres > 0).unique(dim=0)) == 40_000
