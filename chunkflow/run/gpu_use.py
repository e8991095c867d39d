"""How busy the GPU of a worker is, and how full: asked once a second while it computes, by NVIDIA's management library.

    worker   .  .  .  .  .  .  |   a thread asks pynvml (package nvidia-ml-py), which takes microseconds
             unit ------------ |-> mean share of time, bytes used and of the card, with the unit's result
    driver                      -> event "gpu", every few seconds: progress, log, report

The share is that of time in which some kernel ran, however few of its cores. Without pynvml, without a driver, or where
it does not answer, there are no such events: nothing here ever fails a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any

from chunkflow.backend import gpu_bus_id
from chunkflow.run.events import Listener

SECONDS = 1.0
"""Between two questions: the library means over a sixth of a second to a second."""
SAID_SECONDS = 10.0
"""Between two events."""

Use = tuple[float, int, int]
"""Share of time, bytes used by everybody, bytes of the card."""


class Meter:
    """Asks again and again, in a thread of its own. ask : the use at the moment"""

    def __init__(self, ask: Callable[[], Use], seconds: float = SECONDS) -> None:
        self._ask = ask
        self._lock = Lock()
        self._asked: list[Use] = []
        self._ended = Event()
        self._seconds = seconds
        Thread(target=self._run, name="gpu-use", daemon=True).start()

    def take(self) -> Use | None:
        """The mean since the last call, and the most bytes; None where nothing was asked since."""
        with self._lock:
            asked, self._asked = self._asked, []
        if not asked:
            return None
        return sum(use[0] for use in asked) / len(asked), max(use[1] for use in asked), asked[-1][2]

    def stop(self) -> None:
        """Ask no more."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                use = self._ask()
            except Exception:  # the driver went away, or does not tell: so this is all that will be known
                return
            with self._lock:
                self._asked.append(use)
            self._ended.wait(self._seconds)


@cache
def meter_of_process() -> Meter | None:
    """The meter of the GPU that this process computes on; None where it cannot be had."""
    with suppress(Exception):  # no pynvml, no driver, a card that does not tell
        nvml: Any = import_module("pynvml")
        nvml.nvmlInit()
        card = nvml.nvmlDeviceGetHandleByPciBusId(gpu_bus_id())

        def ask() -> Use:
            memory = nvml.nvmlDeviceGetMemoryInfo(card)
            return nvml.nvmlDeviceGetUtilizationRates(card).gpu / 100, int(memory.used), int(memory.total)

        ask()
        return Meter(ask)
    return None


def take_gpu_use() -> Use | None:
    """Mean use of this process's GPU since the last call, where it is metered."""
    meter = meter_of_process()
    return None if meter is None else meter.take()


class Told:
    """Says what workers' units told of their GPUs, now and then."""

    def __init__(self, say: Listener, clock: Callable[[], float] = monotonic) -> None:
        self._say = say
        self._clock = clock
        self._last: dict[str, Use] = {}
        self._next = clock()

    def hear(self, name: str, worker: int, use: Use | None) -> None:
        """A unit of a pass came back from a worker."""
        if use is None:
            return
        self._last[str(worker)] = use
        if self._clock() >= self._next:
            self._next = self._clock() + SAID_SECONDS
            workers = {worker: [round(busy, 3), used, total] for worker, (busy, used, total) in self._last.items()}
            self._say({"event": "gpu", "pass": name, "workers": workers})
            self._last = {}


def gpu_words(workers: Mapping[str, Use]) -> str:
    """What people are told: the mean share of time over workers, and the fullest card."""
    if not workers:
        return ""
    busy = sum(use[0] for use in workers.values()) / len(workers)
    used, total = max((use[1], use[2]) for use in workers.values())
    return f"GPU {busy:.0%} {used / 2**30:.1f} of {total / 2**30:.0f} GiB"
