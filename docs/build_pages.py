"""What MkDocs runs: the page of commands is made of their `--help`; links out of docs/ become names of files."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

from mkdocs.structure.files import File, Files

COMMANDS = "reference/commands.md"


def on_files(files: Files, config: Any) -> Files:
    """Adds the page of commands."""
    asked = [sys.executable, "-m", "typer", "hashfaiss.cli", "utils", "docs", "--name", "hashfaiss"]
    made = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    page = "# Commands\n\nWhat `--help` says of each.\n\n" + made.split("\n", 1)[1].replace("\b", "")
    files.append(File.generated(config, COMMANDS, content=page))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Files beside docs/ are not of the site."""
    if "/" in page.file.src_uri:
        return markdown
    return re.sub(r"\[([^]]+)\]\(\.\./(?!\.\./)([^)]+)\)", r"\1 (`\2`)", markdown)
