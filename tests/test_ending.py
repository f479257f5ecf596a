"""What the end of the interpreter waits for."""

from __future__ import annotations

import threading

import pytest

from hashfaiss import ending
from hashfaiss.ending import native


def test_the_end_waits_for_a_call_and_lets_no_other_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "_over", threading.Event())
    inside, leave, left, second = (threading.Event() for _ in range(4))

    def call() -> None:
        with native(), native():
            inside.set()
            leave.wait()
            left.set()
        with native():
            second.set()

    threading.Thread(target=call, daemon=True).start()
    assert inside.wait(30)
    threading.Timer(0.05, leave.set).start()
    ending._end()
    assert left.is_set()
    assert not ending._inside
    with native():  # the thread that ends the interpreter goes on
        assert not second.wait(0.1)
    monkeypatch.setattr(ending, "LONGEST", 0.01)
    ending._inside.add(-1)
    ending._end()  # nor does it wait for ever
    ending._forked()
    assert not ending._inside
