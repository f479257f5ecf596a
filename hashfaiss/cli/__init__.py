"""The command line: each command is a few lines over one public call.

Results go to stdout, notes and progress to stderr. Nothing that is slow to import is imported before a command needs
it, so that help and completion answer at once.
"""

# ruff: noqa: I001 - the order is that of help
from hashfaiss.cli import (
    demonstration,
    training,
    indexing,
    sharding,
    searching,
    comparing,
    serving,
    exporting,
    exchanging,
    benchmarks,
)
from hashfaiss.cli.app import app

__all__ = [
    "app",
    "benchmarks",
    "comparing",
    "demonstration",
    "exchanging",
    "exporting",
    "indexing",
    "searching",
    "serving",
    "sharding",
    "training",
]
