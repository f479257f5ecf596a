"""Rows that choose their learning rate on validation images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reproductions import run_of, stored

import hashfaiss.experiments.runs as runs
from hashfaiss.errors import ArgumentError
from hashfaiss.experiments.reproduce import rates_of

RATES = [1e-4, 1e-2]


@pytest.mark.slow
def test_each_trained_row_takes_the_rate_that_is_best_on_validation_images(make: Any, tmp_path: Path) -> None:
    made, told = make(rates=RATES)
    found, itq = stored(tmp_path, "dhida"), stored(tmp_path, "itq")
    scores = {float(rate): score for rate, score in found["training"]["rates"].items()}
    assert sorted(scores) == RATES
    best = max(scores, key=lambda rate: scores[rate])
    assert found["training"]["learning_rate"] == best
    assert found["training"]["validation_score"] == scores[best]
    alone, _ = make({"learning_rate": best}, out=tmp_path / "alone", methods=["dhida"])
    assert alone.results[0]["average_precisions"] == found["average_precisions"]
    assert "rates" not in itq["training"]
    folder = run_of(tmp_path / "out", "dhida")
    assert not list(folder.glob("rate-*"))
    assert (folder / "model.training" / "metrics.csv").exists()
    text = (tmp_path / "out" / "two.md").read_text()
    assert "learning rate: the best on validation images of 0.0001, 0.01 instead of 5e-05" in text
    again, told = make(rates=RATES)
    assert again.results == made.results
    assert sum("done before" in line for line in told) == 2


@pytest.mark.slow
def test_a_choice_of_rates_that_was_cut_off_goes_on(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "_build", cut)
        with pytest.raises(KeyboardInterrupt):
            make(rates=RATES, methods=["dhida"])
    folder = run_of(tmp_path / "out", "dhida")
    trained = {file: file.read_bytes() for file in folder.glob("rate-*/model.pt")}
    assert len(trained) == 2
    made, _ = make(rates=RATES, methods=["dhida"])
    assert (folder / "model.pt").read_bytes() in trained.values()
    assert len(made.results) == 1


@pytest.mark.slow
def test_a_rate_that_diverges_is_not_chosen(make: Any, tmp_path: Path) -> None:
    _, told = make(rates=[1e-4, 1e30], methods=["dhida"])
    training = stored(tmp_path, "dhida")["training"]
    assert training["learning_rate"] == 1e-4
    assert training["rates"]["1e+30"] is None
    assert any("learning rate 1e+30: the loss is no number" in line for line in told)


@pytest.mark.parametrize(
    ("settings", "other", "message"),
    [
        ({"learning_rate": 1e-3}, {"rates": RATES}, "both learning_rate and rates were given"),
        ({}, {"rates": RATES, "select": "on-queries"}, "chosen on validation images, never on the queries"),
        ({}, {"rates": [1e-3, 1e-3]}, r"rates = \[0.001, 0.001\]: give different numbers above 0"),
        ({}, {"rates": [-1.0]}, "give different numbers above 0"),
    ],
)
def test_rates_that_cannot_be(make: Any, settings: dict[str, Any], other: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make(settings, methods=["dhida"], **other)


def test_rates_as_the_command_takes_them() -> None:
    assert rates_of("3e-5,1e-4, 3e-4") == [3e-5, 1e-4, 3e-4]
    with pytest.raises(ArgumentError, match="--rates is 'fast': give numbers"):
        rates_of("fast")
