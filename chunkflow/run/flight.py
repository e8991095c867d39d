"""Units in flight on a cluster, and whether it is still there. Talks to a distributed client that it is handed.

A future that ends puts itself into a queue; while the queue is empty the flight looks around: is the scheduler there,
are there workers, is any unit over its limit (`run/watchdog.py`)? So nothing here waits without end, whoever stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from queue import Empty, SimpleQueue
from time import monotonic, time
from typing import Any, Generic, Protocol, TypeVar

from chunkflow.errors import ClusterError
from chunkflow.run.watchdog import Patience, Since, Watchdog

log = logging.getLogger(__name__)

THREADS = 2  # of a worker: one computes, the other reads the next unit or writes the last (`run/lanes.py`)
WINDOW = THREADS + 1  # units in flight per worker: one is on its way
RESTART_SECONDS = 30.0  # for a nanny to kill its worker
STACK_SECONDS = 10.0  # for a worker to say where a unit is

RESUME = "The same command goes on where this one stopped"

Members = Mapping[str, Mapping[str, Any]]
U = TypeVar("U", bound=Hashable)


class Keeper(Protocol):
    """Whoever starts workers where some are missing."""

    def tend(self, units: int, members: Members) -> None:
        """Called now and then: so many units are left, and these workers are there.

        Raises
        ------
        ClusterError : workers cannot be had.
        """

    def expects_workers(self) -> bool:
        """Whether some are on their way, however long that takes."""

    def evict(self, name: str) -> None:
        """Replace the worker of this name, which its own nanny could not end."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A unit that is gone with its worker, or with the connection: nobody's fault that is known."""

    why: str

    def __str__(self) -> str:
        return self.why


@dataclass(frozen=True, slots=True)
class Stuck:
    """A unit that was over its limit, or on a worker that was silent; the text says which, and where it was."""

    why: str

    def __str__(self) -> str:
        return self.why


class Cluster:
    """A client's scheduler and workers, asked now and then.

    members : of the workers, by address, what the scheduler says of them
    """

    def __init__(self, client: Any, patience: Patience, keeper: Keeper | None = None) -> None:
        self.client = client
        self.patience = patience
        self.members: Members = {}
        self._keeper = keeper
        scheduler = getattr(client, "scheduler", None)  # a client that has lost it forgets where it was
        self._where = getattr(scheduler, "address", None) or "the address given"
        self._lonely = Since()
        self._apart = Since()
        self._next_look = 0.0

    def ask(self, operation: str, *, seconds: float | None = None, **arguments: Any) -> Any:
        """What the scheduler answers.

        Raises
        ------
        ClusterError : it does not, in time.
        """
        patience = seconds or self.patience.answer_seconds
        try:
            return self.client.sync(getattr(self.client.scheduler, operation), callback_timeout=patience, **arguments)
        except TimeoutError as error:
            raise ClusterError(f"the scheduler at {self._where} did not answer in {patience:g} s", RESUME) from error
        except (OSError, AttributeError) as error:  # of a client that closed in the meantime
            self._check_connection()
            raise ClusterError(f"the scheduler at {self._where} cannot be reached ({error})", RESUME) from error

    def look(self, units: int) -> bool:
        """Look around, if it is time to. Returns whether `members` is new.

        units : how many are left

        Raises
        ------
        ClusterError : the scheduler is gone or silent, or there have been no workers for too long.
        """
        now = monotonic()
        if now < self._next_look or not self._check_connection():
            return False
        self._next_look = now + self.patience.look_seconds
        try:
            self.members = self.ask("identity", n_workers=-1)["workers"]
        except ClusterError:
            if self.client.status == "connecting":  # lost just now: it has its time to come back
                return False
            raise
        if self._keeper is not None:
            self._keeper.tend(units, self.members)
        is_lonely = not self.members and not (self._keeper is not None and self._keeper.expects_workers())
        if self._lonely.seconds(is_lonely) > self.patience.lonely_seconds:
            raise ClusterError(
                f"{self._where} has had no worker for {self.patience.lonely_seconds:g} s", f"Start some. {RESUME}"
            )
        return True

    def await_worker(self) -> None:
        """Return when there is one."""
        wait: SimpleQueue[None] = SimpleQueue()
        while not (self.look(1) and self.members):
            with suppress(Empty):
                wait.get(timeout=min(1.0, self.patience.look_seconds))

    def restart(self, worker: str) -> None:
        """End the worker's process; its nanny starts another, or its keeper does."""
        name = str(self.members.get(worker, {}).get("name", worker))
        log.warning("worker %s is started again", name)
        answer = self.ask(
            "restart_workers",
            seconds=RESTART_SECONDS + self.patience.answer_seconds,
            workers=[worker],
            timeout=RESTART_SECONDS,
            wait_for_workers=False,
            on_error="return",
            stimulus_id=f"chunkflow-{time()}",
        )
        if self._keeper is not None and answer.get(worker, "OK") != "OK":
            self._keeper.evict(name)

    def stack_of(self, key: str) -> str:
        """Where the thread of a task is, in one line."""
        try:
            stacks = self.client.sync(self.client.scheduler.call_stack, callback_timeout=STACK_SECONDS, keys=[key])
        except Exception:  # a worker that is stopped says nothing, and that is what is reported
            return "its worker does not answer"
        frames = [frame for found in stacks.values() for frame in found.get(key, ())]
        return f"it was at {' '.join(str(frames[-1]).split())}" if frames else "it was not computing"

    def _check_connection(self) -> bool:
        """Whether there is one now."""
        status = self.client.status
        apart = self._apart.seconds(status != "running")
        if status in ("closed", "closing") or apart > self.patience.answer_seconds:
            raise ClusterError(f"the scheduler at {self._where} is gone", f"Look at its log. {RESUME}")
        return bool(status == "running")


