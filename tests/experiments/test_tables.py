"""What a table is: the papers' numbers in it, the form of its file, and what is written of results."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from hashfaiss.errors import ArgumentError
from hashfaiss.experiments.figures import DRAWINGS, draw_figures
from hashfaiss.experiments.plans import lay_over, weights_of
from hashfaiss.experiments.table_files import csv_text, markdown
from hashfaiss.experiments.tables import FIGURES, Table, load_table, table_names
from hashfaiss.train.methods import METHODS

PAIR = """
bits = [8, 16]
title = "Two"
source = "Nowhere"
[[rows]]
name = "DHIDA"
method = "dhida"
paper.cifar10 = [0.5, nan]
[[rows]]
name = "ITQ"
method = "itq"
"""


def result(row: str = "DHIDA", bits: int = 8, seed: int = 0, score: float = 0.25, **other: Any) -> dict[str, Any]:
    """A made-up result, as `result.json` has it."""
    retrieval = {
        "mean_average_precision": score,
        "pessimistic": score - 0.1,
        "optimistic": score + 0.1,
        "precision_within_2": 0.125,
        "empty_balls": 0.5,
        "ranks": [1, 4],
        "precision_by_rank": [1.0, 0.5],
        "recall_by_rank": [0.25, 0.5],
        "precision_by_radius": [0.5, 0.25],
        "recall_by_radius": [0.5, 1.0],
    }
    return {
        "cutoff": None,
        "row": row,
        "method": row.lower(),
        "bits": bits,
        "seed": seed,
        "paper": 0.5 if (row, bits) == ("DHIDA", 8) else None,
        "split": {
            "seed": 0,
            "sha256": {"query": "a" * 64},
            "counts": {"query": 9},
            "leaks": {"queries_in_database": 0, "queries_in_train": 0, "train_outside_database": 0},
        },
        "settings": {"select": "validation", "validation": 0.1, "size": 16},
        "differs": {"epochs": [150, 2]},
        "training": {"seconds": 3.0, "best_epoch": 2, "epochs": 2, "skipped": 0},
        "retrieval": retrieval,
        "average_precisions": [score] * 9,
        "agreement": {"queries": 9, "right_ids": 9, "false_certificates": 0},
        "index": {"depth": 40, "skipped": 0},
        "database_skipped": 0,
        "encode": {"milliseconds_per_image": 1.5, "fastest": 1.25, "batch": 64},
        "machine": {"device": "cpu", "threads": 1, "torch": "2"},
        "history": [
            {"epoch": 1, "loss": 2.0, "validation_score": None},
            {"epoch": 2, "loss": 1.0, "validation_score": 0.3},
        ],
        **other,
    }


@pytest.fixture
def pair(tmp_path: Path) -> Table:
    file = tmp_path / "pair.toml"
    file.write_text(PAIR)
    return load_table(file)


def test_paper_numbers_are_those_printed() -> None:
    table = load_table("dhida-table3")
    rows = {row.name: row for row in table.rows}
    assert [row.method for row in table.rows[-4:]] == ["lsh", "itq", "cca-itq", "sdh"]
    assert [table.paper(rows["DHIDA"], "cifar10", bits) for bits in table.bits] == [0.8213, 0.8359, 0.8420, 0.8428]
    assert table.paper(rows["HashNet, popular"], "nuswide21", 32) == 0.8180
    assert table.paper(rows["DSH, popular"], "imagenet100", 64) == 0.4403
    assert table.paper(rows["LCDSH"], "imagenet100", 16) == 0.2269
    assert table.paper(rows["LSH"], "cifar10", 16) is None
    assert table.paper(rows["DHIDA"], "cifar10", 24) is None
    assert table.paper(rows["DHIDA"], None, 16) is None
    ablation = load_table("dhida-table4")
    found = {row.name: ablation.paper(row, "cifar10", 16) for row in ablation.rows}
    assert found == {"A": 0.7240, "I": 0.7641, "R": 0.8021, "D": 0.8076, "DHIDA": 0.8213}


def test_the_papers_numbers_stand_beside_the_losses_that_made_them() -> None:
    """That code's epochs, batch and drops, and its form of each loss."""
    table = load_table("dhida-table3")
    rows = {row.name: row for row in table.rows}
    for name in ("DBDH", "DSDH", "DHN", "HashNet", "IDHN", "DFH", "DSH"):
        assert rows[name].paper == {}
        changed = rows["DBDH, clamped" if name == "DBDH" else f"{name}, popular"]
        assert (changed.method, set(changed.paper)) == (rows[name].method, {"cifar10", "nuswide21", "imagenet100"})
        assert changed.settings["method_options"]
    length = {"DHIDA": 150, "DBDH": 150, "DSDH": 150, "DHN": 90, "LCDSH": 350, "HashNet": 150, "DFH": 150, "DSH": 250}
    for name, epochs in length.items():
        chosen = lay_over(table, rows[name], "cifar10", {})
        assert chosen["epochs"] == epochs
        assert chosen["batch"] == (64 if name in ("DSDH", "HashNet", "DFH", "DSH") else 128)
        assert (chosen["lr_step"] < epochs) == (name in ("DHIDA", "DBDH"))


