"""What the passes of a plan read and write: bytes that are decoded, and files that are opened. Arithmetic only.

A read meets whole chunks, so a block with a halo decodes more than its box:

    chunk   |-----|-----|-----|-----|-----|
    read             (--- core ---)                    decoded: the three chunks that the box touches

Boxes are products of spans along the axes, so sums over all blocks are products of sums over an axis: a plan of 10^8
blocks costs what its longest row of blocks costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.grid import Grid
from chunkflow.plan import memory
from chunkflow.stages.base import boxes_of_chain
from chunkflow.stages.probe import Probe
from chunkflow.storage.layout import ArrayLayout

if TYPE_CHECKING:
    from chunkflow.plan.passes import Pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a pass moves, without compression, over all of its units.

    read_of : bytes of whole chunks that are decoded, once for every unit that touches them, by array
    asked_bytes : of the boxes themselves, which steps compute on
    read_files, written_files : that are opened, as often as they are; those of arrays
    """

    read_of: Mapping[str, int] = field(default_factory=dict)
    asked_bytes: int = 0
    written_bytes: int
    read_files: int
    written_files: int

    @property
    def read_bytes(self) -> int:
        """Decoded, of all arrays."""
        return sum(self.read_of.values())

    @property
    def moved_bytes(self) -> int:
        """Read and written."""
        return self.read_bytes + self.written_bytes


def traffic_of(p: Pass, layouts: Mapping[str, ArrayLayout]) -> Traffic:
    """What a pass over blocks moves; nothing of a merge.

    Parameters
    ----------
    layouts : of every array that the pass reads or writes, by name.
    """
    if p.draft.merge is not None:
        return Traffic(written_bytes=0, read_files=0, written_files=0)
    grid = p.draft.grid
    core = grid.core_of(memory.widest_block(grid))
    products = [spec.source for spec in p.draft.writes]
    wanted = boxes_of_chain(p.draft.steps, core, Box.of_shape(grid.shape), products)[1]
    read_of: dict[str, int] = {}
    asked_bytes = read_files = 0
    share = _share_that_reads(p)
    for name, box in wanted.items():
        layout = layouts[name]
        read_of[name] = round(_touched(grid, core, box, layout, layout.chunk) * share) * _itemsize(layout)
        asked_bytes += round(_touched(grid, core, box, layout, (1, 1, 1)) * share) * _itemsize(layout)
        read_files += round(_touched(grid, core, box, layout, layout.write_unit, as_files=True) * share)
    written = [layouts[spec.name] for spec in p.draft.writes]
    return Traffic(
        read_of=read_of,
        asked_bytes=asked_bytes,
        written_bytes=sum(prod(layout.shape) * _itemsize(layout) for layout in written),
        read_files=read_files,
        written_files=sum(files_of(layout) for layout in written),
    )


def _share_that_reads(p: Pass) -> float:
    """Of the units of a pass: all of them, but where a few tiles are samples."""
    samples = next((step.samples for step in p.draft.steps if isinstance(step, Probe)), None)
    return 1.0 if samples is None else len(samples) / len(p.draft.grid)


def files_of(layout: ArrayLayout) -> int:
    """Files that hold an array, where none is left out."""
    return prod(-(-n // unit) for n, unit in zip(layout.shape, layout.write_unit, strict=True))


def _itemsize(layout: ArrayLayout) -> int:
    return np.dtype(layout.dtype).itemsize


def _touched(grid: Grid, core: Box, box: Box, layout: ArrayLayout, unit: Triple, *, as_files: bool = False) -> int:
    """Voxels of the units (chunks, files) that all blocks touch, or the number of those.

    A block's box lies to its core as `box` lies to `core`; an array of another shape is a scaled grid.
    """
    total = 1
    for axis in range(3):
        length, there, u = grid.shape[axis], layout.shape[axis], unit[axis]
        scale = there / length
        before = core.start[axis] * scale - box.start[axis]
        behind = box.stop[axis] - core.stop[axis] * scale
        starts = np.arange(0, length, grid.core[axis])
        stops = np.minimum(starts + grid.core[axis], length)
        low = np.maximum(0, np.floor(starts * scale - before + 1e-9)).astype(np.int64)
        high = np.minimum(there, np.ceil(stops * scale + behind - 1e-9)).astype(np.int64)
        first, last = low // u, -(-high // u)
        count = last - first if as_files else np.minimum(last * u, there) - first * u
        total *= int(count[high > low].sum())
    return total
