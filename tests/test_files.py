"""Atomic writing, on file systems that fail."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from hashfaiss import files
from hashfaiss.files import fast_digest, file_unaltered, sync_folder, write_atomic

posix = pytest.mark.skipif(os.name != "posix", reason="folders cannot be opened on this system")


def test_write_makes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_atomic(path, b"first")
    assert path.read_bytes() == b"first"
    write_atomic(path, memoryview(b"the second"))
    assert path.read_bytes() == b"the second"
    write_atomic(path, b"")
    assert path.read_bytes() == b""
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_an_open_reader_keeps_what_it_opened(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")
    with path.open("rb") as reader:
        write_atomic(path, b"new")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "f", b"old")
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from hashfaiss.files import write_atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
        "path = Path(sys.argv[1])\n"
        "try:\n"
        "    write_atomic(path, b'x' * 100_000)\n"
        "except OSError as error:\n"
        "    print('OSError', error.errno)\n"
        "write_atomic(path.with_name('small'), b'fits')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "f")], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("OSError")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["f", "small"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("trouble", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_failure_at_any_step_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, trouble: BaseException
) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")

    def fail(*_: object) -> None:
        raise trouble

    if step == "fsync":
        monkeypatch.setattr(files.os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(type(trouble)):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_the_file_is_on_disk_before_its_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    fsync, replace = os.fsync, Path.replace

    def seen_fsync(handle: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    def seen_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not tell what a file handle is")
    monkeypatch.setattr(files.os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "replace", seen_replace)
    write_atomic(tmp_path / "f", b"data")
    assert steps == ["file", "rename", "folder"]


def test_a_folder_in_the_way_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "f" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_atomic(tmp_path / "f", b"data")
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f" / "inside").is_dir()


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "missing" / "f", b"data")
    assert os.listdir(tmp_path) == []


@posix
def test_sync_folder_leaves_no_handle_open(tmp_path: Path) -> None:
    free = os.open(tmp_path, os.O_RDONLY)  # the lowest number there is
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 20, hard))
    try:
        for _ in range(100):
            sync_folder(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "missing")


def test_a_digest_sees_every_byte(tmp_path: Path) -> None:
    data = bytearray(os.urandom(5000))
    first = fast_digest(data)
    path = tmp_path / "f"
    path.write_bytes(data)
    assert fast_digest(bytes(data)) == fast_digest(memoryview(data)) == first
    assert file_unaltered(path, {"xxh3": first})
    assert file_unaltered(path, {"sha256": hashlib.sha256(data).hexdigest()})
    for place in range(0, len(data), 61):
        data[place] ^= 1
        assert fast_digest(data) != first
        data[place] ^= 1
    assert fast_digest(data[:-1]) != first
    path.write_bytes(data[:-1])
    assert not file_unaltered(path, {"xxh3": first})
    assert not file_unaltered(path, {"sha256": hashlib.sha256(data).hexdigest()})


def test_the_digest_is_that_of_the_reference() -> None:
    """Of the empty input, as the authors of XXH3 publish it."""
    assert fast_digest(b"") == "99aa06d3014798d86001c324468d497f"
