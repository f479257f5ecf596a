"""A table from images to numbers, cut off and continued."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from reproductions import TABLE, run_of, stored
from typer.testing import CliRunner

import hashfaiss.experiments.runs as runs
from hashfaiss.cli import app
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError, TrainingError
from hashfaiss.evaluation.index_report import evaluate_index
from hashfaiss.experiments.reproduce import (
    listed,
    numbers,
    seeds_of,
)
from hashfaiss.library.image_index import ImageIndex


@pytest.mark.slow
def test_table_is_what_the_runs_measured(make: Any, tmp_path: Path, split: Path, many_photos: Path) -> None:
    made, told = make()
    out = tmp_path / "out"
    assert [result["row"] for result in made.results] == ["DHIDA", "ITQ"]
    assert sorted(file.name for file in made.files) == [
        "convergence.png",
        "two.csv",
        "two.md",
    ]
    text = (out / "two.md").read_text()
    rows = {row["row"]: row for row in csv.DictReader((out / "two.csv").read_text().splitlines())}
    for name, method in (("DHIDA", "dhida"), ("ITQ", "itq")):
        folder = run_of(out, method)
        found = stored(tmp_path, method)["retrieval"]["mean_average_precision"]
        assert f"{found:.4f}" in next(line for line in text.splitlines() if line.startswith(f"| {name} "))
        assert float(rows[name]["map"]) == found
        assert sorted(file.name for file in folder.iterdir() if not file.name.startswith(".")) == [
            "model.pt",
            "model.training",
            "result.json",
        ]
        # the same model, indexed and evaluated by hand
        index = ImageIndex.create(Encoder.load(folder / "model.pt", "cpu"), None, "flat")
        index.build(many_photos, split / "database.csv")
        report = evaluate_index(index, many_photos, split / "query.csv")
        assert report.retrieval is not None
        assert report.retrieval.mean_average_precision == found
        assert stored(tmp_path, method)["average_precisions"] == pytest.approx(
            report.retrieval.average_precisions, abs=1e-6
        )
        assert (report.retrieval.queries, report.retrieval.items) == (6, 54)
    assert stored(tmp_path, "dhida")["agreement"]["ids_equal"] == 1.0
    assert "epochs: 1 instead of 150" in text
    assert "weights: none instead of imagenet" in text
    leaks = "leaks: no query in the database or the training set; training images outside the database: 0"
    assert leaks in text
    assert any(line.startswith("[1/2] DHIDA, 8 bits, seed 0: mAP@ALL") and leaks in line for line in told)


@pytest.mark.slow
def test_finished_rows_are_not_trained_again(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(methods=["dhida"])
    model = run_of(tmp_path / "out", "dhida") / "model.pt"
    before = model.stat().st_mtime_ns
    trained: list[str] = []
    true_train = runs.train
    monkeypatch.setattr(
        runs, "train", lambda options, **rest: trained.append(options.method) or true_train(options, **rest)
    )
    made, told = make()
    assert trained == ["itq"]
    assert model.stat().st_mtime_ns == before
    assert any("DHIDA, 8 bits, seed 0: done before; mAP@ALL" in line for line in told)
    assert len(made.results) == 2


@pytest.mark.slow
def test_killed_training_continues_to_the_same_model(make: Any, tmp_path: Path) -> None:
    settings = {"epochs": 2, "evaluate_every": 1}
    make(settings, methods=["dhida"], out=tmp_path / "whole")
    told: list[int] = []

    def kill_after_first(at: Any) -> None:
        told.append(at.epoch)
        if at.epoch == 1 and at.done == at.total:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        true_train = runs.train
        patch.setattr(runs, "train", lambda options, resume, **_: true_train(options, resume, kill_after_first))
        with pytest.raises(KeyboardInterrupt):
            make(settings, methods=["dhida"])
    run = run_of(tmp_path / "out", "dhida")
    assert (run / "model.training" / "state.pt").exists()
    assert not (run / "result.json").exists()
    epochs: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        true_train = runs.train
        patch.setattr(
            runs,
            "train",
            lambda options, resume, **_: true_train(options, resume, lambda at: epochs.append(at.epoch)),
        )
        make(settings, methods=["dhida"])
    assert set(epochs) == {0, 2}  # reading the images, and the second epoch
    whole = run_of(tmp_path / "whole", "dhida") / "model.pt"
    assert Encoder.load(run / "model.pt", "cpu").identity == Encoder.load(whole, "cpu").identity
    assert not (run / "model.training" / "state.pt").exists()


@pytest.mark.slow
def test_killed_evaluation_builds_no_model_anew(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "evaluate_index", stop)
        with pytest.raises(KeyboardInterrupt):
            make(methods=["dhida"])
    run = run_of(tmp_path / "out", "dhida")
    before = (run / "model.pt").stat().st_mtime_ns
    assert (run / "index").exists()
    made, _ = make(methods=["dhida"])
    assert (run / "model.pt").stat().st_mtime_ns == before
    assert made.results[0]["retrieval"]["items"] == 54
    assert not (run / "index").exists()


@pytest.mark.slow
def test_other_settings_are_another_run_and_another_table(make: Any, tmp_path: Path) -> None:
    first, _ = make(methods=["itq"])
    second, told = make({"size": 24}, methods=["itq"])
    assert not any("done before" in line for line in told)
    assert [found["settings"]["size"] for found in first.results + second.results] == [16, 24]
    again, told = make(methods=["itq"])  # both are kept
    assert any("done before" in line for line in told)
    assert again.results == first.results
    (split,) = {found["split"]["sha256"]["query"] for found in again.results}
    (tmp_path / "lists" / "query.csv").write_text("path,label\n" + again_without_one(tmp_path / "lists" / "query.csv"))
    (tmp_path / "lists" / "split.json").unlink()
    other, told = make(methods=["itq"])
    assert not any("done before" in line for line in told)
    assert other.results[0]["split"]["sha256"]["query"] != split


def again_without_one(file: Path) -> str:
    return "\n".join(file.read_text().splitlines()[2:]) + "\n"


@pytest.mark.slow
def test_a_table_shows_the_seeds_asked_for(make: Any) -> None:
    """What another call left in the folder does not change a number."""
    first, _ = make(methods=["itq"])
    make(methods=["itq"], seeds=[1])
    again, _ = make(methods=["itq"])
    assert again.results == first.results
    both, _ = make(methods=["itq"], seeds=[0, 1])
    assert [found["seed"] for found in both.results] == [0, 1]


@pytest.mark.slow
def test_a_batch_makes_no_other_run_of_a_shallow_method(make: Any) -> None:
    make(methods=["itq"])
    _, told = make({"batch": 4}, methods=["itq"])
    assert any("done before" in line for line in told)


@pytest.mark.slow
def test_tables_in_one_folder_share_their_runs(make: Any, table: Path, tmp_path: Path) -> None:
    make(methods=["itq"])
    other = tmp_path / "other.toml"
    other.write_text(TABLE.replace('name = "ITQ"', 'name = "Iterative quantisation"'))
    made, told = make(table=other, methods=["itq"])
    assert any("Iterative quantisation, 8 bits, seed 0: done before" in line for line in told)
    assert [(found["table"], found["row"]) for found in made.results] == [("other", "Iterative quantisation")]
    assert (tmp_path / "out" / "two.md").exists()
    assert (tmp_path / "out" / "other.md").exists()


@pytest.mark.slow
def test_a_row_that_diverges_is_left_out_and_the_others_are_made(make: Any, table: Path, tmp_path: Path) -> None:
    made, told = make({"learning_rate": 1e30})
    assert [found["row"] for found in made.results] == ["ITQ"]
    assert any("left out: DHIDA, 8 bits, seed 0: the loss is no number" in line for line in told)
    assert "not in the table: DHIDA, 8 bits, seed 0: the loss is no number" in (tmp_path / "out" / "two.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("text", ["{", "{}", "3"])
def test_a_damaged_result_is_said_before_training(make: Any, tmp_path: Path, text: str) -> None:
    make(methods=["itq"])
    (run_of(tmp_path / "out", "itq") / "result.json").write_text(text)
    with pytest.raises(TrainingError, match=r"result\.json' is damaged: delete it"):
        make(methods=["itq"])


@pytest.mark.slow
def test_on_queries_is_labelled_and_chosen_there(make: Any, tmp_path: Path) -> None:
    make(methods=["dhida"], select="on-queries")
    found = stored(tmp_path, "dhida")
    assert "model chosen on the test queries" in (tmp_path / "out" / "two.md").read_text()
    assert found["training"]["validation_images"] == 0
    # its score of the one epoch is the mAP that the evaluation finds
    assert found["training"]["validation_score"] == pytest.approx(
        found["retrieval"]["mean_average_precision"], abs=1e-9
    )


def test_impossible_runs_are_left_out_and_told(make: Any, table: Path, tmp_path: Path) -> None:
    table.write_text(TABLE.replace('name = "ITQ"\nmethod = "itq"', 'name = "CCA-ITQ"\nmethod = "cca-itq"'))
    with pytest.raises(ArgumentError, match="3 classes have 2 independent directions"):
        make(methods=["cca-itq"])
    assert not (tmp_path / "out" / "runs").exists()
    made, told = make()
    assert [found["row"] for found in made.results] == ["DHIDA"]
    assert any(line.startswith("left out: CCA-ITQ, 8 bits: bits is 8") for line in told)
    assert "not in the table: CCA-ITQ, 8 bits: bits is 8" in (tmp_path / "out" / "two.md").read_text()


@pytest.mark.parametrize(
    ("settings", "other", "message"),
    [
        ({}, {"table": "table9"}, "no table 'table9'"),
        ({}, {"methods": ["dhida", "csq"]}, "two has no row 'csq': give some of dhida, itq"),
        ({}, {"bits": [0]}, "bits"),
        ({}, {"seeds": []}, "nothing to do"),
        ({}, {"cutoff": 0}, "cutoff is 0"),
        ({}, {"split": None}, "neither a data set nor a split"),
        ({}, {"dataset": "cifar10", "protocol": "cifar10"}, "both a protocol and a split"),
        ({}, {"data": "nowhere"}, "'nowhere' is no folder"),
        ({"backbone": "vgg"}, {}, "unknown backbone 'vgg'"),
        ({"backbone": "resnet18"}, {}, "size is 16: resnet18 needs 32 pixels or more"),
        ({"batch": 100}, {"methods": ["dhida"]}, "fewer than the batch of 100"),
    ],
)
def test_wrong_requests_are_one_sentence(make: Any, settings: Any, other: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=message) as error:
        make(settings, **other)
    assert type(error.value).__module__ == "hashfaiss.errors"
    assert not (tmp_path / "out" / "runs").exists()


def test_how_long_rows_learn_can_be_overridden(make: Any, table: Path) -> None:
    table.write_text(TABLE.replace('method = "dhida"', 'method = "dhida"\nsettings.learning_rate = 5e-5'))
    made, _ = make({"learning_rate": 1e-3}, methods=["dhida"])
    assert made.results[0]["settings"]["learning_rate"] == 1e-3


def test_what_a_table_compares_cannot_be_overridden(make: Any) -> None:
    with pytest.raises(ArgumentError, match="rows of dhida-table4 differ in backbone, which is what it compares"):
        make({"backbone": "resnet-small"}, table="dhida-table4")


def test_lists_on_the_command_line() -> None:
    assert listed(" dhida, dbdh,") == ["dhida", "dbdh"]
    assert numbers("--bits", "16,48") == [16, 48]
    assert (seeds_of("3"), seeds_of("0,2"), seeds_of("2,")) == ([0, 1, 2], [0, 2], [2])
    for wrong in ("", ",", "x", "-1", "1.5"):
        with pytest.raises(ArgumentError):
            numbers("--bits", wrong)


def test_command_line(table: Path, split: Path, many_photos: Path, tmp_path: Path) -> None:
    common = ["--data", str(many_photos), "--out", str(tmp_path / "out"), "--split", str(split), "--weights", "none"]
    arguments = ["reproduce", str(table), *common, "--size", "16", "--methods", "itq", "--seeds", "1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "[1/1] ITQ, 8 bits, seed 0: mAP@ALL" in done.stderr
    assert "1 run in" in done.stdout
    assert "two.md" in done.stdout
    wrong = CliRunner().invoke(app, ["reproduce", "table9", *common])
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("hashfaiss: there is no table 'table9'")
    stopped = CliRunner().invoke(app, ["reproduce", str(table), *common, "--bits", "many"])
    assert stopped.exit_code == 2
    assert "--bits is 'many': give whole numbers" in stopped.stderr
