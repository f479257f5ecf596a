"""Commands about distances between images: compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hashfaiss.cli.app import DEFAULT_INDEX, DeviceOption, JsonOption, MegapixelsOption, ThreadsOption, app
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
