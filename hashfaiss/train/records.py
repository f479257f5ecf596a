"""What a training leaves beside its model: the state to continue from, and its curves."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from hashfaiss.errors import ArgumentError, TrainingError
from hashfaiss.files import write_atomic
from hashfaiss.networks.weights import published_weights
from hashfaiss.train.data import TrainingData
from hashfaiss.train.settings import Settings

STATE_FORMAT = "hashfaiss-training-1"


@dataclass(frozen=True)
class Epoch:
    """One line of `metrics.csv`.

    Attributes:
        epoch: from 1.
        loss: mean over the epoch's images.
        validation_score: from 0 to 1, what epochs are chosen by (see `Selection.score`), or None where not measured.
        learning_rate: during the epoch.
        images_per_second: through training, without validation.
        seconds: since the start of the training, in all its sittings.
    """

    epoch: int
    loss: float
    validation_score: float | None
    learning_rate: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """What came of a training.

    Attributes:
        out: the model file: the epoch with the best validation mAP, or the last one where there was no validation.
        folder: metrics.csv, loss.png and state.pt.
        best_epoch, validation_score: that epoch, and its score or None.
        measure: what the score is, as `Selection.measure` has it.
        seconds: in all sittings.
        images, validation_images: trained on, and held out.
        skipped: (path, reason) of images that could not be read.
        history: one entry an epoch.
    """

    out: Path
    folder: Path
    best_epoch: int
    validation_score: float | None
    measure: str
    seconds: float
    images: int
    validation_images: int
    skipped: list[tuple[str, str]]
    history: list[Epoch]


def training_facts(
    settings: Settings, data: TrainingData, best_epoch: int, validation_score: float | None, loss: float, seconds: float
) -> dict[str, Any]:
    """What a model file tells of its training: settings, data and results."""
    return {
        **asdict(settings),
        "published_weights": published_weights(settings.backbone, settings.weights),
        "training_images": len(data.training),
        "validation_images": len(data.validation),
        "skipped_images": len(data.skipped),
        "data": data.fingerprint,
        "torch": str(torch.__version__),
        "best_epoch": best_epoch,
        "validation_score": validation_score,
        "loss": loss,
        "seconds": seconds,
    }


def training_folder(out: Path) -> Path:
    """Folder of a model's training: `dhida.training/` beside `dhida.pt`."""
    return out.with_name(f"{out.stem}.training")


@contextlib.contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """The folder of the training of a model file, made; removed again where nothing came into it.

    Raises:
        ArgumentError: `out` is a folder.
        TrainingError: it cannot be made.
    """
    if out.is_dir():
        raise ArgumentError(f"{str(out)!r} is a folder: give the name of the model file to write")
    folder = training_folder(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from None
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say TrainingError where there is no room for what a training leaves."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"cannot write the training beside {str(folder)!r} ({error.strerror}): make room, then train with resume"
        ) from None


def write_metrics(folder: Path, history: Sequence[Epoch]) -> None:
    """Write `metrics.csv`, one line an epoch."""
    text = io.StringIO()
    rows = csv.DictWriter(text, [field.name for field in fields(Epoch)], lineterminator="\n")
    rows.writeheader()
    rows.writerows(asdict(epoch) for epoch in history)
    write_atomic(folder / "metrics.csv", text.getvalue().encode())


def draw_curves(folder: Path, history: Sequence[Epoch]) -> None:
    """Draw `loss.png`: loss an epoch, validation mAP on a second axis."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    loss_axis = figure.subplots()
    loss_axis.plot([row.epoch for row in history], [row.loss for row in history], "o-", markersize=3, color="C0")
    loss_axis.set_xlabel("epoch")
    loss_axis.set_ylabel("training loss", color="C0")
    measured = [(row.epoch, row.validation_score) for row in history if row.validation_score is not None]
    if measured:
        map_axis = loss_axis.twinx()
        map_axis.plot(*zip(*measured, strict=True), "s-", markersize=3, color="C1")
        map_axis.set_ylabel("validation score", color="C1")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_atomic(folder / "loss.png", image.getvalue())


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `state.pt`, whole or not at all."""
    buffer = io.BytesIO()
    torch.save({"format": STATE_FORMAT, **state}, buffer)
    write_atomic(folder / "state.pt", buffer.getbuffer())


def read_state(folder: Path) -> dict[str, Any] | None:
    """Read `state.pt`, or None where there is none, as before the end of a training's first epoch.

    Raises:
        TrainingError: it cannot be read, or is none of ours.
    """
    path = folder / "state.pt"
    if not path.exists():
        return None
    advice = f"delete the folder {str(folder)!r} to start over"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise TrainingError(f"cannot read {str(path)!r} ({error.strerror}): {advice}") from None
    except Exception:  # torch.load answers hostile bytes with exceptions of any kind
        raise TrainingError(f"{str(path)!r} is damaged: {advice}") from None
    if not isinstance(state, dict) or state.get("format") != STATE_FORMAT:
        raise TrainingError(f"{str(path)!r} is not the state of a training by this version: {advice}")
    return state


def refuse_unfinished(folder: Path) -> None:
    """Raise TrainingError where `state.pt` is of a training that can be continued, or cannot be read."""
    state = read_state(folder)
    if state is None:
        return
    begun = state["settings"]
    done, epochs = len(state["history"]), begun["epochs"] + begun.get("finetune", 0)
    if done < epochs:
        raise TrainingError(
            f"{str(folder)!r} holds a training stopped after epoch {done} of {epochs}: continue it with --resume, "
            "or delete that folder to start over"
        )
