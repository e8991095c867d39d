from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkflow.run.engine import SerialEngine, ThreadsEngine
from chunkflow.testing import suites


@pytest.mark.parametrize("engine", [SerialEngine(), ThreadsEngine(1), ThreadsEngine(3)], ids=["serial", "1", "3"])
def test_engines_of_this_process_pass_the_suite(engine: Any) -> None:
    suites.check_engine(engine)


def test_dask_engine_passes_the_suite(cluster: Any) -> None:
    suites.check_engine(cluster)


@pytest.mark.thorough
def test_dask_engine_survives_the_death_of_workers(cluster: Any, tmp_path: Path) -> None:
    suites.check_survives_deaths(cluster, tmp_path)


def test_interrupts_are_not_taken_for_failed_units() -> None:
    def interrupted(unit: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(SerialEngine().map(interrupted, [1]))


class _Broken:
    """An engine with one fault."""

    name = "broken"
    workers = 1

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def kind(self) -> str:
        return "cpu"

    def close(self) -> None:
        pass

    def map(self, function: Callable[[int], Any], units: Any) -> Any:
        taken = list(units) if self.fault == "hoards" else units
        for unit, outcome in SerialEngine().map(function, taken):
            if self.fault == "raises" and isinstance(outcome, Exception):
                raise outcome
            if self.fault == "loses" and unit == 4:
                continue
            if self.fault == "repeats" and unit == 4:
                yield unit, outcome
            yield unit + (self.fault == "shifts"), outcome


@pytest.mark.parametrize("fault", ["hoards", "loses", "repeats", "shifts"])
def test_the_suite_notices_a_broken_engine(fault: str) -> None:
    with pytest.raises(AssertionError):
        suites.check_engine(_Broken(fault))


def test_the_suite_notices_an_engine_that_raises_for_a_unit() -> None:
    with pytest.raises(ValueError, match="squared"):
        suites.check_engine(_Broken("raises"))


def test_units_may_come_back_in_any_order() -> None:
    class Backwards(_Broken):
        def map(self, function: Callable[[int], Any], units: Any) -> Any:
            waiting: list[Any] = []
            for outcome in SerialEngine().map(function, units):
                waiting.append(outcome)
                if len(waiting) == 3:
                    yield from waiting[::-1]
                    waiting = []
            yield from waiting[::-1]

    suites.check_engine(Backwards("none"))


def test_results_travel_whole_through_the_cluster(cluster: Any) -> None:
    outcomes = dict(cluster.map(np.arange, range(5)))
    assert {unit: list(found) for unit, found in outcomes.items()} == {unit: list(range(unit)) for unit in range(5)}
