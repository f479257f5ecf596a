"""A process that has imported all, and starts others that are to be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

LOOP = """
def tell(text):
    os.write(1, f"{text}\\n".encode())

tell("ready")
for line in sys.stdin:
    assert len(os.listdir("/proc/self/task")) == 1, "a fork could be caught in another thread's lock"
    child = os.fork()
    if not child:
        main(json.loads(line), tell)
        os._exit(0)
    sys.stdin.readline()  # till then its number is its own, even if it has ended
    os.kill(child, 9)
    _, status = os.waitpid(child, 0)
    tell(f"end {os.waitstatus_to_exitcode(status)}")
"""


class Nursery:
    """A process of one thread that runs a script's `main(what, tell)` in forks of itself, which cost milliseconds.

    Args:
        script: Python that defines `main`; `tell(text)` says something to whoever started it.
    """

    def __init__(self, script: str, *arguments: Any) -> None:
        given = [sys.executable, "-W", "ignore", "-c", f"import json, os, sys\n{script}{LOOP}", *map(str, arguments)]
        single = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=single)
        assert self.hear() == "ready"

    def hear(self) -> str:
        """The next line that was told."""
        return self.process.stdout.readline().strip()

    def start(self, what: Any) -> None:
        """Start one."""
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def kill(self) -> tuple[list[str], int]:
        """Kill it; what it told that was not heard, and its exit code: -9 unless it was quicker."""
        told = []
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        while not (line := self.hear()).startswith("end "):
            assert line, "the process that starts others has ended"
            told.append(line)
        return told, int(line.removeprefix("end "))

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()
