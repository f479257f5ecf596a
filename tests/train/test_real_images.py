"""The whole line on real photographs with a pretrained backbone (skipped where they are not at hand)."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path

import pytest

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.evaluation.index_report import evaluate_index
from hashfaiss.train import TrainOptions, train

TRAINED, ASKED = 40, 10  # images of each class


@pytest.fixture(scope="module")
def cifar(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some CIFAR-10 JPEG files of its test part: database/<class>/ and queries/<class>/."""
    folder = tmp_path_factory.mktemp("cifar")
    count: Counter[str] = Counter()
    with tarfile.open(data_folder / "cifar10.tar.xz") as archive:
        for member in archive:
            label, name = Path(member.name).parts[-2:] if member.isfile() else ("", "")
            if not label or count[label] == TRAINED + ASKED:
                continue
            part = "database" if count[label] < TRAINED else "queries"
            count[label] += 1
            target = folder / part / label
            target.mkdir(parents=True, exist_ok=True)
            content = archive.extractfile(member)
            assert content is not None
            (target / name).write_bytes(content.read())
            if len(count) == 10 and min(count.values()) == TRAINED + ASKED:
                break
    return folder


@pytest.mark.slow
def test_dhida_learns_real_images_and_faiss_ranks_them_exactly(cifar: Path, data_folder: Path) -> None:
    options = TrainOptions(
        images=cifar / "database",
        out=cifar / "dhida.pt",
        bits=16,
        weights=data_folder / "resnet18-tiny-imagenet.pt",
        size=32,
        fit="stretch",
        epochs=3,
        batch=32,
    )
    result = train(options)
    assert result.history[-1].loss < result.history[0].loss
    encoder = Encoder.load(result.out)
    for kind in ("flat", "hash"):
        index = encoder.to_index(cifar / "database", kind=kind)
        report = evaluate_index(index, cifar / "queries", depth=None if kind == "flat" else 10)
        assert report.leaks == 0
        assert report.agreement.queries == 10 * ASKED
        assert report.agreement.false_certificates == 0
        if kind == "flat":
            assert report.agreement.ids_equal == 1
        assert report.retrieval is not None
        assert report.retrieval.mean_average_precision > 0.15  # chance is 0.1