@pytest.mark.parametrize("name", ["attention", "dath-table3", "dath-table4", "dhida-table3", "dhida-table4"])
def test_every_table_is_of_known_methods(name: str) -> None:
    table = load_table(name)
    assert name in table_names()
    assert {row.method for row in table.rows} <= {*METHODS, "dath"}
    assert len({row.slug for row in table.rows}) == len(table.rows)


def test_every_figure_has_its_drawing() -> None:
    assert tuple(DRAWINGS) == FIGURES


def test_the_grid_of_dath_is_the_texts() -> None:
    table = load_table("dath-table4")
    grid = {tuple(row.settings["method_options"].values()) for row in table.rows}
    assert grid == {(beta, gamma) for beta in (0, 1, 0.1, 0.01) for gamma in (0, 0.1, 0.01)}
    assert load_table("attention").seeds == 3


def test_rows_are_chosen_by_name_then_by_method() -> None:
    ablation = load_table("dhida-table4")
    assert [row.name for row in ablation.choose(["DHIDA"])] == ["DHIDA"]
    assert len(load_table("attention").choose(["dhida"])) == 3
    assert [row.name for row in load_table("dhida-table3").choose(["sdh", "CCA-ITQ"])] == ["CCA-ITQ", "SDH"]
    with pytest.raises(ArgumentError, match="dhida-table4 has no row 'csq': give some of a, i, r, d, dhida"):
        ablation.choose(["csq"])


