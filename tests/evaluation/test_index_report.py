"""Evaluating an index: held-out queries, leave-one-out, leaks; neighbours by real features where labels are missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run
from encoders import altered
from PIL import Image

from hashfaiss.codes import hamming
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation import NeighbourReport, index_report, kept_neighbours
from hashfaiss.evaluation.index_report import evaluate_index
from hashfaiss.images.decoding import read_image
from hashfaiss.library.image_index import ImageIndex

Report = dict[str, Any]


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


@pytest.fixture
def unlabelled(photos: Path, tmp_path: Path) -> Path:
    """The 12 photos and 10 darker ones in one folder, so without labels."""
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for number, path in enumerate(sorted(photos.rglob("*.*"))):
        shutil.copy(path, folder / f"{number:02}{path.suffix}")
        if number < 10:
            Image.eval(Image.open(path), lambda value: value // 2).save(folder / f"{number:02}-dark.png")
    return folder


def by_hand(encoder: Encoder, index: ImageIndex, names: list[str]) -> NeighbourReport:
    """Kept neighbours of the named images, each read alone and one after the other, and the codes stored for them."""
    codes, _ = index.store.codes()
    paths = [str(index.store.full_path(row)) for _, row in index.store.rows()]
    rows = [row for row, path in enumerate(paths) if Path(path).name in names]
    pixels = [encoder.preprocessing.resize(read_image(paths[row])) for row in rows]
    features = torch.cat([encoder.features(one[None]) for one in pixels]).numpy()
    return kept_neighbours(features, codes[rows], encoder.bits)


def equal(found: NeighbourReport | None, expected: NeighbourReport) -> bool:
    return found is not None and found.to_dict() == expected.to_dict()


def test_without_labels_neighbours_are_those_of_images_read_again(
    encoder: Encoder, unlabelled: Path, tmp_path: Path
) -> None:
    index = encoder.to_index(unlabelled, tmp_path / "x.index")
    seen: list[tuple[int, int]] = []
    report = evaluate_index(index, progress=lambda done, total: seen.append((done, total)))
    expected = by_hand(encoder, index, [path.name for path in unlabelled.iterdir()])
    assert (expected.images, expected.k, len(expected.curve)) == (22, 10, 12)
    assert 0.5 < expected.recall < 1
    assert equal(report.neighbours, expected)
    assert seen[0] == (22, 22)  # the queries, then the images read again
    assert seen[-1] == (22, 22)
    assert [done for done, _ in seen[1:]] == sorted({done for done, _ in seen[1:]})
    stored = json.loads(json.dumps(report.to_dict()))["neighbours"]
    assert (stored["images"], stored["k"], stored["recall"]) == (22, 10, expected.recall)
    assert stored["curve"] == expected.curve.tolist()
    drawn = report.plot(tmp_path / "plots")
    assert [path.name for path in drawn] == ["health.png", "buckets.png", "neighbours.png"]
    with Image.open(drawn[-1]) as image:
        assert image.format == "PNG"


def test_codes_are_those_stored_not_made_again(encoder: Encoder, unlabelled: Path, tmp_path: Path) -> None:
    """An index whose codes say nothing is at chance, whatever its images are."""
    index = encoder.to_index(unlabelled, tmp_path / "x.index")
    codes, ids = index.store.codes()
    index.store.codes = lambda: (np.zeros_like(codes), ids)  # type: ignore[method-assign]
    found = evaluate_index(index).neighbours
    assert found is not None
    np.testing.assert_allclose(found.curve, found.chance, rtol=0, atol=1e-12)


def test_images_gone_altered_or_damaged_are_left_out(encoder: Encoder, unlabelled: Path, tmp_path: Path) -> None:
    index = encoder.to_index(unlabelled, tmp_path / "x.index")
    (unlabelled / "00.jpg").unlink()
    shutil.copy(unlabelled / "02.jpg", unlabelled / "01.png")
    (unlabelled / "03.png").write_bytes(b"")
    report = evaluate_index(index)
    assert [(Path(path).name, reason) for path, reason in report.skipped] == [
        ("01.png", "altered since it was indexed"),
        ("03.png", "empty file"),
    ]
    left = [path.name for path in unlabelled.iterdir() if path.name not in ("01.png", "03.png")]
    assert len(left) == 19
    assert equal(report.neighbours, by_hand(encoder, index, left))


def test_a_sample_is_seeded_and_drawn_of_what_is_there(
    encoder: Encoder, unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = encoder.to_index(unlabelled, tmp_path / "x.index")

    def measured(**how: Any) -> Report:
        return evaluate_index(index, **how).to_dict()["neighbours"]  # type: ignore[no-any-return]

    assert measured(sample=15, seed=1) == measured(sample=15, seed=1) != measured(sample=15, seed=2)
    for path in sorted(unlabelled.iterdir())[:6]:
        path.unlink()
    assert [measured(sample=sample)["images"] for sample in (0, 5, 16, 1000)] == [16, 5, 16, 16]
    monkeypatch.setattr(index_report, "MOST_READ", 7)
    assert [measured(sample=sample)["images"] for sample in (0, 5, 1000)] == [7, 5, 7]


def test_queries_without_labels_leave_the_index_to_its_own_images(
    encoder: Encoder, photos: Path, unlabelled: Path, tmp_path: Path
) -> None:
    index = encoder.to_index(unlabelled, tmp_path / "x.index")
    own = evaluate_index(index).neighbours
    assert own is not None
    assert equal(evaluate_index(index, photos).neighbours, own)  # labels on one side only
    labelled = encoder.to_index(photos, tmp_path / "labelled.index")
    found = evaluate_index(labelled, unlabelled).neighbours
    assert found is not None
    assert found.images == 12
    learned = altered(encoder, labels=["cat", "dog"]).to_index(photos, tmp_path / "learned.index")
    assert evaluate_index(learned).neighbours is None
    assert not evaluate_index(learned).albums
    with pytest.raises(ArgumentError, match="sample is -1"):
        evaluate_index(index, photos, sample=-1)


def test_names_of_folders_are_no_classes_to_a_model_without_labels(
    encoder: Encoder, photos: Path, tmp_path: Path
) -> None:
    index = encoder.to_index(photos, tmp_path / "x.index")
    report = evaluate_index(index)
    assert report.retrieval is not None
    assert report.neighbours is not None
    assert report.to_dict()["albums"]
    assert "albums rather than classes" in run("evaluate", "--index", str(tmp_path / "x.index"))
    asked = evaluate_index(index, photos)  # with folders that a person chose as queries
    assert (asked.albums, asked.neighbours) == (False, None)
    (tmp_path / "x.index/encoder.pt").unlink()
    assert not evaluate_index(ImageIndex.open(tmp_path / "x.index")).albums


def test_neighbours_take_an_index_in_a_folder_with_three_images(
    encoder: Encoder, unlabelled: Path, tmp_path: Path
) -> None:
    for images in (unlabelled, torch.zeros(20, 3, 32, 32, dtype=torch.uint8)):
        assert evaluate_index(encoder.to_index(images)).neighbours is None
    pixels = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
    index = encoder.to_index(pixels, tmp_path / "x.index")
    assert evaluate_index(index).neighbours is None
    few = sorted(unlabelled.iterdir())[:3]
    index.add([str(path) for path in few])
    found = evaluate_index(index).neighbours
    assert found is not None
    assert (found.images, found.k, found.curve.tolist(), found.chance.tolist()) == (3, 2, [1.0], [1.0])
    few[0].write_bytes(b"no image")
    report = evaluate_index(index)
    assert report.neighbours is None
    assert [Path(path).name for path, _ in report.skipped] == [few[0].name]
    few[0].unlink()
    assert evaluate_index(index).neighbours is None


def test_without_its_encoder_an_index_is_evaluated_but_for_neighbours(
    encoder: Encoder, unlabelled: Path, tmp_path: Path
) -> None:
    encoder.to_index(unlabelled, tmp_path / "x.index")
    (tmp_path / "x.index" / "encoder.pt").unlink()
    report = evaluate_index(ImageIndex.open(tmp_path / "x.index"))
    assert report.neighbours is None
    assert report.agreement.ids_equal == 1
    ((path, reason),) = report.skipped
    assert path == str(tmp_path / "x.index" / "encoder.pt")
    assert "No such file" in reason
