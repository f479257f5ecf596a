"""The benches measure what they say, on little data."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from importlib.util import find_spec

import faiss
import numpy as np
import pytest
import torch
from commands import run

from hashfaiss.bench import encoding, evaluation, search
from hashfaiss.bench.codes import drawn, learned
from hashfaiss.bench.encoding import _flips
from hashfaiss.bench.peers import missing, peers
from hashfaiss.codes import hamming, pack
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.items import Item
from hashfaiss.errors import ArgumentError
from hashfaiss.evaluation import evaluate_retrieval
from hashfaiss.images.finding import find_images
from hashfaiss.storage.store import CodeStore


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(search, "ROUNDS", 1)
    monkeypatch.setattr(search, "SECONDS", 0.001)


def test_codes_lie_as_far_from_their_centres_as_asked():
    case = drawn(20_000, 0.1)
    assert (len(case.codes), len(case.queries), case.codes.shape[1]) == (20_000, 1000, 8)
    near = hamming(case.queries, case.codes[:2000])
    same = near < 19  # codes of one centre differ in 2 * 0.1 * 0.9 of 64 bits, others in half
    assert np.median(near[same]) == pytest.approx(11.5, abs=1)
    assert near[~same].mean() == pytest.approx(32, abs=0.5)
    assert same.mean() == pytest.approx(0.01, abs=0.003)
    assert hamming(*drawn(500, 0.5).codes.reshape(2, 250, 8)).mean() == pytest.approx(32, abs=0.2)
    assert np.array_equal(drawn(50, 0.1, seed=3).codes, drawn(50, 0.1, seed=3).codes)
    for wrong in ({"n": 0, "flip": 0.1}, {"n": 5, "flip": 0.6}, {"n": 5, "flip": -0.1}):
        with pytest.raises(ArgumentError, match="give"):
            drawn(**wrong)


def test_search_is_measured_against_flat(quick):
    told, before = [], faiss.omp_get_max_threads()
    found = search.bench_search(drawn(3000, 0.05), False, told.append)
    assert [row.name.partition(":")[0] for row in found.rows] == [
        "flat over distinct codes",
        "tuned to recall 0.99",
        "the same, exact",
        "exact over lists",
    ]
    for exact in (0, 2, 3):
        assert (found.rows[exact].recall, found.rows[exact].certified) == (1, 1)
    assert found.rows[1].recall > 0.9
    assert all(row.ratio > 0 for row in found.rows)
    assert found.single.keys() == found.build.keys() == found.load.keys() >= {"flat"}
    assert told
    json.dumps(found.to_dict())
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize(
    "kind", ["flat", "ivf:lists=8,probes=3", "hash:b=6,flips=2", "multihash:tables=2,b=6,flips=1", "hnsw:m=5,ef=16"]
)
def test_faiss_is_made_with_the_same_parameters(kind):
    case = drawn(400, 0.2)
    (raw, index), seconds = search._build(case, np.arange(400), kind)
    for name in ("nprobe", "nflip", "b", "nhash", "nlist"):
        assert getattr(raw, name, None) == getattr(index.faiss, name, None)
    assert raw.ntotal == 400
    assert min(seconds) > 0


def test_learned_codes_are_taken_apart(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("hashfaiss.bench.codes.QUERIES", 5)
    encoder.to_index(photos, tmp_path / "x.index")
    case = learned(tmp_path / "x.index")
    stored, _ = CodeStore.open(tmp_path / "x.index").codes()
    assert (len(case.codes), len(case.queries), case.bits) == (7, 5, 20)
    both = np.concatenate([case.codes, case.queries])
    assert sorted(map(bytes, both)) == sorted(map(bytes, stored))
    monkeypatch.setattr("hashfaiss.bench.codes.QUERIES", 7)
    with pytest.raises(ArgumentError, match="has 12 codes: give one of 14 or more"):
        learned(tmp_path / "x.index")


def test_peers_find_what_is_near_where_they_are_installed(tmp_path):
    case = drawn(1000, 0.1)
    truth = np.sort(hamming(case.queries[:5], case.codes), axis=1)[:, :10]
    names = [peer.name for peer in peers(1000)]
    assert len(names) == 3 - 2 * ("usearch" in missing()) - ("lancedb" in missing())
    for number, peer in enumerate(peers(1000)):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = np.array(peer.build(case.codes, str(folder))(case.queries[:5]))
        assert (np.sort(found, axis=1) == truth).mean() > 0.8, peer.name


def test_the_script_finds_the_same_map_but_for_ties():
    random = np.random.default_rng(0)
    codes = pack(random.standard_normal((90, 16)))
    classes = random.integers(0, 3, 90)
    found = evaluation._script(codes, np.eye(3, dtype=np.int8)[classes], 10, 16)
    labels = [(str(number),) for number in classes]
    report = evaluate_retrieval(codes[:10], labels[:10], codes[10:], labels[10:], 16)
    assert report.pessimistic <= found <= report.optimistic
    assert evaluate_retrieval(codes[:10], labels[:10], codes[10:], labels[10:], 16, by_id=False).stable_order is None


def test_benches_from_the_command_line(quick, monkeypatch):
    monkeypatch.setattr("hashfaiss.bench.codes.QUERIES", 40)
    table = run("bench", "search", "--size", "500", "--flip", "0.1", "--no-peers")
    assert "flat over distinct codes" in table
    assert "one query, p50" in table
    lines = run(
        "bench", "search", "--size", "200", "--flip", "0.1", "--flip", "0.5", "--no-peers", "--json"
    ).splitlines()
    assert [json.loads(line)["case"] for line in lines] == ["100 centres, p = 0.1, 200 codes", "random, 200 codes"]
    found = json.loads(run("bench", "evaluate", "--queries", "20", "--items", "300", "--bits", "16", "--json"))
    assert found["ratio"] == pytest.approx(found["script"] / found["ours"])
    assert found["peak_megabytes"] > 0
    assert "times faster" in run("bench", "evaluate", "--queries", "20", "--items", "300", "--bits", "16")


def test_encoding_is_measured_against_its_bounds(encoder, photos, tmp_path, monkeypatch):
    real, asked_of = encoding._python, []

    def python(*arguments: str) -> str:
        """In this process, but for the script, whose loader forks: each process would import torch."""
        asked_of.append(arguments[:2])
        if arguments[1] == "hashfaiss.bench.plain":
            return real(*arguments)
        if arguments[0] == "-m":
            return run(*arguments[2:])
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(arguments[1], {})
        return printed.getvalue().strip()

    monkeypatch.setattr(encoding, "_python", python)
    monkeypatch.setattr(encoding, "ROUNDS", 1)
    monkeypatch.setattr(encoding, "COMPILED_FROM", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for number in range(3):
        for file in list(photos.glob("*/?.*")):
            (file.parent / f"{number}{file.name}").write_bytes(file.read_bytes())
    encoder.save(tmp_path / "model.pt")
    asked = ["--model", str(tmp_path / "model.pt"), "--images", str(photos), "--count", "48", "--device", "cpu"]
    found = json.loads(run("bench", "encode", *asked, "--memory", "40", "--json"))
    assert found["images"] == 48
    assert found["bound_ratio"] == pytest.approx(found["pipeline"] / min(found["decode"], found["network"]))
    assert found["shared_ratio"] == pytest.approx(found["pipeline"] * (1 / found["decode"] + 1 / found["network"]))
    assert found["plain_ratio"] == pytest.approx(found["pipeline"] / found["plain"])
    assert (found["compared"], found["flipped"]) == (48 * 20, 0)
    assert min(found["cold"], found["torch_import"]) > 0
    assert found["memory"]["40"] > 100
    assert found["alone"] > 0
    assert ("openvino float32" in found["engines"]) == (find_spec("openvino") is not None)
    assert min(found["engines"].values(), default=1) > 0
    if exact := found["itself"].get("OpenVINO itself, float32"):
        assert found["engine_ratio"] == pytest.approx(found["pipeline"] / min(found["decode"], exact))
    assert ("OpenVINO itself, float32" in found["itself"]) == (find_spec("openvino") is not None)
    assert (found["onnxruntime"] or 0) > 0 or find_spec("onnxruntime") is None
    assert [name for name, _ in asked_of] == ["-m", "-m", "-c", "-c", "-c"]
    few = run("bench", "encode", "--model", str(tmp_path / "model.pt"), "--images", str(photos / "cat"), code=2)
    assert "holds 16 images: give 40 or more" in few


def test_flips_are_counted(encoder, photos):
    network = copy.deepcopy(encoder.network)
    with torch.no_grad():
        network.hash_layer.bias[3] += 1e6  # always 1
    changed = Encoder(network, "hash", encoder.network_arguments, encoder.preprocessing, "dhida", device="cpu")
    items = [Item(file) for file in find_images(photos)]
    compared, flipped, largest = _flips(changed, encoder, items)
    zeros = sum(1 - (code[0] >> 3 & 1) for code in encoder.encode(photos).tolist())
    assert (compared, flipped) == (240, zeros)
    assert (largest > 0) == (zeros > 0)
