"""Units that take next to nothing go out several at a time: a task costs the scheduler and its driver milliseconds.

    first units      one by one, until it is known what they take
    light ones       in groups of a tenth of a second, as long as every worker has some groups left
    of a group that did not end well, what has no result goes out again, one by one

So a group yields results and nothing else: whatever is said of a unit that failed, hung or killed its worker is said of
one that was a task of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

GROUP_SECONDS = 0.1
"""What a group is to take."""
LONGEST_SECONDS = 1.0
"""After which a group ends early: its units are not what those before them were."""
MOST_UNITS = 64
GROUPS_LEFT = 2
"""Groups that are left for each worker at the least, so that the last ones end together."""
REMEMBERED = 9
"""Tasks whose times tell how large the next group is."""

Group = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GroupResult:
    """What came of a group: results of its first units, of all of one that ended well, and seconds per unit."""

    results: list[Any]
    seconds: float


def run_group(function: Callable[[int], Any], units: Group) -> GroupResult:
    """Compute units one after the other, up to one that fails; one that is alone fails as itself."""
    began = perf_counter()
    results: list[Any] = []
    for unit in units:
        try:
            results.append(function(unit))
        except Exception:
            if len(units) == 1:
                raise
            break
        if perf_counter() - began > LONGEST_SECONDS:
            break
    return GroupResult(results, (perf_counter() - began) / max(1, len(results)))


class Groups:
    """The units of one map, as groups that go out; an iterator that may go on after it ended.

    workers : how many there are now
    """

    def __init__(self, units: Sequence[int], workers: Callable[[], int]) -> None:
        self._units = units
        self._next = 0
        self._again: deque[int] = deque()
        self._workers = workers
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def left(self) -> int:
        """Units that are to go out."""
        return len(self._units) - self._next + len(self._again)

    def __iter__(self) -> Iterator[Group]:
        return self

    def __next__(self) -> Group:
        if self._again:
            return (self._again.popleft(),)
        if self._next == len(self._units):
            raise StopIteration
        first, self._next = self._next, min(len(self._units), self._next + self._size())
        return tuple(self._units[first : self._next])

    def _size(self) -> int:
        if not self._seconds:
            return 1
        light = int(GROUP_SECONDS / max(median(self._seconds), GROUP_SECONDS / MOST_UNITS))
        return max(1, min(light, (len(self._units) - self._next) // (GROUPS_LEFT * max(1, self._workers()))))

    def heard(self, group: Group, outcome: Any) -> Iterator[tuple[int, Any]]:
        """(unit, result or error) of what is known of a group; what is not, goes out again."""
        if isinstance(outcome, GroupResult):
            self._seconds.append(outcome.seconds)
            yield from zip(group, outcome.results, strict=False)
            self._again.extend(group[len(outcome.results) :])
        elif len(group) == 1:
            yield group[0], outcome
        else:
            self._again.extend(group)
