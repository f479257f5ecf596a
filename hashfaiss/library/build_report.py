"""What a build did, for those who asked for it, and what it left out, in a file of the index folder."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from hashfaiss.errors import IndexFolderError
from hashfaiss.files import write_atomic
from hashfaiss.images.finding import PassedOver
from hashfaiss.storage.damage import Damaged

SKIPPED = "skipped.jsonl"


@dataclass
class BuildReport:
    """What a build did.

    Attributes:
        encoded: images that are new, by their contents.
        unchanged: files that are as they were.
        recognised: files whose contents the index had, which took their code over: moved, renamed, copied, touched or
            labelled otherwise.
        removed: images that left the index.
        skipped: files that cannot be read, with the reason.
        skipped_report: the file that names each of them.
        kept: files and folders that could not be looked at, with the reason: images there stay in the index.
        left: files that are left to the next build, with the reason; what the index has of them stays.
        passed_over: files that are no images, by suffix.
        damaged: segments that were set aside: images they held are encoded anew where they were given, and are else
            not in the index.
        decoders: which kinds of files give other pixels here than where the codes were made; None for none.
    """

    encoded: int = 0
    unchanged: int = 0
    recognised: int = 0
    removed: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    skipped_report: Path | None = None
    kept: list[tuple[str, str]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=PassedOver)
    damaged: list[Damaged] = field(default_factory=list)
    decoders: str | None = None
    seconds: float = 0.0

    def after(self, first: BuildReport) -> BuildReport:
        """What this build and one of the same folder before it did together."""
        return replace(
            self,
            encoded=self.encoded + first.encoded,
            unchanged=self.unchanged - first.encoded - first.recognised,
            recognised=self.recognised + first.recognised,
            removed=self.removed + first.removed,
            damaged=first.damaged + self.damaged,
            decoders=first.decoders or self.decoders,
            seconds=self.seconds + first.seconds,
        )

    @property
    def images_per_second(self) -> float:
        """Encoded images a second, listing and indexing included."""
        return self.encoded / self.seconds if self.seconds else 0.0


def report_skipped(path: Path, folder: str, skipped: list[tuple[str, str]]) -> Path | None:
    """Replace what the report says of `folder` by `skipped`, and keep what it says of other folders."""
    report = path / SKIPPED
    left_out = dict(skipped)
    try:
        for name, reason in skipped_before(path):
            if not name.startswith(folder.rstrip(os.sep) + os.sep):
                left_out.setdefault(name, reason)
        if not left_out:
            report.unlink(missing_ok=True)
            return None
        lines = (json.dumps({"path": name, "reason": reason}) + "\n" for name, reason in left_out.items())
        write_atomic(report, "".join(lines).encode())
    except OSError as error:
        raise IndexFolderError(
            f"cannot write {str(report)!r}: {error}. All images are committed; make room or delete that file, and run "
            "the same command again"
        ) from None
    return report


def skipped_before(path: Path) -> Iterator[tuple[str, str]]:
    """Paths that the index folder's report names, and reasons. OSError where it cannot be read."""
    report = path / SKIPPED
    for line in report.read_text("utf-8", "replace").splitlines() if report.exists() else []:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):  # a damaged line tells nothing
            told = json.loads(line)
            yield str(told["path"]), str(told["reason"])
