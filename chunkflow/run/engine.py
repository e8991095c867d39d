"""Anything that maps a function over units: serial, threads, or a dask cluster (`chunkflow.run.dask`).

An engine gives back results as they come, in any order, with the error in place of the result where a unit failed; it
never raises for a unit and never loses one. It holds a window of a few units per worker, so that memory does not grow
with their number and little is lost when it dies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from chunkflow.backend import Device, available_cores, compute_kind, find_device, gpu_count
from chunkflow.errors import UsageError
from chunkflow.run.lanes import Lanes
from chunkflow.run.profiles import Profile
from chunkflow.run.watchdog import Patience

if TYPE_CHECKING:
    from chunkflow.plan.plan import Plan

R = TypeVar("R")
Outcome = tuple[int, R | BaseException]

PLACES = ("local", "threads", "serial", "cuda", "slurm", "kubernetes")
"""What `--on` names, beside an address."""


class Engine(Protocol):
    """Maps a picklable function over unit numbers."""

    name: str

    @property
    def dashboard(self) -> str:
        """The page of the cluster that computes now; empty where there is none."""

    @property
    def lanes(self) -> Lanes | None:
        """Lanes of this process, where units share it; None where workers have their own."""

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
    dashboard = ""
    workers = 1
    lanes = None

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
    """Threads of this process: for a GPU, and for kernels that release the interpreter lock.

    One thread more than workers: it reads the next unit, or writes the last, while they compute.
    """

    name = "threads"
    dashboard = ""

    def __init__(self, workers: int, device: str = "cpu") -> None:
        self._workers = workers
        self.lanes = Lanes(workers)
        self.device = device

    @property
    def workers(self) -> int:
        """Threads."""
        return self._workers

    def map(self, function: Callable[[int], R], units: Sequence[int]) -> Iterator[Outcome[R]]:
        """See `Engine`."""
        waiting = iter(units)
        with ThreadPoolExecutor(self._workers + 1) as pool:
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
    lanes = None

    def __init__(self, workers: int, memory_bytes: int, device: Device, patience: Patience | None = None) -> None:
        self._workers = workers
        self._memory = memory_bytes
        self._device = device
        self._patience = patience
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

    @property
    def runs_single_units_here(self) -> bool:
        """Whether the next unit that is alone, a merge, is computed in this process."""
        return self._cluster is None

    @property
    def dashboard(self) -> str:
        """See `Engine`."""
        return "" if self._cluster is None else self._cluster.dashboard

    def _start(self) -> Engine:
        from chunkflow.run.dask import local_engine

        self._cluster = local_engine(self._workers, self._memory, self._device.kind, patience=self._patience)
        return self._cluster

    def kind(self) -> str:
        """The cluster's compute kind: it is this machine's."""
        return compute_kind(self._device)

    def close(self) -> None:
        """Stop the cluster, if it was started."""
        if self._cluster is not None:
            self._cluster.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """What is said of a cluster beyond its name.

    profile : of the site's SLURM or Kubernetes, or of the GPUs here
    patience : how long to wait for blocks, workers and schedulers
    insecure : use an address that leaves this machine without TLS
    """

    profile: Profile | None = None
    patience: Patience = field(default_factory=Patience)
    insecure: bool = False

    @property
    def worker_memory(self) -> int | None:
        """Bytes that one worker of a profile may take, of the smaller pool; None where this machine decides."""
        pools = self.profile.pools.values() if self.profile is not None else ()
        return min((pool.memory_bytes // pool.processes for pool in pools), default=None)


def chosen_device(wanted: str, *, on: str | None = None, options: ClusterOptions | None = None) -> Device:
    """The device of a run: on SLURM and Kubernetes what the profile has, not what this machine has.

    Raises
    ------
    UsageError : a GPU is wanted, and there is none.
    """
    profile = (options or ClusterOptions()).profile
    if (on or (profile and profile.scheduler)) not in ("slurm", "kubernetes") or profile is None:
        return find_device(wanted)
    where = f"in the pool of profile {profile.name}"
    if wanted == "gpu" and profile.gpu is None:
        raise UsageError(
            f"--device gpu: profile {profile.name} has no gpu pool", "Add gpu: {gpus: N, ...}, or use auto"
        )
    if wanted == "cpu" and profile.cpu is None:
        raise UsageError(f"--device cpu: profile {profile.name} has no cpu pool", "Add cpu: {...}, or use auto")
    if profile.gpu is not None and wanted != "cpu":
        return Device("gpu", where)
    return Device("cpu", where, "asked for" if wanted == "cpu" else "no gpu pool")


def chosen_engine(
    *,
    client: Any,
    on: str | None,
    workers: int | None,
    units: int,
    memory: int,
    device: Device,
    is_small: bool = False,
    options: ClusterOptions | None = None,
) -> Engine:
    """The engine the user named, or the one that suits.

    Parameters
    ----------
    client : a distributed Client; it decides alone if it is given.
    on : "local", "threads", "serial", "cuda", "slurm", "kubernetes" or an address; None takes the profile's scheduler
        where there is a profile, else threads on a GPU, a process per GPU where there are several, serial for a single
        unit or a small volume for which no workers were named, else local.
    workers : None for one per core, or one thread on a GPU.
    units : of the pass that has most; memory : bytes per worker of a local cluster.

    Raises
    ------
    UsageError : there is no such engine, or nobody answers at the address.
    """
    options = options or ClusterOptions()
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers cannot work", "Use 1 or more")
    if client is not None:
        from chunkflow.run.dask import DaskEngine

        return DaskEngine(client, device=device.kind, patience=options.patience)
    place = _chosen_place(on, workers, units, device.kind, is_small=is_small, options=options)
    if place in ("slurm", "kubernetes"):
        return _cluster_engine(place, workers, device, options)
    if place == "cuda":
        from chunkflow.run.gpu_cluster import cuda_engine

        own = options.profile.options if options.profile is not None else {}
        return cuda_engine(min(workers or gpu_count(), units), memory, options=own, patience=options.patience)
    if place == "serial":
        return SerialEngine(device.kind)
    if place == "threads":
        return ThreadsEngine(_threads(workers, device.kind), device.kind)
    if place == "local":
        return LocalEngine(min(workers or available_cores(), units), memory, device, options.patience)
    if "://" in place:
        from chunkflow.run.dask import connected_engine

        return connected_engine(place, device.kind, patience=options.patience, insecure=options.insecure)
    raise UsageError(f"--on {on!r} is not known", f"Use {', '.join(PLACES)}, or an address like tls://HOST:8786")


def engine_for(
    plan: Plan,
    device: Device,
    *,
    client: Any = None,
    on: str | None = None,
    workers: int | None = None,
    options: ClusterOptions | None = None,
) -> Engine:
    """The engine of a plan's run. See `chosen_engine`."""
    return chosen_engine(
        client=client,
        on=on,
        workers=workers,
        units=plan.largest_grid,
        is_small=plan.is_small,
        memory=plan.memory,
        device=device,
        options=options,
    )


