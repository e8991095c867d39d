"""Several images in flight: processes that each take whole images, started only where that pays.

    few, or quick      one after the other, in this process
    more               the first ones here, which tells how long one takes; then processes for the rest

A process takes about two seconds to start, more than many small images take together. A process that dies (killed for
its memory, above all) breaks the pool: the images it may have died of are run again, each alone, and only that which
kills a process once more is at fault.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from threading import Thread
from time import perf_counter, sleep
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

START_SECONDS = 4.0
"""What processes cost before their first image is begun, all of them together."""
WORTH = 3.0
"""So many times that must be left to do, by the images done so far."""

WATCH_SECONDS = 0.5

log = logging.getLogger(__name__)


class DiedError(Exception):
    """A process died of this task, alone."""


def in_flight(
    function: Callable[[T], R], tasks: Sequence[T], *, workers: int, at_once: bool = False
) -> Iterator[tuple[T, R | DiedError]]:
    """(task, result) of every task, as they finish; `function` must not raise, but for what ends everything.

    Parameters
    ----------
    workers : processes at most; 1 starts none.
    at_once : start them without looking how long a task takes.
    """
    waiting = list(tasks)
    began, count = perf_counter(), 0
    while waiting and not (at_once and workers > 1 and len(waiting) > 1):
        task = waiting.pop(0)
        yield task, function(task)
        count += 1
        if workers > 1 and len(waiting) > 1 and _pays(perf_counter() - began, count, len(waiting), workers):
            break
    if waiting:
        yield from _on_processes(function, waiting, min(workers, len(waiting)))


def _pays(spent: float, done: int, left: int, workers: int) -> bool:
    """Whether processes save more than they cost."""
    alone = spent / done * left
    return alone - alone / min(workers, left) > WORTH * START_SECONDS


def _on_processes(function: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[tuple[T, R | DiedError]]:
    suspects: list[T] = []
    left = list(tasks)
    while left:
        lost: list[T] = []
        done = 0
        for task, outcome in _pooled(function, left, workers):
            if isinstance(outcome, BrokenProcessPool):
                lost.append(task)
            else:
                done += 1
                yield task, outcome
        suspects += lost
        left = left[done + len(lost) :]
    for task in suspects:
        for alone, outcome in _pooled(function, [task], 1):
            yield alone, DiedError(str(outcome)) if isinstance(outcome, BrokenProcessPool) else outcome


def _pooled(function: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[tuple[T, R | BrokenProcessPool]]:
    """Results of the first tasks, in order of their end, until the pool breaks; then those it broke in."""
    waiting = iter(tasks)
    with _environment(), ProcessPoolExecutor(workers, get_context("spawn"), _watch, (os.getpid(),)) as pool:
        running: dict[Future[R], T] = {}
        broken = False
        try:
            while True:
                if not broken:
                    for task in islice(waiting, workers - len(running)):
                        try:
                            running[pool.submit(function, task)] = task
                        except BrokenProcessPool:  # a process that was idle died; the task is still to do
                            broken = True
                            break
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task = running.pop(future)
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        broken = True
                        yield task, error
                    elif error is not None:
                        raise error
                    else:
                        yield task, future.result()
        finally:
            if running:  # interrupted: what they do can be done again
                for process in list((pool._processes or {}).values()):
                    process.terminate()


def _watch(parent: int) -> None:
    """End this process soon after the one that started it: killed outright, that cannot tell it to."""

    def look() -> None:
        while os.getppid() == parent:
            sleep(WATCH_SECONDS)
        os._exit(1)

    Thread(target=look, daemon=True).start()


@contextmanager
def _environment() -> Iterator[None]:
    """What workers are started with: one compute thread each, memory that is given back."""
    from chunkflow.run.dask import WORKER_ENVIRONMENT

    before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    os.environ.update(WORKER_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
