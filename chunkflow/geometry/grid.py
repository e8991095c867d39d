"""Grids: blocks whose cores cover a volume exactly once.

        |<------------ shape ------------>|
        [ core 0 ][ core 1 ][ core 2 ][ c3]      the last core is clipped to the volume
             (---- read 1 ----)                  read = core + halo, clipped to the volume

Blocks are numbered in raster order of their position, so "block order" is the C order of their first voxels.
A grid holds three numbers per axis and enumerates nothing: a billion blocks cost what one costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import PlanError
from chunkflow.geometry.box import Box, Triple, triple

NEIGHBOURS: tuple[Triple, ...] = tuple((z, y, x) for z, y, x in product((-1, 0, 1), repeat=3) if (z, y, x) != (0, 0, 0))
"""The 26 directions to a neighbouring block or voxel, in raster order; the last 13 point forward."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Cores of a nominal size over a volume.

    shape : voxels of the volume (z, y, x)
    core : nominal core; the last one per axis is clipped
    """

    shape: Triple
    core: Triple

    def __post_init__(self) -> None:
        if min(self.core) < 1:
            raise PlanError(f"a block of {self.core} voxels has no volume", "Give at least 1 per axis")
        if min(self.shape) < 1:
            raise PlanError(f"a volume of {self.shape} voxels is empty", "Check the input")

    @property
    def counts(self) -> Triple:
        """Blocks per axis."""
        return triple(tuple(-(-n // c) for n, c in zip(self.shape, self.core, strict=True)))

    def __len__(self) -> int:
        return prod(self.counts)

    def position(self, index: int) -> Triple:
        """Position of block `index` on the grid (z, y, x)."""
        _, ny, nx = self.counts
        return index // (ny * nx), index // nx % ny, index % nx

    def index(self, position: Triple) -> int:
        """Index of the block at a position."""
        _, ny, nx = self.counts
        return (position[0] * ny + position[1]) * nx + position[2]

    def core_of(self, index: int) -> Box:
        """The voxels block `index` alone writes."""
        start = triple(tuple(p * c for p, c in zip(self.position(index), self.core, strict=True)))
        stop = triple(tuple(min(s + c, n) for s, c, n in zip(start, self.core, self.shape, strict=True)))
        return Box(start, stop)

    def group(self, voxels: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Blocks that own some of the voxels, and which: rows of `voxels`, flat indices in the volume (C order).

        Blocks come in order, and the rows of each in theirs.
        """
        if not len(voxels):
            return
        positions = zip(np.unravel_index(voxels, self.shape), self.core, strict=True)
        blocks = np.ravel_multi_index(tuple(p // n for p, n in positions), self.counts)
        rows = np.argsort(blocks, kind="stable")
        present, first = np.unique(blocks[rows], return_index=True)
        yield from zip(present.tolist(), np.split(rows, first[1:]), strict=True)

    def read_of(self, index: int, halo: Triple) -> Box:
        """The voxels block `index` may look at: its core and a halo, clipped to the volume."""
        return self.core_of(index).grow(halo).clip(Box.of_shape(self.shape))

    def sides(self, index: int) -> tuple[tuple[bool, bool], tuple[bool, bool], tuple[bool, bool]]:
        """Which sides of a core (low, high per axis) are sides of the volume."""
        core = self.core_of(index)
        z, y, x = ((a == 0, b == n) for a, b, n in zip(core.start, core.stop, self.shape, strict=True))
        return z, y, x

    def neighbour(self, index: int, direction: Triple) -> int | None:
        """Index of the neighbouring block in one of the 26 directions, or None at the end of the volume."""
        there = triple(tuple(p + d for p, d in zip(self.position(index), direction, strict=True)))
        is_inside = all(0 <= p < n for p, n in zip(there, self.counts, strict=True))
        return self.index(there) if is_inside else None

    def read_amplification(self, halo: Triple) -> float:
        """Voxels read over voxels written, summed over the grid."""
        factor = 1.0
        for n, c, h in zip(self.shape, self.core, halo, strict=True):
            factor *= sum(min(s + c + h, n) - max(s - h, 0) for s in range(0, n, c)) / n
        return factor
