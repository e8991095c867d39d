"""Light units go out in groups; whatever goes wrong in one is found out unit by unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest

from chunkflow.run import groups
from chunkflow.run.groups import GroupResult, Groups, run_group


def carried_out(units: list[int], seconds: Callable[[int], float], workers: int = 2) -> Iterator[tuple[int, ...]]:
    """Groups as they go out, each heard of before the next."""
    mine = Groups(units, lambda: workers)
    seen: list[int] = []
    for group in mine:
        yield group
        took = float(np.mean([seconds(unit) for unit in group]))
        seen += [unit for unit, _ in mine.heard(group, GroupResult(list(group), took))]
    assert seen == units and mine.left == 0


def test_light_units_go_out_together_and_the_last_ones_apart() -> None:
    sizes = [len(group) for group in carried_out(list(range(5, 1005)), lambda unit: 0.001)]
    assert sizes[0] == 1 and max(sizes) == groups.MOST_UNITS and sizes[-1] == 1
    assert sizes.index(max(sizes)) == 1 and len(sizes) < 60


def test_units_that_take_a_while_go_out_one_by_one() -> None:
    assert all(len(group) == 1 for group in carried_out(list(range(100)), lambda unit: 0.06))


def test_groups_shrink_where_units_become_heavy() -> None:
    sizes = [len(group) for group in carried_out(list(range(5000)), lambda unit: 0.001 if unit < 2000 else 0.2)]
    assert max(sizes) == groups.MOST_UNITS and sizes[-500:] == [1] * 500


def test_workers_that_are_not_there_yet_divide_nothing() -> None:
    assert sum(map(len, carried_out(list(range(100)), lambda unit: 0.001, workers=0))) == 100


@pytest.mark.parametrize("outcome", [RuntimeError("the worker died"), GroupResult([], 0.1), GroupResult([20, 21], 0.1)])
def test_what_is_not_known_of_a_group_goes_out_again_one_by_one(outcome: Any) -> None:
    mine = Groups(list(range(20, 25)), lambda: 1)
    mine._seconds.append(0.001)
    group = next(mine)
    assert group == (20, 21)
    known = len(outcome.results) if isinstance(outcome, GroupResult) else 0
    assert list(mine.heard(group, outcome)) == [(unit, unit) for unit in group[:known]]
    assert mine.left == 5 - known
    expected = [(unit,) for unit in group[known:]]
    assert [next(mine) for _ in expected] == expected
    if expected:  # alone it is what it is
        error = RuntimeError("its own")
        assert list(mine.heard(expected[0], error)) == [(20, error)]


def test_an_iterator_that_ended_goes_on_with_what_comes_back() -> None:
    mine = Groups([1, 2, 3, 4], lambda: 1)
    mine._seconds.append(0.001)
    sent = list(mine)
    assert [unit for group in sent for unit in group] == [1, 2, 3, 4] and len(sent[0]) == 2
    assert list(mine.heard(sent[0], RuntimeError("lost"))) == []
    assert list(mine) == [(1,), (2,)]


def test_a_group_ends_before_a_unit_that_fails_and_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    def inverse(unit: int) -> float:
        return 1 / unit

    assert run_group(inverse, (1, 2, 0, 4)).results == [1.0, 0.5]
    assert run_group(inverse, (0, 1)).results == []
    with pytest.raises(ZeroDivisionError):
        run_group(inverse, (0,))
    clock = count(step=0.4)
    monkeypatch.setattr(groups, "perf_counter", lambda: next(clock))
    found = run_group(str, tuple(range(9)))
    assert found.results == ["0", "1", "2"] and found.seconds == pytest.approx(4 * 0.4 / 3)


def test_interrupts_end_a_group() -> None:
    def interrupted(unit: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_group(interrupted, (1, 2))
