"""Lines of units behave as a dict of them, whatever was put away, and take little memory."""

from __future__ import annotations

import errno
import os
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.errors import DiskFullError, IntegrityError
from chunkflow.run import unit_lines
from chunkflow.run.status import status
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


# -- a folder of temporary files that is full, or gone --------------------------------------------------------------


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of temporary files, which lines go to after the first hundreds of bytes."""
    monkeypatch.setattr(unit_lines, "IN_MEMORY_BYTES", 600)
    monkeypatch.setattr(unit_lines, "BATCH", 4)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def full_between(first: int, last: int, monkeypatch: pytest.MonkeyPatch, *, half: bool = False) -> list[int]:
    """The writes of these numbers meet a full disk. Returns the numbers of all."""
    write, seen = os.pwrite, list[int]()

    def scarce(file: int, content: bytes, at: int) -> int:
        seen.append(len(seen))
        if first <= seen[-1] < last:
            if half:
                return write(file, content[: len(content) // 2], at)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content, at)

    monkeypatch.setattr(os, "pwrite", scarce)
    return seen


def check_is_a_dict(lines: UnitLines, count: int) -> None:
    assert dict(lines) == {unit: line(unit) for unit in range(count)}


@pytest.mark.parametrize("half", [False, True])
def test_a_disk_that_is_full_for_a_while_loses_no_line(
    early: Path, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    seen = full_between(3, 9, monkeypatch, half=half)
    lines = UnitLines()
    for unit in range(200):
        lines[unit] = line(unit)
    assert len(seen) > 20  # the disk was full, and had room again
    check_is_a_dict(lines, 200)
    assert not list(early.iterdir())


@pytest.mark.parametrize("when", [0, 100])
def test_a_folder_that_is_gone_loses_no_line(early: Path, when: int) -> None:
    lines = UnitLines()
    for unit in range(200):
        if unit == when:
            early.rmdir()
        lines[unit] = line(unit)
    check_is_a_dict(lines, 200)


def test_a_folder_that_stays_full_ends_in_a_sentence_and_what_was_taken_can_be_read(
    early: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_between(3, 10**9, monkeypatch)
    monkeypatch.setattr(unit_lines, "SPARE_BYTES", 2000)
    lines = UnitLines()

    def fill() -> None:
        for unit in range(len(lines), 10**6):
            lines[unit] = line(unit)

    for _ in range(3):  # whoever goes on is refused again, and breaks nothing
        with pytest.raises(DiskFullError) as refused:
            fill()
        assert str(early) in refused.value.what and "TMPDIR" in refused.value.remedy
        assert 40 < len(lines) < 400
        check_is_a_dict(lines, len(lines))


def test_what_the_file_does_not_give_back_is_an_error(early: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = UnitLines()
    for unit in range(200):
        lines[unit] = line(unit)
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    with pytest.raises(IntegrityError, match="cannot be read back"):
        lines[150]


@pytest.mark.thorough
def test_a_run_whose_temporary_folder_is_gone_and_whose_memory_is_held_stops_clearly_and_resumes(
    demo_volume: Path, tmp_path: Path, tree_hash: Callable[..., Any], early: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(name: str) -> cf.Plan:
        return cf.Pipeline([cf.Threshold(), cf.Label()]).plan(demo_volume, tmp_path / name, block=(8, 25, 30))

    plan("whole").run(on="serial")
    monkeypatch.setattr(unit_lines, "SPARE_BYTES", 800)
    heard: list[str] = []

    def listen(event: Any) -> None:
        heard.append(event["event"])
        if heard.count("unit") == 20:
            monkeypatch.setattr(tempfile, "tempdir", str(early / "gone"))

    with pytest.raises(DiskFullError, match=r"temporary files cannot be written to \S+gone"):
        plan("out").run(on="serial", on_event=listen)
    done = heard.count("unit")
    assert 20 < done < sum(p.units for p in plan("out").passes)
    monkeypatch.setattr(tempfile, "tempdir", str(early))
    found = status(tmp_path / "out")
    assert (found.state, found.code) == ("failed", 4)
    assert done <= sum(p.done for p in found.passes) <= done + 1  # the last was written, and not said
    plan("out").run(on="serial")
    assert tree_hash(tmp_path / "out") == tree_hash(tmp_path / "whole")
