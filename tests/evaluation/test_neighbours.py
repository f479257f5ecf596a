"""Kept neighbours against plain loops, and against every order of the ties."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hashfaiss.codes import Codes, pack, unpack
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation import NeighbourReport, kept_neighbours, neighbours, plot_neighbours
from hashfaiss.evaluation.metrics import Floats

BITS = (1, 3, 8, 12, 64, 70)
DIMS = (1, 2, 5, 130)


def make(seed: int, m: int, dim: int, bits: int, few: bool = True) -> tuple[Floats, Codes]:
    """Features of any length and codes; both repeat where `few`, and some features are zeros."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((6 if few else m, dim))
    codes = pack(random.standard_normal((6 if few else m, bits)))
    if not few:
        return vectors, codes
    vectors[0] = 0
    lengths = 2.0 ** random.integers(-3, 4, (m, 1))  # of powers of two, so that equal directions stay equal
    return vectors[random.integers(0, 6, m)] * lengths, codes[random.integers(0, 6, m)]


def plain_cosine(a: Floats, b: Floats) -> float:
    lengths = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def plain_distances(codes: Codes, query: int) -> list[int]:
    return [int(np.bitwise_count(codes[query] ^ code).sum()) for code in codes]


def nearest_by_features(features: Floats, query: int, k: int) -> list[int]:
    others = [other for other in range(len(features)) if other != query]
    return sorted(others, key=lambda other: (-plain_cosine(features[query], features[other]), other))[:k]


def plain_share(features: Floats, codes: Codes, k: int, n: int) -> Fraction:
    """Share of k nearest by features among n nearest by code: each with the probability that ties let it in."""
    total = Fraction(0)
    for query in range(len(codes)):
        distances = plain_distances(codes, query)
        others = [distance for other, distance in enumerate(distances) if other != query]
        for neighbour in nearest_by_features(features, query, k):
            nearer = sum(other < distances[neighbour] for other in others)
            places_left = n - nearer
            total += min(max(Fraction(places_left, others.count(distances[neighbour])), Fraction(0)), Fraction(1))
    return total / (k * len(codes))


def share_over_all_orders(features: Floats, codes: Codes, k: int, n: int) -> Fraction:
    """The same as a mean over every order the ties can fall in."""
    total = Fraction(0)
    for query in range(len(codes)):
        wanted, distances = set(nearest_by_features(features, query, k)), plain_distances(codes, query)
        orders = list(itertools.permutations(other for other in range(len(codes)) if other != query))
        found = sum(len(wanted & set(sorted(order, key=lambda item: distances[item])[:n])) for order in orders)
        total += Fraction(found, k * len(orders))
    return total / len(codes)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    m=st.integers(2, 16),
    dim=st.sampled_from(DIMS),
    bits=st.sampled_from(BITS),
    k=st.integers(1, 12),
    few=st.booleans(),
)
def test_curve_against_loops(seed: int, m: int, dim: int, bits: int, k: int, few: bool) -> None:
    features, codes = make(seed, m, dim, bits, few)
    found = kept_neighbours(features, codes, bits, k)
    assert (found.images, found.k) == (m, min(k, m - 1))
    assert found.ranks.tolist() == list(range(found.k, m))
    expected = [float(plain_share(features, codes, found.k, n)) for n in found.ranks.tolist()]
    np.testing.assert_allclose(found.curve, expected, rtol=0, atol=1e-12)
    assert found.recall == found.curve[0]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), m=st.integers(2, 6), bits=st.sampled_from([1, 2, 8]), k=st.integers(1, 5))
def test_expectation_is_the_mean_over_all_orders_of_ties(seed: int, m: int, bits: int, k: int) -> None:
    features, codes = make(seed, m, 3, bits)
    found = kept_neighbours(features, codes, bits, k)
    for n, share in zip(found.ranks.tolist(), found.curve.tolist(), strict=True):
        assert share == pytest.approx(float(share_over_all_orders(features, codes, found.k, n)), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), m=st.integers(2, 40), k=st.integers(1, 12))
def test_order_and_length_of_the_images_change_nothing(seed: int, m: int, k: int) -> None:
    features, codes = make(seed, m, 8, 12, few=False)
    random = np.random.default_rng(seed)
    order, lengths = random.permutation(m), 2.0 ** random.integers(-900, 900, (m, 1))
    found = kept_neighbours(features, codes, 12, k)
    other = kept_neighbours((features * lengths)[order], codes[order], 12, k)
    np.testing.assert_allclose(other.curve, found.curve, rtol=0, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), m=st.integers(2, 300), k=st.integers(1, 250))
def test_equal_codes_are_chance(seed: int, m: int, k: int) -> None:
    features, _ = make(seed, m, 4, 8, few=False)
    found = kept_neighbours(features, np.full((m, 1), 77, np.uint8), 8, k)
    np.testing.assert_allclose(found.curve, found.chance, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.chance, [n / (m - 1) for n in found.ranks.tolist()], rtol=0, atol=1e-15)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 12))
def test_codes_in_the_features_order_keep_all(seed: int, k: int) -> None:
    """Points on an arc, 1, 2, 4, ... steps along it, and as many ones: no two are equally far from a third."""
    steps = np.random.default_rng(seed).permutation(2 ** np.arange(10))
    angles = steps * (np.pi / 2 / 512)
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    codes = pack(np.where(np.arange(512) < steps[:, None], 1.0, -1.0))
    found = kept_neighbours(features.astype(np.float32), codes, 512, k)
    assert found.curve.tolist() == [1.0] * len(found.curve)


def test_clusters_of_k_and_one_keep_all() -> None:
    codes = np.repeat(pack(np.random.default_rng(0).standard_normal((7, 16))), 6, axis=0)
    features = unpack(codes, 16).astype(np.float32)
    assert kept_neighbours(features, codes, 16, k=5).recall == 1.0
    assert kept_neighbours(features, codes, 16, k=4).recall == pytest.approx(4 / 5)  # four of five that tie


