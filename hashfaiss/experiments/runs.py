"""One run of a table: train, index the database, evaluate on the queries, time the encoding, write it all down."""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

import hashfaiss
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import (
    CorruptIndexError,
    DivergedError,
    EncoderMismatchError,
    ImageError,
    LabelError,
    TrainingError,
)
from hashfaiss.evaluation.index_report import IndexReport, evaluate_index
from hashfaiss.experiments.plans import RESULT, Data, Plan
from hashfaiss.files import write_atomic
from hashfaiss.images.decoding import decode_image, read_bytes
from hashfaiss.library.build_report import BuildReport
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.train.feature_store import FeatureStore
from hashfaiss.train.methods import Shallow, method_class
from hashfaiss.train.progress import Progress
from hashfaiss.train.records import TrainResult, training_folder
from hashfaiss.train.trainer import train

TIMED_BATCH, WARM_UPS, TIMINGS = 64, 2, 7
FEATURES = "features"  # a folder beside the runs
DEPTH = 1000  # ranks of FAISS that are held against the exact ones
PLACES = 6  # of each query's average precision, as it is stored


@contextmanager
def _no_training() -> Iterator[Callable[[Progress], None]]:
    yield lambda at: None


@contextmanager
def _no_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    yield lambda done, total: None


@dataclass(frozen=True)
class Display:
    """Who is told how the work goes; silent by default. `hashfaiss.cli.console` has all three for a terminal.

    Attributes:
        note: told a line at a time.
        training: opens what is told of a training.
        bar: opens what is told of other work by its name: called with (done, total).
    """

    note: Callable[[str], None] = lambda text: None
    training: Callable[[], AbstractContextManager[Callable[[Progress], None]]] = _no_training
    bar: Callable[[str], AbstractContextManager[Callable[[int, int], None]]] = _no_bar


def carry_out(plan: Plan, data: Data, about: dict[str, Any], display: Display) -> dict[str, Any] | None:
    """Do a run from where it stands, and write its `result.json` last, whole or not at all.

    A training that was cut off continues after its last finished epoch, an index at its last segment. Both are taken
    away when the result is there; the model and the curves stay.

    Args:
        about: what the result also tells: of the table and the data.

    Returns:
        The result; None where another process is at this run.

    Raises:
        LabelError: no query, or no image of the database, has a label.
        TrainingError, IndexFolderError: see `train` and `ImageIndex.build`.
    """
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(plan.folder / ".lock", timeout=0):
            return _carry_out(plan, data, about, display)
    except Timeout:
        return None
    except OSError as error:
        raise TrainingError(
            f"cannot write to {str(plan.folder)!r} ({error.strerror}): make room, then run again"
        ) from None


def _carry_out(plan: Plan, data: Data, about: dict[str, Any], display: Display) -> dict[str, Any]:
    # Who waited for the lock may find the work done.
    found = plan.stored()
    if found is not None:
        return found
    store = _store(plan, data, display)
    trained, rates = _train(plan, display, store)
    encoder = Encoder.load(plan.options.out, plan.settings.device)
    if store is not None:
        encoder.remembered = store.codes(encoder)
    folder = plan.folder / "index"
    index, built = _build(encoder, folder, data, display)
    with display.bar("evaluate") as shown:
        report = evaluate_index(index, data.images, data.file("query"), cutoff=data.cutoff, depth=DEPTH, progress=shown)
    if report.retrieval is None:
        raise LabelError(
            f"the queries or the database of {str(data.split.folder)!r} have no labels: give lists with them"
        )
    result = {
        **about,
        "method": plan.row.method,
        "bits": plan.bits,
        "seed": plan.seed,
        "settings": plan.identity,
        "training": _training(trained) | rates,
        **_evaluation(report),
        "database_skipped": len(built.skipped),
        "encode": encode_time(encoder, [str(data.images / path) for path, _ in data.split.query]),
        "machine": _machine(plan.settings.device),
        "history": [asdict(epoch) for epoch in trained.history],
    }
    write_atomic(plan.folder / RESULT, _as_json(result))
    shutil.rmtree(folder, ignore_errors=True)
    if plan.rates:
        shutil.rmtree(training_folder(plan.folder / "model.pt"), ignore_errors=True)
        trained.folder.rename(training_folder(plan.folder / "model.pt"))
        for rate in plan.rates:
            shutil.rmtree(_rate_folder(plan, rate))
    (training_folder(plan.folder / "model.pt") / "state.pt").unlink(missing_ok=True)  # the largest file there
    stored: dict[str, Any] = json.loads((plan.folder / RESULT).read_bytes())
    return stored


def _store(plan: Plan, data: Data, display: Display) -> FeatureStore | None:
    """Where a table keeps the features of backbones that its runs do not train; None for a run that trains its own."""
    settings = plan.settings
    fixed = settings.freeze and not settings.finetune and settings.network_arguments.get("attention", "none") == "none"
    if not (fixed or issubclass(method_class(settings.method), Shallow)):
        return None
    images = [*data.split.query, *data.split.train, *data.split.database]
    return FeatureStore(plan.folder.parent / FEATURES, (str(data.images / path) for path, _ in images), display.bar)