def test_unknown_table_lists_the_known_ones() -> None:
    with pytest.raises(ArgumentError, match=r"no table 'dhida-table9': give one of attention, .*, or a \.toml file"):
        load_table("dhida-table9")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bits = [8", "is not TOML"),
        ("bits = [8]", r"needs bits = \[...\] and at least one \[\[rows\]\]"),
        (PAIR + 'color = "red"', "'color' is not known there"),
        (PAIR + "settings.seed = 3", "'seed' is not known there"),
        (PAIR + "settings = 3", "expected keys and values, and there is 3"),
        (PAIR.replace("nan]", "'x']"), "give 2 numbers, nan where unknown"),
        (PAIR.replace(", nan]", "]"), "give 2 numbers"),
        (PAIR.replace('"ITQ"', '"dhida"'), "two rows 'dhida'"),
        (PAIR.replace('method = "itq"', ""), "lacks its name or method"),
        ('figures = ["pie"]\n' + PAIR, "has the figure 'pie': give some of precision-recall"),
        ("seeds = 0\n" + PAIR, "seeds = 0: give how many"),
        (PAIR.replace("[8, 16]", "[8, 0]"), "bits"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(ArgumentError, match=message) as error:
        load_table(file)
    assert "\n" not in str(error.value).replace("\\n", "") or "TOML" in message


def test_weights_by_backbone() -> None:
    assert weights_of("resnet18=a=b.pt,alexnet=none", "resnet18") == "a=b.pt"
    assert weights_of("resnet18=a.pt,alexnet=none", "alexnet") == "none"
    assert weights_of("resnet18=a.pt", "alexnet") == "imagenet"
    assert weights_of("odd=name.pt", "alexnet") == "odd=name.pt"


def cells(text: str, row: str, table: int = 0) -> list[str]:
    """The cells of a row of the first or second Markdown table."""
    found = [line for line in text.splitlines() if line.startswith(f"| {row} ")]
    return [cell.strip() for cell in found[table].split("|")[1:-1]]


def test_markdown_shows_spread_paper_and_best(pair: Table) -> None:
    results = [
        result(score=0.25),
        result(score=0.75, seed=1),
        result(bits=16, score=0.9),
        result(row="ITQ", score=0.125, differs={}),
    ]
    text = markdown(pair, results, [("ITQ, 16 bits", "it cannot be")], "digits, split")
    assert cells(text, "Method") == ["Method", "8 bits", "paper", "16 bits", "paper"]
    assert cells(text, "DHIDA") == ["DHIDA", "**0.5000 ± 0.3536**", "0.5000", "0.9000 (1 of 2 seeds)", "-"]
    assert "  - 8 bits: DHIDA is ahead of all others, of ITQ by +0.1250 (+0.1250 to +0.1250)" in text
    assert "- 16 bits: DHIDA" not in text
    assert cells(text, "ITQ") == ["ITQ", "0.1250 (1 of 2 seeds)", "-", "-", "-"]
    worst_to_epoch = ["0.4000 ± 0.3536", "0.6000 ± 0.3536", "0.1250 ± 0.0000", "50.0 ± 0.0", "1.25 ± 0.00", "3 ± 0"]
    assert cells(text, "DHIDA", 1) == ["DHIDA", "8", *worst_to_epoch, "2/2, 2/2", "18 of 18 queries, 40 ranks"]
    assert "model chosen on a validation split, 10 % of the training images" in text
    assert "leaks: no query in the database or the training set" in text
    assert "- epochs: 2 instead of 150\n" in text
    assert "not in the table: ITQ, 16 bits: it cannot be" in text


def test_markdown_names_rows_where_settings_differ_otherwise(pair: Table) -> None:
    other = result(row="DSH", differs={"epochs": [90, 2], "learning_rate": [1e-3, 5e-5]})
    text = markdown(pair, [result(), other], [], "digits")
    assert "- epochs: 2 instead of 150 (DHIDA); 2 instead of 90 (DSH)\n" in text
    assert "- learning rate: 5e-05 instead of 0.001 (DSH)\n" in text


def test_markdown_says_when_the_test_queries_chose(pair: Table) -> None:
    chosen = result(settings={"select": "on-queries", "validation": 0.0, "size": 16})
    assert "model chosen on the test queries" in markdown(pair, [chosen], [], "digits").split("| Method")[0]
    last = result(settings={"select": "validation", "validation": 0.0, "size": 16})
    assert "the last epoch's model" in markdown(pair, [last], [], "digits")


def test_markdown_tells_of_wrong_answers(pair: Table) -> None:
    wrong = result(agreement={"queries": 9, "right_ids": 7, "false_certificates": 1})
    assert cells(markdown(pair, [wrong], [], "x"), "DHIDA", 1)[-1] == "7 of 9 queries, 40 ranks, 1 falsely certified"


def test_csv_has_every_number_of_every_run() -> None:
    first, second = csv.DictReader(io.StringIO(csv_text([result(), result(row="ITQ", score=0.5)])))
    assert (first["row"], first["bits"], float(first["map"]), float(first["paper"])) == ("DHIDA", "8", 0.25, 0.5)
    assert (second["row"], float(second["map"]), second["paper"]) == ("ITQ", 0.5, "")
    assert first["agreement.right_ids"] == "9"
    assert first["settings.select"] == "validation"
    assert first["split.leaks.queries_in_database"] == "0"


def test_figures_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    several = [result(), result(seed=1), result(bits=16), result(row="ITQ")]
    files = draw_figures(tmp_path, FIGURES, several)
    assert [file.name for file in files] == [f"{name}.png" for name in FIGURES]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    # one length is bars, and shallow methods do not converge
    assert len(draw_figures(tmp_path / "one", ("radius-2", "convergence"), [result(row="ITQ")])) == 1


def test_a_legend_of_many_rows_is_whole() -> None:
    rows = [f"row {number}" for number in range(25)]
    figure = DRAWINGS["precision-recall"]([result(row=row) for row in rows], {row: {} for row in rows})
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend.get_window_extent().y0 >= 0
    assert legend.get_window_extent().y1 <= figure.bbox.y1


def test_classes_never_seen_have_a_column_of_their_own(pair: Table) -> None:
    sides = {
        "classes": ["dog", "frog"],
        "seen": {"queries": 5, "mean_average_precision": 0.75},
        "unseen": {"queries": 4, "mean_average_precision": 0.125},
    }
    told = markdown(pair, [result(unseen=sides), result("ITQ", unseen=sides)], [], "data")
    titles, cells = (
        [cell.strip() for cell in line.split("|")]
        for line in told.splitlines()
        if "unseen classes" in line or (line.startswith("| ITQ") and "0.7500" in line)
    )
    assert cells[titles.index("mAP, seen classes")] == "0.7500"
    assert cells[titles.index("mAP, unseen classes")] == "0.1250"
    assert "- classes not trained on: dog, frog" in told
    assert "unseen" not in markdown(pair, [result()], [], "data")
