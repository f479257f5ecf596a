"""The application: how it stops, and the options that several commands share."""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from hashfaiss.errors import ArgumentError, HashfaissError

# Read by OpenMP when torch and FAISS load: threads that wait spin otherwise, and beside another busy process that makes
# two threads 10 times slower than one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


_AFTER_STOP = {
    "build": "; what was encoded is kept, and the same command carries on",
    "train": "; finished epochs are kept: add --resume to carry on",
    "reproduce": "; finished runs and epochs are kept, and the same command carries on",
}


class _Group(TyperGroup):
    """Turns what hashfaiss raises on purpose into one sentence and an exit code."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):  # whose encoding may lack what a path has
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        from hashfaiss.cli.console import note

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
            raise typer.Exit(141) from None  # as a shell names a process that SIGPIPE ended


class _Command(TyperCommand):
    """Refuses an option that was given twice where one value is wanted: none is dropped without a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for param, count in Counter(param for param in order if param.param_type_name == "option").items():
            if count > 1 and not (param.multiple or getattr(param, "count", False)):
                ctx.fail(f"{max(param.opts, key=len)} was given {count} times: give it once")
        return super().parse_args(ctx, args)


Function = TypeVar("Function", bound=Callable[..., Any])


class _Application(typer.Typer):
    def command(self, *arguments: Any, **options: Any) -> Callable[[Function], Function]:
        return super().command(*arguments, **{"cls": _Command, **options})


app = _Application(
    cls=_Group,
    name="hashfaiss",
    help="From a folder of images to a verified FAISS index of learned binary codes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Start with `hashfaiss demo`. Every command explains itself: `hashfaiss build --help`.",
)

ImagesOption = Annotated[Path, typer.Option("--images", help="Folder of images; a folder in it is a class.")]
LabelsOption = Annotated[
    Path | None,
    typer.Option("--labels", help="CSV of path,label (several separated by ';') or list file (path 0 1 0 ...)."),
]
IndexOption = Annotated[Path, typer.Option("--index", help="Index folder.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps, ...")]
DevicesOption = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps, or several, a process for each: cuda:0,cuda:1")
]


EngineOption = Annotated[
    str, typer.Option("--engine", help="auto, torch or openvino (on CPUs): how fast, not which codes.")
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", help="Of --engine ray: the cluster's, or auto; default: one made on this machine."),
]


def _megapixels(asked: int | None) -> None:
    if asked is not None:
        os.environ["HASHFAISS_MAX_MEGAPIXELS"] = str(asked)  # which processes that encode are given


MegapixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-megapixels", min=1, max=10_000, callback=_megapixels, help="Most an image may have; default: 178."
    ),
]


def _threads(asked: int | None) -> None:
    if asked is None:
        return
    os.environ["OMP_NUM_THREADS"] = str(asked)  # read by torch and FAISS when they load, as they do for the work
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(asked)


ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, callback=_threads, help="Threads to compute in; default: one a core."),
]
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
