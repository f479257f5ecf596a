"""The worked example."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from hashfaiss.cli.app import app
from hashfaiss.errors import HashfaissError


@app.command()
def demo(
    directory: Annotated[Path, typer.Option("--dir", help="Folder to leave everything in.")] = Path("hashfaiss-demo"),
) -> None:
    """Train, build, query and evaluate on 1,797 handwritten digits, in a minute or two on two cores.

    Each step is printed as the command you would type yourself. Example:

        hashfaiss demo --dir digits
    """
    from hashfaiss.cli.console import say
    from hashfaiss.cli.demo import run_demo

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
