"""Commands that ask an index: query, evaluate, duplicates."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hashfaiss.cli.app import (
    DEFAULT_INDEX,
    AddressOption,
    DeviceOption,
    IndexOption,
    JsonOption,
    LabelsOption,
    MegapixelsOption,
    ThreadsOption,
    app,
)
from hashfaiss.errors import ArgumentError, HashfaissError

if TYPE_CHECKING:
    from hashfaiss.library.asking import Asked
    from hashfaiss.library.hits import Hit, Hits
    from hashfaiss.storage.store import CodeStore


@app.command()
def query(
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Images to ask with; - reads paths from stdin, one a line or from -print0."),
    ] = None,
    index: Annotated[
        list[Path] | None,
        typer.Option("--index", help="Index folder; may be repeated.", show_default=str(DEFAULT_INDEX)),
    ] = None,
    k: Annotated[int | None, typer.Option("-k", "--k", help="How many hits (default 10).")] = None,
    radius: Annotated[int | None, typer.Option("--radius", help="All hits at Hamming distance <= this.")] = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Take what the kind's own probes find, which may miss some.")
    ] = False,
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
    ids: Annotated[
        list[int] | None, typer.Option("--id", help="An image of the index to ask with, by id; may be repeated.")
    ] = None,
    combine: Annotated[
        bool, typer.Option("--combine", help="All images together are one query, not one each.")
    ] = False,
    unlike: Annotated[
        list[str] | None,
        typer.Option("--not", help="An image to stay away from; may be repeated; implies --combine."),
    ] = None,
    model: Annotated[Path | None, typer.Option("--model", help="Refuse an index of any other model.")] = None,
    montage: Annotated[Path | None, typer.Option("--montage", help="Also draw the hits as this PNG, in rows.")] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="ray: actors search, each a part of the codes.")
    ] = None,
    shards: Annotated[int, typer.Option("--shards", min=1, help="Parts, of --engine ray.")] = 2,
    address: AddressOption = None,
    max_megapixels: MegapixelsOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Find the images nearest to an image: rank, Hamming distance, path and labels.

    Answers are certified exact: to encode an image takes longer than to prove what is nearest to it. --approximate is
    for batches and more than ten million codes, and says of each answer whether it is certified.

    --path takes patterns like those of `find -path`, which may begin at any folder of a path and must match to its
    end: 'cat/*' is all below any folder cat, '[[]1].jpg' the file [1].jpg.

    With --rerank asymmetric, hits are ordered by how sure the network is of the bits in which they differ; as many
    lie at the distance of the last of -k, which of them are shown changes with it.

    Several images are asked with one by one. With --combine they are one query: the mean of the network's outputs, less
    half the mean of those of --not, each in units of its mean size; hits are ordered by what they lack of it, and all
    of the index is compared. An image of the index whose file is gone, and --id, are asked with by their stored code.

    Several indexes of one model are asked as one, and each hit names its index; --id is of one. With --engine ray, the
    parts of an index lie on the machines of a cluster that see its folder. Examples:

    \b
        hashfaiss query cat.jpg -k 20 --montage hits.png
        hashfaiss query a.jpg b.jpg --not c.jpg
        hashfaiss query cat.jpg --label cat --label lynx --path 'holiday/*'
        hashfaiss query cat.jpg --index 2024.index --index 2025.index
        find new/ -name '*.jpg' -print0 | hashfaiss query - --radius 4 --json
    """
    from hashfaiss.cli.console import check_target, note, print_hits, shown_path
    from hashfaiss.library.answering import How
    from hashfaiss.library.image_index import ImageIndex
    from hashfaiss.library.montage import MOST_ROWS, draw_montage
    from hashfaiss.library.several import Several

    if k is not None and radius is not None:
        raise ArgumentError("both -k and --radius were given: give one of them")
    if not images and not ids:
        raise ArgumentError("there is nothing to ask with: give images, - for paths on stdin, or --id")
    if ids and index and len(index) > 1:
        raise ArgumentError(f"--id is an image of one index, and {len(index)} were given: give one --index")
    if montage:
        if montage.suffix.lower() != ".png":  # under another suffix, a build would take it for a photograph
            raise ArgumentError(f"the montage {str(montage)!r} is a PNG: give it a name that ends in .png")
        check_target(montage.parent, montage)
    encoder = None
    if model is not None:  # to import the encoder's takes seconds, and a query may do without
        from hashfaiss.encoding.encoder import Encoder

        encoder = Encoder.load(model, device)
    each = [ImageIndex.open(one, encoder, device, engine, shards, address) for one in index or [DEFAULT_INDEX]]
    opened: Asked = each[0] if len(each) == 1 else Several(each)
    drawn: list[Hits] = []
    failed = False
    if k is None and radius is None:
        k = 10
    how = How(exact=not approximate, labels=label, paths=path, rerank=rerank)  # type: ignore[typeddict-item]
    asked: Iterable[Any] = chain(_paths(images or []), ids or [])
    answers: Iterable[Any] = (
        [opened.combined(list(asked), unlike or [], k, radius, **how)]
        if combine or unlike
        else opened.stream(asked, k, radius, **how)
    )
    for answer in answers:
        if isinstance(answer, HashfaissError):
            note(f"hashfaiss: {answer}")
            failed = True
            continue
        print_hits(answer, as_json)
        if montage and len(drawn) <= MOST_ROWS:
            drawn.append(answer)
    if montage and drawn:
        more = f" (the first {MOST_ROWS} queries)" if len(drawn) > MOST_ROWS else ""
        note(f"montage: {shown_path(str(draw_montage(montage, drawn, opened.label_names())))}{more}")
    if failed:
        raise typer.Exit(1)


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
    norm: Annotated[
        str,
        typer.Option(
            help="Divisor of AP@R: found, min or all (relevant); kept: found, without queries that find none."
        ),
    ] = "found",
    depth: Annotated[int | None, typer.Option(help="Ranks of FAISS to check; default: all to 100,000.")] = None,
    sample: Annotated[int, typer.Option(help="Own images to ask with, or read again; 0 for all.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of that sample.")] = 0,
    plots: Annotated[Path | None, typer.Option("--plots", help="Folder to draw curves into.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write all of it, and the best and worst queries, as this page.")
    ] = None,
    rerank: Annotated[
        str | None, typer.Option("--rerank", help="asymmetric: mAP when real outputs order ties, or all, too.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Have FAISS search on until every answer is certified.")
    ] = False,
    max_megapixels: MegapixelsOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Check FAISS's answers against the exact Hamming ranking, and measure retrieval and code health.

    Labels are those the index was built with; --labels are those of the queries. Without labels, images of the index
    are read again, to tell how well codes keep the neighbours by the network's real features. Example:

        hashfaiss evaluate --queries held-out/ --html report.html
    """
    from hashfaiss.cli.console import bar, check_plots, check_target, note, print_json, shown_path
    from hashfaiss.cli.reports import print_report
    from hashfaiss.evaluation.index_report import evaluate_index
    from hashfaiss.library.image_index import ImageIndex

    if norm not in ("found", "min", "all", "kept"):
        raise ArgumentError(f"norm is {norm!r}: give found, min, all or kept")
    if plots:
        check_plots(plots)
    if html:
        check_target(html.parent, html)
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
    if html:
        from hashfaiss.evaluation.report_page import write_report

        note(f"page: {shown_path(str(write_report(html, report, opened)))}")


@app.command()
def duplicates(
    index: IndexOption = DEFAULT_INDEX,
    radius: Annotated[int, typer.Option("--radius", help="Hamming distance up to which codes are near.")] = 0,
    link: Annotated[
        str, typer.Option("--link", help="chain: near directly or through others; complete: every two are near.")
    ] = "chain",
    between: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--between", help="Two folders: only images near one of the other folder.", metavar="DIR DIR"),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="Folder: list what of all else is near its images, each with the nearest."),
    ] = None,
    rotations: Annotated[
        bool, typer.Option("--rotations", help="Also images that are turned or mirrored; reads all of them again.")
    ] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Also draw the groups as this page.")] = None,
    ignore_file: Annotated[
        Path | None, typer.Option("--ignore-file", help="Groups to pass over: lines of --json, in a file.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", help="Of each group: best (pixels, then bytes; the default), oldest or largest."),
    ] = None,
    move_to: Annotated[
        Path | None, typer.Option("--move-to", help="Move the files that are not kept below this folder.")
    ] = None,
    hard_link: Annotated[
        bool, typer.Option("--hard-link", help="Make identical files that are not kept names of the kept one.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run/--no-dry-run", help="Only say what --move-to or --hard-link would do.")
    ] = True,
    max_megapixels: MegapixelsOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """List groups of images whose codes lie near each other, directly or through others.

    Chains of near images can be long: with --link complete every two of a group are near. What is near is what the
    model sees as alike: few bits, or a model that separates classes only, make large groups. The distance beside each
    image is from the first of its group. With --json, a group a line. With --html, also one HTML page with thumbnails,
    which needs no other file; of many groups and images it shows the first.

    --rotations also finds what was turned by quarters or mirrored: each image is asked with as its 8 views. That takes
    as long as encoding all of them 8 times, and a --radius of a few bits. Distances are those of the nearest views.

    Nothing is deleted. With --move-to or --hard-link, one file of each group is kept (with --reference, that folder's),
    and with --no-dry-run the others are moved, or those with the very same bytes linked. Links, and files behind them,
    are left alone. Examples:

    \b
        hashfaiss duplicates --radius 2 --json
        hashfaiss duplicates --radius 2 --between new/ archive/
        hashfaiss duplicates --html duplicates.html
        hashfaiss duplicates --keep largest --move-to duplicates/ --no-dry-run
    """
    from hashfaiss.cli.console import bar, check_target, note, shown_path
    from hashfaiss.library.image_index import ImageIndex
    from hashfaiss.library.near_images import Among
    from hashfaiss.library.resolving import KEEP, Dismissed

    if move_to and hard_link:
        raise ArgumentError("both --move-to and --hard-link were given: give one of them")
    if keep is not None and keep not in KEEP:
        raise ArgumentError(f"keep is {keep!r}: give {', '.join(KEEP)}")
    if keep and reference:
        raise ArgumentError("both --keep and --reference were given: the reference folder's images are kept")
    if (keep or not dry_run) and not (move_to or hard_link):
        raise ArgumentError("--keep and --no-dry-run are for files that go: give --move-to DIR or --hard-link as well")
    if move_to and move_to.is_file():
        raise ArgumentError(f"--move-to {str(move_to)!r} is a file: give a folder")
    if html:
        check_target(html.parent, html)
    with bar("duplicates") as progress:
        opened = ImageIndex.open(index, device=device)
        among = Among(link=link, between=between, reference=reference, rotations=rotations, unread=_unread)
        found = opened.duplicates(radius, progress, **among)
        if ignore_file:
            found = Dismissed(ignore_file).without(found)
        groups = _listed(found, radius, as_json)
        if move_to or hard_link:
            groups = _resolved(groups, None if reference else keep or "best", move_to, dry_run, opened.store)
        if html:
            from hashfaiss.library.duplicates_page import write_duplicates_page

            write_duplicates_page(html, groups, radius, progress)
        else:
            for _ in groups:
                pass
    if html:
        note(f"page: {shown_path(str(html))}")


def _unread(path: str, reason: str) -> None:
    from hashfaiss.cli.console import note, shown_path

    note(f"not turned {shown_path(path)}: {reason}")


def _resolved(
    groups: Iterable[tuple[Hit, ...]], keep: str | None, move_to: Path | None, dry_run: bool, store: CodeStore
) -> Iterator[tuple[Hit, ...]]:
    """The groups, whose files but one are moved or linked as they pass, or are only named; on stderr."""
    from hashfaiss.cli.console import note, shown_path
    from hashfaiss.library.resolving import hard_link, move, others
    from hashfaiss.wording import counted

    def indexed(image: int) -> bytes:
        return store.row(image).digest

    def left(path: str, reason: str) -> None:
        note(f"left alone {shown_path(path)}: {reason}")

    done = failed = 0
    verb = ("move" if move_to else "link") if dry_run else ("moved" if move_to else "linked")
    for group in groups:
        for other in others(group, keep, indexed, move_to, left):
            if not move_to and not other.identical:
                continue
            try:
                if not dry_run:
                    move(other, move_to.absolute(), store.base) if move_to else hard_link(other)
            except HashfaissError as error:
                note(f"hashfaiss: {error}")
                failed += 1
                continue
            alike = "identical to" if other.identical else "near"
            note(f"{verb} {shown_path(other.path)}: {alike} {shown_path(other.kept)}, which is kept")
            done += 1
        yield group
    if dry_run:
        note(f"nothing was done: with --no-dry-run, {counted(done, 'file')} would be {verb}{'d' if move_to else 'ed'}")
    else:
        note(f"{counted(done, 'file')} {verb}: the next build of their folder forgets them")
    if failed:
        raise typer.Exit(1)


def _listed(groups: Iterable[tuple[Hit, ...]], radius: int, as_json: bool) -> Iterator[tuple[Hit, ...]]:
    """The groups, printed as they pass, and at the end how many there were."""
    from hashfaiss.cli.console import print_group, say
    from hashfaiss.wording import counted

    found = images = 0
    for group in groups:
        found, images = found + 1, images + len(group)
        print_group(found, group, as_json)
        yield group
    if not as_json:
        say(f"{counted(found, 'group')} of {counted(images, 'image')} within distance {radius}")
