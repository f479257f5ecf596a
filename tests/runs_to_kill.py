"""What `test_kill_points` runs in a process that is to end."""

from __future__ import annotations

from pathlib import Path

from hashfaiss.encoding.encoder import Encoder
from hashfaiss.library.gathering import gather
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.shards import Shard, build_shard


def build_first(folder: str, photos: str) -> None:
    ImageIndex.create(Encoder.load(Path(folder).with_name("model.pt"), "cpu"), folder).build(photos)


build_again = heal_it = build_first


def compact_it(folder: str, photos: str) -> None:
    ImageIndex.open(folder).compact()


def tune_it(folder: str, photos: str) -> None:
    ImageIndex.open(folder).tune()


def remove_some(folder: str, photos: str) -> None:
    ImageIndex.open(folder).remove([f"{photos}/cat", f"{photos}/dog/0.jpg"])


def gather_it(folder: str, photos: str) -> None:
    if Path(folder, "shards").exists():  # else all is done
        gather(folder)


def shard_it(folder: str, photos: str) -> None:
    build_shard(Path(folder), Shard(1, 1), Encoder.load(Path(folder).with_name("model.pt"), "cpu"), photos)
    gather_it(folder, photos)
