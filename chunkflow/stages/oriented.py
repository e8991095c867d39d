"""Sides of the boxes around objects that lie along their principal axes, on request of `measure`.

axes       exact sums of all blocks -> directions of the principal axes; each block is given those of its objects
extents    labels, once more -> how far objects reach along their own axes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import measure, oriented
from chunkflow.kernels.union import Shelf
from chunkflow.stages.base import Draft, Merged, Output, Record, View, host, iterate
from chunkflow.stages.intensities import sums_of
from chunkflow.stages.ranges import MERGE_BYTES, Ranges, Rows, range_starts

AXES, EXTENTS = "axes", "extents"
NAMES = ("major", "middle", "minor")
RANGES_HELD = 4
"""Of directions, for the blocks that come next: objects of a block are near each other in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeAxes:
    """The directions of the principal axes of the objects of each block; sums : the pass that has their moments."""

    sums: str
    voxel_um: tuple[float, float, float]

    version: ClassVar[int] = 2
    shelves: ClassVar[bool] = True

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record], shelf: Shelf) -> Merged:
        blocks = records[self.sums]
        ranges = Ranges(range_starts(blocks, _labels_of), shelf)
        ranges.sort(blocks, {"sums": Rows(sums_of, measure.merge_sums)})
        objects = 0
        for number in range(len(ranges)):
            totals: measure.ObjectSums = ranges.take("sums", number)
            found = directions_of(measure.axis_columns(totals, self.voxel_um))
            shelf.put(f"axes-{number}", {"label": totals.label, "directions": found})
            objects += len(totals)
        taken = lru_cache(maxsize=RANGES_HELD)(lambda number: shelf.take(f"axes-{number}"))
        labels = map(_labels_of, iterate(blocks))
        parts = (
            (block, {"label": label, "directions": _found_in(ranges, label, taken)})
            for block, label in enumerate(labels)
        )
        return Merged({"objects": np.array([objects])}, parts)

    def working_bytes(self, blocks: int) -> int:
        return min(65536 * blocks, MERGE_BYTES)


def _labels_of(record: Record) -> NDArray[np.uint64]:
    return record["label"]


def _found_in(ranges: Ranges, label: NDArray[np.uint64], taken: Callable[[int], Record]) -> NDArray[np.float64]:
    """The directions of some objects."""
    directions = np.zeros((len(label), 3, 3))
    of_label = ranges.numbers(label)
    for number in np.unique(of_label).tolist():
        known, rows = taken(number), of_label == number
        directions[rows] = known["directions"][np.searchsorted(known["label"], label[rows])]
    return directions


@dataclass(frozen=True, slots=True, kw_only=True)
class Extents:
    """How far the objects of a core reach along their axes."""

    voxel_um: tuple[float, float, float]

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"labels": out}

    def run(self, view: View, out: Box) -> Output:
        labels, axes = host(view.regions["labels"].cut(out)), view.values[AXES]
        reach = oriented.block_reach(labels, out.start, axes["label"], axes["directions"], self.voxel_um)
        return Output(record={"reach_label": reach.label, "reach_low": reach.low, "reach_high": reach.high})

    def working_bytes(self, out: Triple) -> int:
        return 32 * prod(out)  # 29 measured on noise of half the voxels, 8 where few are set


def directions_of(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """(K, 3, 3) major, middle and minor axis of each object, each z, y, x, from the columns of the table of objects."""
    return np.stack([np.stack([columns[f"axis_{name}_{axis}"] for axis in "zyx"], axis=1) for name in NAMES], axis=1)


def extent_columns(
    columns: Mapping[str, NDArray[Any]], reach: oriented.Reach, voxel_um: tuple[float, float, float]
) -> dict[str, NDArray[Any]]:
    """extent_{major,middle,minor}_um: sides of the box around the voxels of each object that lies along its axes.

    Missing where the axis has no direction. `columns` hold the axes of the objects that `reach` is of, merged.
    """
    sides = oriented.extents_um(reach, directions_of(columns), voxel_um)
    return {f"extent_{name}_um": sides[:, number] for number, name in enumerate(NAMES)}


def reach_of(record: Record) -> oriented.Reach:
    """What `Extents` left in a block."""
    return oriented.Reach(record["reach_label"], record["reach_low"], record["reach_high"])


def extent_drafts(grid: Grid, sums: str, voxel_um: tuple[float, float, float]) -> tuple[Draft, ...]:
    """The passes between the exact sums of a pass and the table of objects."""
    return (
        Draft(name=AXES, grid=grid, merge=MergeAxes(sums=sums, voxel_um=voxel_um), needs=(sums,)),
        Draft(name=EXTENTS, grid=grid, steps=(Extents(voxel_um=voxel_um),), needs=(AXES,)),
    )
