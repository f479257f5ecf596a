"""How the interpreter ends after an index was used: without a crash, whatever still runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hashfaiss.library.image_index import ImageIndex

OPEN = """
import sys, threading, time
from hashfaiss import ImageIndex
index = ImageIndex.open(sys.argv[1])
"""
ENDINGS = {
    "in the middle of a stream": "answers = index.stream([sys.argv[2]] * 200, k=3); next(answers)",
    "while threads ask": """
def ask():
    while True:
        index.query([sys.argv[2]] * 8, 3)
        asked.set()
asked = threading.Event()
for _ in range(3):
    threading.Thread(target=ask, daemon=True).start()
assert asked.wait(60)
""",
    "when all else has gone": """
import atexit
index.query(sys.argv[2], 3)
atexit.register(lambda: index.query([sys.argv[2]] * 200, 3))
""",
    "while a thread that is waited for asks": """
def ask():
    threading.main_thread().join()
    index.query([sys.argv[2]] * 200, 3)
threading.Thread(target=ask).start()
""",
    "after worker processes": """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
index.query(sys.argv[2], 3)
with ProcessPoolExecutor(1, get_context("spawn")) as pool:
    pool.submit(len, index).result()
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_index_in_use_lets_the_interpreter_end(index: ImageIndex, photos: Path, tmp_path: Path, ending: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"{OPEN}if __name__ == '__main__':\n" + "\n".join(f"    {x}" for x in ENDINGS[ending].split("\n"))
    )
    arguments = [sys.executable, "-W", "error", str(script), str(index.path), str(photos / "cat/0.jpg")]
    ended = subprocess.run(arguments, capture_output=True, timeout=180, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
