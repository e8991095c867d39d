"""The dask engine: the only module that imports dask.

No array graphs: a task is a job and a unit number, reads its own halo and returns under a kilobyte. A window of two
units per worker is in flight, so a dead worker costs its own units and the scheduler's memory stays flat. dask blames
whatever ran on a worker that died; such suspects are run again one at a time, and only who then kills a worker alone
is at fault.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

import dask
import dask.array
from distributed import Client, Future, LocalCluster, as_completed

from chunkflow.backend import compute_kind, find_device
from chunkflow.errors import BlockError, UsageError
from chunkflow.run.engine import Outcome

R = TypeVar("R")

WINDOW = 2  # units in flight per worker: one computing, one on its way
CLOSING_SECONDS = 30  # a cluster that takes longer to close is left to itself
DEATHS_ALONE = 2  # workers a unit may kill while it runs alone

WORKER_ENVIRONMENT = {
    # One compute thread per worker: threads of several workers on the same cores slow each other 10-100 times.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    # Without a limit the resident size creeps up by half over a hundred blocks. Both are given: a trim threshold alone
    # freezes the other at 128 KiB, and every slab of an FFT is then mapped and faulted anew (twice the time).
    "MALLOC_TRIM_THRESHOLD_": "4194304",
    "MALLOC_MMAP_THRESHOLD_": "4194304",
}


class DaskEngine:
    """Units on the workers of a distributed client."""

    name = "dask"

    def __init__(self, client: Client, *, device: str = "cpu", owned: Callable[[], None] | None = None) -> None:
        self.client = client
        self.device = device
        self._owned = owned

    @property
    def workers(self) -> int:
        """Workers right now; at least 1, since more may come."""
        return max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))

    def map(self, function: Callable[[int], R], units: Sequence[int]) -> Iterator[Outcome[R]]:
        """See `chunkflow.run.engine.Engine`."""
        suspects: list[int] = []
        for unit, outcome in self._windowed(function, units, WINDOW * self.workers):
            if _is_death(outcome):
                suspects.append(unit)
            else:
                yield unit, outcome
        for unit in suspects:
            for alone, outcome in self._windowed(function, [unit], 1):
                yield alone, _own_fault(outcome) if _is_death(outcome) else outcome

    def _windowed(self, function: Callable[[int], R], units: Iterable[int], window: int) -> Iterator[Outcome[R]]:
        waiting = iter(units)
        running: dict[Future[Any], int] = {}
        completed = as_completed([], loop=self.client.loop, with_results=False)
        try:
            while True:
                for unit in islice(waiting, window - len(running)):
                    future = self.client.submit(function, unit, pure=False)
                    running[future] = unit
                    completed.add(future)
                if not running:
                    return
                for future in [next(completed), *completed.next_batch(block=False)]:
                    unit = running.pop(future)
                    outcome = _outcome(future)
                    future.release()
                    yield unit, outcome
        finally:
            self.client.cancel(list(running), force=True)

    def kind(self) -> str:
        """Compute kind of one of the workers."""
        self.client.wait_for_workers(1)
        return str(self.client.submit(_worker_kind, self.device, pure=False).result())

    def close(self) -> None:
        """Close the cluster, if the engine started it."""
        if self._owned is not None:
            self._owned()


def local_engine(workers: int, memory_bytes: int, device: str = "cpu") -> DaskEngine:
    """An engine on a cluster of processes on this machine, reachable from it alone."""
    settings: dict[str, Any] = {
        "distributed.scheduler.allowed-failures": DEATHS_ALONE,
        "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
        "distributed.worker.memory.target": False,  # results are tiny: there is nothing to spill
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.worker.preload": ["chunkflow.run.preload"],
        "distributed.admin.low-level-log-length": 100,
    }
    with dask.config.set(settings):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=memory_bytes,
            host="127.0.0.1",
            # Not None: the scheduler would open its HTTP server at 8787 all the same, and warn where that is taken.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
        )
        client = Client(cluster)

    # A worker that is missing this long after one of its name died is given up, and its nanny with it: 15 seconds by
    # default, so that a second death, or a slow start, leaves a cluster without workers that waits for ever.
    patience = dask.config.set({"distributed.deploy.lost-worker-timeout": "24 hours"})

    def close() -> None:
        client.close()
        try:
            cluster.close(timeout=CLOSING_SECONDS)
        except TimeoutError:  # a nanny that waits for a worker which died while it started
            _kill_workers(cluster)
        patience.__exit__(None, None, None)

    return DaskEngine(client, device=device, owned=close)


def _kill_workers(cluster: LocalCluster) -> None:
    for nanny in cluster.workers.values():
        pid = getattr(nanny, "pid", None)
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def connected_engine(address: str, device: str = "cpu") -> DaskEngine:
    """An engine on a scheduler that is running.

    Raises
    ------
    UsageError : nobody answers at the address.
    """
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(
            f"no dask scheduler answers at {address} ({error})", "Use --on local, or the address of a running one"
        ) from error
    return DaskEngine(client, device=device, owned=client.close)


def as_dask_array(array: Any) -> Any:
    """A zarr array as a lazy dask array of the same chunks."""
    return dask.array.from_array(array, chunks=array.shards or array.chunks)


def _worker_kind(device: str) -> str:
    return compute_kind(find_device(device))


def _outcome(future: Future[Any]) -> Any:
    """The result or the error; a future that was lost counts as a death, to be run again."""
    try:
        return future.result()
    except Exception as error:  # of one unit: the others go on
        return error
    except BaseException as error:  # CancelledError: the scheduler gave the unit up
        if type(error).__name__ != "CancelledError":
            raise
        return error


def _is_death(outcome: Any) -> bool:
    return isinstance(outcome, BaseException) and type(outcome).__name__ in ("KilledWorker", "CancelledError")


def _own_fault(outcome: Any) -> BlockError:
    return BlockError(
        f"the worker died while it computed this block, alone, {DEATHS_ALONE + 1} times ({outcome})",
        "Look at its memory: use a smaller block or fewer workers",
    )
