"""The dask engine, on this machine or on a scheduler that is running.

No array graphs: a task is a job and a unit number (or some, of units that take next to nothing: `run/groups.py`), reads
its own halo and returns under a kilobyte per unit. A window of a few tasks per worker is in flight (`run/flight.py`),
so a dead worker costs its own units and the scheduler's memory stays flat. dask blames whatever ran on a worker that
died; such suspects, and units that took too long, are run again one at a time, and only who then fails alone is at
fault.
"""

from __future__ import annotations

import logging
import os
import signal
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import dask
from dask.utils import key_split
from distributed import Client, LocalCluster
from distributed.comm.addressing import get_address_host_port
from distributed.security import Security
from distributed.utils import get_mp_context

from chunkflow.backend import compute_kind, find_device
from chunkflow.errors import BlockError, ClusterError, UsageError
from chunkflow.run.addresses import ENCRYPTED, check_address
from chunkflow.run.dashboard import ADDRESS, can_draw, dashboard_of
from chunkflow.run.engine import Outcome
from chunkflow.run.flight import THREADS, Cluster, Flight, Keeper, Lost, Stuck
from chunkflow.run.groups import Groups, run_group
from chunkflow.run.watchdog import Patience, Watchdog

log = logging.getLogger(__name__)

R = TypeVar("R")

CLOSING_SECONDS = 30  # a cluster that takes longer to close is left to itself
DEATHS_ALONE = 2  # workers a unit may kill while it runs alone
TIDY_TASKS = 2000
KIND_SECONDS = 300  # for a worker to import what it computes with

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
    "MALLOC_ARENA_MAX": "2",  # each thread's arena keeps what it freed
}

LOCAL_SETTINGS: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": DEATHS_ALONE,
    "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
    "distributed.worker.memory.target": False,  # results are tiny: there is nothing to spill
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.multiprocessing-method": "spawn",
    "distributed.worker.preload": ["chunkflow.run.preload"],
    "distributed.admin.low-level-log-length": 100,
}
"""Of dask, while a cluster on this machine starts."""

CERTIFICATES = {"ca-file": "ca-file", "cert": "client.cert", "key": "client.key"}
"""What a client needs, by where dask's settings have it under distributed.comm.tls; a key may stand in the cert."""


class DaskEngine:
    """Units on the workers of a distributed client.

    owned : closes what the engine started
    keeper : starts workers where some are missing
    """

    name = "dask"
    lanes = None

    def __init__(
        self,
        client: Client,
        *,
        device: str = "cpu",
        owned: Callable[[], None] | None = None,
        patience: Patience | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.client = client
        self.device = device
        self._owned = owned
        self._patience = patience or Patience()
        self._cluster = Cluster(client, self._patience, keeper)

    @cached_property
    def dashboard(self) -> str:
        """See `chunkflow.run.engine.Engine`."""
        return dashboard_of(self.client)

    @property
    def workers(self) -> int:
        """Workers right now; at least 1, since more may come."""
        return max(1, len(self._cluster.ask("identity", n_workers=-1)["workers"]))

    def map(self, function: Callable[[int], R], units: Sequence[int]) -> Iterator[Outcome[R]]:
        """See `chunkflow.run.engine.Engine`.

        Raises
        ------
        ClusterError : the scheduler is gone or silent, or there are no workers.
        """
        suspects: list[int] = []
        groups = Groups(units, lambda: len(self._cluster.members))
        flight = Flight(self._cluster, partial(run_group, function), groups, left=lambda: groups.left)
        watchdog: Watchdog[Any] = Watchdog(self._patience)
        for number, (group, came) in enumerate(flight.outcomes(watchdog), 1):
            if number % TIDY_TASKS == 0:
                self._tidy()
            for unit, outcome in groups.heard(group, came):
                if _is_suspect(outcome):
                    log.warning("block %d is tried again, alone: %s", unit, outcome)
                    suspects.append(unit)
                else:
                    yield unit, outcome
        for unit in suspects:
            for alone, outcome in Flight(self._cluster, function, [unit], window=1).outcomes(watchdog):
                yield alone, _own_fault(outcome) if _is_suspect(outcome) else outcome

    def _tidy(self) -> None:
        """Let a scheduler of our own forget what it remembers of every task it ever had."""
        if self._owned is not None:
            with suppress(OSError, TimeoutError):  # the next look at the cluster says it better
                self.client.run_on_scheduler(_forget_tasks)

    def kind(self) -> str:
        """Compute kind of one of the workers, once there is one."""
        self._cluster.await_worker()
        asked = Flight(self._cluster, partial(_worker_kind, self.device), [0])
        for _, outcome in asked.outcomes(Watchdog(replace(self._patience, block_seconds=KIND_SECONDS))):
            if _is_suspect(outcome):
                raise ClusterError(f"no worker says what it computes on ({outcome})", "Look at their logs")
            if isinstance(outcome, BaseException):
                raise outcome
            return str(outcome)
        raise ClusterError("no worker says what it computes on", "Look at their logs")

    def close(self) -> None:
        """Close the cluster, if the engine started it."""
        if self._owned is not None:
            self._owned()


def _forget_tasks(dask_scheduler: Any) -> None:
    """In the scheduler: it keeps the names of the last 100,000 tasks, and a number of every graph, about 600 bytes."""
    key_split.cache_clear()
    spans = dask_scheduler.extensions.get("spans")
    for span in spans.spans.values() if spans is not None else ():
        span._metadata_seen.clear()


def local_engine(
    workers: int, memory_bytes: int, device: str = "cpu", *, patience: Patience | None = None
) -> DaskEngine:
    """An engine on a cluster of processes on this machine, reachable from it alone."""
    with dask.config.set(LOCAL_SETTINGS | _forked(device)):
        cluster = LocalCluster(
            n_workers=workers,
            env=dict(os.environ),  # a server that forks has that of when it started
            threads_per_worker=THREADS,
            processes=True,
            memory_limit=memory_bytes,
            host="127.0.0.1",
            dashboard_address=ADDRESS,
            scheduler_kwargs={"dashboard": can_draw()},
            silence_logs=logging.CRITICAL,
        )
        client = Client(cluster)

    give_up = workers_awaited()

    def close() -> None:
        client.close()
        try:
            cluster.close(timeout=CLOSING_SECONDS)
        except TimeoutError:  # a nanny that waits for a worker which died while it started
            _kill_workers(cluster)
        give_up()

    return DaskEngine(client, device=device, owned=close, patience=patience)


def _forked(device: str) -> dict[str, Any]:
    """Settings of dask by which workers are forked from a server that imported what they need; see `forkserver`.

    Not on macOS, whose frameworks may not be used behind a fork, nor for a GPU, whose driver may not either.
    """
    if sys.platform != "linux" or device != "cpu":
        return {}
    settings = {"distributed.worker.multiprocessing-method": "forkserver"}
    with dask.config.set(settings):
        context = get_mp_context()  # the first call names what dask wants imported, in place of anybody else's wishes
    context.set_forkserver_preload(["distributed.worker", "chunkflow.run.forkserver"])
    return settings


def workers_awaited() -> Callable[[], None]:
    """Let clusters wait for workers that died and are started again; returns what ends that.

    dask gives up a worker that has been missing for 15 seconds since one of its name died, and its nanny with it: so a
    second death, or a slow start, would leave a cluster without workers that waits for ever.
    """
    lasting = dask.config.set({"distributed.deploy.lost-worker-timeout": "24 hours"})
    return lambda: lasting.__exit__(None, None, None)


def _kill_workers(cluster: LocalCluster) -> None:
    for nanny in cluster.workers.values():
        pid = getattr(nanny, "pid", None)
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def connected_engine(
    address: str, device: str = "cpu", *, patience: Patience | None = None, insecure: bool = False
) -> DaskEngine:
    """An engine on a scheduler that is running.

    Raises
    ------
    UsageError : nobody answers at the address, the connection would leave this machine without TLS, or there are no
        certificates for it.
    """
    check_address(address, insecure=insecure)
    check_certificates(address)
    try:
        if address.startswith(("tcp://", "tls://")):  # a client that is refused later takes 20 s to go
            get_address_host_port(address, strict=True)
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TimeoutError, TypeError) as error:
        remedy = "Use --on local, or the address of a running one"
        if address.startswith("tls://"):
            remedy = f"{remedy}; it must know the certificates of distributed.comm.tls (docs/clusters.md)"
        raise UsageError(f"no dask scheduler answers at {address} ({error})", remedy) from error
    return DaskEngine(client, device=device, owned=client.close, patience=patience)