class Flight(Generic[U]):
    """The units of one map, or groups of them, a window at a time.

    units : an iterator that has ended is asked again, when what was in flight has ended
    left : how many of them are yet to go out
    window : how many are in flight; None takes `WINDOW` per worker, as many as there are at the time
    """

    def __init__(
        self,
        cluster: Cluster,
        function: Callable[[U], Any],
        units: Iterable[U],
        *,
        left: Callable[[], int] = lambda: 0,
        window: int | None = None,
    ) -> None:
        self._cluster = cluster
        self._function = function
        self._waiting = iter(units)
        self._left = left
        self._window = window
        self._running: dict[str, tuple[U, Any]] = {}
        self._ended: SimpleQueue[str] = SimpleQueue()

    def outcomes(self, watchdog: Watchdog[Any]) -> Iterator[tuple[U, Any]]:
        """(unit, result or error) as they end: `Lost` and `Stuck` where the cluster is to blame, or may be."""
        self._look()
        try:
            while True:
                for unit in islice(self._waiting, self._room()):
                    self._send(unit, watchdog)
                if not self._running:
                    return
                yield from self._back(watchdog)
                if self._look():
                    yield from self._give_up(watchdog)
        finally:
            if self._running and self._cluster.client.status == "running":
                self._cluster.client.cancel([future for _, future in self._running.values()], force=True)

    def _look(self) -> bool:
        return self._cluster.look(self._left() + len(self._running))

    def _room(self) -> int:
        window = self._window or WINDOW * max(1, len(self._cluster.members))
        return max(0, window - len(self._running))

    def _send(self, unit: U, watchdog: Watchdog[Any]) -> None:
        client = self._cluster.client
        try:
            future = client.submit(self._function, unit, pure=False)
        except Exception as error:
            if client.status == "running":
                raise
            raise ClusterError("the connection to the scheduler is lost", RESUME) from error
        self._running[future.key] = (unit, future)
        watchdog.sent(unit)
        future.add_done_callback(lambda ended: self._ended.put(ended.key))

    def _back(self, watchdog: Watchdog[Any]) -> Iterator[tuple[U, Any]]:
        """Those that have ended; waits a moment for the first."""
        keys = []
        with suppress(Empty):
            keys.append(self._ended.get(timeout=min(1.0, self._cluster.patience.look_seconds)))
            while True:
                keys.append(self._ended.get_nowait())
        results = self._fetched(self._running[key][1] for key in keys if key in self._running)
        for key in keys:
            if key in self._running:  # or it was given up before it ended
                unit, future = self._running.pop(key)
                has_result = key in results
                outcome = results[key] if has_result else _outcome(future, self._cluster.patience.answer_seconds)
                watchdog.forget(unit) if isinstance(outcome, Lost) else watchdog.ended(unit)
                future.release()
                yield unit, outcome

    def _fetched(self, ended: Iterable[Any]) -> dict[str, Any]:
        """Results by key, of several in one request: one by one they take 5 ms each. Nothing where any is missing."""
        finished = [future for future in ended if future.status == "finished"]
        client = self._cluster.client
        if len(finished) < 2:
            return {}

        async def gathered() -> Any:
            return await client.gather(finished, asynchronous=True)

        try:
            results = client.sync(gathered, callback_timeout=self._cluster.patience.answer_seconds)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # of one of them, or of the connection: each is asked for, and tells
            return {}
        return dict(zip((future.key for future in finished), results, strict=True))

    def _give_up(self, watchdog: Watchdog[Any]) -> Iterator[tuple[U, Stuck]]:
        """Units that are over their limit, or on a worker that is silent; the workers are started again."""
        cluster = self._cluster
        processing = cluster.ask("processing", workers=None)
        here = {worker: self._units_of(keys) for worker, keys in processing.items()}
        # The first alone: a worker has one lane, and whoever waits for it has not begun, thread or not.
        late = watchdog.overdue({worker: units[:1] for worker, units in here.items()})
        why = {unit: watchdog.why(unit) for units in late.values() for unit in units}
        for worker in watchdog.silent({w: float(facts["last_seen"]) for w, facts in cluster.members.items()}):
            if here.get(worker):
                late[worker] = here[worker]
                silence = f"was on a worker that was silent for {cluster.patience.silent_seconds:g} s"
                why |= dict.fromkeys(here[worker], silence)
        for worker, units in late.items():
            given_up = [(unit, self._drop(unit, watchdog)) for unit in units]
            cluster.restart(worker)
            yield from ((unit, Stuck(f"{why[unit]}, on worker {worker}; {where}")) for unit, where in given_up)

    def _units_of(self, keys: Iterable[str]) -> list[U]:
        """Units of these tasks, those sent first before the others: what a worker computes is what it got first."""
        wanted = set(keys)
        return [unit for key, (unit, _) in self._running.items() if key in wanted]

    def _drop(self, unit: U, watchdog: Watchdog[Any]) -> str:
        """Forget a unit that is running. Returns where it is."""
        key, future = next((key, future) for key, (u, future) in self._running.items() if u == unit)
        where = self._cluster.stack_of(key)
        del self._running[key]
        watchdog.forget(unit)
        self._cluster.client.cancel([future], force=True)
        log.warning("%s: given up, %s", _named(unit), where)
        return where


def _named(unit: object) -> str:
    """For the log: blocks of a group are as good as consecutive."""
    several = unit if isinstance(unit, tuple) else (unit,)
    return f"block {several[0]}" if len(several) == 1 else f"blocks {several[0]} to {several[-1]}"


def _outcome(future: Any, seconds: float) -> Any:
    """The result or the error of a future that has ended; `Lost` where the one cannot be had, or the other says so."""
    status = future.status
    if status == "lost":
        return Lost("the result went with its worker")
    try:
        return future.result(timeout=seconds)
    except Exception as error:  # of one unit: the others go on
        return error if status == "error" else Lost(f"the result did not come ({error or type(error).__name__})")
    except BaseException as error:  # CancelledError: the scheduler gave the unit up, or the connection was lost
        if not any(kind.__name__ == "CancelledError" for kind in type(error).__mro__):
            raise
        return Lost(str(error) or "the scheduler gave it up")
