"""README and docs/ show commands that there are, name all that is public, and their Python runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import typer
from PIL import Image

import hashfaiss
from hashfaiss.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = typer.main.get_command(app)


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text()
    fenced = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    if language:
        return fenced
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return fenced + re.findall(r"(?:^    .*\n)+", outside, re.MULTILINE)


def shown() -> list[tuple[str, str]]:
    """(page, command line) of every `hashfaiss ...` in a block."""
    found = []
    for page in PAGES:
        for block in blocks(page, ""):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split("&&"):
                    if said := re.match(r"\s*(?:[A-Z_]+=\S+ )?(?:uv run (?:--with \S+ )*)?hashfaiss ([a-z].*)", part):
                        found.append((str(page.relative_to(ROOT)), said[1].split(" > ")[0].split(" | ")[0].strip()))
    return found


@pytest.mark.parametrize(("page", "line"), shown(), ids=lambda value: value)
def test_a_command_that_is_shown_is_one_that_can_be_given(page: str, line: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    command, arguments = COMMAND, shlex.split(line, comments=True)
    context = typer.Context(COMMAND)
    while isinstance(command, typer.core.TyperGroup):
        name, command, arguments = command.resolve_command(context, arguments)
        context = typer.Context(command, info_name=name, parent=context)  # type: ignore[arg-type]
    command.make_context("shown", arguments)


def test_commands_are_shown_and_public_names_are_told() -> None:
    lines = [line for _, line in shown()]
    assert len(lines) > 40
    told = "\n".join(page.read_text() for page in PAGES)
    assert not [name for name in {*hashfaiss.__all__} - {"__version__"} if not re.search(rf"\b{name}\b", told)]
    reference = (ROOT / "docs/reference/api.md").read_text()
    assert all(
        f"::: hashfaiss.{name}\n" in reference for name in {*hashfaiss.__all__} - {"__version__", "HashfaissError"}
    )


def test_every_page_is_in_the_site() -> None:
    site = (ROOT / "mkdocs.yml").read_text()
    assert all(f" {page.relative_to(ROOT / 'docs')}" in site for page in PAGES[1:])


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in link and link != "reference/commands.md":
                assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.fixture
def folder(tmp_path: Path, photos: Path, encoder: Any, monkeypatch: Any) -> Path:
    """What the pages' Python finds where it runs."""
    monkeypatch.chdir(tmp_path)
    encoder.save("dhida.pt")
    for name in ("lynx", "holiday/cat", "old"):
        shutil.copytree(photos / "cat", photos / name)
    for number, name in enumerate(("cat.jpg", "a.jpg", "b.jpg", "c.jpg", "photos/old.jpg", "more/1.jpg")):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (40 * number, 90, 200)).save(name)
    Path("pairs.csv").write_text("photos/cat/0.jpg,photos/lynx/0.jpg,1\nphotos/cat/0.jpg,cat.jpg,0\n")
    theirs = faiss.IndexBinaryFlat(64)
    theirs.add(np.random.default_rng(0).integers(0, 256, (9, 8), np.uint8))
    faiss.write_index_binary(theirs, "theirs.faiss")
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_that_is_shown_runs(page: str, folder: Path) -> None:
    random = np.random.default_rng(0)
    known: dict[str, Any] = {
        "many": ["a.jpg", "b.jpg"],
        "outputs": random.standard_normal((3, 64)),
        "queries": random.integers(0, 256, (2, 8), np.uint8),
    }
    found = blocks(ROOT / page, "python")
    assert found
    for block in found:
        exec(compile(block, page, "exec"), known)
