"""Commands that make an index and keep it: build, tune, info, verify, remove."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hashfaiss.cli.app import (
    DEFAULT_INDEX,
    AddressOption,
    DevicesOption,
    IndexOption,
    JsonOption,
    LabelsOption,
    MegapixelsOption,
    ThreadsOption,
    app,
)
from hashfaiss.errors import ArgumentError

if TYPE_CHECKING:
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.library.build_report import BuildReport
    from hashfaiss.library.image_index import ImageIndex


@app.command()
def build(
    images: Annotated[
        list[Path], typer.Option("--images", help="Folder of images; a folder in it is a class. May be repeated.")
    ],
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
    bits: Annotated[
        int | None, typer.Option("--bits", help="Of a model that is fitted to the images; default: 64.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an image that cannot be read.")] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="Names to leave out, such as '*_edited.jpg' or 'old/*'; may be repeated."),
    ] = None,
    check_content: Annotated[
        bool, typer.Option("--check-content", help="Read every file, also where size, times and inode are unchanged.")
    ] = False,
    allow_removals: Annotated[
        bool, typer.Option("--allow-removals", help="Believe that images were deleted, however many are gone at once.")
    ] = False,
    reduced_decoding: Annotated[
        bool,
        typer.Option("--reduced-decoding", help="For a new index: large JPEGs decode faster, to codes of their own."),
    ] = False,
    max_megapixels: MegapixelsOption = None,
    threads: ThreadsOption = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", help="Encode only this part of the images, such as 2/4, for `hashfaiss gather`."),
    ] = None,
    device: DevicesOption = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="auto, float32, bfloat16 or float16: how fast, not which codes.")
    ] = "auto",
    engine: Annotated[
        str,
        typer.Option("--engine", help="auto, torch or openvino (on CPUs), or ray: how fast, not which codes."),
    ] = "auto",
    address: AddressOption = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Of --engine ray; default: one a GPU, or one a machine.")
    ] = None,
    gpus_per_worker: Annotated[
        float, typer.Option("--gpus-per-worker", min=0, help="Of --engine ray; 0.5 lets two share one.")
    ] = 0,
) -> None:
    """Bring an index into step with a folder: encode what is new, forget what is gone.

    Images are JPEG, PNG, GIF, WebP, AVIF, HEIC, TIFF, BMP, JPEG 2000, PPM, TGA and PCX. What cannot be read is skipped
    and told, and so are raw photographs (CR2, CR3, NEF, ARW, DNG, ORF, RW2, RAF, ...): save these as JPEG.

    A file is its contents: one that was moved, renamed, copied, touched or labelled otherwise takes its code over.
    What cannot be looked at (a disk that is away, say) stays in the index, is told, and makes the exit code 1; so does
    more than half of a folder that is gone at once.

    Without --model, an index that is there keeps its own; a new one gets a model fitted to the images (ITQ on the
    features of EfficientNet-Lite0), which takes no labels and no download.

    Only what lies below the folder is forgotten; with --labels, only images the file lists are kept. Cut off at any
    point, the index stays as it was last committed, and the same command carries on.

    With --shard 2/4, on as many machines or jobs as you have, each encodes its part of one folder that all see and
    commits nothing; `hashfaiss gather` commits all parts. With --engine ray, the machines of a Ray cluster encode, this
    one commits. Examples:

    \b
        hashfaiss build --images photos/
        hashfaiss build --model dhida.pt --images photos/
        hashfaiss build --model dhida.pt --images photos/ --shard 2/4
        hashfaiss build --model dhida.pt --images photos/ --engine ray --address auto --gpus-per-worker 1
    """
    from hashfaiss.cli.console import note, print_build, say
    from hashfaiss.cli.sharding import shard_of, stream_of
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.images.names import below
    from hashfaiss.indexes import parse_kind
    from hashfaiss.library.image_index import ImageIndex
    from hashfaiss.library.stored_encoder import ENCODER, check_takes_images
    from hashfaiss.library.sync import CodesFrom, check_images
    from hashfaiss.storage.manifest import index_at, read_manifest

    for folder in images:
        if folder.is_file():
            raise ArgumentError(f"{str(folder)!r} is a file: give a folder of images")
    if len(images) > 1 and labels is not None:
        raise ArgumentError(
            "--labels and several --images were given: a label file is of one folder, so build each alone"
        )
    images = _outermost(images)
    left_out = {folder: below(str(folder), exclude or ()) for folder in images}
    there = index_at(index)
    if there:
        check_takes_images(read_manifest(index), index)
    if bits is not None and (there or model is not None):
        raise ArgumentError(f"--bits {bits} is of a model that is fitted to the images, and there is one: leave it out")
    parse_kind(kind or "auto", bits or 64, 0)  # before the work
    stream = stream_of(engine, address, workers, gpus_per_worker)
    if stream is not None:
        engine = "auto"
    if shard is not None:
        for name, value in (("--kind", kind), ("--bits", bits), ("--check-content", check_content), ("ray", stream)):
            if value:
                raise ArgumentError(f"{name} and --shard were given: a shard takes none, leave it out")
        shard_of(images, labels, left_out, index, shard, model, strict, reduced_decoding, (device, precision, engine))
        return
    encoder = Encoder.load(model, device, precision, engine) if model is not None else None
    if not there or len(images) > 1:
        for folder in images:
            check_images(folder, labels, left_out[folder])
    if encoder is None:
        encoder = (
            Encoder.load(index / ENCODER, device, precision, engine)
            if there
            else _fitted(
                images, bits or 64, labels, device, precision, engine, [*chain(*left_out.values())], reduced_decoding
            )
        )
    if reduced_decoding and not encoder.preprocessing.reduced:
        if there and model is None:
            raise ArgumentError(
                f"--reduced-decoding makes other codes than those in {str(index)!r}: leave it out, or name a new "
                "--index"
            )
        encoder.reduce_decoding()
    opened = ImageIndex.create(encoder, index, "auto" if kind is None else kind)
    how: dict[str, Any] = {"check_content": check_content, "allow_removals": allow_removals}
    if stream is not None:
        how["codes_from"] = CodesFrom(stream)
    kept = False
    for folder, report in _build_all(opened, left_out, labels, kind, strict, **how):
        if len(images) > 1:
            say(f"{folder}:")
        print_build(report)
        kept = kept or bool(report.kept)
    if encoder.engine_trouble:
        note(encoder.engine_trouble)
    if kept:
        raise typer.Exit(1)


def _outermost(folders: list[Path]) -> list[Path]:
    """Those that lie in no other; a folder that does is built with it."""
    from hashfaiss.cli.console import note

    real = {folder: folder.resolve() for folder in folders}
    found: list[Path] = []
    for folder in real:
        around = [one for one in real if real[one] in real[folder].parents]
        around += [one for one in found if real[one] == real[folder]]
        if around:
            note(f"{folder} lies in {around[0]}, and is built with it")
        else:
            found.append(folder)
    return found


def _build_all(
    opened: ImageIndex,
    left_out: dict[Path, list[str]],
    labels: Path | None,
    kind: str | None,
    strict: bool,
    **how: Any,
) -> Iterator[tuple[Path, BuildReport]]:
    """Of several folders, each takes up what came before any forgets what went: a file may go from one to another."""
    from hashfaiss.cli.console import bar

    came: dict[Path, BuildReport] = {}
    for folder, exclude in left_out.items() if len(left_out) > 1 else ():
        with bar("encode") as progress:
            came[folder] = opened.add(folder, None, progress, exclude=exclude, **how)
    for folder, exclude in left_out.items():
        with bar("encode") as progress:
            report = opened.build(folder, labels, kind, strict, progress, exclude=exclude, **how)
        yield folder, report.after(came[folder]) if folder in came else report


def _fitted(
    images: list[Path],
    bits: int,
    labels: Path | None,
    device: str,
    precision: str,
    engine: str,
    exclude: Sequence[str],
    reduced: bool,
) -> Encoder:
    """An encoder for images without labels."""
    from hashfaiss.cli.console import bar, note
    from hashfaiss.train.unlabelled import fit_to_folders

    with bar("look at images") as progress:
        encoder = fit_to_folders(
            images,
            bits,
            labels,
            device=device,
            precision=precision,
            engine=engine,
            progress=progress,
            exclude=exclude,
            reduced=reduced,
        )
    count = encoder.facts["training_images"]
    fewer = "" if encoder.bits == bits else f" (they are too few for {bits})"
    note(
        f"no model was given: ITQ of {encoder.bits} bits{fewer} was fitted to the features that EfficientNet-Lite0 "
        f"(ImageNet) has of {count:,} images; with labels, `hashfaiss train` learns what you call alike"
    )
    return encoder


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
    recall: Annotated[float, typer.Option(help="Share of the nearest, by distance, that must be found.")] = 0.99,
    memory: Annotated[
        str | None, typer.Option("--memory", help="That codes and FAISS index may take, such as 500MB or 4GB.")
    ] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure FAISS kinds on the codes at hand, choose the fastest in batch that reaches the recall, and keep it.

    Queries are codes of the index that are held out of it meanwhile. The recall has to be reached, with 95 % certainty,
    for the 1, 10 and 100 nearest, and by the kind chosen once more for other queries. "unlike" is what codes with 15 %
    of their bits flipped, 30 % and half of them find of their 10 nearest, the worst of these; answers that are far and
    not certified are answered again, exactly, and so is what asks for more than 100. Rates are of one thread. Queries
    of images are exact without all this; what is chosen here serves `--approximate`. Example:

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
            *(f"{share:.4f}" for share in trial.recall.values()),
            f"{trial.at_least:.4f}",
            "-" if trial.confirmed is None else f"{trial.confirmed:.4f}",
            "-" if trial.unlike is None else f"{trial.unlike:.4f}",
            f"{100 * trial.certified:.1f} %",
            f"{100 * trial.again:.1f} %",
            f"{trial.batch_rate:,.0f}",
            f"{trial.single_rate:,.0f}",
            f"{trial.bytes_per_code:.1f}",
            f"{trial.build_seconds:.1f} s",
        )
        for trial in tuning.trials
    ]
    recalls = [f"recall of {k}" for k in (tuning.trials[0].recall if tuning.trials else ())]
    titles = ("kind", *recalls, "at least", "confirmed", "unlike", "certified", "again")
    print_table((*titles, "queries/s in batch", "alone", "bytes a code", "built in"), rows)
    say(f"chosen: {tuning.kind}: {tuning.why}")


def _bytes(text: str) -> int:
    """`500MB` as a number of bytes; ArgumentError where it is none."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([KMGT]?B?)", text.strip().upper())
    if found is None or found[2] not in units:
        raise ArgumentError(f"memory is {text!r}: give bytes, such as 500MB or 4GB")
    return int(float(found[1]) * units[found[2]])


