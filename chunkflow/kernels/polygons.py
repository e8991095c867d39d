"""Polygons drawn on planes of a stack, as voxels: any box of them, without the rest.

A voxel belongs to a polygon when its centre does, by the even-odd rule, as in ImageJ: pixel x covers [x, x + 1), and
its centre is x + 1/2. So rings that lie inside others cut holes, and polygons side by side share no voxel.

    row y + 1/2   ----x-----------x------x--->     edges that the row crosses; every other stretch is inside
                      ^ a voxel centre on it counts as behind it

Where an edge is crossed is a function of its ends and the row alone, so boxes fit together bit for bit. Later regions
are painted over earlier ones. Time is rows times edges, for each plane range once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Polygons:
    """N regions of one or more closed rings each; all arrays, so that a record can hold them by name."""

    points: NDArray[np.float64]
    """(P, 2) y, x of the corners, in pixels from the corner of pixel 0."""
    ring_start: NDArray[np.int64]
    """(R + 1,) ring r has the corners ring_start[r] to ring_start[r + 1]; its last is joined to its first."""
    region_start: NDArray[np.int64]
    """(N + 1,) region k has the rings region_start[k] to region_start[k + 1]."""
    region: NDArray[np.uint32]
    """(N,) ids, > 0."""
    plane: NDArray[np.int64]
    """(N,) the plane z it lies on, -1 for all planes."""

    def corners_of(self, k: int) -> NDArray[np.float64]:
        """(n, 2) corners of all rings of region k."""
        return self.points[self.ring_start[self.region_start[k]] : self.ring_start[self.region_start[k + 1]]]


def fill(polygons: Polygons, start: Triple, stop: Triple) -> NDArray[np.uint32]:
    """Region ids of the voxels in a box, 0 outside all polygons.

    Parameters
    ----------
    start, stop : z, y, x; the box is half-open, in voxels of the stack that the polygons were drawn on.

    Returns
    -------
    (Z, Y, X) uint32, the same for a voxel whatever the box.
    """
    filled = np.zeros([b - a for a, b in zip(start, stop, strict=True)], np.uint32)
    for k, (region, plane) in enumerate(zip(polygons.region.tolist(), polygons.plane.tolist(), strict=True)):
        if plane >= 0 and not start[0] <= plane < stop[0]:
            continue
        low, high = _rows_and_columns(polygons.corners_of(k), start, stop)
        if min(b - a for a, b in zip(low, high, strict=True)) < 1:
            continue
        rings = polygons.ring_start[polygons.region_start[k] : polygons.region_start[k + 1] + 1]
        is_inside = np.zeros((high[0] - low[0], high[1] - low[1]), np.bool_)
        _fill_even_odd(polygons.points, rings, low[0], low[1], is_inside)
        planes = filled if plane < 0 else filled[plane - start[0] : plane - start[0] + 1]
        planes[:, low[0] - start[1] : high[0] - start[1], low[1] - start[2] : high[1] - start[2]][:, is_inside] = region
    return filled


def _rows_and_columns(corners: NDArray[Any], start: Triple, stop: Triple) -> tuple[list[int], list[int]]:
    """The pixels [low, high) of a box, along y and x, that a region can cover."""
    low = [max(a, int(np.floor(n))) for a, n in zip(start[1:], corners.min(axis=0), strict=True)]
    high = [min(b, int(np.ceil(n))) for b, n in zip(stop[1:], corners.max(axis=0), strict=True)]
    return low, high


@njit(cache=True, nogil=True)
def _fill_even_odd(
    points: NDArray[np.float64], rings: NDArray[np.int64], y0: int, x0: int, is_inside: NDArray[np.bool_]
) -> None:
    """Mark pixels from (y0, x0) on: each crossing flips all that lie behind it."""
    height, width = is_inside.shape
    for r in range(rings.size - 1):
        before = rings[r + 1] - 1
        for p in range(rings[r], rings[r + 1]):
            ya, xa, yb, xb = points[before, 0], points[before, 1], points[p, 0], points[p, 1]
            before = p
            if yb < ya:
                ya, xa, yb, xb = yb, xb, ya, xa
            first = max(0, int(np.ceil(ya - 0.5)) - y0)
            last = min(height, int(np.ceil(yb - 0.5)) - y0)
            for row in range(first, last):  # ya <= centre < yb: a corner that two edges share is crossed once
                crossed = xa + (y0 + row + 0.5 - ya) * ((xb - xa) / (yb - ya))
                column = max(0, int(np.ceil(crossed - 0.5)) - x0)
                if column < width:
                    is_inside[row, column] ^= True
    for row in range(height):
        for column in range(1, width):
            is_inside[row, column] ^= is_inside[row, column - 1]
