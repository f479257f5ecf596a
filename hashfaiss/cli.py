"""The command line: each command is a few lines over one public call.

Results go to stdout, notes and progress to stderr. Nothing that is slow to import is imported before a command needs
it, so that help and completion answer at once.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from hashfaiss.errors import ArgumentError, HashfaissError

if TYPE_CHECKING:
    from hashfaiss.hits import Hits

# Read by OpenMP when torch and FAISS load: threads that wait spin otherwise, and beside another busy process that makes
# two threads 10 times slower than one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


_AFTER_STOP = {
    "build": "; what was encoded is kept, and the same command carries on",
    "train": "; the last finished epoch is kept: add --resume to carry on",
}


class _Group(TyperGroup):
    """Turns what hashfaiss raises on purpose into one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        from hashfaiss.console import note

        try:
            return super().invoke(ctx)
        except HashfaissError as error:
            note(f"hashfaiss: {error}")
            raise typer.Exit(2 if isinstance(error, ArgumentError) else 1) from None
        except KeyboardInterrupt:
            note(f"hashfaiss: stopped{_AFTER_STOP.get(ctx.invoked_subcommand, '')}")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Group,
    name="hashfaiss",
    help="From a folder of labelled images to a verified FAISS index of learned binary codes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Start with `hashfaiss demo`. Every command explains itself: `hashfaiss build --help`.",
)

