"""An encoder as a file for other programs: normalisation, network and packing as one graph, in ONNX or OpenVINO's IR.

It takes "images", decoded and resized, uint8 (n, size, size, 3) of RGB, and gives "codes", uint8 (n, ceil(K/8)), and
"outputs", float32 (n, K), whose signs they are. The n is any. What the encoder decides in float64 because it is close
to zero is decided in float32 here. docs/export.md says what is left to the program: decoding and resizing.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from hashfaiss.codes import BIT_ORDER, pack_tensor
from hashfaiss.errors import ArgumentError, ModelError
from hashfaiss.files import write_atomic
from hashfaiss.images.preprocessing import Preprocessing

Format = Literal["onnx", "openvino"]
SUFFIXES: dict[str, tuple[str, ...]] = {"onnx": (".onnx",), "openvino": (".xml", ".bin")}  # the first names the model
ZIP = b"PK"  # how a model file of hashfaiss begins


class Exports(Protocol):
    """What there must be of an encoder; `Encoder` is one."""

    network: nn.Module
    preprocessing: Preprocessing
    bits: int
    method: str

    @property
    def identity(self) -> str: ...


class _Graph(nn.Module):
    def __init__(self, encoder: Exports) -> None:
        super().__init__()
        self.network = copy.deepcopy(encoder.network).cpu()
        self.preprocessing = encoder.preprocessing

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs: Tensor = self.network(self.preprocessing.normalise(images.permute(0, 3, 1, 2)))
        return pack_tensor(outputs), outputs


def export(encoder: Exports, path: str | os.PathLike[str], to: Format = "onnx") -> None:
    """Write an encoder's graph to `path`, an .onnx file, or an .xml file with the .bin file that goes with it.

    Raises:
        ArgumentError: no such format, another suffix than its own, or `path` is a model file of hashfaiss.
        ModelError: the network cannot be exported, a package is missing for it, or the file cannot be written.
    """
    paths = _check(Path(path), to)
    onnx, openvino = _packages(to)
    data = _onnx(onnx, encoder)
    try:
        if to == "onnx":
            write_atomic(paths[0], data)
        else:
            _write_openvino(openvino, data, _about(encoder), paths)
    except OSError as error:
        raise ModelError(f"cannot write {os.fspath(path)!r}: {error.strerror or error}") from None


def _check(path: Path, to: str) -> list[Path]:
    """The files to write."""
    if to not in get_args(Format):
        raise ArgumentError(f"format is {to!r}: give {' or '.join(map(repr, SUFFIXES))}")
    if path.suffix.lower() != SUFFIXES[to][0]:
        raise ArgumentError(f"{str(path)!r} is to be a model for {to}: give it the suffix {SUFFIXES[to][0]}")
    paths = [path, *(path.with_suffix(suffix) for suffix in SUFFIXES[to][1:])]
    for each in paths:
        if each.is_dir():
            raise ArgumentError(f"{str(each)!r} is a folder: give the path of a file")
        if each.is_file():
            with each.open("rb") as file:
                if file.read(len(ZIP)) == ZIP:
                    raise ArgumentError(f"{str(each)!r} is a model of hashfaiss: give another path, it would be lost")
    return paths


def _packages(to: str) -> tuple[Any, Any]:
    """onnx and, where it is needed, OpenVINO."""
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter writes by it

        if to == "onnx":
            return onnx, None
        import openvino
    except ImportError as error:
        missing, wanted = error.name or error, "'hashfaiss[export]'" + " openvino" * (to == "openvino")
        raise ModelError(f"to export to {to}, {missing} is missing: pip install {wanted}") from None
    return onnx, openvino


def _about(encoder: Exports) -> dict[str, str]:
    """What a program has to know of the codes."""
    return {
        "hashfaiss.bits": str(encoder.bits),
        "hashfaiss.bit_order": BIT_ORDER,
        "hashfaiss.preprocessing": json.dumps(asdict(encoder.preprocessing)),
        "hashfaiss.method": encoder.method,
        "hashfaiss.identity": encoder.identity,
    }


def _onnx(onnx: Any, encoder: Exports) -> bytes:
    """The bytes of an ONNX model."""
    size = encoder.preprocessing.size
    graph, example = _Graph(encoder).eval(), torch.zeros(2, size, size, 3, dtype=torch.uint8)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch and onnxscript tell each other
            traced = torch.export.export(graph, (example,), dynamic_shapes={"images": {0: torch.export.Dim("n")}})
            program = torch.onnx.export(
                traced,
                input_names=["images"],
                output_names=["codes", "outputs"],
                dynamic_shapes={"images": {0: "n"}},
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            model = program.model_proto
            onnx.helper.set_model_props(model, _about(encoder))
            return bytes(model.SerializeToString())
    except Exception as error:  # whatever torch's exporter says of a stranger's layers, or protobuf of 2 GB
        told = " ".join(str(error).split())[:200]
        raise ModelError(
            f"the network cannot be exported ({type(error).__name__}: {told}): take another backbone, or ask hashfaiss "
            "itself for codes"
        ) from None


def _write_openvino(openvino: Any, data: bytes, about: dict[str, str], paths: list[Path]) -> None:
    try:
        model = openvino.Core().read_model(data)  # convert_model would tell Intel of it (openvino-telemetry)
    except Exception as error:  # as above
        raise ModelError(f"OpenVINO cannot convert the network ({' '.join(str(error).split())[:200]})") from None
    for name, value in about.items():
        model.set_rt_info(value, name.split("."))
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder, paths[0].name)
        openvino.save_model(model, aside, compress_to_fp16=False)
        paths[0].unlink(missing_ok=True)  # cut off, there is no model rather than halves of two
        for path in reversed(paths):
            write_atomic(path, aside.with_suffix(path.suffix).read_bytes())
