"""The public face: names, floors, start-up, documentation."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hashfaiss

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hashfaiss"


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


def test_imports_go_one_way_and_in_no_circle() -> None:
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


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
