"""A whole table of a paper: every row trained, indexed and evaluated on the same data, in one call.

Cut off at any point, the same call carries on: finished runs are not trained again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hashfaiss.codes import check_bits
from hashfaiss.datasets.layouts import read_dataset, split_dataset
from hashfaiss.datasets.protocols import PROTOCOLS, leak_sentence, parse_protocol, protocol_for, read_split
from hashfaiss.errors import ArgumentError, DivergedError, HashfaissError, TrainingError
from hashfaiss.experiments.plans import RESULT, Data, Plan, plan_run, read_result
from hashfaiss.experiments.runs import Display, carry_out
from hashfaiss.experiments.table_files import write_table
from hashfaiss.experiments.tables import Row, Table, check_rates, load_table
from hashfaiss.train.options import Select


def listed(text: str) -> list[str]:
    """The parts of "dhida, dbdh".

    Raises:
        ArgumentError: there are none.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ArgumentError(f"{text!r} lists nothing: give one or more, separated by commas")
    return parts


def numbers(name: str, text: str) -> list[int]:
    """The whole numbers of "16,48"; `name` is for the error, an ArgumentError."""
    parts = listed(text)
    if not all(part.isascii() and part.isdecimal() and len(part) <= 9 for part in parts):
        raise ArgumentError(f"{name} is {text!r}: give whole numbers separated by commas, such as 16,48")
    return [int(part) for part in parts]


def rates_of(text: str) -> list[float]:
    """The numbers of "3e-5,1e-4"; ArgumentError for what are none."""
    try:
        return [float(part) for part in listed(text)]
    except ValueError:
        raise ArgumentError(f"--rates is {text!r}: give numbers separated by commas, such as 3e-5,1e-4,3e-4") from None


def seeds_of(text: str) -> list[int]:
    """ "3" is three seeds, 0, 1 and 2; "0,2" are these two, and "2," is this one."""
    found = numbers("--seeds", text)
    return found if "," in text else list(range(found[0]))


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """What to reproduce, on what, and how. Where None stands, the table or the data set says what it is.

    Attributes:
        table: a name in `tables.table_names()`, or a TOML file.
        data: the data set in its published layout; with `split` alone, the folder the lists' paths start from.
        out: folder of everything that is made; runs that are finished there are taken as they are.
        dataset: a name in `datasets.layouts.DATASETS`; decides protocol, preprocessing and the paper's numbers.
        methods: rows by their names, or by their methods'.
        bits, seeds: of the runs.
        protocol, split_seed: of the split that is drawn from `dataset`.
        split: folder of a split that exists, instead.
        cutoff: R of mAP@R.
        select: the best epoch by "validation" or "on-queries", see `TrainOptions`.
        rates: learning rates that each trained row chooses from on its validation images.
        settings: fields of `TrainOptions` for all rows alike; "weights" may be `resnet18=FILE,alexnet=none`.
    """

    table: str | os.PathLike[str]
    data: str | os.PathLike[str]
    out: str | os.PathLike[str]
    dataset: str | None = None
    methods: Sequence[str] | None = None
    bits: Sequence[int] | None = None
    seeds: Sequence[int] | None = None
    protocol: str | None = None
    split_seed: int = 0
    split: str | os.PathLike[str] | None = None
    cutoff: int | None = None
    select: Select = "validation"
    rates: Sequence[float] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reproduction:
    """What came of it.

    Attributes:
        files: the Markdown and CSV tables, and the figures.
        results: as in the `result.json` of every run in the table.
        left_out: (run, why) of those that are not in it.
    """

    files: list[Path]
    results: list[dict[str, Any]]
    left_out: list[tuple[str, str]]


