"""What the end of the interpreter waits for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hashfaiss import ending
from hashfaiss.ending import native, stepwise


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
    assert ending.over()
    with native():  # the thread that ends the interpreter goes on
        assert not second.wait(0.1)
    monkeypatch.setattr(ending, "LONGEST", 0.01)
    ending._inside.add(-1)
    ending._end()  # nor does it wait for ever
    ending._forked()
    assert not ending._inside


def test_a_thread_that_is_waited_for_goes_on_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are no daemons, and those of pools, which are daemons where a daemon made the pool."""
    monkeypatch.setattr(ending, "_over", threading.Event())
    ending._end()
    made: list[int] = []

    def work() -> None:
        with native():
            made.append(1)

    def made_by_a_daemon() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(work).result()

    for thread in (threading.Thread(target=work), threading.Thread(target=made_by_a_daemon, daemon=True)):
        thread.start()
        thread.join(30)
    assert made == [1, 1]


def test_each_step_is_waited_for_and_none_begins_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "_over", threading.Event())
    inside: list[bool] = []

    def steps() -> Iterator[int]:
        try:
            for number in range(3):
                inside.append(threading.get_ident() in ending._inside)
                yield number
        finally:
            inside.append(threading.get_ident() in ending._inside)

    taken: list[int] = []

    def take_two() -> None:
        made = stepwise(steps())
        taken.extend((next(made), next(made)))
        made.close()

    thread = threading.Thread(target=take_two, daemon=True)
    thread.start()
    thread.join(30)
    assert (taken, inside) == ([0, 1], [True, True, True])
    assert list(stepwise(steps())) == [0, 1, 2]
    ending._end()
    thread = threading.Thread(target=take_two, daemon=True)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    assert taken == [0, 1]
