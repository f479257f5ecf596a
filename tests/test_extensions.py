"""Methods and backbones of other packages, as installed: a folder on the path with a package's metadata."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashfaiss import extensions
from hashfaiss.errors import ArgumentError
from hashfaiss.networks.backbones import backbone_facts, build_backbone
from hashfaiss.testing import BackboneTests, MethodTests
from hashfaiss.train.methods import METHODS, method_class, method_names

EXAMPLE = Path(__file__).parent.parent / "examples" / "own_method.py"
BACKBONE = """
from hashfaiss.networks.backbones import ResNetSmall

class Other(ResNetSmall):
    pass
"""
POINTS = """
[hashfaiss.methods]
margin-pairs = own_method:MarginPairs
dhida = own_method:MarginPairs
gone = no_such_module:Thing
raises = raises:Thing
number = own_method:EXAMPLE

[hashfaiss.backbones]
other = own_backbone:Other
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "own_method.py").write_text(EXAMPLE.read_text() + "\nEXAMPLE = 1\n")
    (folder / "own_backbone.py").write_text(BACKBONE)
    (folder / "raises.py").write_text("raise RuntimeError('as it likes')")
    about = folder / "own-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    return folder


@pytest.fixture(autouse=True)
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(package))
    extensions.added.cache_clear()
    yield
    extensions.added.cache_clear()


class TestTheExample(MethodTests):
    name = "margin-pairs"


class TestTheBackbone(BackboneTests):
    name = "other"


def test_they_are_named_and_none_of_ours_is_replaced() -> None:
    assert method_names() == (*METHODS, "gone", "margin-pairs", "number", "raises")
    assert method_class("dhida") is METHODS["dhida"]
    assert type(build_backbone("other")).__name__ == "Other"
    assert backbone_facts("other").dim == 128


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone", "no_such_module:Thing, which cannot be loaded"),
        ("raises", "cannot be loaded: as it likes"),
        ("number", "own_method:EXAMPLE, which is no Method or Shallow"),
        ("unknown", "margin-pairs"),
    ],
)
def test_what_is_wrong_with_one_is_told(name: str, reason: str) -> None:
    with pytest.raises(ArgumentError, match=reason):
        method_class(name)


def test_the_commands_take_it(package: Path, photos: Path) -> None:
    environment = {"PYTHONPATH": f"{package}:{Path(__file__).parent.parent}", "PATH": "", "HOME": str(photos.parent)}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-c", "from hashfaiss.cli import app; app()", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert json.loads(run("methods", "margin-pairs", "--json"))["name"] == "margin-pairs"
    settings = [
        "--backbone",
        "other",
        "--weights",
        "none",
        "--size",
        "32",
        "--epochs",
        "1",
        "--batch",
        "4",
        "--validation",
        "0",
    ]
    out = photos.parent / "mine.pt"
    run("train", "--method", "margin-pairs", "--images", str(photos), "--bits", "8", *settings, "--out", str(out))
    run("build", "--model", str(out), "--images", str(photos), "--index", str(photos.parent / "x.index"))
