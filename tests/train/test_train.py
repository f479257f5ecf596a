"""The training data and the trainer, on tiny generated images."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trainings
from PIL import Image
from trainings import COLOURS, StopAt, chance_map, no_room, write_images

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.errors import ArgumentError, HashfaissError, LabelError, ModelError, TrainingError
from hashfaiss.images.preprocessing import Preprocessing
from hashfaiss.train.methods import METHODS
from hashfaiss.train.methods.dhida import DHIDA
from hashfaiss.train.options import TrainOptions
from hashfaiss.train.progress import Progress
from hashfaiss.train.settings import fastest_precision, settle
from hashfaiss.train.trainer import train

options = partial(trainings.options, learning_rate=3e-4)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]  # type: ignore[no-any-return]


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_training_learns_and_leaves_its_records(images: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = train(options(images, tmp_path / "new" / "m.pt", epochs=6), progress=seen.append)
    assert result.out == tmp_path / "new" / "m.pt"
    assert (result.images, result.validation_images, result.skipped) == (27, 9, [])
    assert result.history[-1].loss < result.history[0].loss
    assert result.validation_score is not None
    assert result.validation_score > chance_map(2, 8) + 0.3  # 1 in most trainings; how well is not promised
    assert result.validation_score == max(row.validation_score or 0 for row in result.history)
    with (result.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [row.loss for row in result.history]
    assert (result.folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not list(result.folder.glob(".*"))
    assert seen[0] == Progress(0, 6, 27, 36)
    finished = [progress for progress in seen if progress.epoch and progress.done == progress.total]
    assert [progress.epoch for progress in finished] == [1, 2, 3, 4, 5, 6]
    assert finished[-1].seconds_left == 0
    assert finished[-1].images_per_second > 0


def test_the_model_knows_how_it_was_made(images: Path, tmp_path: Path) -> None:
    asked = options(
        images, tmp_path / "m.pt", attention="danet", method_options={"gamma": 0.2}, epochs=2, precision="auto"
    )
    result = train(asked)
    encoder = Encoder.load(result.out, device="cpu")
    assert encoder.labels == ["blue", "green", "red"]
    assert (encoder.method, encoder.bits, encoder.network_name) == ("dhida", 8, "hash")
    assert encoder.preprocessing == Preprocessing(16, "stretch")
    facts = encoder.facts
    assert facts["validation_score"] == result.validation_score
    assert facts["best_epoch"] == result.best_epoch
    assert (facts["method_options"]["gamma"], facts["attention"], facts["epochs"]) == (0.2, "danet", 2)
    assert (facts["precision"], facts["lr_step"], facts["training_images"]) == (
        fastest_precision(torch.device("cpu")),
        1,
        27,
    )
    assert {field.name for field in dataclasses.fields(TrainOptions)} < set(facts)


def test_the_model_knows_what_it_was_not_told(images: Path, tmp_path: Path) -> None:
    asked = options(images, tmp_path / "m.pt", epochs=1, method_options={"reduction": "sum"})
    facts = Encoder.load(train(asked).out, device="cpu").facts
    dhida = {"gamma": 0.1, "activation": "piecewise", "balance_axis": "bit", "memory": True, "reduction": "sum"}
    assert facts["method_options"] == dhida
    unset = {"labels", "attention_width", "queries", "database", "cutoff", "minutes"}
    assert {name for name, value in facts.items() if value is None} == unset
    told = dataclasses.replace(asked, method_options={"reduction": "sum", "memory": True})
    assert len(train(told, resume=True).history) == 1  # the same training, spelt out
    with pytest.raises(TrainingError, match=r"method_options was \{.*'memory': True.* is \{.*'memory': False"):
        train(dataclasses.replace(told, method_options={"reduction": "sum", "memory": False}), resume=True)


def test_settling_takes_every_default_of_the_methods_class(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(DHIDA):
        def __init__(self, labels: torch.Tensor, bits: int, margin: float = 2.0, *, norm: str = "l2") -> None:
            super().__init__(labels, bits)

    monkeypatch.setitem(METHODS, "other", Other)
    settled = settle(options(images, Path("m.pt"), method="other", method_options={"norm": "l1"}))
    assert settled.method_options == {"margin": 2.0, "norm": "l1"}


def test_settling_takes_what_is_not_given_from_the_recipe(images: Path) -> None:
    recipe = settle(TrainOptions(images=images, out="m.pt", weights="none", device="cpu"))
    assert (recipe.backbone, recipe.attention, recipe.learning_rate) == ("resnet18", "ida", 5e-5)
    assert (recipe.epochs, recipe.lr_step, recipe.batch, recipe.size) == (150, 50, 128, 224)
    shorter = settle(TrainOptions(images=images, out="m.pt", weights="none", device="cpu", epochs=20))
    assert shorter.lr_step == 7  # drops stay at the same shares of the training
    assert settle(TrainOptions(images=images, out="m.pt", epochs=20, lr_step=30, device="cpu")).lr_step == 30


def test_same_seed_same_weights(images: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    for name, seed in (("a.pt", 1), ("b.pt", 1), ("c.pt", 2)):
        train(options(images, tmp_path / name, seed=seed, epochs=2, augment="crop"))
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(weights_of(tmp_path / "a.pt"), weights_of(tmp_path / "b.pt"))
    assert not torch.equal(
        weights_of(tmp_path / "a.pt")["hash_layer.weight"], weights_of(tmp_path / "c.pt")["hash_layer.weight"]
    )


@pytest.mark.parametrize("stop", [1, 3])
def test_resume_is_exact(images: Path, tmp_path: Path, stop: int) -> None:
    changes: dict[str, Any] = {"augment": "crop", "lr_step": 2}
    whole = train(options(images, tmp_path / "whole.pt", **changes))
    cut = options(images, tmp_path / "cut.pt", **changes)
    with pytest.raises(KeyboardInterrupt):
        train(cut, progress=StopAt(stop))
    assert (tmp_path / "cut.training" / "loss.png").exists()
    result = train(cut, resume=True)
    assert_same(weights_of(whole.out), weights_of(result.out))
    assert [row.loss for row in result.history] == [row.loss for row in whole.history]
    assert (result.best_epoch, result.validation_score) == (whole.best_epoch, whole.validation_score)
    last = [torch.load(run.folder / "state.pt", weights_only=True) for run in (whole, result)]
    for part in ("network", "method"):
        assert_same(last[0][part], last[1][part])


def test_resume_of_a_finished_training_changes_nothing(images: Path, tmp_path: Path) -> None:
    asked = options(images, tmp_path / "m.pt", epochs=2)
    said: list[str] = []
    first = train(asked, resume=True, say=said.append)
    assert said == [f"{str(tmp_path / 'm.training')!r} holds nothing to continue: the training starts"]
    written = first.out.read_bytes()
    again = train(asked, resume=True)
    assert again.history == first.history
    assert again.out.read_bytes() == written


def test_without_resume_it_starts_over(images: Path, tmp_path: Path) -> None:
    train(options(images, tmp_path / "m.pt", epochs=2))
    result = train(options(images, tmp_path / "m.pt", epochs=1, bits=16))
    assert len(result.history) == 1
    assert Encoder.load(result.out, device="cpu").bits == 16
    state = result.folder / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train(options(images, tmp_path / "m.pt"), progress=StopAt(0))
    assert state.exists()  # it had not begun
    with pytest.raises(TrainingError, match="no number any more in epoch 1"):
        train(options(images, tmp_path / "m.pt", learning_rate=1e38))
    assert not state.exists()  # it had, and got through no epoch


def test_an_unfinished_training_is_not_started_over(images: Path, tmp_path: Path) -> None:
    asked = options(images, tmp_path / "m.pt", epochs=3)
    with pytest.raises(KeyboardInterrupt):
        train(asked, progress=StopAt(2))
    folder = tmp_path / "m.training"
    files = [tmp_path / "m.pt", *sorted(folder.iterdir())]
    before = [path.read_bytes() for path in files]
    for again in (asked, dataclasses.replace(asked, bits=16, epochs=1)):
        with pytest.raises(TrainingError) as caught:
            train(again)
        assert str(caught.value) == (
            f"{str(folder)!r} holds a training stopped after epoch 2 of 3: continue it with --resume, "
            "or delete that folder to start over"
        )
    assert [path.read_bytes() for path in files] == before
    (folder / "state.pt").write_bytes(b"no state")
    with pytest.raises(TrainingError, match=r"state\.pt' is damaged: delete the folder '.*m\.training' to start over"):
        train(asked)
    shutil.rmtree(folder)
    assert len(train(asked).history) == 3


def test_resume_refuses_other_images_of_the_same_names(images: Path, tmp_path: Path) -> None:
    mine = write_images(tmp_path / "mine")
    asked = options(mine, tmp_path / "m.pt", epochs=1)
    train(asked)
    one = mine / "red" / "003.png"
    pixels = np.array(Image.open(one))
    pixels[5, 5, 1] ^= 1
    Image.fromarray(pixels).save(one)
    with pytest.raises(TrainingError, match="other settings: images and labels was"):
        train(asked, resume=True)
    shutil.copy(images / "red" / "003.png", one)
    train(asked, resume=True)


def test_resume_refuses_what_is_not_the_same_training(images: Path, tmp_path: Path) -> None:
    asked = options(images, tmp_path / "m.pt", epochs=2)
    result = train(asked)
    with pytest.raises(TrainingError, match=r"other settings: bits was 8, is 16; learning_rate was 0\.0003, is 0\.1"):
        train(dataclasses.replace(asked, bits=16, learning_rate=0.1), resume=True)
    more = write_images(tmp_path / "more", each=14)
    with pytest.raises(TrainingError, match="other settings: images and labels was"):
        train(dataclasses.replace(asked, images=more), resume=True)
    same = write_images(tmp_path / "moved")
    train(dataclasses.replace(asked, images=same), resume=True)
    result.out.rename(tmp_path / "elsewhere.pt")
    with pytest.raises(TrainingError, match="the best epoch so far, is gone"):
        train(asked, resume=True)
    state = result.folder / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"state\.pt' is damaged: delete the folder .*\.training' to start over"):
        train(asked, resume=True)
    torch.save({"format": "other"}, state)
    with pytest.raises(TrainingError, match="not the state of a training"):
        train(asked, resume=True)


def test_the_last_epoch_is_kept_without_validation(images: Path, tmp_path: Path) -> None:
    result = train(options(images, tmp_path / "m.pt", epochs=3, validation=0, evaluate_every=2))
    assert (result.best_epoch, result.validation_score, result.validation_images) == (3, None, 0)
    assert result.images == 36
    assert_same(weights_of(result.out), torch.load(result.folder / "state.pt", weights_only=True)["network"])


def test_unreadable_images_are_skipped_and_named(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", each=8)
    (images / "red" / "001.png").write_bytes(b"not an image")
    (images / "blue" / "empty.jpg").touch()
    result = train(options(images, tmp_path / "m.pt", epochs=1, attention="none"))
    assert {(Path(path).name, reason) for path, reason in result.skipped} == {
        ("001.png", "not an image, or of a format that is not known here"),
        ("empty.jpg", "empty file"),
    }
    assert result.images + result.validation_images == 23
    assert Encoder.load(result.out, device="cpu").facts["skipped_images"] == 2


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            (tmp_path / name / f"{number}.png").write_bytes(b"no")
    with pytest.raises(TrainingError, match=r"0 of 8 images are left to train on: .*\.png', not an image"):
        train(options(tmp_path, tmp_path / "m.pt", batch=4))


def test_several_labels_an_image(images: Path, tmp_path: Path) -> None:
    lines = [
        "path,label",
        *(f"{name}/{n:03}.png,{name};{'odd' if n % 2 else 'even'}" for name in COLOURS for n in range(12)),
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    result = train(options(images, tmp_path / "m.pt", epochs=1, labels=tmp_path / "labels.csv"))
    assert Encoder.load(result.out, device="cpu").labels == ["blue", "even", "green", "odd", "red"]


@pytest.mark.parametrize("batch", [2, 13, 26, 27])
def test_batches_of_any_size(images: Path, tmp_path: Path, batch: int) -> None:
    """27 images: 13 and 26 would leave one alone, which batch norm cannot train on."""
    result = train(options(images, tmp_path / "m.pt", epochs=1, batch=batch, size=8))
    assert len(result.history) == 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision(images: Path, tmp_path: Path, precision: str) -> None:
    result = train(options(images, tmp_path / "m.pt", epochs=1, size=8, precision=precision))
    assert {value.dtype for value in weights_of(result.out).values()} == {torch.float32, torch.int64}


def test_fastest_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastest_precision(torch.device("cuda")) == "bfloat16"
    for able in ({"amx_bf16": True}, {"avx512_bf16": True}, {"avx512_bf16": False}, {}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able, raising=False)
        assert fastest_precision(torch.device("cpu")) == ("bfloat16" if any(able.values()) else "float32")
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert fastest_precision(torch.device("cpu")) == "float32"
    assert fastest_precision(torch.device("mps")) == "float32"


def test_a_loss_that_is_no_number(images: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no number any more in epoch \d .*lower the learning rate"):
        train(options(images, tmp_path / "m.pt", learning_rate=1e30))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"bits": 0}, ArgumentError, "bits is 0"),
        ({"bits": 1025}, ArgumentError, "bits is 1025"),
        ({"method": "magic"}, ArgumentError, "unknown method 'magic'"),
        ({"backbone": "vgg"}, ArgumentError, "unknown backbone 'vgg'"),
        ({"attention": "self"}, ArgumentError, "unknown attention 'self'"),
        ({"stat_axis": "rows"}, ArgumentError, "unknown stat_axis 'rows'"),
        ({"augment": "blur"}, ArgumentError, "unknown augment 'blur'"),
        ({"precision": "int8"}, ArgumentError, "unknown precision 'int8'"),
        ({"fit": "pad"}, ArgumentError, "fit is 'pad'"),
        ({"device": "cuda:99"}, ArgumentError, "device 'cuda:99' cannot be used here"),
        ({"device": "abacus"}, ArgumentError, "device 'abacus' cannot be used here"),
        ({"size": 62, "backbone": "alexnet"}, ArgumentError, "size is 62: alexnet needs 63"),
        ({"size": "big"}, ArgumentError, "size is 'big'"),
        ({"epochs": 0}, ArgumentError, "epochs is 0"),
        ({"batch": 1}, ArgumentError, "batch is 1: give a whole number from 2"),
        ({"lr_step": 0}, ArgumentError, "lr_step is 0"),
        ({"seed": -1}, ArgumentError, "seed is -1"),
        ({"learning_rate": 0}, ArgumentError, "learning_rate is 0"),
        ({"weight_decay": float("nan")}, ArgumentError, "weight_decay is nan"),
        ({"method_options": {"gamma": -1}}, ArgumentError, "gamma is -1"),
        ({"method_options": {"axis": 1}}, ArgumentError, "the method 'dhida' has no option 'axis'"),
        ({"optimiser": "lion"}, ArgumentError, "unknown optimiser 'lion'"),
        ({"streams": "both"}, ArgumentError, "streams='both' is a setting of the network 'dual-stream'"),
        ({"network": "dual-stream", "attention": "ida"}, ArgumentError, "attention='ida' is a setting of .* 'hash'"),
        ({"select": "on-queries"}, ArgumentError, "give its lists as queries and database"),
        ({"batch": 28}, TrainingError, "27 images are left to train on beside 9 for validation, fewer than the batch"),
        ({"validation": 1.5}, ArgumentError, r"validation is 1\.5"),
        ({"validation": 0.01}, TrainingError, r"validation=0\.01 of 36 images in 3 classes"),
        ({"weights": "nowhere.pt"}, ModelError, "cannot read the weights 'nowhere.pt'"),
        ({"weights": "imagenet"}, ModelError, "no ImageNet weights for ResNetSmall"),
        ({"labels": "nowhere.csv"}, LabelError, "nowhere.csv"),
    ],
)
def test_what_cannot_be_trained_is_said_before(
    images: Path, tmp_path: Path, changes: dict[str, Any], error: type[HashfaissError], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(options(images, tmp_path / "m.pt", **changes))
    assert list(tmp_path.iterdir()) in ([], [images])


def test_images_that_cannot_be_trained_on(tmp_path: Path) -> None:
    write_images(tmp_path / "images", each=4)
    (tmp_path / "one").mkdir()
    (tmp_path / "images" / "red").rename(tmp_path / "one" / "red")
    with pytest.raises(LabelError, match=r"4 images have 1 label \(red\)"):
        train(options(tmp_path / "one", tmp_path / "m.pt"))
    with pytest.raises(ArgumentError, match="does not exist"):
        train(options(tmp_path / "nowhere", tmp_path / "m.pt"))
    with pytest.raises(ArgumentError, match="is a folder: give the name of the model file"):
        train(options(tmp_path / "images", tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot make the folder"):
        train(options(tmp_path / "images", tmp_path / "file" / "m.pt"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{n}.png,label{n}"], "no two of the 36 images share a label"),
        (["{n}.png,{even}", "0.png,alone;rare"], None),
        (["{n}.png,{even}"], None),
        (["{n}.png,every;{even}"], "all 36 images have the label 'every'"),
    ],
)
def test_labels_with_nothing_to_learn(images: Path, tmp_path: Path, lines: list[str], message: str | None) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    for n, path in enumerate(sorted(images.rglob("*.png"))):
        shutil.copy(path, folder / f"{n}.png")
    text = [line.format(n=n, even=n % 2) for n in range(36) for line in lines[:1]] + lines[1:]
    (tmp_path / "labels.csv").write_text("\n".join(text))
    asked = options(folder, tmp_path / "m.pt", labels=tmp_path / "labels.csv", epochs=1)
    if message is None:
        assert train(asked).images
        return
    with pytest.raises(LabelError, match=message):
        train(asked)


def test_a_class_of_one_image_is_said(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", each=8)
    (images / "white").mkdir()
    shutil.copy(images / "red" / "001.png", images / "white" / "only.png")
    with pytest.raises(LabelError, match=r"1 of 25 images share no label with another, .*only.png', .* of 'white'"):
        train(options(images, tmp_path / "m.pt"))


def test_a_full_disk_is_said_and_the_last_epoch_stays(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = options(images, tmp_path / "m.pt", epochs=3)

    def fill(progress: Progress) -> None:
        if progress.epoch == 1 and progress.done == progress.total:
            monkeypatch.setattr("hashfaiss.train.records.write_atomic", no_room)

    with pytest.raises(TrainingError, match=r"No space left on device.*train with resume"):
        train(asked, progress=fill)
    monkeypatch.undo()
    assert len(train(asked, resume=True).history) == 3


@pytest.mark.slow
def test_ctrl_c_then_resume(images: Path, tmp_path: Path) -> None:
    asked = options(images, tmp_path / "cut.pt", epochs=10, validation=0)
    names = [field.name for field in dataclasses.fields(asked)]
    values = {name: str(value) if isinstance(value := getattr(asked, name), Path) else value for name in names}
    code = (
        f"import time, torch; torch.set_num_threads({torch.get_num_threads()})\n"
        "from hashfaiss.train.options import TrainOptions\n"
        "from hashfaiss.train.trainer import train\n"
        "def tell(at):\n"
        "    print(at.epoch, at.done == at.total, flush=True)\n"
        "    if at.epoch == 9 and at.done == at.total:\n"
        "        time.sleep(1000)\n"  # on a busy machine the signal may be that late
        f"train(TrainOptions(**{values!r}), progress=tell)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "2 True\n":
                process.send_signal(signal.SIGINT)
                break
        _, errors = process.communicate()
    finally:
        process.kill()
    assert errors.rstrip().endswith("KeyboardInterrupt")
    left = torch.load(tmp_path / "cut.training" / "state.pt", weights_only=True)
    assert 2 <= len(left["history"]) < 10
    assert not [path for path in tmp_path.rglob(".*") if path.name.endswith(".tmp")]
    resumed = train(asked, resume=True)
    whole = train(dataclasses.replace(asked, out=tmp_path / "whole.pt"))
    assert_same(weights_of(resumed.out), weights_of(whole.out))
