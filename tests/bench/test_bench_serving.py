"""`bench serve`: every request is answered and counted; what cannot be measured is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hashfaiss.bench.serving import bench_serving
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError, HashfaissError

pytest.importorskip("starlette", reason="the extra `serve` is not installed")


@pytest.fixture
def index(encoder: Encoder, photos: Path) -> Path:
    encoder.to_index(photos, photos.parent / "x.index")
    return photos.parent / "x.index"


def test_it_asks_and_counts(index: Path, photos: Path) -> None:
    told: list[tuple[int, int]] = []
    found = bench_serving(index, photos, (1, 3), 0.2, 2, lambda done, of: told.append((done, of)))
    assert (found.images, found.bits, found.encoder > 0) == (12, 20, True)
    assert [load.clients for load in found.loads] == [1, 3]
    for load in found.loads:
        assert load.requests_per_second > 0
        assert 0 < load.p50_ms <= load.p99_ms
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize("how", [{"clients": ()}, {"clients": (0,)}, {"rounds": 0}, {"seconds": 0}])
def test_what_cannot_be_measured_is_told(index: Path, photos: Path, how: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="1 or more clients"):
        bench_serving(index, photos, **how)


def test_a_folder_without_images_is_told(index: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArgumentError, match="no images"):
        bench_serving(index, tmp_path / "empty")


def test_a_service_that_does_not_start_is_told(index: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "false")
    with pytest.raises(HashfaissError, match="did not start: it said nothing"):
        bench_serving(index, photos)
