"""Code health against numpy.corrcoef and counts by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hashfaiss.codes import pack, unpack
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation import code_health, health


def test_correlation_is_numpys(monkeypatch):
    random = np.random.default_rng(0)
    outputs = random.standard_normal((500, 12)) @ random.standard_normal((12, 12)) + 0.5
    outputs[:, 3] = 1.0
    codes = pack(outputs)
    monkeypatch.setattr(health, "BLOCK", 64)
    found = code_health(codes, 12)
    varying = np.delete(np.arange(12), 3)
    expected = np.corrcoef(unpack(codes, 12)[:, varying].T)
    np.testing.assert_allclose(found.correlation[np.ix_(varying, varying)], expected, rtol=0, atol=1e-12)
    assert not found.correlation[3].any()
    assert not found.correlation[:, 3].any()
    off_diagonal = np.abs(expected[~np.eye(11, dtype=bool)])
    assert found.mean_correlation == pytest.approx(off_diagonal.sum() / (12 * 11))
    assert found.greatest_correlation == pytest.approx(off_diagonal.max())
    assert found.constant_bits == 1
    np.testing.assert_allclose(found.ones, (outputs >= 0).mean(axis=0))


def test_counts_by_hand():
    """Codes 00 once, 10 three times, 01 four times, 11 eight times; then 3 bits with a constant one."""
    repeats = [1, 3, 4, 8]
    codes = np.repeat(np.array([[0], [1], [2], [3]], dtype=np.uint8), repeats, axis=0)
    found = code_health(codes, 3)
    assert (found.images, found.bits, found.distinct, found.largest_bucket) == (16, 3, 4, 8)
    assert found.buckets == (1, 1, 1, 1)
    assert found.bucket_names == ("1", "2-3", "4-7", "8-15")
    assert found.ones.tolist() == [11 / 16, 12 / 16, 0.0]
    shares = np.array([11 / 16, 12 / 16])
    entropy = -(shares * np.log2(shares) + (1 - shares) * np.log2(1 - shares))
    assert found.mean_entropy == pytest.approx(entropy.sum() / 3)
    assert found.constant_bits == 1


def test_balanced_independent_bits_are_perfect():
    codes = np.arange(16, dtype=np.uint8)[:, None]
    found = code_health(codes, 4)
    assert found.mean_entropy == 1.0
    assert found.greatest_correlation == 0.0
    assert found.buckets == (16,)


def plain_tie_rate(codes):
    ties = 0
    for i, code in enumerate(codes):
        others = np.delete(codes, i, axis=0)
        nearest = sorted(int(np.bitwise_count(code ^ other).sum()) for other in others)
        ties += nearest[9] == nearest[10]
    return ties / len(codes)


@pytest.mark.parametrize(("bits", "n"), [(3, 12), (64, 12), (64, 60), (130, 40)])
def test_tie_rate_against_a_loop(bits, n):
    codes = pack(np.random.default_rng(bits + n).standard_normal((n, bits)))
    assert code_health(codes, bits).tie_rate == plain_tie_rate(codes)


def test_tie_rate_tells_ties_from_none():
    assert code_health(np.zeros((12, 8), dtype=np.uint8), 64).tie_rate == 1.0
    ladder = pack(np.where(np.arange(24)[None, :] < np.arange(24)[:, None], 1.0, -1.0))
    assert code_health(ladder, 24).tie_rate == plain_tie_rate(ladder) == 0.0


def test_sample_is_chosen_by_the_seed():
    codes = pack(np.random.default_rng(1).standard_normal((1500, 32)))
    rates = [code_health(codes, 32, seed).tie_rate for seed in (0, 0, 1)]
    assert rates[0] == rates[1] != rates[2]


@pytest.mark.parametrize("n", [0, 1])
def test_none_and_one(n):
    found = code_health(np.full((n, 1), 5, dtype=np.uint8), 8)
    assert (found.images, found.distinct, found.largest_bucket, found.constant_bits) == (n, n, n, 8)
    assert found.buckets == (1,) * n
    assert (found.mean_entropy, found.mean_correlation, found.greatest_correlation, found.tie_rate) == (0, 0, 0, None)
    json.dumps(found.to_dict())


def test_one_bit_has_no_pairs():
    found = code_health(pack(np.array([[1.0], [-1.0]])), 1)
    assert (found.mean_entropy, found.mean_correlation, found.greatest_correlation) == (1.0, 0.0, 0.0)


def test_wrong_width_is_refused():
    with pytest.raises(ArgumentError, match=r"shape \(4, 2\): give \(n, 8\)"):
        code_health(np.zeros((4, 2), dtype=np.uint8), 64)
