"""Anything that maps a function over units: serial, threads, or a dask cluster (`chunkflow.run.dask`).

An engine gives back results as they come, in any order, with the error in place of the result where a unit failed; it
never raises for a unit and never loses one. It holds a window of a few units per worker, so that memory does not grow
with their number and little is lost when it dies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Protocol, TypeVar

from chunkflow.backend import compute_kind, find_device

R = TypeVar("R")
Outcome = tuple[int, R | BaseException]


class Engine(Protocol):
    """Maps a picklable function over unit numbers."""

    name: str

    @property
    def workers(self) -> int:
        """Units that can be computed at once."""

    def map(self, function: Callable[[int], R], units: Sequence[int]) -> Iterator[Outcome[R]]:
        """(unit, result or error) of every unit, as they finish."""

    def kind(self) -> str:
        """The compute kind of the workers."""

    def close(self) -> None:
        """Give back what the engine started."""


class SerialEngine:
    """One unit after the other, in this process."""

    name = "serial"
    workers = 1

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def map(self, function: Callable[[int], R], units: Sequence[int]) -> Iterator[Outcome[R]]:
        """See `Engine`."""
        for unit in units:
            yield unit, _attempt(function, unit)

    def kind(self) -> str:
        """See `Engine`."""
        return compute_kind(find_device(self.device))

    def close(self) -> None:
        """Nothing to give back."""


class ThreadsEngine:
    """Threads of this process: for a GPU, and for kernels that release the interpreter lock."""

    name = "threads"

    def __init__(self, workers: int, device: str = "cpu") -> None:
        self._workers = workers
        self.device = device

    @property
    def workers(self) -> int:
        """Threads."""
        return self._workers

    def map(self, function: Callable[[int], R], units: Sequence[int]) -> Iterator[Outcome[R]]:
        """See `Engine`."""
        waiting = iter(units)
        with ThreadPoolExecutor(self._workers) as pool:
            running: dict[Future[R | BaseException], int] = {}
            try:
                while True:
                    for unit in islice(waiting, 2 * self._workers - len(running)):
                        running[pool.submit(_attempt, function, unit)] = unit
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            finally:
                for future in running:
                    future.cancel()

    def kind(self) -> str:
        """See `Engine`."""
        return compute_kind(find_device(self.device))

    def close(self) -> None:
        """Nothing to give back: the pool ends with each pass."""


def _attempt(function: Callable[[int], R], unit: int) -> R | BaseException:
    try:
        return function(unit)
    except Exception as error:  # of one unit: the others go on, the driver decides
        return error
