"""Commands that learn: train, methods, split, reproduce."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from hashfaiss.cli.app import JsonOption, LabelsOption, MegapixelsOption, ThreadsOption, app
from hashfaiss.cli.settings import takes_settings
from hashfaiss.errors import ArgumentError

# Settings that hold for all rows of a table alike.
ALIKE = (
    *("backbone", "weights", "size", "epochs", "batch", "learning_rate", "lr_step", "evaluate_every"),
    *("device", "precision"),
)


@app.command()
@takes_settings
def train(
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder of images; a folder in it is a class."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Model file to write; default: METHOD.pt.")] = None,
    labels: LabelsOption = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="A paper's settings, METHOD-DATASET such as dhida-cifar10, or a .toml file."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="With --recipe: the data set as it is published; trains on its protocol's split."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="A constant of the loss, such as gamma=0.2; may be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a training that was cut off.")] = False,
    max_megapixels: MegapixelsOption = None,
    threads: ThreadsOption = None,
    **settings: Any,
) -> None:
    """Train a hashing network and write its model file; most methods need labels.

    Without --recipe, it learns from EfficientNet-Lite0's ImageNet weights for --minutes (15), with HashNet's loss; with
    --recipe, --weights none, or --epochs without --freeze, what is not given is as the method's paper has it. The loss
    curve, metrics.csv and what --resume needs go to a folder beside the model. Examples:

        hashfaiss train --images photos/ --method dhida --bits 64 --out dhida.pt

        hashfaiss train --recipe dhida-cifar10 --bits 48 --data cifar10/
    """
    from hashfaiss.cli.console import note, say, training_bar
    from hashfaiss.train import train as train_network
    from hashfaiss.train.prepare import prepare_training

    if labels is not None:
        settings["labels"] = labels
    options = prepare_training(images, recipe, data, out, option or (), say, **settings)
    with training_bar() as progress:
        result = train_network(options, resume, progress, note)
    for path, reason in result.skipped:
        note(f"skipped {path}: {reason}")
    score = "" if result.validation_score is None else f", {result.measure} {result.validation_score:.4f}"
    say(
        f"{result.out}: epoch {result.best_epoch} of {len(result.history)}{score}; {result.images:,} images, "
        f"{len(result.skipped):,} skipped, {result.seconds:,.0f} s; curves in {result.folder}"
    )


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One of them, to see its options and recipe.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the methods: paper, year, what they learn from, whether an image may have several labels, loss.

    With a name: what --option takes, and what it is trained with by default. Example:

        hashfaiss methods dbdh
    """
    from hashfaiss.cli.console import print_json, print_table
    from hashfaiss.train.methods import method_class, method_defaults, method_names
    from hashfaiss.train.recipes import method_settings

    titles = ("method", "paper", "year", "learns from", "labels", "loss")
    rows = []
    for method in method_names() if name is None else [name]:
        about, recipe = method_class(method).about, method_settings(method)
        options = {**method_defaults(method), **recipe.pop("options")}
        if as_json:
            print_json({"name": method, **vars(about), "options": options, "recipe": recipe})
        labels = "several" if about.multi_label else "one"
        rows.append((method, about.paper, str(about.year), about.supervision, labels, about.loss))
    if as_json:
        return
    if name is None:
        print_table(titles, rows)
        return
    print_table(("", name), list(zip(titles[1:], rows[0][1:], strict=True)))
    print_table(("--option", "default"), [(option, json.dumps(value)) for option, value in options.items()])
    print_table(("trained with", ""), [(setting, str(value)) for setting, value in recipe.items()])


