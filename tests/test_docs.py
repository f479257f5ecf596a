"""The pages for who changes the code name nothing that is not there."""

from __future__ import annotations

import pkgutil
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = "\n".join(file.read_text() for room in ("hashfaiss", "tests") for file in (ROOT / room).rglob("*.py"))
FILE = re.compile(r"((?:[\w.-]+/)*[\w-]+\.(?:py|toml|md)|(?:[\w.-]+/)+)(?:::([\w.]+))?")


def quoted(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL))


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_file_and_name_is_there(page: str) -> None:
    for text in quoted(page):
        if found := FILE.fullmatch(text):
            file = next((place / found[1] for place in (ROOT, ROOT / "hashfaiss") if (place / found[1]).exists()), None)
            assert file, f"{page}: there is no {found[1]}"
            for name in filter(None, (found[2] or "").split(".")):
                defined = rf"^\s*((def|class) )?{name}\b(\(|:| =)"
                assert re.search(defined, file.read_text(), re.MULTILINE), f"{page}: {found[1]} has no {name}"
        elif text.startswith("hashfaiss."):
            pkgutil.resolve_name(text)
        elif re.fullmatch(r"[\w.]+", text) and page == "docs/architecture.md":
            assert all(re.search(rf"\b{name}\b", SOURCE) for name in text.split(".")), f"{page}: there is no {text}"


def test_floors_are_those_that_are_held() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = "\n".join(next(contract["layers"] for contract in contracts if contract["type"] == "layers"))
    assert f"```\n{layers}\n```" in (ROOT / "docs/architecture.md").read_text()