def reproduce(options: ReproduceOptions, display: Display | None = None) -> Reproduction:
    """Train, index and evaluate the rows of a table, and write it after every run.

    Runs that cannot be (CCA-ITQ at more bits than there are classes, say) are left out, and the table says why; where
    none can be, the first reason is raised. Everything is checked before the first training starts.

    Raises:
        ArgumentError: an unknown table, row or setting.
        TrainingError: a result in `out` is damaged.
        HashfaissError: see `train`, `make_split` and `evaluate_index`.
        KeyboardInterrupt: passed on; the same call carries on.
    """
    display = display or Display()
    table = load_table(options.table)
    if options.rates is not None:
        table = dataclasses.replace(table, rates=check_rates(options.rates, "rates"))
    rows = table.choose(options.methods)
    bits = [check_bits(value) for value in (table.bits if options.bits is None else dict.fromkeys(options.bits))]
    seeds = list(range(table.seeds)) if options.seeds is None else list(dict.fromkeys(options.seeds))
    if not bits or not seeds:
        raise ArgumentError("there is nothing to do: give at least one number of bits and one seed")
    if options.cutoff is not None and options.cutoff < 1:
        raise ArgumentError(f"cutoff is {options.cutoff}: give a whole number from 1 up")
    data = _data(options)
    book = _Book(table, options, data, seeds)
    display.note(f"{book.described}; {leak_sentence(data.split.facts)}")
    # a seed of the whole table before the next: what is there early is a table already
    plans = book.plan([(row, number, seed) for seed in seeds for number in bits for row in rows], display.note)
    for number, plan in enumerate(plans, start=1):
        _run(plan, f"[{number}/{len(plans)}] {plan.name}", book, display)
    files, results = book.write()
    return Reproduction(files, results, book.left_out)


def _run(plan: Plan, title: str, book: _Book, display: Display) -> None:
    result = plan.stored()
    if result is not None:
        display.note(f"{title}: done before; {book.sentence(book.about(plan, result))}")
        return
    display.note(f"{title} ...")
    try:
        result = carry_out(plan, book.data, book.facts, display)
    except DivergedError as error:  # it would again: the other rows are worth having
        book.left_out.append((plan.name, str(error)))
        display.note(f"left out: {plan.name}: {error}")
        return
    if result is None:
        display.note(f"{title}: another process is at it, passed over")
        return
    book.write()
    display.note(f"{title}: {book.sentence(book.about(plan, result))}; {leak_sentence(book.data.split.facts)}")


