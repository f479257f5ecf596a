"""Manifests and segments in which anything stands, rightly signed: opened or refused in a sentence, never more."""

from __future__ import annotations

import contextlib
import copy
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_store import fill

from hashfaiss.errors import HashfaissError, IndexFolderError
from hashfaiss.library.faiss_file import check_manifest
from hashfaiss.library.verifying import verify_folder
from hashfaiss.storage import manifest as manifest_module
from hashfaiss.storage.manifest import read_manifest
from hashfaiss.storage.segments import Row, encode_segment
from hashfaiss.storage.store import CodeStore

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["../x.h5", "codes/../../x.h5", "/etc/passwd", "codes/\0.h5", "faiss/../manifest.json", "A" * 4000]
    ),
    st.recursive(
        st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
    ),
)


def places(value, at=()):
    """The keys that lead to each value within a manifest."""
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "x"
    about = {"identity": "0" * 64, "method": "dhida", "file": "encoder.pt"}
    store = CodeStore.create(folder, 20, encoder=about, kind="flat")
    fill(store, 4)
    with store.writing() as writer:
        writer.remove([1])
        writer.commit(
            index={"file": "faiss/000001.index", "kind": "flat", "generation": 2, "xxh3": "0", "trust": [[1, 2]]}
        )
    return folder, read_manifest(folder)


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_manifest_in_which_anything_stands(sound, data):
    folder, manifest = sound
    changed = copy.deepcopy(manifest)
    for _ in range(data.draw(st.integers(1, 2))):
        *way, last = data.draw(st.sampled_from([place for place in places(changed) if place]))
        holder = changed
        for key in way:
            holder = holder[key]
        if data.draw(st.booleans()):
            holder[last] = data.draw(JUNK)
        else:
            del holder[last]
    text = json.dumps({**changed, "sha256": manifest_module.digest_of(changed)}).encode("utf-8", "replace")
    for name in ("manifest.json", "manifest.copy.json"):
        (folder / name).write_bytes(text)
    with contextlib.suppress(HashfaissError):
        store = CodeStore.open(folder)
        check_manifest(store)
        store.codes(), list(store.rows()), store.labels()
        list(verify_folder(folder, "cpu"))


FUZZED = """
import resource, sys, warnings
import numpy as np
from hashfaiss.errors import HashfaissError
from hashfaiss.storage.segments import Segment
warnings.simplefilter("error")
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, -1))
data, all = sys.stdin.buffer.read(), np.ones(40, bool)
extreme, refused = [0, -1, 7, 1 << 31, 1 << 40, (1 << 63) - 1], 0
for seed in range(int(sys.argv[1])):
    random, changed = np.random.default_rng(seed), bytearray(data)
    for at in random.integers(0, len(data), random.integers(1, 4)).tolist():
        if random.integers(2):
            changed[at] ^= 1 << int(random.integers(8))
        else:
            changed[at : at + 8] = int(random.choice(extreme)).to_bytes(8, "little", signed=True)
    print("seed", seed, file=sys.stderr, flush=True)
    try:
        segment = Segment(bytes(changed), 20)
        segment.codes, segment.removed, segment.check(), segment.path_index()
        list(segment.rows(all[: len(segment)])), segment.having({"cat"}), segment.names(all[: len(segment)])
    except HashfaissError:
        refused += 1
print(refused)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits memory as POSIX does")
def test_a_segment_in_which_anything_stands():
    """In a process of its own, with 4 GB of addresses: HDF5 would take this one along."""
    random = np.random.default_rng(0)
    rows = [Row(b"a/%d.jpg" % n, n, n, bytes([n]) * 16, ("cat", "x")[: 1 + n % 2]) for n in range(40)]
    codes = random.integers(0, 256, (40, 3)).astype(np.uint8)
    data = encode_segment(codes, np.arange(40), rows, np.array([3, 5]), 20, {"hashfaiss": "x"})
    ended = subprocess.run([sys.executable, "-c", FUZZED, "150"], input=data, capture_output=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-2000:].decode()
    assert 15 < int(ended.stdout) < 150


def test_no_file_elsewhere_is_read(sound, tmp_path):
    """Whatever a manifest names lies in its folder."""
    folder, manifest = sound
    for name in ("codes/../../x.h5", "../x.h5", "/etc/passwd", "codes/", "codes/..", "faiss/x.h5"):
        changed = copy.deepcopy(manifest)
        changed["segments"][0]["file"] = name
        for file in ("manifest.json", "manifest.copy.json"):
            (folder / file).write_bytes(json.dumps({**changed, "sha256": manifest_module.digest_of(changed)}).encode())
        with pytest.raises(IndexFolderError, match="names files outside the index"):
            CodeStore.open(folder)
