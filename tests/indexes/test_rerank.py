"""Re-ranking by real outputs, against a loop over bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfaiss.codes import asymmetric_distances, hamming, pack
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation import Database, average_precision_ranked
from hashfaiss.evaluation.asymmetric import evaluate_asymmetric
from hashfaiss.indexes import CodeIndex, rerank

KINDS = ["flat", "hash:b=6,flips=1", "multihash:tables=2,b=3", "ivf:lists=5,probes=2", "hnsw:m=4,ef=8"]


def plain(output, code, bits):
    """Sum of |u_j| over bits that differ, over the mean |u_j|."""
    total = 0.0
    for j in range(bits):
        if (output[j] >= 0) != bool(code[j // 8] >> (j % 8) & 1):
            total += abs(float(output[j]))
    return round(total / (sum(abs(float(u)) for u in output) / bits), 4)


def make(seed, bits, n, queries):
    """Codes of which many repeat, ids with gaps, and outputs that are not near a rounding edge."""
    random = np.random.default_rng(seed)
    codes = pack(random.standard_normal((max(1, n // 3), bits)))[random.integers(0, max(1, n // 3), n)]
    outputs = random.integers(-8, 8, (queries, bits)) + 0.5
    return codes, random.permutation(5 * n)[:n], outputs


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    bits=st.sampled_from((7, 12, 20, 64)),
    n=st.sampled_from((0, 1, 3, 40)),
    kind=st.sampled_from(KINDS),
    k=st.sampled_from((1, 4, 100)),
    radius=st.integers(0, 70),
)
def test_candidates_are_in_the_order_of_asymmetric_distance(seed, bits, n, kind, k, radius):
    codes, ids, outputs = make(seed, bits, n, 3)
    index = CodeIndex(codes, ids, bits, kind)
    queries = pack(outputs)
    near = hamming(queries, codes).astype(int)
    for exact in (False, True):
        for asked in ({"k": k}, {"radius": radius}):
            assert len(rerank(index, queries, outputs, exact=exact, **asked)) == 3
    for asked, found in (
        ({"k": k}, rerank(index, queries, outputs, k=k, exact=True)),
        ({"radius": radius}, rerank(index, queries, outputs, radius=radius, exact=True)),
    ):
        assert found.exact.all()
        for row, (got, distances) in enumerate(found):
            reach = radius if "radius" in asked else np.sort(near[row])[:k][-1] if n else 0
            expected = sorted(
                (plain(outputs[row], codes[place], bits), int(near[row, place]), int(ids[place]))
                for place in range(n)
                if near[row, place] <= reach
            )[: asked.get("k")]
            part = slice(*found.offsets[row : row + 2])
            assert list(zip(found.scores[part].tolist(), distances.tolist(), got.tolist(), strict=True)) == expected


def test_equal_outputs_are_hamming_distance():
    codes = pack(np.random.default_rng(0).standard_normal((50, 20)))
    output = np.where(np.arange(20) % 3, 2.5, -2.5)
    assert asymmetric_distances(output, codes, 20).tolist() == hamming(pack(output[None]), codes)[0].tolist()
    assert asymmetric_distances(np.zeros(20), codes, 20).tolist() == [0.0] * 50


def test_uncertain_candidates_are_not_certified():
    codes, ids, outputs = make(1, 64, 3000, 20)
    index = CodeIndex(codes, ids, 64, "hash:b=12,flips=0")
    assert not rerank(index, pack(outputs), outputs, k=5).exact.any()
    assert rerank(index, pack(outputs), outputs, k=5, exact=True).exact.all()
    assert not rerank(index, pack(outputs), outputs, radius=20).exact.any()


def test_wrong_outputs_are_told():
    codes, ids, outputs = make(2, 20, 30, 3)
    index, queries = CodeIndex(codes, ids, 20, "flat"), pack(outputs)
    for wrong in (outputs[:, :8], outputs[:2], outputs * np.nan, outputs * np.inf):
        with pytest.raises(ArgumentError, match="outputs have shape"):
            rerank(index, queries, wrong, k=3)
    for radius in (-1, 2.5):
        with pytest.raises(ArgumentError, match="radius is"):
            rerank(index, queries, outputs, radius=radius)
    for neither in ({}, {"k": 3, "radius": 3}):
        with pytest.raises(ArgumentError, match="give either k or radius"):
            rerank(index, queries, outputs, **neither)
    empty = rerank(index, queries[:0], outputs[:0], k=3)
    assert (len(empty), len(empty.ids)) == (0, 0)


def test_hits_have_scores_in_order(encoder, photos):
    index = encoder.to_index(photos)
    plainly = index.query(photos / "cat/0.jpg", 12)
    ordered = index.query([photos / "cat/0.jpg", photos / "dog/1.png"], 12, rerank="asymmetric")
    assert {hit.id for hit in ordered[0]} == {hit.id for hit in plainly}
    assert [hit.score for hit in plainly] == [None] * 12
    for hits in ordered:
        assert hits.exact
        assert (hits[0].score, hits[0].distance) == (0.0, 0)
        assert [hit.score for hit in hits] == sorted(hit.score for hit in hits)
    assert len({hit.score for hit in ordered[0]}) > len({hit.distance for hit in ordered[0]})
    with pytest.raises(ArgumentError, match="rerank is 'cosine': give 'asymmetric'"):
        index.query("nowhere.jpg", rerank="cosine")


@pytest.mark.parametrize(("cutoff", "norm"), [(None, "found"), (7, "found"), (7, "min"), (7, "all")])
def test_map_under_three_orders_against_sorting(cutoff, norm):
    random = np.random.default_rng(3)
    bits, n = 12, 40
    codes = np.unique(pack(random.standard_normal((n, bits))), axis=0)  # with distinct codes and scores nothing ties
    outputs = random.standard_normal((4, bits))
    labels = [(str(number),) for number in random.integers(0, 3, len(codes))]
    asked = [("0",), ("1",), ("2", "0"), ()]
    found = evaluate_asymmetric(outputs, asked, Database(codes, bits, labels), cutoff, norm)
    totals = np.zeros(2)
    for output, row in zip(outputs, asked, strict=True):
        scores = [plain(output, code, bits) for code in codes]
        near = hamming(pack(output[None]), codes)[0].astype(int)
        relevant = np.array([bool(set(row) & set(label)) for label in labels])
        for place, keys in enumerate((list(zip(near, scores, strict=True)), scores)):
            assert len(set(keys)) == len(keys)
            order = sorted(range(len(codes)), key=keys.__getitem__)
            totals[place] += average_precision_ranked(relevant[order][None], np.array([relevant.sum()]), cutoff, norm)[
                0
            ]
    assert (found.ties, found.asymmetric) == pytest.approx(tuple(totals / 4))
    with pytest.raises(ArgumentError, match="outputs have shape"):
        evaluate_asymmetric(outputs[:, :3], asked, Database(codes, bits, labels))
