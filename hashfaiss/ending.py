"""The end of the interpreter: calls of C++ that daemon threads are in come to their end before it.

A thread that comes back from C++ (torch, FAISS, torchcodec) when the interpreter is gone is unwound by it, which C++
answers with `terminate called without an active exception`: the process ends with a crash after its work was done.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 10.0  # seconds that the end of the interpreter waits

_changed = threading.Condition()
_inside: set[int] = set()  # threads in such a call
_over = threading.Event()


@contextmanager
def native() -> Iterator[None]:
    """A call of C++ of bounded work. One that a daemon thread begins when the interpreter ends never begins."""
    me = threading.get_ident()
    if me in _inside or threading.current_thread() is threading.main_thread():  # which ends the interpreter itself
        yield
        return
    with _changed:
        ended = _over.is_set()
        if not ended:
            _inside.add(me)
    if ended:
        threading.Event().wait()
    try:
        yield
    finally:
        with _changed:
            _inside.discard(me)
            _changed.notify_all()


def _end() -> None:
    with _changed:
        _over.set()
        _changed.wait_for(lambda: not _inside, LONGEST)


def _forked() -> None:
    global _changed
    _changed = threading.Condition()
    _inside.clear()


atexit.register(_end)
if hasattr(os, "register_at_fork"):  # no other thread is in the child
    os.register_at_fork(after_in_child=_forked)