@pytest.mark.parametrize("cells", [1, 7, 150, 1000])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    features, codes = make(3, 60, 130, 12)
    expected = kept_neighbours(features, codes, 12)
    assert len(expected.curve) == 50
    monkeypatch.setattr(neighbours, "CELLS", cells)
    assert kept_neighbours(features, codes, 12).to_dict() == expected.to_dict()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_sums_are_exact_in_any_order(dtype: Any) -> None:
    """What makes equal vectors equally near, whoever adds up: whole numbers that float64 holds."""
    features = np.random.default_rng(0).standard_normal((9, 700)).astype(dtype)
    features[3] = features[0] = 1  # its products with itself are the greatest there are
    vectors = neighbours._whole_units(features)
    whole = [[int(value) for value in vector] for vector in vectors]
    for row, found in zip(whole, (vectors @ vectors.T).tolist(), strict=True):
        for other, value in zip(whole, found, strict=True):
            products = [x * y for x, y in zip(row, other, strict=True)]
            assert value == sum(products)
            assert sum(map(abs, products)) < 2**53
    cosines = vectors @ vectors.T / neighbours.STEPS**2
    expected = [[plain_cosine(a, b) for b in features.astype(np.float64)] for a in features.astype(np.float64)]
    np.testing.assert_allclose(cosines, expected, rtol=0, atol=700**0.5 * 2**-26)
    np.testing.assert_allclose(cosines[4:, 4:], np.array(expected)[4:, 4:], rtol=0, atol=3e-8)


def test_a_vector_of_zeros_has_cosine_0_with_all() -> None:
    """Nearer to it than what points away, farther than what points along; among equals the first positions."""
    features = np.array([[1.0, 0.1], [0.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    codes = pack(np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]))  # the second is one bit from the first and third
    vectors = neighbours._whole_units(features)
    assert neighbours._neighbour_distances(vectors, codes, 2).tolist() == [[1, 1], [1, 1], [2, 1], [1, 2]]
    assert [nearest_by_features(features, query, 2) for query in range(4)] == [[3, 1], [0, 2], [1, 0], [0, 1]]
    nothing = kept_neighbours(np.zeros((5, 3)), np.zeros((5, 1), np.uint8), 8, k=2)
    assert nothing.curve == pytest.approx([2 / 4, 3 / 4, 1.0])
    assert kept_neighbours(np.zeros((5, 0)), np.zeros((5, 1), np.uint8), 8, k=2).to_dict() == nothing.to_dict()


def test_the_curve_ends_at_200_or_with_the_images() -> None:
    features, codes = make(1, 300, 4, 16, few=False)
    curves = {k: kept_neighbours(features, codes, 16, k).ranks for k in (10, 250, 1000)}
    assert {k: (ranks[0], ranks[-1]) for k, ranks in curves.items()} == {
        10: (10, 200),
        250: (250, 250),
        1000: (299, 299),
    }
    pair = kept_neighbours(features[:2], codes[:2], 16)
    assert (pair.k, pair.curve.tolist(), pair.chance.tolist()) == (1, [1.0], [1.0])
    json.dumps(pair.to_dict())


def test_untouched_and_any_layout() -> None:
    features, codes = make(2, 30, 6, 12, few=False)
    before = features.copy()
    expected = kept_neighbours(features, codes, 12)
    np.testing.assert_array_equal(features, before)
    assert kept_neighbours(np.asfortranarray(features), np.asfortranarray(codes), 12).to_dict() == expected.to_dict()


GOOD = np.zeros((3, 4), np.float32), np.zeros((3, 1), np.uint8)


@pytest.mark.parametrize(
    ("features", "codes", "bits", "k", "sentence"),
    [
        (GOOD[0][:1], GOOD[1][:1], 8, 10, "codes of 1 images: give 2 or more"),
        (GOOD[0][:0], GOOD[1][:0], 8, 10, "codes of 0 images: give 2 or more"),
        (*GOOD, 8, 0, "k is 0: give 1 or more"),
        (GOOD[0][:2], GOOD[1], 8, 10, r"shape \(2, 4\): give a vector for each of 3 codes"),
        (GOOD[0][0], GOOD[1], 8, 10, r"shape \(4,\): give a vector"),
        (GOOD[0].astype(np.int64), GOOD[1], 8, 10, "a int64 array: give a numpy array of floats"),
        ([[0.0]] * 3, GOOD[1], 8, 10, "a list: give a numpy array of floats"),
        (GOOD[0] + np.nan, GOOD[1], 8, 10, "NaN or infinity"),
        (GOOD[0] - np.inf, GOOD[1], 8, 10, "NaN or infinity"),
        (*GOOD, 12, 10, r"codes have shape \(3, 1\): give \(n, 2\)"),
        (*GOOD, 0, 10, "bits is 0"),
    ],
)
def test_wrong_arguments_are_told(features: Any, codes: Codes, bits: int, k: int, sentence: str) -> None:
    with pytest.raises(ArgumentError, match=sentence):
        kept_neighbours(features, codes, bits, k)


@pytest.mark.parametrize("images", [2, 12, 1000])
def test_plot(tmp_path: Path, images: int) -> None:
    length = max(1, min(images - 1, 200) - 9)
    k = min(10, images - 1)
    report = NeighbourReport(images, k, 1 - 0.6 * np.exp(-np.arange(length) / 60))
    plot_neighbours(tmp_path / "neighbours.png", report)
    with Image.open(tmp_path / "neighbours.png") as image:
        assert image.format == "PNG"
        assert 700 <= image.width <= 900
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 10
