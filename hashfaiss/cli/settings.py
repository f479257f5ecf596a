"""Options of the command line made of the settings of a training, each named in one place."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection
from typing import Annotated, Any

import typer

from hashfaiss.train.options import TrainOptions

KINDS: dict[str, type] = {"int": int, "float": float, "bool": bool}


def takes_settings(command: Callable[..., None], only: Collection[str] | None = None) -> Callable[..., None]:
    """Give a command that takes `**settings` an option for each field of `TrainOptions` that has a help text.

    It is called with those that were given.

    Args:
        only: names of the fields, where not all.
    """

    @functools.wraps(command)
    def called(**given: Any) -> None:
        command(**{name: value for name, value in given.items() if name in own or value is not None})

    own = {
        name: parameter
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    made = [_parameter(item) for item in dataclasses.fields(TrainOptions) if _asked(item, only)]
    # Typer reads both
    called.__signature__ = inspect.Signature([*own.values(), *made])  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own.values(), *made]}
    return called


def _asked(item: dataclasses.Field[Any], only: Collection[str] | None) -> bool:
    return bool(item.metadata.get("help")) and (only is None or item.name in only)


def _parameter(item: dataclasses.Field[Any]) -> inspect.Parameter:
    kind = KINDS.get(str(item.type).removesuffix(" | None"), str)
    text = item.metadata["help"]
    if item.default is not None and str(item.default) not in text:
        text = f"{text.removesuffix('.')}; default: {item.default}."
    flag = f"--{item.name.replace('_', '-')}"
    option = typer.Option(f"{flag}/--no-{flag.removeprefix('--')}" if kind is bool else flag, help=text)
    return inspect.Parameter(
        item.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )
