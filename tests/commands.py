"""Commands, run as the command line runs them but in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from hashfaiss.cli import app

runner = CliRunner()


def run(*arguments: str, code: int = 0, stdin: str | bytes | None = None) -> str:
    """What a command prints: its output where it is to succeed (`code` 0), else its errors."""
    result = runner.invoke(app, list(arguments), input=stdin)
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout if code == 0 else result.stderr
