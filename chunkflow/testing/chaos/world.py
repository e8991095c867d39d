"""A small world for faults: a volume, pipelines on it, runs of them, and what makes two outputs equal."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.errors import ChunkflowError
from chunkflow.plan.pipeline import OutputOptions, Pipeline
from chunkflow.plan.plan import Plan
from chunkflow.run import driver
from chunkflow.run.engine import Outcome, SerialEngine
from chunkflow.run.status import status
from chunkflow.stages.base import Stage
from chunkflow.stages.label import Label
from chunkflow.stages.measure import Measure
from chunkflow.stages.skeleton import Skeleton
from chunkflow.stages.threshold import Threshold
from chunkflow.storage.stores import Place
from chunkflow.testing.suites import write_volume

R = TypeVar("R")

SHAPE = (20, 33, 35)
BLOCK = (16, 16, 32)
VOXEL_UM = (0.2, 0.1, 0.1)


def image(seed: int = 5) -> NDArray[np.uint16]:
    """(20, 33, 35) uint16: smooth noise, a few objects above 30000, never 0."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.5)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    return np.asarray(1 + noise * 50000, np.uint16)


def source_in(folder: Path, name: str = "in.ome.zarr", seed: int = 5) -> Path:
    """The volume, stored in a folder."""
    write_volume(folder / name, image(seed), VOXEL_UM)
    return folder / name


def short_pipeline(value: float = 30000.0, *, min_voxels: int = 0) -> Pipeline:
    """Threshold and label: 8 passes, a tenth of a second."""
    stages: list[Stage] = [Threshold(method="fixed", value=value), Label(min_voxels=min_voxels)]
    return Pipeline(stages, output=OutputOptions(save=("image", "labels", "mask")))


def long_pipeline() -> Pipeline:
    """Histogram, threshold, labels, skeletons, tables and graph."""
    stages: list[Stage] = [Threshold(smooth_um=0.1), Label(min_voxels=5), Skeleton(), Measure()]
    return Pipeline(stages, output=OutputOptions(save=("image", "labels", "skeleton", "mask")))


def planned(pipeline: Pipeline, source: Path, output: Path, **options: Any) -> Plan:
    """The plan on small blocks."""
    return pipeline.plan(source, output, **{"block": BLOCK, **options})


def run(plan: Plan, **options: Any) -> None:
    """Run in this process, without a report."""
    driver.run_plan(plan, **{"on": "serial", "device": "cpu", "report": False, **options})


def run_or_error(plan: Plan, **options: Any) -> BaseException | None:
    """Run, and give back what it raised."""
    try:
        run(plan, **options)
    except (ChunkflowError, KeyboardInterrupt, OSError) as error:
        return error
    return None


def tree_hash(output: Place) -> dict[str, str]:
    """Digest of every file by name; those of the run itself and the report aside."""
    folder = Path(str(output))
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    named = {str(path.relative_to(folder)): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in named.items()
        if not name.startswith("run/") and name != "report.html"
    }


@cache
def clean_hash(long: bool = False) -> dict[str, str]:
    """What an uninterrupted run on `source_in` leaves."""
    folder = Path(mkdtemp(prefix="chaos-clean-"))
    run(planned(long_pipeline() if long else short_pipeline(), source_in(folder), folder / "out"))
    return tree_hash(folder / "out")


def check_equal(output: Place, expected: dict[str, str]) -> None:
    """An output equals a clean one, byte for byte, and says that it is complete."""
    found = tree_hash(output)
    differ = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if differ:
        raise AssertionError(f"{len(differ)} files differ from a clean run: {differ[:5]}")
    if (state := status(output).state) != "complete":
        raise AssertionError(f"the output is as it should be, and status says {state}")


def check_ends_well(plan: Plan, expected: dict[str, str], *, runs: int = 3) -> int:
    """The same command, until it ends well, leaves what a clean run leaves; returns how many runs failed before."""
    for count in range(runs):
        error = run_or_error(plan)
        if error is None:
            check_equal(plan.output, expected)
            return count
        if status(plan.output).state == "complete":
            raise AssertionError(f"the run failed with {error!r}, and status says complete")
    raise AssertionError(f"{runs} runs did not end well; the last one said {error!r}")


class Interrupts:
    """A listener that stops a run as Ctrl-C would, at the n-th unit of a pass or at its beginning (0)."""

    def __init__(self, name: str, unit: int = 0) -> None:
        self.name, self.unit, self.count = name, unit, 0
        self.fired = False

    def __call__(self, event: Any) -> None:
        """Look at an event."""
        if event["event"] == "pass" and event["pass"] == self.name and self.unit == 0:
            self._fire()
        if event["event"] == "unit" and event["pass"] == self.name:
            self.count += 1
            if self.count == self.unit:
                self._fire()

    def _fire(self) -> None:
        self.fired = True
        raise KeyboardInterrupt


class At:
    """A listener that does something once, when a pass begins."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self.name, self.action, self.fired = name, action, False

    def __call__(self, event: Any) -> None:
        """Look at an event."""
        if event["event"] == "pass" and event["pass"] == self.name and not self.fired:
            self.fired = True
            self.action()


class OddEngine(SerialEngine):
    """Units in an order of its own, some of them twice, lost, failed or told twice; fired counts what it did."""

    def __init__(self, change: Callable[[list[int]], list[int]], *, lose: Sequence[int] = ()) -> None:
        super().__init__()
        self.change, self.lose, self.fired = change, set(lose), 0

    def map(self, function: Callable[[int], R], units: Sequence[int]) -> Iterator[Outcome[R]]:
        """See `chunkflow.run.engine.Engine`."""
        told = set()
        order = self.change(list(units))
        self.fired += order != list(units)
        for unit, outcome in super().map(function, order):
            if unit in self.lose and len(units) > 1:
                self.fired += 1
                self.lose.discard(unit)
                told.add(unit)
            if unit not in told:
                told.add(unit)
                yield unit, outcome


def shuffled(seed: int, *, twice: bool = False) -> Callable[[list[int]], list[int]]:
    """Units in a random order, all of them twice where that is wanted."""
    rng = random.Random(seed)

    def change(units: list[int]) -> list[int]:
        return rng.sample(units * (2 if twice else 1), len(units) * (2 if twice else 1))

    return change


@contextmanager
def engine(instead: Any) -> Iterator[None]:
    """Runs in this context compute on an engine of ours."""
    with mock.patch.object(driver, "engine_for", return_value=instead):
        yield


def dependents(plan: Plan, changed: set[str]) -> set[str]:
    """Passes that read what others make of these, in any number of steps."""
    found = set(changed)
    for p in plan.passes:
        reads = {plan.arrays[name].producer for name in p.reads if name in plan.arrays} | set(p.draft.needs)
        if reads & found:
            found.add(p.name)
    return found
