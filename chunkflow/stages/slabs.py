"""Slabs: the runs of blocks by which a merge goes through a volume that it cannot hold.

    | blocks of slab 0 | blocks of slab 1 | blocks of slab 2 |        in block order, whole layers of the grid
           inner   \\__ahead__/  inner  \\__ahead__/  inner           what touches does so inside a slab or in the next

Blocks leave elements of their own (pieces, slots), numbered block after block inside a slab. A merge reads the records
of one slab at a time, notes how many elements its blocks have, and can cut what it found by blocks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.grid import Grid
from chunkflow.kernels.union import element_offsets

SLAB_BLOCKS = 64
"""Blocks of a slab, at least: fewer would make many small files."""


def blocks_of_slab(grid: Grid) -> int:
    """Blocks one after the other that touch none beyond the next so many: a layer of the grid, or several thin ones."""
    z, y, x = grid.counts
    layer = y * x if z > 1 else x if y > 1 else 1
    return layer * -(-SLAB_BLOCKS // layer)


@dataclass(frozen=True, slots=True, eq=False)
class Slabs:
    """The slabs of a grid.

    step : blocks of a slab; the last slab may have fewer
    counts : (B,) int64 elements of each block, 0 until they are noted
    """

    step: int
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, grid: Grid) -> Slabs:
        """The slabs of a grid, no element noted yet."""
        return cls(blocks_of_slab(grid), np.zeros(len(grid), np.int64))

    def __len__(self) -> int:
        return -(-len(self.counts) // self.step)

    def blocks(self, number: int) -> range:
        """The blocks of a slab; there is at least one."""
        return range(number * self.step, min((number + 1) * self.step, len(self.counts)))

    def note(self, number: int, counts: Iterable[int]) -> NDArray[np.int64]:
        """Note how many elements each block of a slab has; returns its `offsets`."""
        blocks = self.blocks(number)
        self.counts[blocks.start : blocks.stop] = list(counts)
        return self.offsets(number)

    def offsets(self, number: int) -> NDArray[np.int64]:
        """First element of each block of a slab, and their number (`union.element_offsets`)."""
        blocks = self.blocks(number)
        return element_offsets(self.counts[blocks.start : blocks.stop])

    def spans(self, number: int) -> Iterator[tuple[int, int, int]]:
        """Each block of a slab, and where its elements begin and end."""
        offsets = self.offsets(number).tolist()
        return zip(self.blocks(number), offsets[:-1], offsets[1:], strict=True)
