"""Commands that measure: bench train."""

from __future__ import annotations

from typing import Annotated

import typer

from hashfaiss.cli.app import DeviceOption, JsonOption, app

bench_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Measure what this machine does, as ratios within one run. Example: hashfaiss bench train",
)
app.add_typer(bench_app, name="bench")


@bench_app.command("train")
def bench_train(
    method: Annotated[str, typer.Option("--method", help="See `hashfaiss methods`.")] = "dhida",
    backbone: Annotated[str, typer.Option(help="resnet18, alexnet or resnet-small.")] = "resnet18",
    bits: Annotated[int, typer.Option("--bits", help="Bits of a code.")] = 64,
    size: Annotated[int | None, typer.Option(help="Input side in pixels; default: the backbone's.")] = None,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 128,
    batches: Annotated[int, typer.Option(help="Steps a round.")] = 4,
    rounds: Annotated[int, typer.Option(help="Rounds of the trainer and of the bare network, in turn.")] = 5,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compare the trainer with the bare network: forward, backward and step on batches that are ready.

    Example:

        hashfaiss bench train --size 64
    """
    settings = {name: value for name, value in locals().items() if name != "as_json"}
    from hashfaiss.bench.training import bench_training
    from hashfaiss.console import bar, print_json, print_table

    with bar("rounds") as progress:
        result = bench_training(**settings, progress=progress)
    if as_json:
        print_json(result.to_dict())
        return
    pairs = list(zip(result.trainer, result.bare, strict=True))
    rows = [(str(n), f"{ours:,.1f}", f"{bare:,.1f}", f"{ours / bare:.3f}") for n, (ours, bare) in enumerate(pairs, 1)]
    rows.append(("median", "", "", f"{result.ratio:.3f}"))
    network = f"{result.method}, {result.backbone} at {result.size} px, batches of {result.batch}"
    title = f"{network}, {result.precision} on {result.device}"
    print_table(("round", "trainer images/s", "bare images/s", "ratio"), rows, title)
