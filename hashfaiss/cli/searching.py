"""Commands over an index: build, query, evaluate, info, tune, duplicates, verify, remove."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hashfaiss.cli.app import (
    DEFAULT_INDEX,
    DeviceOption,
    DevicesOption,
    ImagesOption,
    IndexOption,
    JsonOption,
    LabelsOption,
    app,
)
from hashfaiss.errors import ArgumentError, HashfaissError

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.library.hits import Hits

MOST_SHOWN = 20  # images of a group


@app.command()
def build(
    images: ImagesOption,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="Model file of `hashfaiss train`; without one, it is fitted to the images."),
    ] = None,
    index: IndexOption = DEFAULT_INDEX,
    labels: LabelsOption = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="auto, flat, hash, multihash, ivf, hnsw, gpu, or such as hash:b=16,flips=2."),
    ] = None,
    bits: Annotated[int, typer.Option("--bits", help="Of a model that is fitted to the images.")] = 64,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an image that cannot be read.")] = False,
    device: DevicesOption = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="auto, float32, bfloat16 or float16: how fast, not which codes.")
    ] = "auto",
) -> None:
    """Bring an index into step with a folder: encode what is new or changed, forget what is gone.

    Without --model, an index that is there keeps its own; a new one gets a model fitted to the images (ITQ on the
    features of EfficientNet-Lite0), which takes no labels and no download.

    Only what lies below the folder is forgotten; with --labels, only images the file lists are kept. Cut off at any
    point, the index stays as it was last committed, and the same command carries on. Examples:

        hashfaiss build --images photos/

        hashfaiss build --model dhida.pt --images photos/
    """
    from hashfaiss.cli.console import bar, note, say, shown_path
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.library.image_index import ImageIndex
    from hashfaiss.library.sync import check_images
    from hashfaiss.storage.manifest import MANIFEST

    if images.is_file():
        raise ArgumentError(f"{str(images)!r} is a file: give a folder of images")
    there = (index / MANIFEST).exists()
    encoder = Encoder.load(model, device, precision) if model is not None else None
    if not there:
        check_images(images, labels)
    if encoder is None:
        encoder = ImageIndex.open(index, device=device).encoder if there else _fitted(images, bits, device)
    opened = ImageIndex.create(encoder, index, "auto" if kind is None else kind)
    with bar("encode") as progress:
        report = opened.build(images, labels, kind, strict, progress)
    for path, reason in report.skipped[:5]:
        note(f"skipped {shown_path(path)}: {reason}")
    where = f" (see {shown_path(str(report.skipped_report))})" if report.skipped else ""
    say(
        f"{report.encoded:,} encoded, {report.unchanged:,} unchanged, {report.removed:,} removed, "
        f"{len(report.skipped):,} skipped{where}, {report.seconds:.1f} s, {report.images_per_second:,.0f} images/s"
    )


def _fitted(images: Path, bits: int, device: str) -> Encoder:
    """An encoder for images without labels."""
    from hashfaiss.cli.console import bar, note
    from hashfaiss.train.unlabelled import fit_to_folder

    with bar("look at images") as progress:
        encoder = fit_to_folder(images, bits, device=device.partition(",")[0], progress=progress)
    count = encoder.facts["training_images"]
    note(
        f"no model was given: ITQ of {encoder.bits} bits was fitted to the features that EfficientNet-Lite0 (ImageNet) "
        f"has of {count:,} images; with labels, `hashfaiss train` learns what you call alike"
    )
    return encoder


@app.command()
def query(
    images: Annotated[
        list[str], typer.Argument(help="Images to ask with; - reads paths from stdin, one a line or from -print0.")
    ],
    index: IndexOption = DEFAULT_INDEX,
    k: Annotated[int | None, typer.Option("-k", "--k", help="How many hits (default 10).")] = None,
    radius: Annotated[int | None, typer.Option("--radius", help="All hits at Hamming distance <= this.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Search on until every answer is certified.")] = False,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="Only images with this label; may be repeated.")
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option("--path", help="Only images whose path matches, such as 'holiday/*'."),
    ] = None,
    rerank: Annotated[
        str | None, typer.Option("--rerank", help="asymmetric: order hits by the network's real outputs.")
    ] = None,
    model: Annotated[Path | None, typer.Option("--model", help="Refuse an index of any other model.")] = None,
    montage: Annotated[Path | None, typer.Option("--montage", help="Also draw the hits as this PNG.")] = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Find the images nearest to an image: rank, Hamming distance, path and labels.

    Says whether the answer is certified exact. --path takes patterns like those of `find -path`, which may begin at
    any folder of a path and must match to its end: 'cat/*' is all below any folder cat, '[[]1].jpg' the file [1].jpg.
    With --rerank asymmetric, hits are ordered by how sure the network is of the bits in which they differ; as many
    lie at the distance of the last of -k, which of them are shown changes with it. Examples:

    \b
        hashfaiss query cat.jpg -k 20 --montage hits.png
        hashfaiss query cat.jpg --exact --label cat --label lynx --path 'holiday/*'
        find new/ -name '*.jpg' -print0 | hashfaiss query - --radius 4 --json
    """
    from hashfaiss.cli.console import note, print_hits, shown_path
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.library.answering import How
    from hashfaiss.library.image_index import ImageIndex
    from hashfaiss.library.montage import MOST_ROWS, draw_montage

    if k is not None and radius is not None:
        raise ArgumentError("both -k and --radius were given: give one of them")
    if montage:
        _check_target(montage.parent, montage)
    opened = ImageIndex.open(index, Encoder.load(model, device) if model else None, device)
    drawn: list[Hits] = []
    failed = False
    if k is None and radius is None:
        k = 10
    how = How(exact=exact, labels=label, paths=path, rerank=rerank)  # type: ignore[typeddict-item]
    for answer in opened.stream(_paths(images), k, radius, **how):
        if isinstance(answer, HashfaissError):
            note(f"hashfaiss: {answer}")
            failed = True
            continue
        print_hits(answer, as_json)
        if montage and len(drawn) <= MOST_ROWS:
            drawn.append(answer)
    if montage and drawn:
        more = f" (the first {MOST_ROWS} queries)" if len(drawn) > MOST_ROWS else ""
        note(f"montage: {shown_path(str(draw_montage(montage, drawn, opened.store.labels())))}{more}")
    if failed:
        raise typer.Exit(1)


