"""How much memory a unit of work takes at its peak, from what its steps say about themselves.

    peak = process + arrays read + arrays produced + the largest working set + one array being compressed

The boxes are those of the block that reads most. Steps that may grow are budgeted at what the worker lets them grow
to (`growth_voxels`): it splits a block rather than hold more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.stages.base import BlockStep, boxes_of_chain

PROCESS_BYTES = 330 * 2**20
"""A worker with everything imported and compiled, measured as the peak of an empty run."""

TORCH_BYTES = 250 * 2**20
"""What importing torch adds."""

SMALLEST_SPLIT = 32
"""Sides of the smallest box a growing step is split into."""


def widest_block(grid: Grid) -> int:
    """A block in the middle of the grid, whose halo is clipped least."""
    return grid.index(triple(tuple(n // 2 for n in grid.counts)))


def unit_bytes(
    steps: Sequence[BlockStep],
    grid: Grid,
    writes: Mapping[str, str],
    arrays: Mapping[str, tuple[Triple, str]],
) -> int:
    """Peak bytes of one unit, the process aside.

    Parameters
    ----------
    writes : dtype by product that is stored.
    arrays : shape and dtype of every array that can be read.
    """
    core = grid.core_of(widest_block(grid))
    outs, wanted = boxes_of_chain(steps, core, Box.of_shape(grid.shape), writes)
    total = 0
    for name, box in wanted.items():
        shape, dtype = arrays[name]
        total += box.clip(Box.of_shape(shape)).size * np.dtype(dtype).itemsize
    for step, out in zip(steps, outs, strict=True):
        total += sum(out.size * np.dtype(writes.get(name, "float32")).itemsize for name in step.produces)
    total += max((step.working_bytes(out.shape) for step, out in zip(steps, outs, strict=True)), default=0)
    if steps and hasattr(steps[-1], "grown"):
        crop = max(grown_crop(steps[-1], out, grid.shape) for out in outs[-1:])
        total = max(total, total + 22 * (growth_voxels(steps[-1], core, grid.shape) - crop))
    compressed = max((core.size * np.dtype(dtype).itemsize for dtype in writes.values()), default=0)
    return total + compressed


def grown_crop(step: BlockStep, out: Box, shape: Triple) -> int:
    """Voxels of the largest crop that a step reads for an output."""
    return max(box.clip(Box.of_shape(shape)).size for box in step.reads(out).values())


def growth_voxels(step: BlockStep, core: Box, shape: Triple) -> int:
    """Voxels of a crop that a growing step may read: what it reads at first, or the smallest split at `max_halo`."""
    smallest = triple(tuple(min(SMALLEST_SPLIT, n) for n in core.shape))
    halo = int(getattr(step, "max_halo", 0))
    grown = prod(min(s + 2 * halo, n) for s, n in zip(smallest, shape, strict=True))
    return max(grown_crop(step, core, shape), grown)