class _Book:
    """The table as it stands in a folder: plans, and the results that belong together."""

    def __init__(self, table: Table, options: ReproduceOptions, data: Data, seeds: Sequence[int]) -> None:
        self.table, self.data, self.seeds, self.out = table, data, seeds, Path(options.out)
        self.overrides = {**options.settings, "select": options.select}
        self.left_out: list[tuple[str, str]] = []
        self.planned: dict[tuple[str, int, int], Plan] = {}
        facts = data.split.facts
        protocol = facts.get("protocol") or f"the lists in {data.split.folder.name}/"
        self.facts = {"dataset": data.dataset, "protocol": protocol, "cutoff": data.cutoff}
        self.facts["split"] = {
            name: facts[name] for name in ("seed", "counts", "sha256", "leaks", "unlabelled") if name in facts
        }

    @property
    def described(self) -> str:
        """The data in a few words."""
        counts = self.data.split.facts["counts"]
        return (
            f"{self.data.dataset or self.data.images.name}, {self.facts['protocol']}: {counts['query']:,} queries, "
            f"{counts['train']:,} training images, database of {counts['database']:,}"
        )

    def about(self, plan: Plan, result: Mapping[str, Any]) -> dict[str, Any]:
        """A run's result, as a row of this table."""
        paper = self.table.paper(plan.row, self.data.dataset, plan.bits)
        return {**result, "table": self.table.name, "row": plan.row.name, "paper": paper, "differs": plan.differs}

    def sentence(self, result: Mapping[str, Any]) -> str:
        """A result in a line."""
        found, training = result["retrieval"], result["training"]
        paper = "" if result["paper"] is None else f" (paper {result['paper']:.4f})"
        cutoff = "ALL" if self.data.cutoff is None else f"{self.data.cutoff:,}"
        epoch = f", epoch {training['best_epoch']} of {training['epochs']}"
        return (
            f"mAP@{cutoff} {found['mean_average_precision']:.4f}{paper}{epoch}, trained in {training['seconds']:,.0f} s"
        )

    def plan(self, asked: Sequence[tuple[Row, int, int]], note: Callable[[str], None]) -> list[Plan]:
        """Plans of the runs asked for that can be; the others are left out, each row and length told once.

        Raises:
            HashfaissError: none can be, or the result of one cannot be read.
        """
        plans: list[Plan] = []
        refused: list[HashfaissError] = []
        for row, bits, seed in asked:
            try:
                plan = self._plan(row, bits, seed)
            except HashfaissError as error:
                refused.append(error)
                left = (f"{row.name}, {bits} bits", str(error))
                if left not in self.left_out:
                    self.left_out.append(left)
                    note(f"left out: {left[0]}: {left[1]}")
                continue
            plan.stored()  # what cannot be read is told now, not after hours
            plans.append(plan)
        if not plans:
            raise refused[0]
        return plans

    def _plan(self, row: Row, bits: int, seed: int) -> Plan:
        key = (row.name, bits, seed)
        if key not in self.planned:
            self.planned[key] = plan_run(self.table, row, bits, seed, self.out, self.data, self.overrides)
        return self.planned[key]

    def write(self) -> tuple[list[Path], list[dict[str, Any]]]:
        """Write the table of all finished runs in the folder that are rows of it, with these settings and seeds."""
        results = []
        for row, bits, seed in self._finished():
            try:
                plan = self._plan(row, bits, seed)
            except HashfaissError:  # a row that cannot be with these settings
                continue
            result = plan.stored()
            if result is not None:
                results.append(self.about(plan, result))
        try:
            return write_table(self.out, self.table, results, self.left_out, self.described), results
        except OSError as error:
            raise TrainingError(f"cannot write the table to {str(self.out)!r}: {error.strerror}") from None

    def _finished(self) -> list[tuple[Row, int, int]]:
        """Rows, bits and seeds of which the folder may hold a result."""
        stored = [read_result(file) or {} for file in (self.out / "runs").glob(f"*/{RESULT}")]
        made = sorted({(run["bits"], run["seed"], run["method"]) for run in stored if run["seed"] in self.seeds})
        return [(row, bits, seed) for row in self.table.rows for bits, seed, method in made if method == row.method]


def _data(options: ReproduceOptions) -> Data:
    """The data set's split, drawn once and kept in `out`, or the one that was given."""
    out = Path(options.out)
    if options.dataset is None and options.split is None:
        raise ArgumentError("neither a data set nor a split was given: give --dataset NAME, or --split FOLDER of lists")
    if options.split is not None and options.protocol is not None:
        raise ArgumentError("both a protocol and a split were given: a protocol draws a split, give one of them")
    images = Path(os.path.abspath(options.data))
    if options.dataset is None:
        if not images.is_dir():
            raise ArgumentError(f"{os.fspath(options.data)!r} is no folder: give the one the split's paths start from")
        split = read_split(options.split or "")
    else:
        protocol = protocol_for(options.dataset, options.protocol)
        parse_protocol(protocol)
        found = read_dataset(options.dataset, options.data, out / "images")
        images = found.folder
        drawn = out / "split"
        if options.split is not None:
            split = read_split(options.split)
        elif (drawn / "split.json").exists():
            split = read_split(drawn)
            if (split.facts.get("protocol"), split.facts.get("seed")) != (protocol, options.split_seed):
                raise ArgumentError(
                    f"{str(drawn)!r} is a split of {split.facts.get('protocol')}, seed {split.facts.get('seed')}, and "
                    f"{protocol}, seed {options.split_seed}, was asked for: give another --out"
                )
        else:
            split = split_dataset(found, protocol, options.split_seed, drawn)
    cutoff = options.cutoff or split.facts.get("cutoff")
    if cutoff is None and options.dataset in PROTOCOLS and "protocol" not in split.facts:
        cutoff = PROTOCOLS[options.dataset].cutoff  # another's lists of a known data set
    return Data(images, split, options.dataset, cutoff)