def _train(plan: Plan, display: Display, store: FeatureStore | None) -> tuple[TrainResult, dict[str, Any]]:
    """Train, at each of the plan's rates where it has some, and keep the model that is best on validation images.

    Returns:
        That training, and what `result.json` tells of the choice: the rate, and the score at each, None where it
        diverged.
    """
    if not plan.rates:
        with display.training() as progress:
            found = train(plan.options, resume=True, progress=progress, say=display.note, store=store)
            return found, {}
    scores: dict[float, float | None] = {}
    trainings: dict[float, TrainResult] = {}
    for rate in plan.rates:
        folder = _rate_folder(plan, rate)
        folder.mkdir(exist_ok=True)
        options = replace(plan.options, learning_rate=rate, out=folder / "model.pt")
        try:
            with display.training() as progress:
                trainings[rate] = train(options, resume=True, progress=progress, say=display.note, store=store)
        except DivergedError as error:
            display.note(f"{plan.name}, learning rate {rate:g}: {error}")
        scores[rate] = trainings[rate].validation_score if rate in trainings else None
    scored = {rate: score for rate, score in scores.items() if score is not None}
    if not scored:
        raise DivergedError(f"none of the learning rates {', '.join(f'{rate:g}' for rate in plan.rates)} was trained")
    best = max(scored, key=lambda rate: scored[rate])
    display.note(f"{plan.name}: learning rate {best:g}, of validation mAP {scored[best]:.4f}")
    write_atomic(plan.folder / "model.pt", (_rate_folder(plan, best) / "model.pt").read_bytes())
    return trainings[best], {"learning_rate": best, "rates": {f"{rate:g}": score for rate, score in scores.items()}}


def _rate_folder(plan: Plan, rate: float) -> Path:
    return plan.folder / f"rate-{rate:g}"


def _build(encoder: Encoder, folder: Path, data: Data, display: Display) -> tuple[ImageIndex, BuildReport]:
    try:
        index = ImageIndex.create(encoder, folder, "flat")
    except (EncoderMismatchError, CorruptIndexError):  # of a run that was cut off before this training was over
        shutil.rmtree(folder)
        index = ImageIndex.create(encoder, folder, "flat")
    with display.bar("encode") as progress:
        built = index.build(data.images, data.file("database"), "flat", progress=progress)
    return index, built


def encode_time(encoder: Encoder, paths: list[str]) -> dict[str, Any]:
    """How long the network takes for an image: batches of 64 that lie ready, as the papers measure it.

    Reading, resizing and packing are not in it. The median of a few batches counts.
    """
    batch: list[Tensor] = []
    for path in paths:
        with suppress(ImageError):  # the evaluation has told of it
            image = decode_image(read_bytes(path), path, encoder.preprocessing.least_side)
            batch.append(encoder.preprocessing.resize(image))
        if len(batch) == TIMED_BATCH:
            break
    device = torch.device(encoder.device)
    images = torch.stack(list(islice(cycle(batch), TIMED_BATCH))).to(device)
    seconds = []
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        inputs = encoder.preprocessing.normalise(images).contiguous(memory_format=torch.channels_last)
        for _ in range(WARM_UPS + TIMINGS):
            _wait(device)
            started = time.perf_counter()
            encoder.network(inputs)
            _wait(device)
            seconds.append(time.perf_counter() - started)
    per_image = [1000 * second / TIMED_BATCH for second in seconds[WARM_UPS:]]
    return {
        "milliseconds_per_image": statistics.median(per_image),
        "fastest": min(per_image),  # what a busy machine disturbs least: the one that tables and figures show
        "batch": TIMED_BATCH,
        "precision": "float32",
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _training(trained: TrainResult) -> dict[str, Any]:
    return {
        "best_epoch": trained.best_epoch,
        "epochs": len(trained.history),
        "validation_score": trained.validation_score,
        "seconds": trained.seconds,
        "images": trained.images,
        "validation_images": trained.validation_images,
        "skipped": len(trained.skipped),
    }


def _evaluation(report: IndexReport) -> dict[str, Any]:
    found = report.to_dict()
    index = {name: found[name] for name in ("kind", "depth", "leaks")}
    index["skipped"] = len(report.skipped)
    parts = {name: found[name] for name in ("agreement", "retrieval", "health")}
    assert report.retrieval is not None
    parts["average_precisions"] = [round(value, PLACES) for value in report.retrieval.average_precisions]
    if report.unseen is not None:
        parts["unseen"] = {"classes": list(report.unseen.classes)} | {
            side: {"queries": one.queries, "mean_average_precision": one.mean_average_precision}
            for side, one in (("seen", report.unseen.seen), ("unseen", report.unseen.unseen))
        }
    return {"index": index, **parts}


def _machine(device: str) -> dict[str, Any]:
    chosen = torch.device(device)
    return {
        "device": torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else device,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "torch": str(torch.__version__),
        "hashfaiss": hashfaiss.__version__,
    }


def _as_json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()
