"""The worked example: handwritten digits, from PNG files to an evaluated index."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from hashfaiss.errors import HashfaissError
from hashfaiss.files import write_atomic

HELD_OUT = 10  # every tenth digit becomes a query
TRAINING = [
    *("--method", "dhida", "--bits", "32", "--backbone", "resnet-small", "--weights", "none"),
    *("--size", "16", "--fit", "stretch", "--batch", "32", "--epochs", "12", "--learning-rate", "3e-4"),
    *("--lr-step", "9", "--evaluate-every", "2"),
]


def run_demo(folder: Path, run: Callable[[list[str]], None]) -> None:
    """Write scikit-learn's digits as PNG files, then train, build, query and evaluate in `folder`.

    Args:
        folder: made where it is missing; what an earlier demo left there is replaced.
        run: shows a command of the command line and runs it.

    Raises:
        HashfaissError: a step failed, or `folder` cannot be written.
    """
    database, queries, model = (str(folder / name) for name in ("digits/database", "digits/queries", "dhida.pt"))
    try:
        count, query = _write_digits(folder / "digits")
    except OSError as error:
        raise HashfaissError(f"cannot write the digits to {str(folder)!r}: {error.strerror}") from None
    print(f"{count:,} digits as PNG files in {folder / 'digits'}, a folder a class, a tenth held out as queries")
    flat, hashed = str(folder / "digits.index"), str(folder / "digits-hash.index")
    run(["train", "--images", database, *TRAINING, "--out", model])
    run(["build", "--model", model, "--images", database, "--index", flat])
    run(["build", "--model", model, "--images", database, "--index", hashed, "--kind", "hash"])
    run(["query", query, "--index", flat, "-k", "7", "--montage", str(folder / "hits.png")])
    run(["evaluate", "--index", flat, "--queries", queries, "--plots", str(folder / "plots")])
    run(["evaluate", "--index", hashed, "--queries", queries, "--depth", "10", "--exact"])
    print(f"Look at {folder / 'hits.png'}, {folder / 'plots'} and {folder / 'dhida.training' / 'loss.png'}.")


def _write_digits(folder: Path) -> tuple[int, str]:
    """Write the digits; return how many, and the path of one query."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    query = ""
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        part = "queries" if number % HELD_OUT == 0 else "database"
        path = folder / part / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray((pixels * (255 / 16)).astype("uint8")).save(buffer, "PNG")
        if not path.exists() or path.read_bytes() != buffer.getvalue():  # a second demo encodes nothing anew
            write_atomic(path, buffer.getvalue())
        if part == "queries" and label == 3:
            query = str(path)
    return len(digits.images), query
