"""The end of the interpreter: work in C++ that daemon threads are in comes to its end before it.

A thread that comes back from C++ (torch, FAISS, torchcodec), or frees what C++ made, when the interpreter is gone is
unwound by it. C++ answers that with `terminate called without an active exception`, and the process crashes after its
work was done.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread as pools  # their end is registered first, so that ours comes before it
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

LONGEST = 10.0  # seconds that the end of the interpreter waits

_changed = threading.Condition()
_inside: set[int] = set()  # threads in such a call
_over = threading.Event()
_pooled: Any = getattr(pools, "_threads_queues", ())  # threads of pools, which the end waits for, daemons or not

Given = TypeVar("Given")
Made = TypeVar("Made")


@contextmanager
def native() -> Iterator[None]:
    """Bounded work in C++. One that a daemon thread begins when the interpreter ends never begins.

    Other threads end before the interpreter does.
    """
    me, thread = threading.get_ident(), threading.current_thread()
    if me in _inside or not thread.daemon:
        yield
        return
    with _changed:
        ended = _over.is_set()
        if not ended:
            _inside.add(me)
    while ended and thread not in _pooled:  # its pool may say so after it has begun
        time.sleep(0.05)
    try:
        yield
    finally:
        with _changed:
            _inside.discard(me)
            _changed.notify_all()


def stepwise(made: Iterator[Made]) -> Iterator[Made]:
    """The same; each step is `native` work, and so is giving up."""
    try:
        while True:
            with native():
                try:
                    one = next(made)
                except StopIteration:
                    return
            yield one
    finally:
        with native():
            del made


def over() -> bool:
    """Whether the main thread has ended: pools take no more work."""
    return _over.is_set()


def submit(pool: ThreadPoolExecutor, work: Callable[[Given], Made], given: Given) -> Future[Made]:
    """What `pool` makes of it; at the end, when pools take no more work, what this thread makes of it."""
    try:
        return pool.submit(work, given)
    except RuntimeError:
        if not over():
            raise
    future: Future[Made] = Future()
    future.set_result(work(given))
    return future


def _end() -> None:
    with _changed:
        _over.set()
        _changed.wait_for(lambda: not _inside, LONGEST)


def _forked() -> None:
    global _changed
    _changed = threading.Condition()
    _inside.clear()


# before pools end, which those inside may need; atexit comes after them
getattr(threading, "_register_atexit", atexit.register)(_end)
if hasattr(os, "register_at_fork"):  # no other thread is in the child
    os.register_at_fork(after_in_child=_forked)
