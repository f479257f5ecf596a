"""Commands about distances between images: compare, radius."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hashfaiss.cli.app import DEFAULT_INDEX, DeviceOption, IndexOption, JsonOption, MegapixelsOption, ThreadsOption, app
from hashfaiss.errors import ArgumentError, HashfaissError

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.library.image_index import ImageIndex


@app.command()
def compare(
    one: Annotated[str, typer.Argument(help="An image.", metavar="A")],
    other: Annotated[str, typer.Argument(help="Another one.", metavar="B")],
    index: Annotated[
        Path | None, typer.Option("--index", help=f"Index folder whose model sees them; default: {DEFAULT_INDEX}.")
    ] = None,
    model: Annotated[Path | None, typer.Option("--model", help="A model file, in place of an index.")] = None,
    radius: Annotated[int | None, typer.Option("--radius", help="Exit code 1 where they are farther apart.")] = None,
    max_megapixels: MegapixelsOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Tell how far apart the codes of two images are, and in which bits they differ.

    The exit code is as `cmp` has it: 0 where the Hamming distance is within --radius, or no --radius was given; 1 where
    it is not; 2 where that cannot be told: wrong usage, an image that cannot be read, no index. An image of the index
    whose file is gone has its stored code. Examples:

    \b
        hashfaiss compare a.jpg b.jpg
        hashfaiss compare a.jpg b.jpg --model photos.pt --radius 4 && echo near
    """
    from hashfaiss.cli.console import note, print_json, say, shown_path
    from hashfaiss.indexes.near import check_radius
    from hashfaiss.wording import counted

    if index and model:
        raise ArgumentError("both --index and --model were given: give one of them")
    try:
        asked = _asked(index or DEFAULT_INDEX, model, device)
        if radius is not None:
            check_radius(radius, asked.bits)
        found = asked.compare(one, other)
    except HashfaissError as error:  # 1 would say that they differ
        note(f"hashfaiss: {error}")
        raise typer.Exit(2) from None
    within = None if radius is None else found.distance <= radius
    if as_json:
        about = {"distance": found.distance, "bits": found.bits, "differ": found.differ}
        print_json({"images": [one, other], **about, "radius": radius, "within": within})
    else:
        told = "" if within is None else f", {'within' if within else 'not within'} radius {radius}"
        say(f"{shown_path(one)}, {shown_path(other)}: distance {found.distance} of {counted(found.bits, 'bit')}{told}")
        if found.differ:
            say(f"bits that differ: {' '.join(map(str, found.differ))}")
    if within is False:
        raise typer.Exit(1)


def _asked(index: Path, model: Path | None, device: str) -> Encoder | ImageIndex:
    """Who encodes; to import the encoder takes seconds, and an index may do without."""
    if model is None:
        from hashfaiss.library.image_index import ImageIndex

        return ImageIndex.open(index, device=device)
    from hashfaiss.encoding.encoder import Encoder

    return Encoder.load(model, device)


@app.command()
def radius(
    pairs: Annotated[
        Path | None,
        typer.Option("--pairs", help="CSV of path,path,same (1 or 0); paths begin at its folder. Default: labels."),
    ] = None,
    index: IndexOption = DEFAULT_INDEX,
    model: Annotated[Path | None, typer.Option("--model", help="For --pairs: a model file, and no index.")] = None,
    sample: Annotated[int, typer.Option("--sample", help="Images of the index to ask with; 0 for all.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Of that sample.")] = 0,
    plots: Annotated[Path | None, typer.Option("--plots", help="Folder to draw the curves into.")] = None,
    max_megapixels: MegapixelsOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Show what each Hamming radius finds, to choose one for `query --radius` and `duplicates --radius`.

    With --pairs, of pairs that you have judged: precision is the share of those found that are the same, recall the
    share of the same that are found. Without, two images of the index are the same where they share a label, which is
    for classes, not for near-duplicates. The last column is how many pairs of images of the index lie within the
    radius, wherever they come from, estimated from --sample: where it is far above what you expect, the pairs judged
    are easier than the index. Examples:

    \b
        hashfaiss radius --pairs pairs.csv --plots plots/
        hashfaiss radius --sample 0 --json
    """
    from hashfaiss.cli.console import MOST_NAMED, bar, check_plots, note, print_json, shown_path
    from hashfaiss.cli.reports import print_radii
    from hashfaiss.evaluation.index_radii import draw_radius, evaluate_radius
    from hashfaiss.images.pairs import read_pairs

    if model and pairs is None:
        raise ArgumentError("--model is for --pairs: give both, or an index whose labels tell what is the same")
    if plots:
        check_plots(plots)
    judged = None if pairs is None else read_pairs(pairs)
    asked = _asked(index, model, device)
    with bar("radius") as progress:
        report = evaluate_radius(asked, judged, sample, seed, progress)
    for path, reason in report.skipped[:MOST_NAMED]:
        note(f"skipped {shown_path(path)}: {reason}")
    print_json(report.to_dict()) if as_json else print_radii(report)
    if plots:
        note(f"plot: {shown_path(str(draw_radius(plots, report)))}")
