"""Cases of what an engine may do with units: P1 twice and in any order, P4 lost and mistaken, P12 merges."""

from __future__ import annotations

import random
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from scipy import ndimage

from chunkflow.errors import ChunkflowError
from chunkflow.geometry.grid import Grid
from chunkflow.run.result import open_result
from chunkflow.run.status import status
from chunkflow.storage.layout import layout_for_core, objects_of
from chunkflow.testing.chaos import world
from chunkflow.testing.chaos.matrix import Case


def _cases() -> list[Case]:
    found = [Case(promise="P1", name="200 random geometries own every voxel and every file once", run=_geometries)]
    for seed in range(10):
        found.append(
            Case(promise="P1", name=f"units twice and shuffled, seed {seed}", run=partial(_twice, seed), quick=seed < 2)
        )
    for name, lost in product(("scan", "label", "relabel"), (0, 5, 11)):
        case = Case(promise="P4", name=f"a lost answer of {name} {lost}", run=partial(_lost, name, lost))
        found.append(case)
    found.append(Case(promise="P4", name="an engine that never answers for a unit", run=_never_heard))
    for seed in range(10):
        found.append(
            Case(
                promise="P12",
                name=f"all merges after shuffled units, seed {seed}",
                run=partial(_merges, seed),
                quick=not seed,
            )
        )
    return found


def _geometries(folder: Path) -> int:
    rng = random.Random(11)
    unaligned = 0
    for _ in range(200):
        core = (rng.randrange(1, 40), rng.randrange(1, 40), rng.randrange(1, 40))
        shape = (rng.randrange(1, 60), rng.randrange(1, 60), rng.randrange(1, 60))
        grid = Grid(shape, core)
        layout = layout_for_core(grid.core, shape, "uint16", rng.choice((2, 3)))
        owners = np.zeros(shape, np.int32)
        files: set[str] = set()
        for index in range(len(grid)):
            box = grid.core_of(index)
            owners[box.slices] += 1
            names = set(objects_of(layout, box))
            assert not names & files, f"{shape} {core}: two cores write {sorted(names & files)[0]}"
            files |= names
        assert (owners == 1).all(), f"{shape} {core}: voxels without one owner"
        unaligned += any(n % c for n, c in zip(shape, core, strict=True))
    return unaligned


def _twice(seed: int, folder: Path) -> int:
    engine = world.OddEngine(world.shuffled(seed, twice=True))
    with world.engine(engine):
        world.run(world.planned(world.long_pipeline(), world.source_in(folder), folder / "out"))
    world.check_equal(folder / "out", world.clean_hash(long=True))
    return engine.fired


def _lost(name: str, unit: int, folder: Path) -> int:
    """The answer of one unit of one pass is lost; its files are there. It is computed again, or the run says so."""
    plan = world.planned(world.short_pipeline(), world.source_in(folder), folder / "out")
    engine = world.OddEngine(lambda units: units)

    def lose(event: dict[str, object]) -> None:
        if event["event"] == "pass":
            engine.lose = {unit} if event["pass"] == name else set()

    with world.engine(engine):
        error = world.run_or_error(plan, on_event=lose)
    assert error is None, f"one lost answer ended the run: {error!r}"
    world.check_equal(folder / "out", world.clean_hash())
    return engine.fired


def _never_heard(folder: Path) -> int:
    """Nothing is ever heard of a unit: the run must not end well, and the next one must."""
    plan = world.planned(world.short_pipeline(), world.source_in(folder), folder / "out")
    dropped: list[int] = []
    passes = [""]

    def look(event: dict[str, str]) -> None:
        if event["event"] == "pass":
            passes.append(event["pass"])

    def drop(units: list[int]) -> list[int]:
        if passes[-1] != "relabel":  # whose records nobody reads
            return units
        dropped.extend(unit for unit in units if unit == 7)
        return [unit for unit in units if unit != 7]

    with world.engine(world.OddEngine(drop)):
        error = world.run_or_error(plan, on_event=look)
    assert isinstance(error, ChunkflowError), "a unit that nobody heard of was taken for done"
    assert status(folder / "out").state != "complete"
    assert not (folder / "out" / "image.ome.zarr").exists(), "a result with a hole was published"
    world.check_ends_well(plan, world.clean_hash())
    return len(dropped)


def _merges(seed: int, folder: Path) -> int:
    """Units in any order, merges killed once: the labels of the whole volume."""
    plan = world.planned(world.short_pipeline(), world.source_in(folder), folder / "out")
    engine = world.OddEngine(world.shuffled(seed))
    with world.engine(engine):
        for name in ("range", "label-merge"):
            error = world.run_or_error(plan, on_event=world.Interrupts(name, 1))
            assert isinstance(error, KeyboardInterrupt)
        world.run(plan)
    world.check_equal(folder / "out", world.clean_hash())
    labels = open_result(folder / "out").labels
    assert labels is not None
    truth, count = ndimage.label(world.image() > 30000, np.ones((3, 3, 3)))
    assert count > 3
    np.testing.assert_array_equal(labels[...], truth)
    return engine.fired + 2


CASES = _cases()
