"""Progress or a diagnosis, never a hang: what a run waits for, and how long.

    a block computes longer than its limit        its worker is started again, the block is tried once more, alone
    ... or is begun by five workers in turn       the same: it outlasts the jobs that they are in
    a worker says nothing for `silent_seconds`    the same, for every block it had
    there are no workers for `lonely_seconds`     the run ends
    the scheduler does not answer in `answer_seconds`, or is gone     the run ends

The limit of a block follows from the others of its pass: 20 times what the middle one took, and never under half an
hour. Nothing here knows dask: times come in as a clock, and what workers have at hand as unit numbers.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import monotonic
from typing import Generic, TypeVar

from chunkflow.errors import ConfigError

U = TypeVar("U", bound=Hashable)

FIRST_SECONDS = 2 * 3600.0  # limit of a block while none of its pass is finished
LEAST_SECONDS = 1800.0
TIMES_MEDIAN = 20.0
WORKERS = 5  # that may begin a block, one after the other, until it is taken for one that no worker can end
REMEMBERED = 1000  # blocks whose time makes the median


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a run waits, in seconds.

    block_seconds : for one block; None takes 20 times the median of its pass, at least 30 minutes
    silent_seconds : for a sign of life from a worker; longer than any block holds Python's lock, and under the 300 s
        after which dask itself gives the worker up
    lonely_seconds : for a first worker, where nothing says that one is on its way
    answer_seconds : for the scheduler to answer; the first unit lets it import chunkflow, which takes seconds
    """

    block_seconds: float | None = None
    silent_seconds: float = 240.0
    lonely_seconds: float = 300.0
    answer_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}", "Give seconds above 0")

    @property
    def look_seconds(self) -> float:
        """How often to look: ten times in the shortest of these waits, and no more often than is cheap."""
        waits = [self.block_seconds or LEAST_SECONDS, self.silent_seconds, self.lonely_seconds, self.answer_seconds]
        return min(10.0, max(0.2, min(waits) / 10))


class Watchdog(Generic[U]):
    """The times of the blocks of one pass, or of groups of them."""

    def __init__(self, patience: Patience, clock: Callable[[], float] = monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._taken: deque[float] = deque(maxlen=REMEMBERED)
        self._sent: dict[U, float] = {}
        self._begun: dict[U, tuple[str, float]] = {}
        self._times_begun: Counter[U] = Counter()
        self._heard: dict[str, tuple[float, float]] = {}

    def sent(self, unit: U) -> None:
        """A unit is on its way to a worker."""
        self._sent[unit] = self._clock()

    def ended(self, unit: U) -> None:
        """A unit is back. What counts is its time in flight, which is its own and at most that of the one before."""
        self._taken.append(self._clock() - self._sent[unit])
        self.forget(unit)

    def forget(self, unit: U) -> None:
        """A unit was given up; its time says nothing of others."""
        self._sent.pop(unit, None)
        self._begun.pop(unit, None)
        self._times_begun.pop(unit, None)

    def why(self, unit: U) -> str:
        """What is said of a unit that is overdue."""
        times = self._times_begun[unit]
        if times >= WORKERS:
            return f"was begun by {times} workers in turn, none of which could end it: it may outlast their walltime"
        return f"took longer than {self.limit:.0f} s"

    @property
    def limit(self) -> float:
        """Seconds that a block may take now."""
        if self._patience.block_seconds is not None:
            return self._patience.block_seconds
        return max(LEAST_SECONDS, TIMES_MEDIAN * median(self._taken)) if self._taken else FIRST_SECONDS

    def overdue(self, computing: Mapping[str, Sequence[U]]) -> dict[str, list[U]]:
        """Units over their limit, by worker, and those that worker after worker begins: they outlast the jobs.

        A unit began when it was first seen here, on this worker: waiting behind another does not count.

        computing : what each worker computes now
        """
        now, limit = self._clock(), self.limit
        late: dict[str, list[U]] = {}
        for worker, units in computing.items():
            for unit in units:
                where, since = self._begun.get(unit, ("", 0.0))
                if where != worker:
                    self._begun[unit] = (worker, now)
                    self._times_begun[unit] += 1
                if (where == worker and now - since > limit) or self._times_begun[unit] >= WORKERS:
                    late.setdefault(worker, []).append(unit)
        return late

    def silent(self, last_seen: Mapping[str, float]) -> list[str]:
        """Workers whose last sign of life has been the same for too long.

        last_seen : by the scheduler's clock, which is only compared with itself
        """
        now = self._clock()
        self._heard = {
            worker: before if (before := self._heard.get(worker)) is not None and before[0] == seen else (seen, now)
            for worker, seen in last_seen.items()
        }
        return [w for w, (_, since) in self._heard.items() if now - since > self._patience.silent_seconds]


class Since:
    """For how long something has held without a break."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._began: float | None = None

    def seconds(self, holds: bool) -> float:
        """0 where it does not hold."""
        if not holds:
            self._began = None
            return 0.0
        if self._began is None:
            self._began = self._clock()
        return self._clock() - self._began
