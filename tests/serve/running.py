"""`hashfaiss serve` as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `hashfaiss serve`, and its URL."""
    asked = [sys.executable, "-m", "hashfaiss", "serve", "--index", str(folder), "--port", "0", *options]
    process = subprocess.Popen(asked, stderr=subprocess.PIPE, text=True, env={**os.environ, "HASHFAISS_TOKEN": ""})
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        found = re.search(r"http://\S+", said)
        assert found, said + process.stderr.read()
        yield process, found[0]
    finally:
        process.kill()
        process.wait(60)
        process.stderr.close()
