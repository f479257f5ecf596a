"""Queries of classes that were trained on, and of others, told apart."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import run

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.evaluation.index_report import evaluate_index
from hashfaiss.evaluation.retrieval import evaluate_retrieval
from hashfaiss.evaluation.unseen import by_training
from hashfaiss.library.image_index import ImageIndex


@pytest.fixture
def trained(encoder: Encoder, tmp_path: Path) -> Encoder:
    """An encoder that learned from birds and cats."""
    encoder.save(tmp_path / "copy.pt")
    copy = Encoder.load(tmp_path / "copy.pt", "cpu")
    copy.labels = ["bird", "cat"]
    return copy


def test_queries_of_both_kinds_and_of_none_are_in_neither() -> None:
    labels = [("a",), ("x",), ("a", "x"), (), ("b", "a"), ("y", "x")]
    seen, unseen, classes = by_training(labels, ["b", "a"])
    assert (seen.tolist(), unseen.tolist(), classes) == ([0, 4], [1, 5], ("x", "y"))


def test_each_kind_is_measured_against_all_images(trained: Encoder, photos: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held-out"
    for label in ("cat", "dog"):
        (held_out / label).mkdir(parents=True)
        shutil.move(photos / label / "0.jpg", held_out / label / "0.jpg")
    index = trained.to_index(photos)
    found = evaluate_index(index, held_out).unseen
    assert found is not None
    assert found.classes == ("dog",)
    codes, _ = index.store.codes()
    labels = [row.labels for _, row in index.store.rows()]
    for name, side in (("cat", found.seen), ("dog", found.unseen)):
        query = trained.encode([held_out / name / "0.jpg"])
        expected = evaluate_retrieval(query, [(name,)], codes, labels, trained.bits, by_id=False)
        assert side == expected
        assert side.items == 10


def test_the_indexs_own_images_are_left_out_of_their_rankings(trained: Encoder, photos: Path) -> None:
    index = trained.to_index(photos)
    found = evaluate_index(index).unseen
    assert found is not None
    assert (found.seen.queries, found.unseen.queries) == (8, 4)
    codes, _ = index.store.codes()
    labels = [row.labels for _, row in index.store.rows()]
    rows = np.array([row for row, names in enumerate(labels) if names == ("dog",)])
    of_dogs = [labels[row] for row in rows]
    expected = evaluate_retrieval(codes[rows], of_dogs, codes, labels, trained.bits, leave_out=rows, by_id=False)
    assert found.unseen == expected


def test_where_all_or_nothing_was_trained_on_there_is_nothing_to_compare(trained: Encoder, photos: Path) -> None:
    for labels in (["bird", "cat", "dog"], ["fish"], []):
        trained.labels = labels
        report = evaluate_index(trained.to_index(photos))
        assert report.retrieval is not None
        assert report.unseen is None
        assert report.to_dict()["unseen"] is None


def test_evaluate_prints_them_side_by_side(trained: Encoder, photos: Path, tmp_path: Path) -> None:
    trained.save(tmp_path / "model.pt")
    ImageIndex.create(trained, tmp_path / "index", "flat").build(photos)
    text = run("evaluate", "--index", str(tmp_path / "index"))
    assert sum("trained on" in line and "never seen" in line for line in text.splitlines()) == 1
    assert "Not trained on: dog" in text
