"""Which units of a process compute: a lane each. Others read what they need meanwhile, or write what they made.

    thread 1   read 0 | compute 0 | write 0, read 2 |           | compute 2 | ...
    thread 2          | read 1    |                 | compute 1 | write 1, read 3 ...

A process has one thread more than lanes, so a unit that is read ahead waits for its lane, and memory holds one unit
more than is computed: the plan says for which passes there is room. A unit that ran out of memory is tried again
*alone*: nothing else of the process then holds voxels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Semaphore


class Lanes:
    """The lanes of one process. count : units that may compute at once"""

    def __init__(self, count: int = 1) -> None:
        self._lanes = Semaphore(count)
        self._changed = Condition()
        self._inside = 0
        self._alone = False
        self._waiting_to_be_alone = 0

    @contextmanager
    def lane(self) -> Iterator[None]:
        """Compute: at most `count` units are in this context."""
        with self._lanes:
            yield

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Hold voxels, at any stage of a unit. Waits while a unit is alone, or waits to be."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._waiting_to_be_alone)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold voxels while nobody else of the process does. Not from `inside`, which would wait for itself."""
        with self._changed:
            self._waiting_to_be_alone += 1
            try:
                self._changed.wait_for(lambda: not self._alone and not self._inside)
                self._alone = True
            finally:  # also of a wait that Ctrl-C ends, or the next run of this process would wait for it
                self._waiting_to_be_alone -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
