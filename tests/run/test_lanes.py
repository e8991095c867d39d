"""Who computes in a process: lanes, reading ahead, and the second attempt of what ran out of memory."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.errors import IncompleteError
from chunkflow.run import worker
from chunkflow.run.journal import Journal
from chunkflow.run.lanes import Lanes
from chunkflow.stages.label import Components

BLOCK = (16, 50, 60)


@pytest.fixture
def pipeline() -> cf.Pipeline:
    return cf.Pipeline([cf.Threshold(), cf.Label(), cf.Skeleton()])


@pytest.mark.parametrize("count", [1, 2])
def test_as_many_units_compute_as_there_are_lanes(count: int) -> None:
    lanes, guard = Lanes(count), threading.Lock()
    computing, most = [0], [0]

    def unit(_: int) -> None:
        with lanes.inside(), lanes.lane():
            with guard:
                computing[0] += 1
                most[0] = max(most[0], computing[0])
            sleep(0.005)
            with guard:
                computing[0] -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(unit, range(12)))
    assert most[0] == count


def test_a_unit_that_is_alone_has_the_process_for_itself() -> None:
    lanes, guard = Lanes(2), threading.Lock()
    holding: set[str] = set()
    seen: list[set[str]] = []

    def unit(number: int) -> None:
        place = lanes.alone() if number % 5 == 0 else lanes.inside()
        with place:
            with guard:
                holding.add(f"{number}")
            sleep(0.003)
            with guard:
                if number % 5 == 0:
                    seen.append(set(holding))
                holding.discard(f"{number}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(unit, range(30)))
    assert sorted(map(sorted, seen)) == sorted([str(n)] for n in range(0, 30, 5))


def test_an_interrupt_while_a_unit_waits_to_be_alone_does_not_stop_the_next_run() -> None:
    lanes = Lanes()

    def interrupted(_: object) -> bool:
        raise KeyboardInterrupt

    with lanes.inside(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes._changed, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt), lanes.alone():
            pass
    entered = threading.Event()

    def enter() -> None:
        with lanes.inside():
            entered.set()

    threading.Thread(target=enter, daemon=True).start()
    assert entered.wait(5.0)


def test_the_next_unit_is_read_while_one_computes(
    pipeline: cf.Pipeline, demo_volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_in_time = _meetings(monkeypatch)
    pipeline.plan(demo_volume, tmp_path / "out", block=BLOCK).run(on="threads", workers=1)
    assert any(read_in_time)


def test_without_room_for_two_units_nothing_is_read_ahead(
    pipeline: cf.Pipeline, demo_volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_in_time = _meetings(monkeypatch)
    plan = pipeline.plan(demo_volume, tmp_path / "out", block=BLOCK)
    tight = pipeline.plan(demo_volume, tmp_path / "out", block=BLOCK, memory=plan.peak_of_blocks)
    worst = max((p for p in tight.passes if p.holds_voxels), key=lambda p: p.peak_bytes)
    assert plan.reads_ahead(worst) and not tight.reads_ahead(worst)
    assert tight.peak_bytes <= tight.memory < plan.peak_bytes
    monkeypatch.setattr(type(tight), "reads_ahead", lambda self, p: False)
    tight.run(on="threads", workers=1)
    assert not any(read_in_time)


def _meetings(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether another unit was read while one computed, of each that computed."""
    computing, found = threading.Event(), []
    read, compute = worker._read_block, worker._compute
    met = threading.Event()

    def watched_read(*arguments: Any) -> Any:
        if computing.is_set():
            met.set()
        return read(*arguments)

    def watched_compute(*arguments: Any) -> Any:
        met.clear()
        computing.set()
        sleep(0.02)  # the other thread has nothing to wait for but us
        try:
            return compute(*arguments)
        finally:
            found.append(met.is_set())
            computing.clear()

    monkeypatch.setattr(worker, "_read_block", watched_read)
    monkeypatch.setattr(worker, "_compute", watched_compute)
    return found


def _failing(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int, int], bool]) -> dict[int, int]:
    """Let blocks of `label` run out of memory; counts the attempts of each."""
    attempts: dict[int, int] = {}
    run = Components.run

    def scarce(self: Any, view: Any, out: Any) -> Any:
        attempts[view.block] = attempts.get(view.block, 0) + 1
        if fails(view.block, attempts[view.block]):
            np.empty(2**60, np.uint8)
        return run(self, view, out)

    monkeypatch.setattr(Components, "run", scarce)
    return attempts


def test_what_ran_out_of_memory_is_tried_again_alone(
    pipeline: cf.Pipeline,
    demo_volume: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tree_hash: Callable[[Path], dict[str, str]],
) -> None:
    pipeline.plan(demo_volume, tmp_path / "whole", block=BLOCK).run(on="serial")
    attempts = _failing(monkeypatch, lambda block, attempt: block in (1, 4) and attempt == 1)
    pipeline.plan(demo_volume, tmp_path / "out", block=BLOCK).run(on="threads", workers=2)
    assert {block for block, count in attempts.items() if count == 2} == {1, 4}
    assert tree_hash(tmp_path / "out") == tree_hash(tmp_path / "whole")


def test_a_block_too_large_alone_is_set_aside_with_the_memory_that_would_do(
    pipeline: cf.Pipeline, demo_volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _failing(monkeypatch, lambda block, attempt: block == 1)
    plan = pipeline.plan(demo_volume, tmp_path / "out", block=BLOCK)
    with pytest.raises(IncompleteError, match=r"1 of 8 .*alone in its process.*A worker of 1\d{12} MiB would do"):
        plan.run(on="serial")
    states = Journal.read(tmp_path / "out" / "run" / "journal.jsonl").passes.values()
    assert [sorted(state.quarantined) for state in states if state.quarantined] == [[1]]
