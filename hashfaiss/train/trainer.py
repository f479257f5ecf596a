"""Train a hashing network: read from `train` downwards.

On two cores, ResNet18 at 64x64 goes through about 80 images a second; 5,000 images for 20 epochs take 20 minutes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hashfaiss.codes import pack_tensor
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.learned import LearnedCodes
from hashfaiss.errors import DivergedError, ModelError, TrainingError
from hashfaiss.images.labels import labelled_files, labelled_images
from hashfaiss.networks import NETWORKS
from hashfaiss.networks.heads import draw_head, for_use
from hashfaiss.networks.weights import licence_trouble, load_weights, weights_identity
from hashfaiss.train.budget import LENGTH, fit_into_minutes
from hashfaiss.train.checks import check_training_set
from hashfaiss.train.data import TrainingData, drawn_batches, load_training_data, views_of
from hashfaiss.train.feature_store import FeatureStore
from hashfaiss.train.frozen import Frozen, freeze
from hashfaiss.train.methods import Method, Shallow, SteppingMethod, build_method, method_class
from hashfaiss.train.optimisers import build_optimiser
from hashfaiss.train.options import TrainOptions
from hashfaiss.train.phases import Phase, phases_of, rate_factor
from hashfaiss.train.progress import Clock, Progress
from hashfaiss.train.records import (
    Epoch,
    TrainResult,
    draw_curves,
    folder_beside,
    read_state,
    refuse_unfinished,
    training_facts,
    write_metrics,
    write_state,
    writing,
)
from hashfaiss.train.selection import Selection
from hashfaiss.train.settings import PRECISIONS, Settings, settle
from hashfaiss.train.shallow import fit_shallow

# A training may be continued with other values of these: they do not change what is learned, or the data's own
# fingerprint is compared instead.
FREE_SETTINGS = ("images", "labels", "queries", "database", "out", "device")


def train(
    options: TrainOptions,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
    store: FeatureStore | None = None,
) -> TrainResult:
    """Train a network and write its model file.

    The state after each epoch is on disk before the next begins. On a CPU with the same number of threads, the same
    options give the same weights to the bit, with or without interruptions; on a GPU nearly so.

    Args:
        options: see `TrainOptions`.
        resume: continue from the state beside `options.out`, where there is one. Without it, start over; what is
            unfinished there must be deleted first.
        progress: called about ten times a second.
        say: told in a sentence what was decided: how many epochs fit into `minutes`.
        store: where a backbone's features may lie; of an image's whole, whatever the augmentation.

    Raises:
        ArgumentError: a setting outside what it may be.
        LabelError: no labels, or one class only.
        ModelError: the pretrained weights cannot be had.
        TrainingError: too few images, an unfinished training in the way or one that does not fit, no room to write, or
            a loss that is not a number.
        KeyboardInterrupt: passed on; the last finished epoch can be continued from.
    """
    started = time.monotonic()
    settings = settle(options)
    tell = progress or (lambda _: None)
    if trouble := licence_trouble(settings.backbone, settings.weights):
        say(trouble)
    with folder_beside(Path(settings.out)) as folder:
        state = None
        if resume:
            state = read_state(folder)
            if state is None:
                say(f"{str(folder)!r} holds nothing to continue: the training starts")
        else:
            refuse_unfinished(folder)
        device = torch.device(settings.device)
        others = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(others):  # the caller's random numbers stay theirs
            torch.manual_seed(settings.seed)
            return _learn(settings, state, folder, tell, say, started, store)


def _learn(
    settings: Settings,
    state: dict[str, Any] | None,
    folder: Path,
    tell: Callable[[Progress], None],
    say: Callable[[str], None],
    started: float,
    store: FeatureStore | None,
) -> TrainResult:
    if issubclass(method_class(settings.method), Shallow):
        if state is not None:
            raise TrainingError(
                f"{str(folder)!r} holds a training of {state['settings']['method']!r}, which {settings.method} "
                "cannot continue: train without resume to give it up"
            )
        data = _read_images(settings, tell, say, store)
        with writing(folder):
            return fit_shallow(settings, data, folder, tell, store)
    network: Any = NETWORKS[settings.network](**settings.network_arguments)
    # of its own generator, so that what else there is to draw, such as attention, leaves it the same
    draw_head(network.hash_layer, torch.Generator().manual_seed(settings.seed))
    if state is None:
        for backbone in network.backbones:
            load_weights(backbone, settings.weights)
    data = _read_images(settings, tell, say, store)
    device = torch.device(settings.device)
    network = network.to(device).to(memory_format=torch.channels_last)  # a tenth faster on CPUs; for tensor cores
    if settings.minutes is not None:
        settings = _decided(settings, state, network, data, time.monotonic() - started, say)
    run = _Run(settings, network, data, folder, store)
    if state is not None:
        run.restore(state)
    if shortfall := run.method.shortfall():
        say(shortfall)
    clock = Clock(settings.epochs + settings.finetune, len(run.history), tell)
    with writing(folder):
        if state is None:  # an older training is given up only now that nothing stands in the way
            (folder / "state.pt").unlink(missing_ok=True)
        try:
            for epoch in range(len(run.history) + 1, run.phases[-1].last + 1):
                run.epoch(epoch, clock)
        finally:
            draw_curves(folder, run.history)
    return run.result()


def _decided(
    settings: Settings,
    state: dict[str, Any] | None,
    network: Any,
    data: TrainingData,
    spent: float,
    say: Callable[[str], None],
) -> Settings:
    """Settings whose epochs are those that fit into their minutes; of a training that goes on, those it began with."""
    if state is None:
        return fit_into_minutes(settings, network, data, spent, say)
    begun = state["settings"]
    return replace(settings, **{name: begun[name] for name in (*LENGTH, "finetune") if name in begun})


def _read_images(
    settings: Settings, tell: Callable[[Progress], None], say: Callable[[str], None], store: FeatureStore | None
) -> TrainingData:
    needed = method_class(settings.method).about.supervision != "none"
    images = labelled_images(settings.images, settings.labels, needed)
    if not needed and any(labels for _, labels in labelled_files(settings.images, settings.labels)):
        say(f"{settings.method} learns from no labels: those that these images have are ignored")
    check_training_set(images, settings)
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        tell(Progress(0, settings.epochs, done, len(images)))

    how = settings.preprocessing, settings.augments, settings.validation, settings.seed
    read = partial(load_training_data, images, *how, count)
    return store.data((images, *how), read) if store is not None else read()


class _Run:
    """A training in progress: what changes from epoch to epoch, and how."""

    def __init__(
        self, settings: Settings, network: Any, data: TrainingData, folder: Path, store: FeatureStore | None
    ) -> None:
        self.settings, self.data, self.folder, self.store = settings, data, folder, store
        self.preprocessing = settings.preprocessing
        self.device = torch.device(settings.device)
        self.network = network
        self.phases = phases_of(settings)
        images = data.training.images
        torch.manual_seed(settings.seed)  # the same for any network
        method = build_method(settings.method, data.training.labels, settings.bits, settings.method_options)
        self.method: Method = method.to(self.device)  # type: ignore[union-attr]
        self.method.epochs = self.phases[-1].last
        self.images = images.to(self.device) if self._fits(images) else images
        self.frozen: Frozen | None = None
        self._enter(self.phases[0])
        self.selection = Selection(settings, data)
        self.identity = _identity(settings, data)
        self.history: list[Epoch] = []
        self.best_epoch = 0
        self.best_map: float | None = None
        self.seconds_before = 0.0
        self.started = time.monotonic()

    def _enter(self, phase: Phase) -> None:
        """Begin a phase: its parameters, optimiser and scaler; of the head's, features are computed when needed."""
        self.phase = phase
        self.frozen = None
        self.optimiser = build_optimiser(self.settings, self.network, self.method, phase)
        half = self.settings.precision == "float16" and phase.kind == "whole"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)

    def _phase(self, epoch: int) -> Phase:
        return next(phase for phase in self.phases if epoch <= phase.last)

    def epoch(self, number: int, clock: Clock) -> None:
        """Train for one epoch, validate, and put everything on disk."""
        if self._phase(number) != self.phase:
            self._enter(self._phase(number))
        if number == self.phase.first:
            clock.start_phase()
        clock.last_phase = self.phase == self.phases[-1]
        if self.phase.kind == "head" and self.frozen is None:
            self.frozen = freeze(self.network, self.data, self.settings, clock, self.store)
        # Seeded by its number, an epoch draws the same whether or not it is the first of a sitting.
        seed = int(np.random.SeedSequence((self.settings.seed, number)).generate_state(1, np.uint64)[0])
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        learning_rate = self._learning_rate(number, 0)
        self._train_mode()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        self.method.share = (number - 1) / self.method.epochs
        chosen = self.method.start_epoch(number, generator)
        chosen = torch.arange(len(self.images)) if chosen is None else chosen.cpu()
        clock.start_epoch(number, len(chosen))
        for indices in drawn_batches(chosen, self.settings.batch, generator):
            done = clock.done / len(chosen)
            self.method.share = (number - 1 + done) / self.method.epochs
            rate = self._learning_rate(number, done)
            total += self._step(indices, generator, rate) * len(indices)
            clock.tick(len(indices), total)
        loss = float(total) / len(chosen)  # waits for the device
        clock.stop()
        self.method.end_epoch(number)
        self._check_finite(number, loss)
        validation_score = None
        if number % self.settings.evaluate_every == 0 or number == self.phase.last:
            validation_score = self._validate(number, loss)
        self.history.append(
            Epoch(number, loss, validation_score, learning_rate, clock.images_per_second, self._seconds())
        )
        write_metrics(self.folder, self.history)
        write_state(self.folder, self._state())
        clock.finish_epoch(loss, validation_score)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state.

        Raises:
            TrainingError: it was made with other settings or images, or its model file is gone.
        """
        mine = self.identity
        differ = [name for name, value in mine.items() if state["settings"].get(name) != value]
        if differ:
            pairs = "; ".join(f"{name} was {state['settings'].get(name)!r}, is {mine[name]!r}" for name in differ)
            raise TrainingError(f"cannot continue {str(self.folder)!r} with other settings: {pairs}")
        if state["best_epoch"] and not Path(self.settings.out).exists():
            raise TrainingError(
                f"{str(self.settings.out)!r}, the best epoch so far, is gone: "
                f"delete the folder {str(self.folder)!r} to start over"
            )
        if state["history"]:
            self._enter(self._phase(len(state["history"])))
        self.network.load_state_dict(state["network"])
        self.method.load_state_dict(state["method"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.history = [Epoch(**row) for row in state["history"]]
        self.best_epoch, self.best_map = state["best_epoch"], state["best_map"]
        self.seconds_before = state["seconds"]

    def result(self) -> TrainResult:
        """What came of it."""
        return TrainResult(
            out=Path(self.settings.out),
            folder=self.folder,
            best_epoch=self.best_epoch,
            validation_score=self.best_map,
            measure=self.selection.measure,
            seconds=self._seconds(),
            images=len(self.data.training),
            validation_images=len(self.data.validation),
            skipped=self.data.skipped,
            history=self.history,
        )

    def _step(self, indices: Tensor, generator: torch.Generator, learning_rate: float) -> Tensor:
        """One batch; indices (n,) into the training images, on the CPU. Returns its loss, detached."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate * group["rate"]
        if self.frozen is not None:
            outputs = self.network.head(self.frozen.training[indices].to(self.device))
            outputs = torch.cat([outputs] * len(self.settings.augments))
            return self._learn(outputs, indices.to(self.device))
        batch = self.images[indices.to(self.images.device)].to(self.device)
        batch = views_of(batch, self.settings.augments, self.preprocessing, generator)
        inputs = self.preprocessing.normalise(batch).contiguous(memory_format=torch.channels_last)
        indices = indices.to(self.device)
        if isinstance(self.method, SteppingMethod):
            return self.method.step(self.network, learning_rate, inputs, indices)
        precision = PRECISIONS[self.settings.precision]
        with torch.autocast(self.device.type, precision, enabled=precision != torch.float32):
            outputs = self.network(inputs)
        return self._learn(outputs.float(), indices)

    def _learn(self, outputs: Tensor, indices: Tensor) -> Tensor:
        loss: Tensor = self.method(outputs, indices)
        self.optimiser.zero_grad()
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss.detach()

    def _learning_rate(self, epoch: int, share: float) -> float:
        return self.settings.learning_rate * rate_factor(self.settings, self.phase, epoch, share)

    def _train_mode(self) -> None:
        """What is trained is in training mode: the head alone, or all.

        After a head, batch norms keep the statistics it was trained on: those of the few augmented images there are
        would undo what it learned.
        """
        self.method.train()
        self.network.train(self.phase.kind == "whole")
        if self.settings.freeze:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        if self.phase.kind == "head":
            self.network.attention.train()
            self.network.hash_layer.train()

    def _validate(self, epoch: int, loss: float) -> float | None:
        """Write the model if it is the best so far. Returns the mAP it is chosen by, or None where there is none."""
        codes = self.method.database_codes()
        learned = None
        if codes is not None:
            learned = LearnedCodes(self.data.training.digests, pack_tensor(codes).cpu().numpy())
        network, arguments = for_use(self.network, self.settings.network_arguments)
        encoder = Encoder(
            network,
            self.settings.network,
            arguments,
            self.preprocessing,
            self.settings.method,
            self.data.classes,
            device=self.settings.device,
            learned=learned,
        )
        try:
            held_out = self.frozen.held_out_codes(self.network, self.device) if self.frozen else None
            score = self.selection.score(encoder, held_out) if self.method.ready else None
        except ModelError:  # finite weights, of such a size that their outputs are not
            raise self._diverged(epoch) from None
        if score is None or self.best_map is None or score > self.best_map:
            self.best_epoch, self.best_map = epoch, score
            encoder.facts = training_facts(self.settings, self.data, epoch, score, loss, self._seconds())
            encoder.save(self.settings.out)
        return score

    def _check_finite(self, epoch: int, loss: float) -> None:
        tensors = [tensor for tensor in self.network.state_dict().values() if tensor.is_floating_point()]
        if not math.isfinite(loss) or not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise self._diverged(epoch)

    def _diverged(self, epoch: int) -> DivergedError:
        return DivergedError(
            f"the loss is no number any more in epoch {epoch} (learning rate {self._learning_rate(epoch, 0):g}, "
            f"{self.settings.precision}): lower the learning rate, or train in float32"
        )

    def _state(self) -> dict[str, Any]:
        return {
            "settings": self.identity,
            "network": self.network.state_dict(),
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": [asdict(row) for row in self.history],
            "best_epoch": self.best_epoch,
            "best_map": self.best_map,
            "seconds": self._seconds(),
        }

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _fits(self, images: Tensor) -> bool:
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        return images.nbytes < free / 4


def _identity(settings: Settings, data: TrainingData) -> dict[str, Any]:
    """What two sittings of one training have in common."""
    kept = {name: value for name, value in asdict(settings).items() if name not in FREE_SETTINGS}
    return {**kept, "weights": weights_identity(settings.weights), "images and labels": data.fingerprint}
