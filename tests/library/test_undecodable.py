"""A large image that a system kills builds over is told from one that was only being decoded at the time."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest
from builds import content, counts
from PIL import Image

from hashfaiss.images import large
from hashfaiss.library import undecodable
from hashfaiss.library.image_index import ImageIndex

# A build of the images of argv[2] into the index argv[1] that ends, as by a kill, once a large one is decoded.
KILLED = """
import os, signal, sys
from hashfaiss.images import decoding, large
from hashfaiss.library.image_index import ImageIndex
if __name__ == "__main__":
    large.LARGE = 10_000
    decode = decoding._decode
    def ends(data, admission, *rest):
        admission.admit(*decoding.open_image(__import__("io").BytesIO(data)).size)
        if admission._held._exit_callbacks:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(data, admission, *rest)
    decoding._decode = ends
    index = ImageIndex.open(sys.argv[1])
    ImageIndex.create(index.encoder, sys.argv[1]).build(sys.argv[2])
"""


@pytest.fixture
def killed(encoder, photos):
    """An index whose build was killed over photos/big.png, which is large, and photos/big.png."""
    index = ImageIndex.create(encoder, photos.parent / "x.index")
    big = photos / "big.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 120, 3)).astype(np.uint8)).save(big)
    ended = subprocess.run([sys.executable, "-c", KILLED, str(index.path), str(photos)], capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [file.name for file in index.path.glob("*coding-*")] == [next(index.path.glob("decoding-*.json")).name]
    return index, big


def test_one_that_can_be_decoded_is(killed, encoder, photos):
    index, _ = killed
    assert counts(index.build(photos)) == (13, 0, 0, 0)
    assert not list(index.path.glob("*cod*-*.json"))
    assert content(index) == content(encoder.to_index(photos, photos.parent / "y.index"))


@pytest.mark.parametrize("how", ["killed", "hangs"])
def test_one_that_ends_a_process_again_is_left_out_and_named(killed, photos, monkeypatch, how):
    index, big = killed
    ends = {"killed": "import os; os.kill(os.getpid(), 9)", "hangs": "import time; time.sleep(600)"}
    monkeypatch.setattr(undecodable, "TRIAL", ends[how])
    monkeypatch.setattr(undecodable, "SECONDS", 1)
    for _ in range(2):
        report = index.build(photos)
        assert [path for path, _ in report.skipped] == [str(big)]
        assert report.skipped[0][1].startswith("decoding it ended the process, twice: was memory short? To try again")
        assert len(index) == 12
    (kept,) = index.path.glob(large.TWICE)
    Image.new("RGB", (50, 50)).save(big)  # another picture
    assert counts(index.build(photos)) == (1, 12, 0, 0)
    assert not kept.exists()


def test_a_trial_that_takes_the_build_along_is_not_made_again(killed, photos, monkeypatch):
    """As where a container is killed whole."""
    index, _ = killed
    monkeypatch.setattr(undecodable, "_can_be_decoded", lambda path, least: sys.exit("killed"))
    with pytest.raises(SystemExit):
        index.build(photos)
    assert counts(index.build(photos)) == (12, 0, 0, 1)


def test_a_note_that_says_nothing_is_thrown_away(index, photos):
    for number, said in enumerate(
        (b"", b"{}", b"[1]", b'{"path": "/gone.png", "size": 1, "mtime_ns": 2}', b"[" * 10**5)
    ):
        (index.path / f"decoding-{number}.json").write_bytes(said)
        (index.path / f"undecodable-{number}.json").write_bytes(said)
    (photos / "cat/new.png").write_bytes((photos / "cat/1.png").read_bytes()[:-20])
    assert counts(index.build(photos)) == (0, 12, 0, 1)
    assert not list(index.path.glob("*coding-*")) + list(index.path.glob("undec*"))