def _check_target(folder: Path, file: Path | None = None) -> None:
    """Tell before the work that what it draws could not be saved."""
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise HashfaissError(f"{str(folder)!r} is no folder that can be written: draw into another")
    if file is not None and file.is_dir():
        raise HashfaissError(f"{str(file)!r} is a folder: give the name of a PNG file")


def _paths(images: list[str]) -> Iterator[str]:
    """The paths given; for - those on stdin, one a line, or ended by NUL (`find -print0`)."""
    for image in images:
        if image != "-":
            yield image
            continue
        stdin: Any = sys.stdin.buffer
        part, rest = stdin.read1(), b""
        end, mark = (b"\0", b"") if b"\0" in part else (b"\n", b"\r")
        while part or rest:
            *whole, rest = (rest + (part or end)).split(end)
            yield from (os.fsdecode(name) for path in whole if (name := path.removesuffix(mark)))
            part = stdin.read1()


@app.command()
def evaluate(
    index: IndexOption = DEFAULT_INDEX,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", help="Folder of query images; default: the index's own, each left out."),
    ] = None,
    labels: LabelsOption = None,
    cutoff: Annotated[int | None, typer.Option("-R", "--cutoff", help="R of mAP@R; default: all.")] = None,
    norm: Annotated[str, typer.Option(help="Divisor of AP@R: found, min or all (relevant images).")] = "found",
    depth: Annotated[int | None, typer.Option(help="Ranks of FAISS to check; default: all to 100,000.")] = None,
    sample: Annotated[int, typer.Option(help="Own images to ask with, or read again; 0 for all.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of that sample.")] = 0,
    plots: Annotated[Path | None, typer.Option("--plots", help="Folder to draw curves into.")] = None,
    rerank: Annotated[
        str | None, typer.Option("--rerank", help="asymmetric: mAP when real outputs order ties, or all, too.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Have FAISS search on until every answer is certified.")
    ] = False,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Check FAISS's answers against the exact Hamming ranking, and measure retrieval and code health.

    Labels are those the index was built with; --labels are those of the queries. Without labels, images of the index
    are read again, to tell how well codes keep the neighbours by the network's real features. Example:

        hashfaiss evaluate --queries held-out/ --plots plots/
    """
    from hashfaiss.cli.console import bar, note, print_json, shown_path
    from hashfaiss.cli.reports import print_report
    from hashfaiss.evaluation.index_report import evaluate_index
    from hashfaiss.library.image_index import ImageIndex

    if norm not in ("found", "min", "all"):
        raise ArgumentError(f"norm is {norm!r}: give found, min or all")
    if plots:
        _check_target(next(path for path in (plots, *plots.absolute().parents) if path.exists()))
    opened = ImageIndex.open(index, device=device)
    with bar("evaluate") as progress:
        report = evaluate_index(
            opened,
            queries,
            labels,
            depth,
            cutoff,
            norm,  # type: ignore[arg-type]
            sample,
            seed,
            progress,
            rerank,
            exact,
        )
    for path, reason in report.skipped[:5]:
        note(f"skipped {shown_path(path)}: {reason}")
    print_json(report.to_dict()) if as_json else print_report(report)
    for file in report.plot(plots) if plots else []:
        note(f"plot: {shown_path(str(file))}")


@app.command()
def info(index: IndexOption = DEFAULT_INDEX, as_json: JsonOption = False) -> None:
    """Show what an index holds and how it is searched. Example: hashfaiss info --index photos.index"""
    from hashfaiss.cli.console import print_json, print_table
    from hashfaiss.library.image_index import ImageIndex

    facts = ImageIndex.open(index).info()
    if as_json:
        print_json(facts)
    else:
        rows = [(name.replace("_", " "), f"{v:,}" if isinstance(v, int) else str(v)) for name, v in facts.items()]
        print_table(("", str(index)), rows)


@app.command()
def tune(
    index: IndexOption = DEFAULT_INDEX,
    recall: Annotated[float, typer.Option(help="Share of the 10 nearest, by distance, that must be found.")] = 0.99,
    memory: Annotated[
        str | None, typer.Option("--memory", help="That codes and FAISS index may take, such as 500MB or 4GB.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure FAISS kinds on the codes at hand, choose the fastest in batch that reaches the recall, and keep it.

    Queries are codes of the index that are held out of it meanwhile. Rates are of one thread. Example:

        hashfaiss tune --recall 0.999 --memory 4GB
    """
    from hashfaiss.cli.console import note, print_json, print_table, say
    from hashfaiss.library.image_index import ImageIndex

    limit = None if memory is None else _bytes(memory)
    tuning = ImageIndex.open(index).tune(recall, limit, note)
    if as_json:
        print_json(tuning.as_dict())
        return
    rows = [
        (
            trial.kind,
            f"{trial.recall:.4f}",
            f"{100 * trial.certified:.1f} %",
            f"{trial.batch_rate:,.0f}",
            f"{trial.single_rate:,.0f}",
            f"{trial.bytes_per_code:.1f}",
            f"{trial.build_seconds:.1f} s",
        )
        for trial in tuning.trials
    ]
    titles = ("kind", "recall", "certified", "queries/s in batch", "alone", "bytes a code", "built in")
    print_table(titles, rows)
    say(f"chosen: {tuning.kind}: {tuning.why}")


