"""The command that writes a model for other programs: export-model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hashfaiss.cli.app import app
from hashfaiss.errors import ArgumentError


@app.command("export-model")
def export_model(
    out: Annotated[Path, typer.Option("--out", help="File to write: .onnx, or .xml with a .bin beside it.")],
    to: Annotated[Literal["onnx", "openvino"], typer.Option("--to", help="Format.")] = "onnx",
    model: Annotated[Path | None, typer.Option("--model", help="Model file of `hashfaiss train`.")] = None,
    index: Annotated[Path | None, typer.Option("--index", help="Index folder, whose own model is taken.")] = None,
) -> None:
    """Write a model for C++, phones or browsers: images in, codes out, as ONNX or OpenVINO's format.

    It takes RGB images that are decoded and resized, uint8 (n, size, size, 3), and gives packed codes and the network's
    outputs; docs/export.md says how to resize, and examples/onnx_codes.py does it. Needs the packages of the extra
    `export`. Example:

        hashfaiss export-model --to onnx --model dhida.pt --out dhida.onnx
    """
    from hashfaiss.cli.console import note, say
    from hashfaiss.encoding.encoder import Encoder
    from hashfaiss.library.stored_encoder import ENCODER
    from hashfaiss.wording import counted

    file = model if index is None else index / ENCODER
    if file is None or (model is not None and index is not None):
        raise ArgumentError("give either --model FILE or --index DIR")
    encoder = Encoder.load(file, device="cpu")
    encoder.export(out, to)
    size = encoder.preprocessing.size
    say(f"{out}: images uint8 (n, {size}, {size}, 3) to codes uint8 (n, {encoder.no_codes().shape[1]})")
    if encoder.learned is not None:
        learned = counted(len(encoder.learned.digests), "image")
        note(
            f"codes that were learned beside the network for {learned} are not in the file: it gives every image the "
            "code that a query gets"
        )