ImagesOption = Annotated[Path, typer.Option("--images", help="Folder of images; a folder in it is a class.")]
LabelsOption = Annotated[
    Optional[Path],  # noqa: UP045 - Typer reads the annotation
    typer.Option("--labels", help="CSV of path,label (several separated by ';') or list file (path 0 1 0 ...)."),
]
IndexOption = Annotated[Path, typer.Option("--index", help="Index folder.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
DEFAULT_INDEX = Path("hashfaiss.index")


def _version(asked: bool) -> None:
    if asked:
        from hashfaiss import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    directory: Annotated[Path, typer.Option("--dir", help="Folder to leave everything in.")] = Path("hashfaiss-demo"),
) -> None:
    """Train, build, query and evaluate on 1,797 handwritten digits, in a minute or two on two cores.

    Each step is printed as the command you would type yourself. Example:

        hashfaiss demo --dir digits
    """
    from hashfaiss.console import say
    from hashfaiss.demo import run_demo

    def run(arguments: list[str]) -> None:
        say()
        say(f"$ hashfaiss {shlex.join(arguments)}")
        sys.stdout.flush()
        code = app(arguments, standalone_mode=False)
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise HashfaissError(f"the step {arguments[0]!r} failed: see above")

    run_demo(directory, run)


@app.command()
def train(
    images: ImagesOption,
    out: Annotated[Path, typer.Option("--out", help="Model file to write.")] = Path("dhida.pt"),
    labels: LabelsOption = None,
    method: Annotated[str, typer.Option("--method", help="What to train: dhida.")] = "dhida",
    bits: Annotated[int, typer.Option("--bits", help="Bits of a code, 1 to 1024.")] = 64,
    backbone: Annotated[str, typer.Option(help="resnet18, alexnet or resnet-small.")] = "resnet18",
    weights: Annotated[
        str, typer.Option(help="imagenet (a download), none, or a torchvision state dict.")
    ] = "imagenet",
    attention: Annotated[str, typer.Option(help="ida, danet or none.")] = "ida",
    stat_axis: Annotated[str, typer.Option(help="Of ida: cross, or softmax (the paper's letter; inert).")] = "cross",
    pre_conv: Annotated[str, typer.Option(help="Before each attention branch: none or conv3x3bnrelu.")] = "none",
    size: Annotated[Optional[int], typer.Option(help="Input side in pixels; default: the backbone's.")] = None,  # noqa: UP045
    fit: Annotated[str, typer.Option(help="crop (keeps the aspect ratio) or stretch.")] = "crop",
    augment: Annotated[str, typer.Option(help="none, flip, or crop (flip and random crop).")] = "none",
    epochs: Annotated[int, typer.Option(help="Times through the training images.")] = 150,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Of RMSprop.")] = 5e-5,
    lr_step: Annotated[Optional[int], typer.Option(help="Epochs between drops; default: a third of all.")] = None,  # noqa: UP045
    lr_factor: Annotated[float, typer.Option(help="The learning rate is multiplied by it at each drop.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Of RMSprop.")] = 1e-5,
    gamma: Annotated[Optional[float], typer.Option(help="Weight of bit balance; default: the paper's 0.1.")] = None,  # noqa: UP045
    validation: Annotated[float, typer.Option(help="Share of the images kept to choose the best epoch.")] = 0.1,
    evaluate_every: Annotated[int, typer.Option(help="Epochs between validations.")] = 5,
    seed: Annotated[int, typer.Option(help="Same seed, same weights (on a CPU).")] = 0,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Continue a training that was cut off.")] = False,
) -> None:
    """Train a hashing network on labelled images and write its model file.

    The loss curve, metrics.csv and what --resume needs go to a folder beside it. Example:

        hashfaiss train --images photos/ --method dhida --bits 64 --out dhida.pt
    """
    arguments = {name: value for name, value in locals().items() if name != "resume"}
    from hashfaiss.console import note, say, training_bar
    from hashfaiss.train import TrainOptions
    from hashfaiss.train import train as train_network

    with training_bar() as progress:
        result = train_network(TrainOptions(**arguments), resume, progress)
    for path, reason in result.skipped:
        note(f"skipped {path}: {reason}")
    score = "" if result.validation_map is None else f", validation mAP {result.validation_map:.4f}"
    say(
        f"{result.out}: epoch {result.best_epoch} of {len(result.history)}{score}; {result.images:,} images, "
        f"{len(result.skipped):,} skipped, {result.seconds:,.0f} s; curves in {result.folder}"
    )


@app.command()
def split(
    images: ImagesOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the lists.")],
    protocol: Annotated[str, typer.Option(help="cifar10, cifar10-1 or cifar10-2.")] = "cifar10-1",
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    labels: LabelsOption = None,
) -> None:
    """Draw a protocol's queries, training images and database, and write them as lists for --labels.

    cifar10-1: 1,000 queries, 5,000 training images, database of all but the queries; cifar10: the same without the
    training images in the database; cifar10-2: 10,000 queries, all others train and are the database. Example:

        hashfaiss split --images cifar10/ --protocol cifar10-1 --out cifar10/split
    """
    from hashfaiss.console import say
    from hashfaiss.labels import labelled_images
    from hashfaiss.train.protocols import make_split

    facts = make_split(labelled_images(images, labels), protocol, seed, out, images).facts
    for name, count in facts["counts"].items():
        say(f"{name:8} {count:7,} images  sha256 {facts['sha256'][name]}")
    say("leaks    " + ", ".join(f"{name.replace('_', ' ')}: {count:,}" for name, count in facts["leaks"].items()))


@app.command()
def build(
    model: Annotated[Path, typer.Option("--model", help="Model file of `hashfaiss train`.")],
    images: ImagesOption,
    index: IndexOption = DEFAULT_INDEX,
    labels: LabelsOption = None,
    kind: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--kind", help="auto, flat, hash or such as hash:b=16,flips=2; default: as it is, or auto."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an image that cannot be read.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Bring an index into step with a folder: encode what is new or changed, forget what is gone.

    Only what lies below the folder is forgotten; with --labels, only images the file lists are kept. Cut off at any
    point, the index stays as it was last committed, and the same command carries on. Example:

        hashfaiss build --model dhida.pt --images photos/
    """
    from hashfaiss.console import bar, note, say, shown_path
    from hashfaiss.encoder import Encoder
    from hashfaiss.library import ImageIndex
    from hashfaiss.manifest import MANIFEST
    from hashfaiss.sync import check_images

    if images.is_file():
        raise ArgumentError(f"{str(images)!r} is a file: give a folder of images")
    encoder = Encoder.load(model, device)
    if not (index / MANIFEST).exists():
        check_images(images, labels)
    opened = ImageIndex.create(encoder, index, kind or "auto")
    with bar("encode") as progress:
        report = opened.build(images, labels, kind, strict, progress)
    for path, reason in report.skipped[:5]:
        note(f"skipped {shown_path(path)}: {reason}")
    where = f" (see {shown_path(str(report.skipped_report))})" if report.skipped else ""
    say(
        f"{report.encoded:,} encoded, {report.unchanged:,} unchanged, {report.removed:,} removed, "
        f"{len(report.skipped):,} skipped{where}, {report.seconds:.1f} s, {report.images_per_second:,.0f} images/s"
    )


@app.command()
def query(
    images: Annotated[list[str], typer.Argument(help="Images to ask with; - reads paths from stdin.")],
    index: IndexOption = DEFAULT_INDEX,
    k: Annotated[Optional[int], typer.Option("-k", "--k", help="How many hits (default 10).")] = None,  # noqa: UP045
    radius: Annotated[Optional[int], typer.Option("--radius", help="All hits at Hamming distance <= this.")] = None,  # noqa: UP045
    model: Annotated[Optional[Path], typer.Option("--model", help="Refuse an index of any other model.")] = None,  # noqa: UP045
    montage: Annotated[Optional[Path], typer.Option("--montage", help="Also draw the hits as this PNG.")] = None,  # noqa: UP045
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Find the images nearest to an image: rank, Hamming distance, path and labels.

    Says whether the answer is certified exact. Examples:

    \b
        hashfaiss query cat.jpg -k 20 --montage hits.png
        find new/ -name '*.jpg' | hashfaiss query - --radius 4 --json
    """
    from hashfaiss.console import note, print_hits, shown_path
    from hashfaiss.encoder import Encoder
    from hashfaiss.library import ImageIndex
    from hashfaiss.montage import MOST_ROWS, draw_montage

    if k is not None and radius is not None:
        raise ArgumentError("both -k and --radius were given: give one of them")
    opened = ImageIndex.open(index, Encoder.load(model, device) if model else None, device)
    drawn: list[Hits] = []
    failed = False
    for answer in opened.stream(_paths(images), k if k is not None or radius is not None else 10, radius):
        if isinstance(answer, HashfaissError):
            note(f"hashfaiss: {answer}")
            failed = True
            continue
        print_hits(answer, as_json)
        if montage and len(drawn) <= MOST_ROWS:
            drawn.append(answer)
    if montage and drawn:
        labels = {label for _, row in opened.store.rows() for label in row.labels}
        more = f" (the first {MOST_ROWS} queries)" if len(drawn) > MOST_ROWS else ""
        note(f"montage: {shown_path(str(draw_montage(montage, drawn, labels)))}{more}")
    if failed:
        raise typer.Exit(1)


def _paths(images: list[str]) -> Iterator[str]:
    """The paths given; for - those on stdin, one a line, or ended by NUL (`find -print0`)."""
    for image in images:
        if image != "-":
            yield image
            continue
        first = sys.stdin.buffer.readline()
        if b"\0" in first:
            yield from (os.fsdecode(name) for name in (first + sys.stdin.buffer.read()).split(b"\0") if name)
            continue
        while first:
            if name := first.rstrip(b"\r\n"):
                yield os.fsdecode(name)
            first = sys.stdin.buffer.readline()


@app.command()
def evaluate(
    index: IndexOption = DEFAULT_INDEX,
    queries: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--queries", help="Folder of query images; default: the index's own, each left out."),
    ] = None,
    labels: LabelsOption = None,
    cutoff: Annotated[Optional[int], typer.Option("-R", "--cutoff", help="R of mAP@R; default: all.")] = None,  # noqa: UP045
    norm: Annotated[str, typer.Option(help="Divisor of AP@R: found, min or all (relevant images).")] = "found",
    depth: Annotated[Optional[int], typer.Option(help="Ranks of FAISS to check; default: all to 100,000.")] = None,  # noqa: UP045
    sample: Annotated[int, typer.Option(help="Own images to ask with; 0 for all.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of that sample.")] = 0,
    plots: Annotated[Optional[Path], typer.Option("--plots", help="Folder to draw curves into.")] = None,  # noqa: UP045
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Check FAISS's answers against the exact Hamming ranking, and measure retrieval and code health.

    Labels are those the index was built with; --labels are those of the queries. Example:

        hashfaiss evaluate --queries held-out/ --plots plots/
    """
    from hashfaiss.console import bar, note, print_json, shown_path
    from hashfaiss.evaluation.index_report import evaluate_index
    from hashfaiss.library import ImageIndex
    from hashfaiss.reports import print_report

    if norm not in ("found", "min", "all"):
        raise ArgumentError(f"norm is {norm!r}: give found, min or all")
    opened = ImageIndex.open(index, device=device)
    with bar("evaluate") as progress:
        report = evaluate_index(opened, queries, labels, depth, cutoff, norm, sample, seed, progress)  # type: ignore[arg-type]
    for path, reason in report.skipped[:5]:
        note(f"skipped {shown_path(path)}: {reason}")
    print_json(report.to_dict()) if as_json else print_report(report)
    for file in report.plot(plots) if plots else []:
        note(f"plot: {shown_path(str(file))}")


@app.command()
def info(index: IndexOption = DEFAULT_INDEX, as_json: JsonOption = False) -> None:
    """Show what an index holds and how it is searched. Example: hashfaiss info --index photos.index"""
    from hashfaiss.console import print_json, print_table
    from hashfaiss.library import ImageIndex

    facts = ImageIndex.open(index).info()
    if as_json:
        print_json(facts)
    else:
        rows = [(name.replace("_", " "), f"{v:,}" if isinstance(v, int) else str(v)) for name, v in facts.items()]
        print_table(("", str(index)), rows)


@app.command()
def verify(index: IndexOption = DEFAULT_INDEX) -> None:
    """Read every stored file and check that it is what was written. Example: hashfaiss verify"""
    from hashfaiss.console import say
    from hashfaiss.library import ImageIndex

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
    from hashfaiss.console import say
    from hashfaiss.library import ImageIndex

    opened = ImageIndex.open(index)
    say(f"{opened.remove(paths):,} removed, {len(opened):,} left")