def check_certificates(address: str) -> None:
    """Refuse an encrypted address for which there are no certificates that can be used. Connects to nobody.

    A client would say so only when it has tried to connect, and take 20 seconds to go.

    Raises
    ------
    UsageError : names the setting that is missing, or the file that is not there or no certificate.
    """
    if urlsplit(address).scheme not in ENCRYPTED:
        return
    told = {name: dask.config.get(f"distributed.comm.tls.{key}", None) for name, key in CERTIFICATES.items()}
    remedy = "Name them in dask's settings on this machine, distributed.comm.tls (docs/clusters.md), or use --on local"
    missing = [f"distributed.comm.tls.{CERTIFICATES[name]}" for name in ("ca-file", "cert") if not told[name]]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise UsageError(f"{address} needs certificates, and {' and '.join(missing)} {are} not set", remedy)
    try:
        Security().get_connection_args("client")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = ", ".join(str(value) for value in told.values() if value and "\n" not in str(value))
        why = "they are no certificates, or the key is another's" if isinstance(error, ssl.SSLError) else str(error)
        raise UsageError(f"the certificates for {address} cannot be used: {why} ({files})", remedy) from error


def as_dask_array(array: Any) -> Any:
    """A zarr array as a lazy dask array of the same chunks."""
    import dask.array

    return dask.array.from_array(array, chunks=array.shards or array.chunks)


def _worker_kind(device: str, unit: int) -> str:
    return compute_kind(find_device(device))


def _is_suspect(outcome: Any) -> bool:
    return isinstance(outcome, Lost | Stuck) or type(outcome).__name__ == "KilledWorker"


def _own_fault(outcome: Any) -> Exception:
    """What is said of a unit that went wrong alone too."""
    if isinstance(outcome, Stuck):
        return BlockError(
            f"this block {outcome}; so it was twice, the second time alone",
            "Give blocks more time with --block-seconds, or use smaller ones",
        )
    if isinstance(outcome, Lost):  # not the unit's fault: the driver tries it again
        return ClusterError(f"the cluster lost this block twice ({outcome})", "Look at the log of its scheduler")
    return BlockError(
        f"the worker died while it computed this block, alone, {DEATHS_ALONE + 1} times ({outcome})",
        "Look at its memory: use a smaller block or fewer workers",
    )