def workers_for(
    plan: Plan, kind: str, *, on: str | None = None, workers: int | None = None, options: ClusterOptions | None = None
) -> int:
    """How many units the engine of a plan's run computes at once; starts nothing.

    kind : of the device, "cpu" or "gpu". Of an address nobody knows: a worker per core of this machine is assumed.
    """
    options = options or ClusterOptions()
    units = plan.largest_grid
    place = _chosen_place(on, workers, units, kind, is_small=plan.is_small, options=options)
    if place == "serial":
        return 1
    if place in ("slurm", "kubernetes") and options.profile is not None:
        profile = options.profile.with_workers(workers)
        pool = (profile.gpu if kind == "gpu" else profile.cpu) or next(iter(profile.pools.values()))
        return min(pool.jobs * pool.processes, units)
    count = gpu_count() if place == "cuda" else _threads(None, kind) if place == "threads" else available_cores()
    return min(workers or count, units)


def _threads(workers: int | None, kind: str) -> int:
    return workers or (1 if kind == "gpu" else available_cores())


def _chosen_place(
    on: str | None, workers: int | None, units: int, kind: str, *, is_small: bool, options: ClusterOptions
) -> str:
    """Where a run computes: one of `PLACES`, or what the user wrote."""
    if on is None and options.profile is not None:
        on = options.profile.scheduler
    if on in ("slurm", "kubernetes", "cuda"):
        return on
    if _wants_gpus(on, kind, min(workers or available_cores(), units)):
        return "cuda"
    if on is None:
        needs_no_workers = units == 1 or (is_small and workers is None)
        return "threads" if kind == "gpu" else "serial" if needs_no_workers else "local"
    return "threads" if on == "local" and kind == "gpu" else on


def _wants_gpus(on: str | None, kind: str, at_once: int) -> bool:
    """Whether a process per GPU is what the user means: several GPUs, and the means to use them."""
    if kind != "gpu" or min(at_once, gpu_count()) < 2:
        return False
    return on == "local" or (on is None and find_spec("dask_cuda") is not None)


def _cluster_engine(on: str, workers: int | None, device: Device, options: ClusterOptions) -> Engine:
    """Jobs or pods, of the pool or the pools that the profile names."""
    if options.profile is None:
        raise UsageError(f"--on {on} needs to know the site", "Add --profile NAME or FILE (docs/clusters.md)")
    if on != options.profile.scheduler:
        raise UsageError(
            f"--on {on}, but profile {options.profile.name} is of {options.profile.scheduler}", "Leave --on out"
        )
    from chunkflow.run.pools import PooledEngine

    profile = options.profile.with_workers(workers)
    if options.insecure:
        profile = replace(profile, insecure=True)

    def start(name: str) -> Engine:
        kind = "gpu" if name == "gpu" and device.kind == "gpu" else "cpu"
        if on == "slurm":
            from chunkflow.run.slurm import slurm_engine

            return slurm_engine(profile.pools[name], profile, device=kind, patience=options.patience)
        from chunkflow.run.kubernetes import kubernetes_engine

        return kubernetes_engine(profile.pools[name], profile, device=kind, patience=options.patience)

    if len(profile.pools) == 2 and device.kind == "gpu":
        return PooledEngine(start)
    return start("cpu" if device.kind == "cpu" and profile.cpu is not None else next(iter(profile.pools)))


def _attempt(function: Callable[[int], R], unit: int) -> R | BaseException:
    try:
        return function(unit)
    except Exception as error:  # of one unit: the others go on, the driver decides
        return error
