"""What `test_kill_points` runs in a process that is to end."""

from __future__ import annotations

from pathlib import Path

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.library.image_index import ImageIndex


def build_first(folder: str, photos: str) -> None:
    ImageIndex.create(Encoder.load(Path(folder).with_name("model.pt"), "cpu"), folder).build(photos)


build_again = heal_it = build_first


def compact_it(folder: str, photos: str) -> None:
    ImageIndex.open(folder).compact()


def tune_it(folder: str, photos: str) -> None:
    ImageIndex.open(folder).tune()


def remove_some(folder: str, photos: str) -> None:
    ImageIndex.open(folder).remove([f"{photos}/cat", f"{photos}/dog/0.jpg"])
