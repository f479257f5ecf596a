"""Telling how a training goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

REPORT_SECONDS = 0.1


@dataclass(frozen=True)
class Progress:
    """Where a training is.

    Attributes:
        epoch, epochs: the current one and how many there are; epoch 0 is reading the images.
        done, total: images of this epoch; done == total comes once, after the epoch's validation.
        loss: mean over the epoch so far, or None while reading.
        images_per_second: trained on in this epoch.
        seconds_left: to the end of the training, or None while unknown.
        validation_score: of the epoch that is over, or None.
    """

    epoch: int
    epochs: int
    done: int
    total: int
    loss: float | None = None
    images_per_second: float = 0.0
    seconds_left: float | None = None
    validation_score: float | None = None


class Clock:
    """Counts images and tells `callback` about ten times a second, and at the end of each epoch.

    Args:
        epochs: in all.
        finished: epochs that earlier sittings have done.
    """

    def __init__(self, epochs: int, finished: int, callback: Callable[[Progress], None]) -> None:
        self.epochs, self.callback = epochs, callback
        self.epoch = finished
        self.trained = 0
        self.validation_score: float | None = None
        self.started = self.told = time.monotonic()
        self.last_phase = True  # before it, none can say how long the training takes

    def start_phase(self) -> None:
        """Epochs take another time from now on."""
        self.started, self.trained = time.monotonic(), 0

    def start_features(self, images: int) -> None:
        """Before the first epoch, so many images go through the network once."""
        self.read, self.to_read = 0, images

    def features(self, images: int) -> None:
        """`images` more did."""
        self.read += images
        self.callback(Progress(0, self.epochs, self.read, self.to_read))

    def start_epoch(self, epoch: int, images: int) -> None:
        """The next `images` images belong to `epoch`."""
        self.epoch, self.images, self.done, self.images_per_second = epoch, images, 0, 0.0
        self.epoch_started = time.monotonic()

    def tick(self, images: int, loss_sum: Tensor) -> None:
        """`images` more are done; `loss_sum` is read, which waits for the device, only when it is time to tell."""
        self.done += images
        self.trained += images
        now = time.monotonic()
        if now - self.told >= REPORT_SECONDS and self.done < self.images:
            self.told = now
            loss = float(loss_sum) / self.done
            self.stop()
            self._tell(loss)

    def stop(self) -> None:
        """Take the time of the images so far; on a GPU, after something has waited for them."""
        self.images_per_second = self.done / max(time.monotonic() - self.epoch_started, 1e-9)

    def finish_epoch(self, loss: float, validation_score: float | None) -> None:
        """The epoch is over and on disk; `validation_score` is None where it was not measured."""
        self.validation_score = validation_score
        self._tell(loss)
        self.validation_score = None

    def _tell(self, loss: float) -> None:
        # The pace is that of the phase in this sitting, so that it includes validations.
        pace = (time.monotonic() - self.started) / max(self.trained, 1)
        seconds_left = (
            None if not self.last_phase else ((self.epochs - self.epoch + 1) * self.images - self.done) * pace
        )
        self.callback(
            Progress(
                self.epoch,
                self.epochs,
                self.done,
                self.images,
                loss,
                self.images_per_second,
                seconds_left,
                self.validation_score,
            )
        )
