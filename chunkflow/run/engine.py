"""Anything that maps a function over units: serial, threads, or a dask cluster (`chunkflow.run.dask`).

An engine gives back results as they come, in any order, with the error in place of the result where a unit failed; it
never raises for a unit and never loses one. It holds a window of a few units per worker, so that memory does not grow
with their number and little is lost when it dies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, Protocol, TypeVar

from chunkflow.backend import Device, available_cores, compute_kind, find_device
from chunkflow.errors import UsageError

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


class LocalEngine:
    """A local cluster that starts with the first pass of more than one unit; single units run in this process."""

    name = "local"

    def __init__(self, workers: int, memory_bytes: int, device: Device) -> None:
        self._workers = workers
        self._memory = memory_bytes
        self._device = device
        self._cluster: Engine | None = None

    @property
    def workers(self) -> int:
        """Processes that the cluster has, or will have."""
        return self._workers

    def map(self, function: Callable[[int], R], units: Sequence[int]) -> Iterator[Outcome[R]]:
        """See `Engine`."""
        if len(units) <= 1 and self._cluster is None:
            return SerialEngine(self._device.kind).map(function, units)
        cluster = self._cluster or self._start()
        return cluster.map(function, units)

    def _start(self) -> Engine:
        from chunkflow.run.dask import local_engine

        self._cluster = local_engine(self._workers, self._memory, self._device.kind)
        return self._cluster

    def kind(self) -> str:
        """The cluster's compute kind: it is this machine's."""
        return compute_kind(self._device)

    def close(self) -> None:
        """Stop the cluster, if it was started."""
        if self._cluster is not None:
            self._cluster.close()


def chosen_engine(
    *, client: Any, on: str | None, workers: int | None, units: int, memory: int, device: Device
) -> Engine:
    """The engine the user named, or the one that suits.

    Parameters
    ----------
    client : a distributed Client; it decides alone if it is given.
    on : "local", "threads", "serial" or an address; None takes threads on a GPU, serial for a single unit, else local.
    workers : None for one per core, or one thread on a GPU.
    units : of the pass that has most; memory : bytes per worker of a local cluster.

    Raises
    ------
    UsageError : there is no such engine, or nobody answers at the address.
    """
    count = available_cores() if workers is None else workers
    if count < 1:
        raise UsageError(f"{count} workers cannot work", "Use 1 or more")
    if client is not None:
        from chunkflow.run.dask import DaskEngine

        return DaskEngine(client, device=device.kind)
    if on is None:
        on = "threads" if device.kind == "gpu" else "serial" if units == 1 else "local"
    if on == "serial":
        return SerialEngine(device.kind)
    if on == "threads" or (on == "local" and device.kind == "gpu"):
        return ThreadsEngine(workers or (1 if device.kind == "gpu" else count), device.kind)
    if on == "local":
        return LocalEngine(min(count, units), memory, device)
    if "://" in on:
        from chunkflow.run.dask import connected_engine

        return connected_engine(on, device.kind)
    raise UsageError(f"--on {on!r} is not known", "Use local, threads, serial, or an address like tcp://HOST:8786")


def _attempt(function: Callable[[int], R], unit: int) -> R | BaseException:
    try:
        return function(unit)
    except Exception as error:  # of one unit: the others go on, the driver decides
        return error
