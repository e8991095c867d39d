"""Cases of runs that must go on, in little memory: P10 growth, P11 blocks that hang and workers that stand still."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chunkflow.errors import IncompleteError
from chunkflow.run.dask import local_engine
from chunkflow.run.engine import ClusterOptions
from chunkflow.run.journal import Journal
from chunkflow.run.resident import resident_bytes
from chunkflow.run.status import status
from chunkflow.run.watchdog import Patience
from chunkflow.testing.chaos import block_cases, world
from chunkflow.testing.chaos.matrix import Case
from chunkflow.testing.suites import write_volume

MEMORY = 1500 * 2**20
MOST_PER_BLOCK = 0.1 * 2**20


def _cases() -> list[Case]:
    return [
        Case(promise="P10", name="1000 blocks in one process", run=_growth, quick=False),
        Case(promise="P11", name="a block that hangs", run=_hanging, quick=False),
        Case(promise="P11", name="a worker that is stopped", run=partial(_stopped, 3), quick=False),
    ]


def _growth(folder: Path) -> int:
    """The process grows by less than 0.1 MB a block, once it is warm."""
    write_volume(folder / "in.ome.zarr", np.tile(world.image(), (4, 3, 3))[:80, :80, :80], world.VOXEL_UM)
    sizes: list[int] = []

    def look(event: dict[str, Any]) -> None:
        if event["event"] == "unit" and event["pass"] == "label":
            sizes.append(resident_bytes())

    plan = world.planned(world.short_pipeline(), folder / "in.ome.zarr", folder / "out", block=(8, 8, 8))
    world.run(plan, on_event=look)
    assert len(sizes) == 1000
    slope = (np.median(sizes[-100:]) - np.median(sizes[200:300])) / 750
    assert slope < MOST_PER_BLOCK, f"{slope / 2**20:.3f} MB a block"
    return len(sizes)


def _hanging(folder: Path) -> int:
    """A block that never ends is set aside after its limit, and no other is."""
    plan = block_cases.planned(folder, ("hang",))
    patience = Patience(block_seconds=8.0)
    engine = local_engine(2, MEMORY, patience=patience)
    try:
        error = world.run_or_error(plan, client=engine.client, options=ClusterOptions(patience=patience))
    finally:
        engine.close()
    assert isinstance(error, IncompleteError), repr(error)
    found = {p.name: p for p in status(plan.output).passes}["apply"]
    assert (len(found.quarantined), found.done) == (1, found.units - 1)
    assert list(folder.glob("hang-*"))
    (folder / "healed").touch()
    world.run(plan)
    block_cases.check_labels(plan, block_cases.image_of(("hang",)))
    return 1


def _stopped(at: int, folder: Path) -> int:
    """A worker that stands still costs its blocks a new start, and the result is whole."""
    plan = world.planned(world.short_pipeline(), world.source_in(folder), folder / "out")
    stopped: list[int] = []

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "unit" and event["pass"] == "label" and event["done"] == at and not stopped:
            done = Journal.read(folder / "out/run/journal.jsonl").passes.values()
            stopped.append(
                max((unit for state in done for unit in state.done.values()), key=lambda u: u["at"])["worker"]
            )
            os.kill(stopped[0], signal.SIGSTOP)

    options = ClusterOptions(patience=Patience(silent_seconds=6.0))
    try:
        world.run(plan, on="local", workers=2, options=options, on_event=stop)
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    world.check_equal(plan.output, world.clean_hash())
    return len(stopped)


CASES = _cases()
