"""What a table of a paper is: its rows, each a method and its settings, and the numbers printed there.

Tables are TOML files in `paper_tables/`; a file of one's own in the same form is one too:

    title = "..."
    source = "..."                      # where the paper's numbers are from
    bits = [16, 32]
    seeds = 3                           # how many, where the command does not say; default 1
    rates = [3e-5, 1e-4, 3e-4]          # learning rates that each trained row chooses from on its validation images
    figures = ["convergence"]           # names in FIGURES
    settings.backbone = "resnet18"      # fields of TrainOptions, for all rows

    [[rows]]
    name = "DHIDA"
    method = "dhida"
    settings.attention = "ida"          # for this row; settings.method_options are constants of the loss
    paper.cifar10 = [0.8213, nan]       # by data set, one for each of `bits`; nan where it is not known
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from hashfaiss.codes import check_bits
from hashfaiss.errors import ArgumentError
from hashfaiss.train.options import TrainOptions

FIGURES = ("precision-recall", "precision-recall-at", "radius-2", "convergence", "encoding-time")

# What a run decides itself is no setting of a table.
_DECIDED = {"images", "out", "labels", "method", "bits", "seed", "select", "queries", "database", "cutoff", "device"}
_SETTINGS = {item.name for item in dataclasses.fields(TrainOptions)} - _DECIDED


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: as the table shows it.
        method: a name in `methods.METHODS`.
        settings: fields of `TrainOptions` in which this row differs from the others.
        paper: by data set, a number for each of the table's bits; NaN where it is not known.
    """

    name: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name for folders: lower case, no blanks."""
        return _slug(self.name)


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: such as "dhida-table3".
        title, source: what it shows, and where the paper's numbers are from.
        bits: the paper's.
        rows: from top to bottom.
        seeds: how many, where the command does not say.
        figures: names in FIGURES.
        settings: fields of `TrainOptions` for all rows, over each method's recipe.
        rates: learning rates that each trained row chooses from; none are each row's own.
    """

    name: str
    title: str
    source: str
    bits: tuple[int, ...]
    rows: tuple[Row, ...]
    seeds: int = 1
    figures: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = ()

    def paper(self, row: Row, dataset: str | None, bits: int) -> float | None:
        """The paper's number, or None where there is none."""
        numbers = row.paper.get(dataset or "")
        if numbers is None or bits not in self.bits:
            return None
        value = numbers[self.bits.index(bits)]
        return None if math.isnan(value) else value

    def choose(self, names: Sequence[str] | None) -> tuple[Row, ...]:
        """The rows called so, or of the methods called so; all for None.

        Raises:
            ArgumentError: no row is called so.
        """
        if names is None:
            return self.rows
        chosen: set[str] = set()
        for name in names:
            asked = _slug(name)
            found = [row.name for row in self.rows if row.slug == asked]
            found = found or [row.name for row in self.rows if row.method == asked]
            if not found:
                listed = ", ".join(row.slug for row in self.rows)
                raise ArgumentError(f"{self.name} has no row {name!r}: give some of {listed}")
            chosen.update(found)
        return tuple(row for row in self.rows if row.name in chosen)


def table_names() -> tuple[str, ...]:
    """Tables of the package, sorted."""
    folder = files(__package__) / "paper_tables"
    return tuple(sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")))


def load_table(name: str | os.PathLike[str]) -> Table:
    """Read a table of the package, or a TOML file in its form (see the top of this module).

    Raises:
        ArgumentError: no such table, or a file that is not one; the message says where.
    """
    text = os.fspath(name)
    if not text.endswith(".toml"):
        if text not in table_names():
            raise ArgumentError(
                f"there is no table {text!r}: give one of {', '.join(table_names())}, or a .toml file with one"
            )
        return _parse(text, (files(__package__) / "paper_tables" / f"{text}.toml").read_text(encoding="utf-8"))
    path = Path(text)
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ArgumentError(f"cannot read the table {text!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ArgumentError(f"the table {text!r} is not UTF-8 text: give a TOML file") from None
    return _parse(path.stem, content)


def _parse(name: str, text: str) -> Table:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ArgumentError(f"the table {name!r} is not TOML: {error}") from None
    _known(values, {"title", "source", "bits", "seeds", "figures", "settings", "rates", "rows"}, f"the table {name!r}")
    bits = values.get("bits")
    entries = values.get("rows")
    if not isinstance(bits, list) or not bits or not isinstance(entries, list) or not entries:
        raise ArgumentError(f"the table {name!r} needs bits = [...] and at least one [[rows]]")
    figures = values.get("figures", [])
    unknown = [figure for figure in figures if figure not in FIGURES]
    if unknown:
        raise ArgumentError(f"the table {name!r} has the figure {unknown[0]!r}: give some of {', '.join(FIGURES)}")
    seeds = values.get("seeds", 1)
    if not isinstance(seeds, int) or seeds < 1:
        raise ArgumentError(f"the table {name!r} has seeds = {seeds!r}: give how many, 1 or more")
    rows = tuple(_parse_row(name, entry, len(bits)) for entry in entries)
    slugs = [row.slug for row in rows]
    for slug in slugs:
        if slugs.count(slug) > 1:
            raise ArgumentError(f"the table {name!r} has two rows {slug!r}: give each a name of its own")
    return Table(
        name=name,
        title=str(values.get("title", name)),
        source=str(values.get("source", "")),
        bits=tuple(check_bits(value) for value in bits),
        rows=rows,
        seeds=seeds,
        figures=tuple(figures),
        settings=_settings(values.get("settings", {}), f"the table {name!r}"),
        rates=check_rates(values.get("rates", []), f"the table {name!r} has rates"),
    )


def check_rates(values: Any, what: str) -> tuple[float, ...]:
    """Learning rates in ascending order, each once; ArgumentError, which begins with `what`, for what are none."""
    good = isinstance(values, (list, tuple)) and all(_is_number(value) and 0 < value < math.inf for value in values)
    if not good or len(set(values)) != len(values):
        raise ArgumentError(f"{what} = {values!r}: give different numbers above 0, such as [3e-5, 1e-4, 3e-4]")
    return tuple(sorted(float(value) for value in values))


def _parse_row(table: str, entry: Any, columns: int) -> Row:
    named = isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("name", "method"))
    if not named or not _slug(entry["name"]):
        raise ArgumentError(f"a row of the table {table!r} lacks its name or method: give both, as text")
    where = f"the row {entry['name']!r} of the table {table!r}"
    _known(entry, {"name", "method", "settings", "paper"}, where)
    paper = entry.get("paper", {})
    for dataset, numbers in paper.items():
        if not isinstance(numbers, list) or len(numbers) != columns or not all(map(_is_number, numbers)):
            raise ArgumentError(f"{where} has paper.{dataset} = {numbers!r}: give {columns} numbers, nan where unknown")
    settings = _settings(entry.get("settings", {}), where)
    return Row(
        entry["name"],
        entry["method"],
        settings,
        {dataset: tuple(map(float, numbers)) for dataset, numbers in paper.items()},
    )


def _settings(values: Any, where: str) -> dict[str, Any]:
    _known(values, _SETTINGS, f"settings of {where}")
    return dict(values)


def _known(values: Any, known: set[str], where: str) -> None:
    if not isinstance(values, dict):
        raise ArgumentError(f"{where}: expected keys and values, and there is {values!r}")
    for key in values:
        if key not in known:
            raise ArgumentError(f"{where}: {key!r} is not known there; known are {', '.join(sorted(known))}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.=]+", "-", name.casefold()).strip("-.")