@app.command()
def verify(
    index: IndexOption = DEFAULT_INDEX,
    heal: Annotated[
        bool, typer.Option("--heal", help="Then mend what can be without images, and set aside what cannot.")
    ] = False,
) -> None:
    """Read every stored file and check that it is what was written.

    Example: hashfaiss verify --heal
    """
    from hashfaiss.cli.console import note, say
    from hashfaiss.library.verifying import heal_folder, verify_folder
    from hashfaiss.wording import counted

    sound = True
    for name, trouble in verify_folder(index):
        say(f"{name}: {trouble or 'sound'}")
        sound = sound and trouble is None
    if heal:
        for damaged in heal_folder(index):
            images = counted(damaged.rows, "image")
            note(
                f"{damaged.file} is set aside, and {images} with it: `hashfaiss build` on their folder brings them back"
            )
    if not sound:
        raise typer.Exit(1)


@app.command()
def compact(index: IndexOption = DEFAULT_INDEX) -> None:
    """Rewrite an index of many small segments, and of images that were taken out, as few segments. Ids stay.

    Builds do so themselves where it pays; an index that many small builds added to opens faster after this. Example:

        hashfaiss compact
    """
    from hashfaiss.cli.console import say
    from hashfaiss.library.image_index import ImageIndex

    opened = ImageIndex.open(index)
    before, after = opened.compact()
    say(f"{before:,} segments before, {after:,} now, {len(opened):,} images")


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
