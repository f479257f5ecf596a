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
import torch

from hashfaiss.encoding import pipeline
from hashfaiss.encoding.crew import Crew
from hashfaiss.encoding.devices import choose_devices
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.items import as_items
from hashfaiss.encoding.pipeline import encode_stream
from hashfaiss.errors import ArgumentError, HashfaissError, ImageError
from hashfaiss.library.image_index import ImageIndex


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


def with_tests() -> dict[str, str]:
    """An environment in which this file can be imported."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}


def alive(pid: int) -> bool:
    """A process that has ended may stay in the list for as long as nobody asks how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


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
        with pytest.raises(HashfaissError, match=r"ended in the middle of its work \(exit code -9\)"):
            crew.ask(9)
        with pytest.raises(HashfaissError, match="another process ended"):
            crew.ask(1)
    with pytest.raises(ArgumentError, match="start below zero"):
        Crew(counter, [(0,), (-1,)])


def test_no_process_outlives_the_first(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom test_crew import counter\nfrom hashfaiss.encoding.crew import Crew\n"
        "if __name__ == '__main__':\n    crew = Crew(counter, [(0,), (0,)])\n"
        "    print(crew.ask(0)[0], crew.ask(0)[0], flush=True)\n    time.sleep(1000)\n"
    )
    (tmp_path / "main.py").write_text(code)
    first = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py")],
        stdout=subprocess.PIPE,
        text=True,
        env=with_tests(),
    )
    assert first.stdout is not None
    others = [int(pid) for pid in first.stdout.readline().split()]
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert len(set(others)) == 2
    while any(alive(pid) for pid in others):
        time.sleep(0.05)


def test_two_devices_give_the_codes_of_one(
    encoder: Encoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pipeline.ASKED, "cpu", 2)
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
    few = list(encode_stream(both, as_items(photos), batch_size=4))  # fewer than two processes would be asked for
    memory = list(encode_stream(both, as_items(torch.zeros(20, 3, 32, 32, dtype=torch.uint8)), batch_size=3))
    assert len(asked) == 1
    assert [sum(len(batch.items) for batch in batches) for batches in (few, memory)] == [12, 20]
    index = ImageIndex.create(both, tmp_path / "one.index")
    monkeypatch.setattr(Encoder, "batch_size", 2)
    assert index.build(photos).encoded == 12
    assert len(asked) == 2


def test_one_that_ends_stops_all(tmp_path: Path) -> None:
    """A thread that waits for a process, in vain, would keep the program from ending."""
    (tmp_path / "main.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\nfrom test_crew import counter\n"
        "from hashfaiss.encoding.crew import Crew\n"
        "if __name__ == '__main__':\n"
        "    with Crew(counter, [(0,), (0,)]) as crew, ThreadPoolExecutor(2) as pool:\n"
        "        found = [pool.submit(crew.ask, question) for question in (9, 1, 9, 2, 3, 4)]\n"
        "    print(sum(one.exception() is not None for one in found))\n"
    )
    done = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, env=with_tests(), capture_output=True)
    assert done.returncode == 0
    assert int(done.stdout) >= 2


def test_a_script_without_a_guard_is_told(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    encoder.save(tmp_path / "model.pt")
    (tmp_path / "main.py").write_text(
        f"from hashfaiss import Encoder\nEncoder.load('model.pt', 'cpu,cpu').encode({str(photos)!r}, batch_size=2)\n"
    )
    done = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, env=with_tests(), capture_output=True, text=True)
    assert done.returncode == 1
    assert "a process could not be started (exit code 1): a script that asks for several devices needs" in done.stderr


@pytest.mark.parametrize("devices", ["cpu,cuda", "cuda,cuda"])
def test_devices_that_do_not_go_together(devices: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hashfaiss.encoding.devices.choose_device", torch.device)
    with pytest.raises(ArgumentError, match=f"device '{devices}' names a GPU twice, or other devices beside it"):
        choose_devices(devices)


def test_a_device_that_is_not_there_is_told(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "model.pt")
    with pytest.raises(ArgumentError, match="device 'nowhere' cannot be used here"):
        Encoder.load(tmp_path / "model.pt", "cpu,nowhere")


def test_errors_of_images_can_be_sent() -> None:
    sent = pickle.loads(pickle.dumps(ImageError(None, "no pixels")))
    assert (sent.path, sent.reason, str(sent)) == (None, "no pixels", "cannot read image: no pixels")
