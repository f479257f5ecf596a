"""Cells run as Jupyter runs them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# in a process of its own, whose sockets nobody waits for
RUN = """
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read("asked.ipynb", 4)
nbformat.validate(notebook)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, "run.ipynb")
"""


def run_notebook(notebook: dict[str, Any], folder: Path) -> list[Any]:
    """The code cells' outputs; skips where nbclient or ipykernel is not installed."""
    for package in ("nbclient", "ipykernel"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    (folder / "asked.ipynb").write_text(json.dumps(notebook), "utf-8")
    done = subprocess.run([sys.executable, "-c", RUN], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cells = json.loads((folder / "run.ipynb").read_text("utf-8"))["cells"]
    return [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]


def written(outputs: Any, stream: str) -> str:
    """What a cell wrote to stdout or stderr."""
    return "".join("".join(output["text"]) for output in outputs if output.get("name") == stream)


def shown(outputs: Any, kind: str) -> str:
    """What a cell's last value is shown as, of this MIME type."""
    (result,) = [output for output in outputs if output["output_type"] == "execute_result"]
    return "".join(result["data"][kind])
