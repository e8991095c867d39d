"""One worker per GPU of this machine, by dask-cuda.

Units read and write files and return numbers, so nothing big passes between workers: NVLink and UCX are left to
dask-cuda's own options, which a profile hands on as they are. Where RAPIDS' memory manager is installed, cupy and torch
take from one pool, so that neither keeps what the other needs; else each has its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import dask
from distributed import Client

from chunkflow.errors import UsageError
from chunkflow.run.dashboard import ADDRESS, can_draw
from chunkflow.run.dask import CLOSING_SECONDS, LOCAL_SETTINGS, DaskEngine, workers_awaited
from chunkflow.run.flight import THREADS
from chunkflow.run.watchdog import Patience

ONE_POOL = {"rmm_async": True, "rmm_allocator_external_lib_list": ["cupy", "torch"]}


def cuda_engine(
    gpus: int,
    memory_bytes: int,
    *,
    options: Mapping[str, Any] | None = None,
    patience: Patience | None = None,
    start: Callable[..., Any] | None = None,
    device: str = "gpu",
) -> DaskEngine:
    """An engine of one process per GPU, reachable from this machine alone.

    Parameters
    ----------
    gpus : how many of those that are visible; memory_bytes : host memory per worker.
    options : of `dask_cuda.LocalCUDACluster`, before ours.
    start : what makes the cluster, instead of `LocalCUDACluster`; device : what its workers compute on.

    Raises
    ------
    UsageError : dask-cuda is missing, or finds no GPU.
    """
    settings: dict[str, Any] = {"n_workers": gpus, "threads_per_worker": THREADS, "memory_limit": memory_bytes}
    settings |= {"host": "127.0.0.1", "dashboard_address": ADDRESS, "scheduler_kwargs": {"dashboard": can_draw()}}
    settings |= ONE_POOL if find_spec("rmm") is not None else {}
    settings |= {"silence_logs": logging.CRITICAL, **(options or {})}
    with dask.config.set(LOCAL_SETTINGS):
        try:
            cluster = (start or _local_cuda_cluster())(**settings)
        except (TypeError, ValueError) as error:
            raise UsageError(f"dask-cuda refuses its options: {error}", "Correct options: in the profile") from error
        client = Client(cluster, set_as_default=False)
    give_up = workers_awaited()

    def close() -> None:
        client.close()
        with suppress(TimeoutError):
            cluster.close(timeout=CLOSING_SECONDS)
        give_up()

    return DaskEngine(client, device=device, owned=close, patience=patience)


def _local_cuda_cluster() -> Callable[..., Any]:
    try:
        from dask_cuda import LocalCUDACluster
    except Exception as error:  # not installed, or without a driver: both mean that it cannot be used
        raise UsageError(
            f"a process per GPU needs dask-cuda ({error})",
            "pip install 'dask-cuda[cu13]>=26.10', or use --on threads for one GPU",
        ) from error

    def started(**settings: Any) -> Any:
        try:
            return LocalCUDACluster(**settings)
        except (TypeError, ValueError):
            raise
        except Exception as error:  # pynvml's, which cannot be named without it
            raise UsageError(f"dask-cuda finds no GPU ({error})", "Use --device cpu, or install a driver") from error

    return started
