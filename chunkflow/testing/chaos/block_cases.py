"""Cases of poison blocks: P5, on every engine that can survive them."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.errors import IncompleteError
from chunkflow.geometry.box import Box
from chunkflow.plan.pipeline import OutputOptions, Pipeline
from chunkflow.plan.plan import Plan
from chunkflow.run.dask import local_engine
from chunkflow.run.result import open_result, shortfall
from chunkflow.run.status import commands, status
from chunkflow.stages.apply import Apply
from chunkflow.stages.base import Stage
from chunkflow.stages.label import Label
from chunkflow.stages.threshold import Threshold
from chunkflow.testing.chaos import poison, world
from chunkflow.testing.chaos.matrix import Case
from chunkflow.testing.suites import write_volume

TILE = 12
PLACES = ((2, 2, 2), (14, 20, 30), (3, 30, 14))  # of marked voxels: three tiles of 18
VALUE = 15000.0
MEMORY = 1500 * 2**20


def _cases() -> list[Case]:
    found = []
    kinds = [kind for kind in poison.MARKS if kind not in ("hang", *poison.DIES)]
    for on, kind in product(("serial", "threads"), kinds):
        found.append(Case(promise="P5", name=f"{kind} on {on}", run=partial(_poisoned, on, (kind,))))
    local = ("kill", "exit", "nan"), ("raise", "shape", "sys.exit"), ("memory", "odd error")
    for group in local:
        run = partial(_poisoned, "local", group)
        found.append(Case(promise="P5", name=f"{', '.join(group)} on local", run=run, quick="kill" in group))
    for kind in ("raise", "nan", "shape"):
        found.append(Case(promise="P5", name=f"{kind}, holes allowed", run=partial(_holes, kind)))
    found.append(Case(promise="P5", name="holes, healed later", run=_healed))
    return found


def image_of(kinds: tuple[str, ...]) -> NDArray[np.uint16]:
    """The image with a marked voxel of each kind."""
    image = world.image()
    for place, kind in zip(PLACES, kinds, strict=False):
        image[place] = poison.MARKS[kind]
    return image


def planned(folder: Path, kinds: tuple[str, ...], output: str = "out") -> Plan:
    """Poison of these kinds in the first tiles, then threshold and labels."""
    source = folder / "in.ome.zarr"
    if not source.exists():
        write_volume(source, image_of(kinds), world.VOXEL_UM)
    function = "chunkflow.testing.chaos.poison:halved"
    apply = Apply(function=function, output="image", options={"folder": str(folder)}, tile=TILE, halo=0)
    stages: list[Stage] = [apply, Threshold(method="fixed", value=VALUE), Label()]
    return world.planned(Pipeline(stages, output=OutputOptions(save=("image", "labels"))), source, folder / output)


def _run(plan: Plan, on: str) -> BaseException | None:
    if on != "local":
        return world.run_or_error(plan, on=on, workers=2, command="the command")
    engine = local_engine(2, MEMORY)
    try:
        return world.run_or_error(plan, client=engine.client, command="the command")
    finally:
        engine.close()


def _poisoned(on: str, kinds: tuple[str, ...], folder: Path) -> int:
    """Exactly the poisoned tiles are set aside, each with a report; healed, the same command completes."""
    plan = planned(folder, kinds)
    grid = plan.pass_named("apply").draft.grid
    error = _run(plan, on)
    assert isinstance(error, IncompleteError), f"poison ended the run with {error!r}"
    found = status(plan.output)
    apply = {p.name: p for p in found.passes}["apply"]
    guilty = {u for u in range(len(grid)) for place in PLACES[: len(kinds)] if grid.core_of(u).contains(_voxel(place))}
    blamed = {unit.unit for unit in apply.quarantined}
    assert blamed == guilty, f"{sorted(blamed - guilty)} were blamed, {sorted(guilty - blamed)} were not"
    assert (apply.done, apply.failed) == (apply.units - len(guilty), ())
    for unit in apply.quarantined:
        assert unit.core == str(grid.core_of(unit.unit))
        assert all((unit.error, unit.attempts, unit.kind)), "the report lacks something"
    assert ("quarantined", len(guilty), "the command") in commands(found)
    assert (found.state, found.code) == ("failed", 3)
    fired = len(guilty & blamed)
    for kind in kinds:
        assert list(folder.glob(f"{kind}-*")), f"{kind} did not fire"
    (folder / "healed").touch()
    assert _run(plan, "serial") is None
    check_labels(plan, image_of(kinds))
    assert status(plan.output).state == "complete"
    return fired


def _voxel(place: tuple[int, int, int]) -> Box:
    z, y, x = place
    return Box((z, y, x), (z + 1, y + 1, x + 1))


def check_labels(plan: Plan, seen: NDArray[np.uint16]) -> None:
    """Labels are those of the whole volume, thresholded as the tiles saw it."""
    labels = open_result(plan.output).labels
    assert labels is not None
    truth, count = ndimage.label(seen.astype(np.float32) / 2 > VALUE, np.ones((3, 3, 3)))
    assert count > 3
    np.testing.assert_array_equal(labels[...], truth)


def _holes(kind: str, folder: Path) -> int:
    """With holes allowed the run completes, as though the tile were background, and says so."""
    kinds = (kind, kind)
    plan = planned(folder, kinds)
    events: list[dict[str, str]] = []
    world.run(plan, allow_holes=True, on_event=events.append)
    grid = plan.pass_named("apply").draft.grid
    seen = image_of(kinds)
    holes = [u for u in range(len(grid)) for place in PLACES[:2] if grid.core_of(u).contains(_voxel(place))]
    for unit in holes:
        seen[grid.core_of(unit).slices] = 0
    check_labels(plan, seen)
    result = open_result(plan.output)
    image = result.image
    assert image is not None
    assert all((image[grid.core_of(unit).slices] == 0).all() for unit in holes)
    found = status(plan.output)
    assert (found.state, found.code) == ("holes", 3)
    assert {p.name: p.state for p in found.passes}["apply"] == "holes"
    short = shortfall(result)
    assert short is not None
    assert short.exit_code == 3
    assert "2 blocks" in str(short)
    said = [event["text"] for event in events if event["event"] == "warning"]
    assert any(str(grid.core_of(holes[0])) in text and "background" in text for text in said)
    again: list[dict[str, str]] = []
    world.run(plan, allow_holes=True, on_event=again.append)
    assert not [event for event in again if event["event"] == "unit"], "a result with holes was computed again"
    error = world.run_or_error(plan)
    assert isinstance(error, IncompleteError), "holes were taken over by a run that does not allow them"
    return len(holes)


def _healed(folder: Path) -> int:
    """Holes that can be computed later are, and everything that stood on them is computed again."""
    plan = planned(folder, ("raise", "raise", "raise"))
    world.run(plan, allow_holes=True)
    (folder / "healed").touch()
    world.run(plan)
    clean = planned(folder, ("raise",) * 3, "clean")
    world.run(clean)
    world.check_equal(plan.output, world.tree_hash(clean.output))
    check_labels(plan, image_of(("raise",) * 3))
    return 3


CASES = _cases()
