"""What the tests of builds share: what a build did, and what an index holds."""

from __future__ import annotations

import os

from PIL import Image, ImageOps


def counts(report):
    return report.encoded, report.unchanged, report.removed, len(report.skipped)


def content(index):
    """Path below the index's own folder → code and labels, of every image."""
    codes, _ = index.store.codes()
    rows = [row for _, row in index.store.rows()]
    assert len({row.path for row in rows}) == len(rows)
    return {os.fsdecode(row.path): (code.tobytes(), row.labels) for row, code in zip(rows, codes, strict=True)}


def by_id(index):
    """By id: path, labels and code."""
    codes, _ = index.store.codes()
    pairs = zip(index.store.rows(), codes, strict=True)
    return {image: (row.path, row.labels, code.tobytes()) for (image, row), code in pairs}


def later(path):
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))


def flip(source, target):
    """Write another image than `source` at `target`."""
    with Image.open(source) as image:
        ImageOps.flip(image).save(target)


def flip_bit(file):
    """One bit of a file, in the middle; who has it open keeps what it opened."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.unlink()
    file.write_bytes(data)
