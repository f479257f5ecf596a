"""Label files in which anything stands: labels, or a sentence."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hashfaiss.errors import LabelError
from hashfaiss.images.labels import read_label_file

PIECES = [
    "path",
    "label",
    ",",
    ";",
    "\t",
    " ",
    "\n",
    "\r",
    '"',
    "cat/0.jpg",
    "../x.jpg",
    "0 1",
    "\0",
    "\ufeff",
    "\udcff",
]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=40).map("".join)
encodings = st.sampled_from(["utf-8", "utf-16", "utf-16-le", "latin-1"])


@given(st.one_of(st.binary(max_size=300), st.builds(lambda text, name: text.encode(name, "replace"), texts, encodings)))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_label_file_in_which_anything_stands(tmp_path: Path, data: bytes) -> None:
    for name in ("labels.txt", "labels.csv"):
        (tmp_path / name).write_bytes(data)
        with contextlib.suppress(LabelError):
            found = read_label_file(tmp_path / name, tmp_path)
            assert all(isinstance(path, str) and isinstance(labels, tuple) for path, labels in found.items())
