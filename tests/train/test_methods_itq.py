"""LSH, ITQ and CCA-ITQ, against plain numpy over their equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from feature_sets import Array, clusters, generator, mean_precision, outputs, several_labels, signs
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from live_memory import LiveMemory
from sklearn.cross_decomposition import CCA

from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods import rotation
from hashfaiss.train.methods.cca_itq import CCAITQ, canonical_directions
from hashfaiss.train.methods.itq import ITQ
from hashfaiss.train.methods.lsh import LSH
from hashfaiss.train.methods.pca_rr import PCARR
from hashfaiss.train.methods.rotation import find_rotation, mean_and_covariance


def rotation_of(seed: int, bits: int) -> Array:
    """The rotation that ITQ starts from."""
    noise = torch.randn(bits, bits, generator=generator(seed), dtype=torch.float64)
    return np.asarray(torch.linalg.svd(noise)[0].numpy())  # another LAPACK's may have other signs


# LSH


def test_lsh_is_signs_of_normal_projections_of_centred_features() -> None:
    features, labels = clusters(400, 30, 4, seed=1)
    tensors = LSH(labels, 256).fit(features, generator())
    np.testing.assert_allclose(tensors["mean"].numpy(), features.double().numpy().mean(axis=0))
    weights = tensors["projection"].numpy()
    assert abs(weights.mean()) < 0.05
    assert weights.std() == pytest.approx(1, abs=0.03)
    u = outputs(tensors, features)
    x = features.double().numpy() - features.double().numpy().mean(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    angles = np.arccos(np.clip(x @ x.T, -1, 1)) / np.pi
    differ = (256 - signs(u) @ signs(u).T) / 2 / 256
    assert abs(differ - angles).max() < 0.2
    assert abs(differ - angles).mean() < 0.03


def test_without_centring_features_of_one_orthant_have_codes_alike() -> None:
    features, labels = clusters(300, 30, 4, seed=2)
    plain, centred = (LSH(labels, 64, centre=centre).fit(features, generator()) for centre in (False, True))
    assert not plain["mean"].any()
    assert torch.equal(plain["projection"], centred["projection"])
    skew = [abs(signs(outputs(tensors, features)).mean(axis=0)).mean() for tensors in (plain, centred)]
    assert skew[0] > 2 * skew[1]


# ITQ


def plain_itq(v: Array, rotation: Array, iterations: int) -> tuple[Array, list[float]]:
    """V (N, K) and a first rotation → the last one, and the error ||B - V R||² before each update and at the end."""
    errors = []
    for _ in range(iterations):
        b = signs(v @ rotation)
        errors.append(((b - v @ rotation) ** 2).sum())
        s, _, s_hat = np.linalg.svd(b.T @ v)
        rotation = s_hat.T @ s.T
    errors.append(((signs(v @ rotation) - v @ rotation) ** 2).sum())
    return rotation, errors


@given(
    images=st.integers(12, 60),
    bits=st.integers(1, 8),
    seed=st.integers(0, 999),
    iterations=st.integers(1, 12),
)
@settings(deadline=None, max_examples=30)
def test_the_rotation_is_plain_itqs_and_the_error_never_rises(
    images: int, bits: int, seed: int, iterations: int
) -> None:
    v = np.random.default_rng(seed).normal(size=(images, bits)) * np.linspace(1, 3, bits)
    each = [find_rotation(torch.from_numpy(v), count, generator(seed)).numpy() for count in range(iterations + 1)]
    for before in each[:-1]:  # few codes, or dependent ones, may have more than one best rotation
        singular = np.linalg.svd(signs(v @ before).T @ v, compute_uv=False)
        assume(singular[-1] > 1e-4 * singular[0])
    found = each[-1]
    expected, errors = plain_itq(v, rotation_of(seed, bits), iterations)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    np.testing.assert_allclose(found @ found.T, np.eye(bits), atol=1e-10)
    assert (np.diff(errors) <= 1e-9 * errors[0]).all()
    own = [((signs(v @ rotation) - v @ rotation) ** 2).sum() for rotation in each[1:]]
    np.testing.assert_allclose(own, errors[1:], rtol=1e-8)


def test_the_last_rotation_is_the_best_for_its_codes() -> None:
    """Procrustes: no rotation near it, nor any of a thousand random ones, is closer to the codes it was made for."""
    random = np.random.default_rng(3)
    v = random.normal(size=(200, 5))
    before = find_rotation(torch.from_numpy(v), 3, generator(1)).numpy()
    after = find_rotation(torch.from_numpy(v), 4, generator(1)).numpy()
    b = signs(v @ before)
    least = ((b - v @ after) ** 2).sum()
    for _ in range(1000):
        anywhere = np.linalg.qr(random.normal(size=(5, 5)))[0]
        near = np.linalg.qr(after + 1e-3 * random.normal(size=(5, 5)))[0]
        near = near * np.sign((near * after).sum(axis=0))
        assert ((b - v @ anywhere) ** 2).sum() > least
        assert ((b - v @ near) ** 2).sum() > least


def test_itq_is_pca_and_rotation() -> None:
    # spread, because with fewer distinct codes than bits the best rotation is not unique
    features, labels = clusters(120, 20, 5, seed=4, spread=3)
    tensors = ITQ(labels, 6, iterations=500).fit(features, generator(7))  # enough to stand still
    x = features.double().numpy()
    x = x - x.mean(axis=0)
    principal = np.linalg.svd(x, full_matrices=False)[2][:6].T
    projection = tensors["projection"].numpy()
    # the same space, and orthonormal in it
    np.testing.assert_allclose(principal @ (principal.T @ projection), projection, atol=1e-8)
    np.testing.assert_allclose(projection.T @ projection, np.eye(6), atol=1e-8)
    # and a fixed point of plain ITQ
    v, rotation = x @ principal, principal.T @ projection
    np.testing.assert_allclose(plain_itq(v, rotation, 1)[0], rotation, atol=1e-6)
    one = ITQ(labels, 6, iterations=1).fit(features, generator(7))["projection"].numpy()
    errors = [((signs(x @ matrix) - x @ matrix) ** 2).sum() for matrix in (projection, one)]
    assert errors[0] < errors[1]


def test_itq_refuses_more_bits_than_directions() -> None:
    features, labels = clusters(9, 20, 3, seed=5)
    with pytest.raises(ArgumentError, match="bits is 9, but the features of 9 images differ in 8 directions only"):
        ITQ(labels, 9).fit(features, generator())
    ITQ(labels, 8).fit(features, generator())
    features, labels = clusters(50, 20, 3, seed=5)
    features[:, 10:] = features[:, :10] * 0.3 + 7
    with pytest.raises(ArgumentError, match="in 10 directions only: give ITQ 10 bits or fewer"):
        ITQ(labels, 11).fit(features, generator())
    with pytest.raises(ArgumentError, match="iterations is 0: give a whole number from 1 up"):
        ITQ(labels, 4, iterations=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_itq_beats_lsh_and_supervision_beats_itq(seed: int) -> None:
    features, labels = clusters(400, 40, 12, seed, spread=2.5)
    u = {kind: outputs(kind(labels, 10).fit(features, generator(seed)), features) for kind in (LSH, ITQ, CCAITQ)}
    found = {kind: mean_precision(values, labels) for kind, values in u.items()}
    assert found[LSH] + 0.05 < found[ITQ] < found[CCAITQ]


# CCA-ITQ


@pytest.mark.parametrize("several", [False, True])
def test_the_directions_solve_the_printed_eigenproblem(several: bool) -> None:
    features, labels = clusters(200, 12, 5, seed=6)
    labels = several_labels(200, 5, seed=6) if several else labels
    rho = 1e-2
    covariance = np.cov(torch.cat([features, labels], dim=1).double().numpy().T) + rho * np.eye(17)
    directions = canonical_directions(torch.from_numpy(covariance), 12).numpy()
    xx, xy, yy = covariance[:12, :12], covariance[:12, 12:], covariance[12:, 12:]
    # each has length lambda in C_xx, so its square is the eigenvalue
    lambdas = np.sqrt(np.diag(directions.T @ xx @ directions))
    assert (np.diff(lambdas) <= 1e-9).all()
    left = xy @ np.linalg.inv(yy) @ xy.T @ directions
    np.testing.assert_allclose(left, xx @ directions * lambdas**2, atol=1e-9)
    every = np.sort(np.linalg.eigvals(np.linalg.inv(xx) @ xy @ np.linalg.inv(yy) @ xy.T).real)[::-1]
    np.testing.assert_allclose(lambdas[:4] ** 2, every[:4], rtol=1e-8)


def test_the_correlations_are_those_of_scikit_learn() -> None:
    features, _ = clusters(300, 10, 6, seed=7, spread=3)
    labels = several_labels(300, 4, seed=7)
    labels[:, :2] = (features[:, :2] + torch.randn(300, 2, generator=generator(8)) > 1).float()
    method = CCA(n_components=4, max_iter=5000, tol=1e-12).fit(features.numpy(), labels.numpy())
    x_scores, y_scores = method.transform(features.numpy(), labels.numpy())
    expected = [np.corrcoef(x_scores[:, k], y_scores[:, k])[0, 1] for k in range(4)]
    _, covariance = mean_and_covariance(torch.cat([features, labels], dim=1))
    directions = canonical_directions(covariance + 1e-10 * torch.eye(14), 10)
    lambdas = (directions.T @ covariance[:10, :10] @ directions).diagonal().sqrt()
    np.testing.assert_allclose(lambdas.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("several", [False, True])
def test_cca_itq_rotates_the_canonical_components(several: bool) -> None:
    features, labels = clusters(200, 12, 5, seed=9)
    labels = several_labels(200, 5, seed=9) if several else labels
    tensors = CCAITQ(labels, 4).fit(features, generator(3))
    x = features.double().numpy()
    x = x - x.mean(axis=0)
    covariance = np.cov(torch.cat([features, labels], dim=1).double().numpy().T) + 1e-4 * np.eye(17)
    directions = canonical_directions(torch.from_numpy(covariance), 12).numpy()[:, :4]
    rotation, _ = plain_itq(x @ directions, rotation_of(3, 4), 50)
    np.testing.assert_allclose(tensors["projection"].numpy(), directions @ rotation, atol=1e-8)
    np.testing.assert_allclose(tensors["mean"].numpy(), features.double().numpy().mean(axis=0))


def test_cca_itq_refuses_bits_beyond_the_rank_of_the_labels() -> None:
    features, labels = clusters(100, 30, 10, seed=10)
    CCAITQ.check(labels, 9)
    with pytest.raises(ArgumentError) as error:
        CCAITQ.check(labels, 10)
    assert str(error.value) == (
        "bits is 10, but the labels of 10 classes have 9 independent directions: "
        "give CCA-ITQ 9 bits or fewer, or take itq or sdh"
    )
    with pytest.raises(ArgumentError, match="9 independent directions"):
        CCAITQ(labels, 16).fit(features, generator())
    several = several_labels(100, 10, seed=10)
    CCAITQ.check(several, 10)
    several[:, 3] = several[:, 4]
    with pytest.raises(ArgumentError, match="have 9 independent"):
        CCAITQ.check(several, 10)
    everywhere = several_labels(100, 3, seed=1)
    everywhere[:, 0] = 1
    with pytest.raises(ArgumentError, match="have 2 independent"):
        CCAITQ.check(everywhere, 3)
    many = torch.eye(100).repeat(500, 1)  # as large as ImageNet-100's training set
    with LiveMemory() as live:
        CCAITQ.check(many, 99)
    assert live.peak < many.nbytes / 10
    with pytest.raises(ArgumentError, match="have 99 independent"):
        CCAITQ.check(many, 100)


def test_cca_itq_refuses_bits_beyond_the_features_and_rho_of_0() -> None:
    with pytest.raises(ArgumentError, match="bits is 4, but the features are 3 numbers"):
        CCAITQ(several_labels(50, 6, seed=2), 4).fit(torch.rand(50, 3), generator())
    with pytest.raises(ArgumentError, match="rho is 0: give a number above 0"):
        CCAITQ(torch.eye(2), 1, rho=0)
    with pytest.raises(ArgumentError, match="rho is -1"):
        CCAITQ(torch.eye(2), 1, rho=-1)


def test_cca_itq_takes_no_copy_of_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "BLOCK", 64)
    features, labels = clusters(5000, 100, 5, seed=15)
    with LiveMemory() as live:
        CCAITQ(labels, 4).fit(features, generator())
    assert live.peak < features.nbytes


def test_cca_itq_is_solved_with_fewer_images_than_features() -> None:
    features, labels = clusters(20, 60, 4, seed=11)
    tensors = CCAITQ(labels, 3).fit(features, generator())
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert len(np.unique(signs(outputs(tensors, features)), axis=0)) == 4


# PCA-RR


def test_pca_rr_turns_the_principal_directions_at_random() -> None:
    features, labels = clusters(300, 20, 4, seed=2)
    one, two = (PCARR(labels, 6).fit(features, generator(seed)) for seed in (0, 1))
    x = features.double().numpy()
    np.testing.assert_allclose(one["mean"].numpy(), x.mean(axis=0))
    principal = np.linalg.eigh(np.cov(x.T))[1][:, -6:]
    for tensors in (one, two):
        projection = tensors["projection"].numpy()
        np.testing.assert_allclose(projection.T @ projection, np.eye(6), atol=1e-9)
        np.testing.assert_allclose(projection @ projection.T, principal @ principal.T, atol=1e-9)
    assert not np.allclose(one["projection"], two["projection"], atol=0.1)
