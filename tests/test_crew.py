"""Several processes, one a device: the same codes in the same order, and what goes wrong in one is told."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hashfaiss import pipeline
from hashfaiss.crew import Crew
from hashfaiss.encoder import Encoder
from hashfaiss.errors import ArgumentError, HashfaissError, ImageError
from hashfaiss.library import ImageIndex
from hashfaiss.pipeline import as_items, encode_stream


def counter(start: int) -> Callable[[int], tuple[int, int]]:
    if start < 0:
        raise ArgumentError("start below zero")

    def answer(question: int) -> tuple[int, int]:
        if question == 7:
            raise ImageError("a.jpg", "empty")
        if question == 8:
            raise ZeroDivisionError("by zero")
        if question == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid(), start + question

    return answer


def test_a_crew_answers_and_tells_what_goes_wrong() -> None:
    with Crew(counter, [(10,)]) as crew:
        pid, found = crew.ask(1)
        assert (pid != os.getpid(), found) == (True, 11)
        with pytest.raises(ImageError, match=r"cannot read image 'a.jpg': empty") as caught:
            crew.ask(7)
        assert caught.value.reason == "empty"
        with pytest.raises(HashfaissError, match="ZeroDivisionError: by zero"):
            crew.ask(8)
        assert crew.ask(2) == (pid, 12)  # it goes on
        with pytest.raises(HashfaissError, match=r"ended \(exit code -9\).*run the same again"):
            crew.ask(9)
    with pytest.raises(ArgumentError, match="start below zero"):
        Crew(counter, [(0,), (-1,)])


def test_no_process_outlives_the_first(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom test_crew import counter\nfrom hashfaiss.crew import Crew\n"
        "if __name__ == '__main__':\n    crew = Crew(counter, [(0,), (0,)])\n"
        "    print(crew.ask(0)[0], crew.ask(0)[0], flush=True)\n    time.sleep(60)\n"
    )
    (tmp_path / "main.py").write_text(code)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    first = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert first.stdout is not None
    others = [int(pid) for pid in first.stdout.readline().split()]
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert len(set(others)) == 2
    late = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in others):
        assert time.monotonic() < late
        time.sleep(0.05)


def test_two_devices_give_the_codes_of_one(
    encoder: Encoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "ASKED", 2)
    encoder.save(tmp_path / "model.pt")
    both = Encoder.load(tmp_path / "model.pt", "cpu, cpu")
    assert both.identity == encoder.identity
    (photos / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    asked = []
    monkeypatch.setattr(pipeline, "Crew", lambda make, given: asked.append(given) or Crew(make, given))
    found, expected = (list(encode_stream(one, as_items(photos), batch_size=3)) for one in (both, encoder))
    assert [len(given) for given in asked] == [2]
    assert [item.path for batch in found for item in batch.items] == [
        item.path for batch in expected for item in batch.items
    ]
    assert [batch.codes.tolist() for batch in found] == [batch.codes.tolist() for batch in expected]
    assert [reason for batch in found for _, reason in batch.skipped] == [
        reason for batch in expected for _, reason in batch.skipped
    ]
    few = next(encode_stream(both, as_items(photos), batch_size=12))  # fewer than a process would be asked for
    assert len(few.items) + len(few.skipped) <= 13
    assert len(asked) == 1
    index = ImageIndex.create(both, tmp_path / "one.index")
    monkeypatch.setattr(Encoder, "batch_size", 2)
    assert index.build(photos).encoded == 12
    assert len(asked) == 2


def test_a_device_that_is_not_there_is_told(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "model.pt")
    with pytest.raises(ArgumentError, match="device 'nowhere' cannot be used here"):
        Encoder.load(tmp_path / "model.pt", "cpu,nowhere")


def test_errors_of_images_can_be_sent() -> None:
    sent = pickle.loads(pickle.dumps(ImageError(None, "no pixels")))
    assert (sent.path, sent.reason, str(sent)) == (None, "no pixels", "cannot read image: no pixels")