@app.command()
def split(
    out: Annotated[Path, typer.Option("--out", help="Folder for the lists.")],
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder of images; a folder in it is a class."),
    ] = None,
    labels: LabelsOption = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="cifar10, nuswide21, nuswide81, imagenet100 or coco; instead of --images."),
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Where it was unpacked, as published.")] = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="For CIFAR-10's images; default: --out.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Default: the data set's, or cifar10-1.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    unseen: Annotated[int, typer.Option(help="Classes to hold out from training, drawn by the seed.")] = 0,
) -> None:
    """Draw a protocol's queries, training images and database, and write them as lists for --labels.

    \b
    protocol     queries        training       database                       mAP@
    cifar10      100 a class    500 a class    all but both                   ALL
    cifar10-1    100 a class    500 a class    all but the queries            ALL
    cifar10-2    1,000 a class  all others     all but the queries            ALL
    nuswide21    100 a class    500 a class    all but the queries            5,000
    nuswide81    5,000          10,000         all but the queries            5,000
    imagenet100  50 a class     130 a class    all of train/, queries of val/ 1,000
    coco         5,000          10,000         all but the queries            5,000
    random:query=500,train=2000,cutoff=100 draws so many of any set.

    With --unseen 3, three classes stay in queries and database, and no training image has them: `evaluate` and
    `reproduce` then tell queries of either kind apart. Examples:

    \b
        hashfaiss split --images cifar10/ --protocol cifar10-1 --out cifar10/split
        hashfaiss split --dataset coco --data coco/ --out coco/split
    """
    from hashfaiss.cli.console import note, say, shown_path
    from hashfaiss.datasets.layouts import read_dataset, split_dataset
    from hashfaiss.datasets.protocols import leak_sentence, make_split, protocol_for
    from hashfaiss.images.labels import labelled_images

    if (images is None) == (dataset is None) or (dataset is None) != (data is None) or (dataset and labels):
        raise ArgumentError("give either --images, with --labels or without, or both --dataset and --data")
    if images is not None:
        protocol = protocol_for(None, protocol)
        missing: list[str] = []
        listed = labelled_images(images, labels, missing=missing)
        if missing:
            note(f"{len(missing):,} listed images left out: no such file, as {shown_path(missing[0])}")
        facts = make_split(listed, protocol, seed, out, images, unseen=unseen).facts
    else:
        found = read_dataset(str(dataset), str(data), cache or out)
        for reason, count in found.facts["left_out"].items():
            note(f"{count:,} images left out: {reason}")
        facts = split_dataset(found, protocol, seed, out, unseen).facts
        note(f"the lists are of --images {shown_path(str(found.folder))}")
    for name, count in facts["counts"].items():
        say(f"{name:8} {count:7,} images  sha256 {facts['sha256'][name]}")
    say(f"{facts['protocol']}, seed {seed}, mAP@{'ALL' if facts['cutoff'] is None else format(facts['cutoff'], ',')}")
    say(leak_sentence(facts))
    if unseen:
        say(f"not trained on: {', '.join(facts['unseen'])}")


@app.command()
@functools.partial(takes_settings, only=ALIKE)
def reproduce(
    table: Annotated[
        str,
        typer.Argument(help="dhida-table3, dhida-table4, dath-table3, dath-table4, attention, or a .toml file."),
    ],
    data: Annotated[
        Path, typer.Option("--data", help="The data set as it is published; with --split alone, the images' folder.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for models, results, tables and figures.")],
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="cifar10, nuswide21, nuswide81, imagenet100 or coco."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", help="Rows, such as dhida,dbdh; default: all."),
    ] = None,
    bits: Annotated[str | None, typer.Option("--bits", help="Such as 16,48; default: the paper's.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="How many, or which: 3 is 0,1,2; default: the table's, mostly 1."),
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option("--rates", help="Learning rates to choose from on validation images, such as 3e-5,1e-4,3e-4."),
    ] = None,
    select: Annotated[str, typer.Option(help="Best epoch by validation, or on-queries.")] = "validation",
    protocol: Annotated[str | None, typer.Option(help="See `hashfaiss split`; default: the data set's.")] = None,
    split_seed: Annotated[int, typer.Option("--seed-of-split", help="Of the protocol's draw.")] = 0,
    split: Annotated[Path | None, typer.Option("--split", help="Folder of a split's lists, instead.")] = None,
    cutoff: Annotated[int | None, typer.Option("-R", "--cutoff", help="R of mAP@R; default: protocol's.")] = None,
    threads: ThreadsOption = None,
    **settings: Any,
) -> None:
    """Train, index and evaluate the rows of a paper's table, and write it with the paper's numbers beside them.

    What is not given is as each method's paper has it; what is given holds for all rows alike, and the table says what
    differs; --weights may be by backbone, as resnet18=FILE,alexnet=none. Cut off at any point, the same command carries
    on; rows already done are not trained again. Example:

        hashfaiss reproduce dhida-table3 --dataset cifar10 --data cifar10/ --bits 16 --methods dhida,dbdh --out table3/
    """
    from hashfaiss.cli.console import bar, note, say, shown_path, training_bar
    from hashfaiss.experiments.reproduce import ReproduceOptions, listed, numbers, rates_of, seeds_of
    from hashfaiss.experiments.reproduce import reproduce as reproduce_table
    from hashfaiss.experiments.runs import Display

    options = ReproduceOptions(
        table=table,
        data=data,
        out=out,
        dataset=dataset,
        methods=None if methods is None else listed(methods),
        bits=None if bits is None else numbers("--bits", bits),
        seeds=None if seeds is None else seeds_of(seeds),
        protocol=protocol,
        split_seed=split_seed,
        split=split,
        cutoff=cutoff,
        select=select,  # type: ignore[arg-type]
        rates=None if rates is None else rates_of(rates),
        settings=settings,
    )
    result = reproduce_table(options, Display(note, training_bar, bar))
    count = f"{len(result.results):,} run{'' if len(result.results) == 1 else 's'}"
    say(f"{count} in {shown_path(os.path.abspath(result.files[0]))}, {len(result.left_out):,} left out")
    if methods is not None and result.left_out:  # they were asked for by name
        raise typer.Exit(1)
