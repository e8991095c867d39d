"""Tiles that a pipeline fixes, and a place for what each of them saw with a halo around it.

volume   |-- tile 0 --|-- tile 1 --|-- tile 2 -|         a tile owns its core
views    |h  tile 0  h|h  tile 1  h|h  tile 2  h|        cores with their halos, side by side, overlapping nowhere
                    ^^^^^                                the same voxels of the volume twice, 2 h wide
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid

VIEW_STEP = 8


@dataclass(frozen=True, slots=True)
class Lattice:
    """Tiles over a volume, and the array in which what they saw stands side by side.

    shape : of the volume; core : of a tile; halo : voxels beyond it that are seen with it
    """

    shape: Triple
    core: Triple
    halo: Triple

    @property
    def tiles(self) -> Grid:
        """The cores, in the volume."""
        return Grid(self.shape, self.core)

    @property
    def views(self) -> Grid:
        """Cores with their halos in the array, numbered as the tiles are. Halos outside the volume are there, empty.

        Lengths are multiples of `VIEW_STEP`: one that is prime would be cut into chunks of one voxel.
        """
        core, shape = [], []
        for n, c, h, tiles in zip(self.shape, self.core, self.halo, self.tiles.counts, strict=True):
            step = VIEW_STEP if tiles > 1 else 1
            core.append(-(-(c + 2 * h) // step) * step)
            shape.append((tiles - 1) * (core[-1] - c) + n + 2 * h)
        return Grid(triple(shape), triple(core))

    def seen(self, tile: int) -> Box:
        """The voxels of the volume that a tile sees."""
        return self.tiles.read_of(tile, self.halo)

    def place(self, tile: int, box: Box) -> Box:
        """Where a tile's view of some voxels of the volume stands in the array."""
        start, view = self.tiles.core_of(tile).start, self.views.core_of(tile).start
        return box.relative_to(triple(tuple(s - h - v for s, h, v in zip(start, self.halo, view, strict=True))))

    def tile_of_view(self, box: Box) -> int:
        """The tile in whose view a box of the array begins."""
        return self.views.index(triple(tuple(s // c for s, c in zip(box.start, self.views.core, strict=True))))

    def meeting(self, box: Box) -> Iterator[tuple[int, Box]]:
        """Tiles that own voxels of a box of the volume, and which voxels those are."""
        grid = self.tiles
        low = triple(tuple(a // c for a, c in zip(box.start, self.core, strict=True)))
        high = triple(tuple(-(-b // c) for b, c in zip(box.stop, self.core, strict=True)))
        for position in np.ndindex(*(b - a for a, b in zip(low, high, strict=True))):
            tile = grid.index(triple(tuple(a + p for a, p in zip(low, position, strict=True))))
            yield tile, grid.core_of(tile).clip(box)
