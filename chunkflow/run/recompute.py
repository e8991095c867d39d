"""Voxels of a finished run computed again from its input, over any box, without the blocks of the run.

    wanted: mask over a box  <-  smooth over a larger one  <-  image over that  <-  whole tiles  <-  the input

Goes back from what is wanted to the input: every step says which voxels it needs (`reads`), so a box is computed as if
it were a block of its own grid. Tiles are those of the pipeline, since a tile stage computes by tile. What was found
for the whole volume (ranges, thresholds, levels) is taken from the records of the run: those are not checked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import to_device, to_host
from chunkflow.errors import IntegrityError
from chunkflow.geometry.box import Box
from chunkflow.geometry.grid import Grid
from chunkflow.plan.passes import Pass
from chunkflow.plan.plan import Plan
from chunkflow.run.places import Places
from chunkflow.stages.base import BlockStep, Record, Region, View, boxes_of_chain
from chunkflow.storage.records import RecordFolder, merged_path, read_record, record_path
from chunkflow.storage.volume import Volume


@dataclass(slots=True)
class Recomputation:
    """Arrays of a plan, by box.

    places : where the records of the run lie
    stored : arrays that are read instead of computed
    device : where steps run that can
    """

    plan: Plan
    places: Places
    stored: Mapping[str, Volume] = field(default_factory=dict)
    device: str = "cpu"
    _values: dict[str, Record] = field(default_factory=dict)
    _tiles: dict[tuple[str, int], dict[str, NDArray[Any]]] = field(default_factory=dict)

    def array(self, name: str, box: Box) -> NDArray[Any]:
        """Voxels of an array, in host memory, shape `box.shape`; `box` lies in the array."""
        if name in self.stored:
            return self.stored[name].read(box)
        if name == "input" or name in self.plan.beside.arrays or name == "input_mask":
            return self._input(name, box)
        p = self._producer(name)
        product = next((spec.source for spec in p.draft.writes if spec.name == name), name)
        steps = _up_to(p.draft.steps, product)
        if p.draft.tiled or self._has_parts(p):
            return self._of_tiles(p, name, product, steps, box)
        grid = Grid(p.draft.grid.shape, p.draft.grid.core)
        return self._computed(p, steps, {product}, core=box, unit=0, grid=grid)[product]

    def forget_tiles(self) -> None:
        """Let go of tiles that are kept for the boxes beside them."""
        self._tiles.clear()

    def _producer(self, name: str) -> Pass:
        """The pass that writes an array, or the last that makes it on the way to one (a mask that is not kept)."""
        for p in self.plan.passes:
            if any(spec.name == name for spec in p.draft.writes):
                return p
        for p in reversed(self.plan.passes):
            if any(name in step.produces for step in p.draft.steps):
                return p
        raise IntegrityError(f"no pass of the plan makes {name}")

    def _of_tiles(self, p: Pass, name: str, product: str, steps: Sequence[BlockStep], box: Box) -> NDArray[Any]:
        found: NDArray[Any] | None = None
        for unit in units_of(p.draft.grid, box):
            core = p.draft.grid.core_of(unit)
            key = (name, unit)
            if key not in self._tiles:
                self._tiles[key] = self._computed(p, steps, {product}, core=core, unit=unit, grid=p.draft.grid)
            data = self._tiles[key][product]
            both = core.clip(box)
            if found is None:
                found = np.zeros(box.shape, data.dtype)
            found[both.relative_to(box.start).slices] = data[both.relative_to(core.start).slices]
        assert found is not None
        return found

    def _computed(
        self, p: Pass, steps: Sequence[BlockStep], products: set[str], *, core: Box, unit: int, grid: Grid
    ) -> dict[str, NDArray[Any]]:
        """Products of a chain over a core."""
        outs, wanted = boxes_of_chain(steps, core, Box.of_shape(grid.shape), sorted(products))
        device = self.device if any(step.on_device for step in steps) else "cpu"
        regions = {name: self._region(name, box, device) for name, box in wanted.items()}
        values = self._values_of(p, unit)
        records = {name: self._records(name) for name in p.draft.needs}
        for step, out in zip(steps, outs, strict=True):
            view = View(
                block=unit, core=core, grid=grid, regions=regions, values=values, records=records, device=device
            )
            regions |= {name: Region(out, data) for name, data in step.run(view, out).arrays.items()}
        types = {spec.source: spec.dtype for spec in p.draft.writes if spec.dtype != "labels"}
        cut = {name: to_host(regions[name].cut(core)) for name in products}
        return {name: np.ascontiguousarray(data.astype(types.get(name, data.dtype))) for name, data in cut.items()}

    def _region(self, name: str, box: Box, device: str) -> Region:
        shape = self.plan.layouts[name].shape
        inside = box.clip(Box.of_shape(shape))
        return Region(inside, to_device(self.array(name, inside), device))

    def _input(self, name: str, box: Box) -> NDArray[Any]:
        opened = {"input": self.plan.input, "input_mask": self.plan.mask, **self.plan.beside.arrays}[name]
        if opened is None:
            raise IntegrityError(f"the plan has no {name}")
        data = opened.read(box)
        if name.startswith("input") and name != "input_mask" and data.dtype.kind == "f":
            return np.where(np.isfinite(data), data, data.dtype.type(0))  # what a run refused is not here any more
        return data

    def _values_of(self, p: Pass, unit: int) -> dict[str, Record]:
        found: dict[str, Record] = {"": p.draft.constants} if p.draft.constants else {}
        for name in p.draft.needs:
            needed = self.plan.pass_named(name)
            if needed.draft.merge is None:
                continue
            if name not in self._values:
                self._values[name] = read_record(merged_path(self.places.records(name)))
            part = record_path(self.places.records(name), unit)
            own = read_record(part) if needed.draft.grid == p.draft.grid and part.is_file() else {}
            found[name] = {**self._values[name], **own}
        return found

    def _records(self, name: str) -> RecordFolder:
        return RecordFolder(self.places.records(name), len(self.plan.pass_named(name).draft.grid))

    def _has_parts(self, p: Pass) -> bool:
        """Whether merges left something for each block, so that only the blocks of the run can be computed."""
        needed = (self.plan.pass_named(name) for name in p.draft.needs)
        return any(
            n.draft.merge is not None
            and n.draft.grid == p.draft.grid
            and record_path(self.places.records(n.name), 0).is_file()
            for n in needed
        )


def units_of(grid: Grid, box: Box) -> list[int]:
    """Blocks of a grid that meet a box, in order."""
    ranges = [range(a // c, -(-b // c)) for a, b, c in zip(box.start, box.stop, grid.core, strict=True)]
    return [grid.index((z, y, x)) for z in ranges[0] for y in ranges[1] for x in ranges[2]]


def _up_to(steps: Sequence[BlockStep], product: str) -> tuple[BlockStep, ...]:
    """The steps that a product needs: up to the one that makes it, without those that only record."""
    last = next(index for index, step in enumerate(steps) if product in step.produces)
    return tuple(step for step in steps[: last + 1] if step.produces)