def _bytes(text: str) -> int:
    """`500MB` as a number of bytes; ArgumentError where it is none."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([KMGT]?B?)", text.strip().upper())
    if found is None or found[2] not in units:
        raise ArgumentError(f"memory is {text!r}: give bytes, such as 500MB or 4GB")
    return int(float(found[1]) * units[found[2]])


@app.command()
def duplicates(
    index: IndexOption = DEFAULT_INDEX,
    radius: Annotated[int, typer.Option("--radius", help="Hamming distance up to which codes are near.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """List groups of images whose codes lie near each other, directly or through others.

    What is near is what the model sees as alike: few bits, or a model that separates classes only, make large groups.
    The distance beside each image is from the first of its group. With --json, a group a line. Example:

        hashfaiss duplicates --radius 2 --json
    """
    from hashfaiss.cli.console import bar, counted, print_json, print_table, say, shown_path
    from hashfaiss.library.image_index import ImageIndex

    groups = images = 0
    with bar("compare") as progress:
        found = ImageIndex.open(index).duplicates(radius, progress)
        for group in found:
            groups, images = groups + 1, images + len(group)
            if as_json:
                about = [{"path": hit.path, "distance": hit.distance, "labels": hit.labels} for hit in group]
                print_json({"group": groups, "images": about})
                continue
            rows = [(str(hit.distance), shown_path(hit.path), ";".join(hit.labels)) for hit in group[:MOST_SHOWN]]
            more = len(group) - MOST_SHOWN
            print_table(("distance", "path", "labels"), rows, f"group {groups:,}: {counted(len(group), 'image')}")
            if more > 0:
                say(f"... and {more:,} more (all with --json)\n")
    if not as_json:
        say(f"{counted(groups, 'group')} of {counted(images, 'image')} within distance {radius}")


@app.command()
def verify(index: IndexOption = DEFAULT_INDEX) -> None:
    """Read every stored file and check that it is what was written. Example: hashfaiss verify"""
    from hashfaiss.cli.console import say
    from hashfaiss.library.image_index import ImageIndex

    sound = True
    for name, trouble in ImageIndex.open(index).verify():
        say(f"{name}: {trouble or 'sound'}")
        sound = sound and trouble is None
    if not sound:
        raise typer.Exit(1)


@app.command()
def remove(
    paths: Annotated[list[str], typer.Argument(help="Images, or folders of images, to take out.")],
    index: IndexOption = DEFAULT_INDEX,
) -> None:
    """Take images out of an index. The files stay, and the next build of their folder brings them back.

    Example: hashfaiss remove photos/old/
    """
    from hashfaiss.cli.console import say
    from hashfaiss.library.image_index import ImageIndex

    opened = ImageIndex.open(index)
    say(f"{opened.remove(paths):,} removed, {len(opened):,} left")
