"""Evaluating an index: held-out queries, leave-one-out, leaks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hashfaiss.codes import hamming
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation.index_report import evaluate_index


def test_leave_one_out_never_finds_the_query_itself(encoder: Encoder, photos: Path) -> None:
    index = encoder.to_index(photos)
    report = evaluate_index(index)
    codes, _ = index.store.codes()
    distances = hamming(codes, codes)
    labels = [row.labels[0] for _, row in index.store.rows()]
    nearest_right = []
    for query in range(len(codes)):
        others = [other for other in range(len(codes)) if other != query]
        near = [other for other in others if distances[query, other] <= 2]
        nearest_right.append(np.mean([labels[other] == labels[query] for other in near]) if near else 0.0)
    assert report.retrieval is not None
    assert report.retrieval.items == len(codes) - 1
    assert report.retrieval.precision_within_2 == pytest.approx(np.mean(nearest_right))
    assert report.queries == "leave one out"
    assert report.leaks is None


def test_a_sample_asks_with_as_many_and_is_seeded(encoder: Encoder, photos: Path) -> None:
    index = encoder.to_index(photos)
    reports = [evaluate_index(index, sample=5, seed=seed).to_dict() for seed in (0, 0, 1)]
    assert reports[0]["agreement"]["queries"] == 5
    assert reports[0] == reports[1]
    assert reports[0] != reports[2]


def test_held_out_queries_and_leaks(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held-out"
    for label in ("cat", "dog"):
        (held_out / label).mkdir(parents=True)
        (photos / label / "0.jpg").rename(held_out / label / "0.jpg")
    shutil.copy(photos / "bird" / "1.png", held_out / "cat" / "leak.png")  # the same bytes under another name
    (held_out / "dog" / "bad.jpg").write_bytes(b"")
    report = evaluate_index(encoder.to_index(photos), held_out)
    assert report.agreement.queries == 3
    assert report.agreement.ids_equal == 1
    assert report.leaks == 1
    assert [reason for _, reason in report.skipped] == ["empty file"]
    json.dumps(report.to_dict())


def test_hash_kind_reports_certificates(encoder: Encoder, photos: Path) -> None:
    index = encoder.to_index(photos, kind="hash:b=20,flips=0")
    report = evaluate_index(index, depth=3)
    assert report.agreement.certified < report.agreement.queries
    assert report.agreement.false_certificates == 0
    assert report.agreement.recall_by_distance < 1


def test_without_labels_there_is_no_retrieval(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        shutil.copy(path, flat / f"{number}.png")
    report = evaluate_index(encoder.to_index(flat))
    assert report.retrieval is None
    assert report.health.images == 6
    assert [path.name for path in report.plot(tmp_path / "plots")] == ["health.png", "buckets.png"]


def test_nothing_to_ask(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    from hashfaiss.library.image_index import ImageIndex

    with pytest.raises(ArgumentError, match="the index is empty"):
        evaluate_index(ImageIndex.create(encoder))
    (tmp_path / "none").mkdir()
    with pytest.raises(ArgumentError, match="no image that can be read"):
        evaluate_index(encoder.to_index(photos), tmp_path / "none")
    with pytest.raises(ArgumentError, match="sample is -1"):
        evaluate_index(encoder.to_index(photos), sample=-1)


def test_one_image_alone(encoder: Encoder, photos: Path) -> None:
    report = evaluate_index(encoder.to_index([str(photos / "cat" / "0.jpg")], labels=[("cat",)]))
    assert report.retrieval is None
    assert report.agreement.ids_equal == 1
