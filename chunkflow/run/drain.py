"""What workers of a cluster do first (`dask worker --preload`): end before their job does, and take a GPU each.

A job has an end that the batch system knows. Before it, the worker takes no block any more, finishes those it has, and
goes; what it could not finish is handed to another without blame. How long before follows from the blocks themselves:
twice the longest so far, and at least `drain-seconds`.

    ... block  block  block |  (finishing)      gone      end of the job
                            stop at end - max(drain, 2 * longest)
"""

from __future__ import annotations

import asyncio
import os
import signal
from time import time
from typing import Any

import dask
from distributed.diagnostics.plugin import WorkerPlugin

LAST_SECONDS = 10.0  # before the end, what is still computed is given up, while the scheduler can be told
LOOK_SECONDS = 1.0


def dask_setup(worker: Any) -> None:
    """Called by dask in a worker's process, and in a nanny's."""
    if not hasattr(worker, "state"):  # a nanny: its worker inherits the environment
        worker.env.update(device_of(str(worker.name), os.environ.get("CUDA_VISIBLE_DEVICES", "")))
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's
    end = dask.config.get("chunkflow.end-time", None)
    if end:
        least = float(dask.config.get("chunkflow.drain-seconds", 60))
        worker._ongoing_background_tasks.call_soon(_drain, worker, float(end), least)


def device_of(name: str, visible: str) -> dict[str, str]:
    """The environment that shows a worker one of its job's GPUs: that of its number, as in NAME-3.

    visible : CUDA_VISIBLE_DEVICES of the job; with one GPU or none there is nothing to choose
    """
    devices = [device for device in visible.split(",") if device]
    number = name.rpartition("-")[2]
    if len(devices) < 2 or not number.isdigit():
        return {}
    return {"CUDA_VISIBLE_DEVICES": devices[int(number) % len(devices)]}


class Longest(WorkerPlugin):  # type: ignore[misc]  # distributed has no hints here
    """The longest task of a worker so far, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began: dict[Any, float] = {}

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Called by dask whenever a task of the worker changes its state."""
        if finish == "executing":
            self._began[key] = time()
        elif start == "executing" and key in self._began:
            self.seconds = max(self.seconds, time() - self._began.pop(key))


async def _drain(worker: Any, end: float, least: float) -> None:
    longest = Longest()
    await worker.plugin_add(longest, name="chunkflow-longest")
    while time() < end - max(least, 2 * longest.seconds):
        await asyncio.sleep(LOOK_SECONDS)
    while worker.status.name == "running":  # with results that no other worker can take, dask lets it go on
        await _retire(worker, remove=False)
        await asyncio.sleep(LOOK_SECONDS / 4)
    while worker.state.executing and time() < end - LAST_SECONDS:
        await asyncio.sleep(LOOK_SECONDS / 4)
    await asyncio.sleep(LOOK_SECONDS)  # results are fetched from here
    await _retire(worker, remove=True)
    await worker.close(timeout=LAST_SECONDS / 2, executor_wait=False, nanny=True, reason="the job ends")


async def _retire(worker: Any, *, remove: bool) -> None:
    """Take nothing more; with `remove`, hand back what is left."""
    await worker.scheduler.retire_workers(
        workers=[worker.address], close_workers=False, remove=remove, stimulus_id=f"job-ends-{time()}"
    )
