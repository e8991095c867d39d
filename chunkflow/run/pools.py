"""Two pools of workers, one of them at a time: a pass with steps for a GPU goes to the one, all others to the other.

A pool is started when the first pass needs it, and released when a pass needs the other: nobody pays for GPUs that
wait while objects are merged. Which it is follows from the job that the units carry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass, replace
from functools import partial
from typing import Any, TypeVar

from chunkflow.run.engine import Engine, Outcome

R = TypeVar("R")


class PooledEngine:
    """An engine per pool, started by `start(name)`, with "cpu" and "gpu" for names."""

    name = "pools"
    lanes = None

    def __init__(self, start: Callable[[str], Engine]) -> None:
        self._start = start
        self._running: tuple[str, Engine] | None = None
        self._kinds: dict[str, str] = {}

    @property
    def workers(self) -> int:
        """Of the pool that is running; 1 while none is."""
        return self._running[1].workers if self._running else 1

    @property
    def dashboard(self) -> str:
        """See `chunkflow.run.engine.Engine`."""
        return self._running[1].dashboard if self._running else ""

    def map(self, function: Callable[[int], R], units: Sequence[int]) -> Iterator[Outcome[R]]:
        """See `chunkflow.run.engine.Engine`."""
        name = "gpu" if needs_gpu(function) else "cpu"
        for unit, outcome in self._pool(name).map(function if name == "gpu" else on_host(function), units):
            yield unit, self._of_run(name, outcome)

    def kind(self) -> str:
        """Both kinds: each pass is computed on one of them, always the same. Starts one pool after the other."""
        for name in ("cpu", "gpu"):  # the GPUs last: most runs begin on them
            if name not in self._kinds:
                self._kinds[name] = self._pool(name).kind()
        return f"{self._kinds['gpu']} | {self._kinds['cpu']}"

    def close(self) -> None:
        """Release the pool that is running."""
        if self._running is not None:
            _, engine = self._running
            self._running = None
            engine.close()

    def _pool(self, name: str) -> Engine:
        if self._running is None or self._running[0] != name:
            self.close()
            self._running = (name, self._start(name))
        return self._running[1]

    def _of_run(self, name: str, outcome: Any) -> Any:
        """A result of its pool's kind is of the run's kind; any other keeps its own, to be refused."""
        kind = getattr(outcome, "kind", None)
        if kind is None or kind != self._kinds.get(name) or not is_dataclass(outcome) or isinstance(outcome, type):
            return outcome
        return replace(outcome, kind=self.kind())


def needs_gpu(function: Any) -> bool:
    """Whether the job of a unit function, a partial that holds it, has steps that run on a GPU, and shall."""
    jobs = [given for given in getattr(function, "args", ()) if hasattr(given, "steps")]
    return any(job.device == "gpu" and any(step.on_device for step in job.steps) for job in jobs)


def on_host(function: Any) -> Any:
    """The same unit function for workers without a GPU, whose steps need none."""
    if not isinstance(function, partial):
        return function
    given = [replace(value, device="cpu") if hasattr(value, "steps") else value for value in function.args]
    return partial(function.func, *given, **function.keywords)
