"""Lines of units behave as a dict of them, whatever was put away, and take little memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from chunkflow.run.unit_lines import BATCH, IN_MEMORY_BYTES, UnitLines


def line(unit: int, version: int = 0) -> dict[str, Any]:
    return {"unit": unit, "objects": [unit, version], "spent": [0.25, 1.5], "hole": unit % 7 == 0, "peak": None}


def test_they_are_a_dict_under_random_use() -> None:
    rng = np.random.default_rng(0)
    ours, truth = UnitLines(), dict[int, Any]()
    for step in range(6 * BATCH):
        unit = int(rng.integers(0, 3 * BATCH))
        if rng.random() < 0.2:
            assert ours.pop(unit, None) == truth.pop(unit, None)
        else:
            ours[unit] = truth[unit] = line(unit, step)
        if step % 97 == 0:
            asked = int(rng.integers(0, 3 * BATCH))
            assert (asked in ours) == (asked in truth)
            assert ours.get(asked) == truth.get(asked)
            assert len(ours) == len(truth)
    assert dict(ours) == truth
    assert list(ours) == sorted(truth)


def test_what_is_not_there_is_an_error() -> None:
    lines = UnitLines()
    lines[3] = line(3)
    for unit in (2, 4, -1):
        assert unit not in lines
        with pytest.raises(KeyError):
            lines[unit]
        with pytest.raises(KeyError):
            del lines[unit]
    with pytest.raises(ValueError, match="negative"):
        lines[-1] = line(0)


def test_a_line_that_names_a_unit_beyond_any_volume_takes_no_memory_to_speak_of() -> None:
    lines = UnitLines()
    tracemalloc.start()
    for unit in (10**12, 3, 10**30):
        lines[unit] = line(unit)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 2**20
    assert list(lines) == [3, 10**12, 10**30]
    assert lines[10**30] == line(10**30)


def test_a_hundred_thousand_lines_take_less_than_thirty_bytes_each() -> None:
    lines = UnitLines()
    tracemalloc.start()
    count = 100_000
    for unit in range(count):
        lines[unit] = line(unit)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 30 * count + IN_MEMORY_BYTES + 2**20
    assert lines[0] == line(0)
    assert lines[count // 2] == line(count // 2)
