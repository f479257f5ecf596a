"""Building on several machines: by Ray, or without any engine, by `build --shard` and the command gather."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hashfaiss.cli.app import DEFAULT_INDEX, IndexOption, app
from hashfaiss.errors import ArgumentError

if TYPE_CHECKING:
    from hashfaiss.encoding.items import EncodeStream


def stream_of(engine: str, address: str | None, workers: int | None, gpus: float) -> EncodeStream | None:
    """What encodes in place of this machine: for the engine ray."""
    if engine == "ray":
        from hashfaiss.cluster.encoding import RayStream

        return RayStream(address, workers, gpus)
    for name, value in (("--address", address), ("--workers", workers), ("--gpus-per-worker", gpus)):
        if value:
            raise ArgumentError(f"{name} is of --engine ray, and the engine is {engine}: give both, or leave it out")
    return None


def shard_of(
    images: list[Path],
    labels: Path | None,
    exclude: dict[Path, list[str]],
    index: Path,
    shard: str,
    model: Path | None,
    strict: bool,
    reduced_decoding: bool,
    how: tuple[str, str, str],
) -> None:
    """What `hashfaiss build --shard` does; `how` is device, precision and engine."""
    from hashfaiss.cli.console import bar, print_build, say
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.library.shards import Shard, build_shard, shard_encoder

    asked = Shard.parse(shard)
    if len(images) > 1:
        raise ArgumentError(f"{len(images)} folders and --shard were given: shards are of one folder of images")
    file = model or shard_encoder(index)
    if file is None:
        raise ArgumentError(
            "--shard was given and no --model: each shard would be fitted a model of its own; train one, or build an "
            "index of some of the images first, whose model all shards then take"
        )
    encoder = Encoder.load(file, *how)
    if reduced_decoding:
        encoder.reduce_decoding()
    with bar("encode") as progress:
        report = build_shard(index, asked, encoder, images[0], labels, strict, progress, exclude=exclude[images[0]])
    print_build(report)
    say(f"shard {asked} is whole; when all are: hashfaiss gather --index {index}")
    if report.kept:
        raise typer.Exit(1)


@app.command()
def gather(
    index: IndexOption = DEFAULT_INDEX,
    images: Annotated[
        Path | None, typer.Option("--images", help="Where the images lie now; default: where the shards found them.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Label file; default: the one that the shards were given.")
    ] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="As of `hashfaiss build`.")] = None,
    allow_removals: Annotated[
        bool, typer.Option("--allow-removals", help="Believe that images were deleted, however many are gone at once.")
    ] = False,
) -> None:
    """Commit what all shards of `hashfaiss build --shard` encoded, in one generation, and delete the shards.

    The index is then the one that a build on one machine would have made, code for code and id for id. The folder of
    images is looked through again: what came or changed since its shard was built is told, and left to the next build.
    Shards that were encoded elsewhere are copied into the folder shards/ of the index first. Examples:

    \b
        hashfaiss gather
        rsync -a other-machine:photos.index/shards photos.index/ && hashfaiss gather --index photos.index
    """
    from hashfaiss.cli.console import bar, print_build
    from hashfaiss.library.gathering import gather as gather_shards

    with bar("gather") as progress:
        report = gather_shards(index, images, labels, kind, progress, allow_removals)
    print_build(report)
    if report.kept or report.left:
        raise typer.Exit(1)
