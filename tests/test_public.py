"""The public face: names, floors, start-up, documentation."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hashfaiss

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hashfaiss"

FLOORS = [
    {"errors"},
    {"codes", "files", "crew"},
    {"images", "networks", "indexes", "segments", "manifest"},
    {"precision"},
    {"labels", "hits", "encoder", "store"},
    {"pipeline", "faiss_file", "montage"},
    {"sync", "answering"},
    {"library"},
    {"evaluation"},
    {"train"},
    {"bench"},
    {"demo", "console"},
    {"reports"},
    {"cli"},
    {"__main__"},
]
# Conveniences that reach up, inside a method: the face the encoder must have.
UPWARDS = {("encoder", "pipeline"), ("encoder", "sync"), ("encoder", "library")}


def test_public_names() -> None:
    names = "CodeIndex CodeStore Encoder HashfaissError Hit Hits ImageIndex __version__"
    assert hashfaiss.__all__ == names.split()
    for name in hashfaiss.__all__:
        assert getattr(hashfaiss, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = hashfaiss.Nothing


def test_version_is_the_projects() -> None:
    assert hashfaiss.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_import_loads_neither_torch_nor_faiss() -> None:
    heavy = "('torch', 'faiss', 'h5py', 'numpy')"
    code = f"import sys, hashfaiss, hashfaiss.cli; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_reading_commands_load_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from hashfaiss.storage.store import CodeStore;"
        "from hashfaiss.library.image_index import ImageIndex;"
        f"CodeStore.create({str(tmp_path / 'x.index')!r}, 8, encoder={{'identity': '', 'method': ''}}, kind='flat');"
        f"ImageIndex.open({str(tmp_path / 'x.index')!r}).info(); print('torch' in sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "False"


def _imports(file: Path) -> set[str]:
    """Rooms of hashfaiss that a file imports when it runs (not only for type checkers)."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[1] for name in names if name.startswith("hashfaiss.")}


def test_imports_go_one_way() -> None:
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other in _imports(file) - {room}:
            if floor_of[other] >= floor_of[room] and (room, other) not in UPWARDS:
                wrong.append(f"{room} imports {other}")
    assert not wrong


def test_doors_at_the_top_lead_into_the_package() -> None:
    for room in ("train", "indexes"):
        assert (ROOT / room).is_symlink()
        assert (ROOT / room).resolve() == PACKAGE / room


def test_no_file_outgrows_its_room() -> None:
    long = {str(file): n for file in PACKAGE.rglob("*.py") if (n := len(file.read_text().splitlines())) > 420}
    assert not long


def test_wheel_holds_the_package_alone(tmp_path: Path) -> None:
    from setuptools import find_packages

    found = find_packages(str(ROOT), include=["hashfaiss", "hashfaiss.*"])
    assert {"hashfaiss.train", "hashfaiss.indexes", "hashfaiss.train.methods"} <= set(found)
    assert all(name.split(".")[0] == "hashfaiss" for name in found)
