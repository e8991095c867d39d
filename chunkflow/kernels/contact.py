"""Which pieces of two neighbouring blocks touch: the six face planes of each block are enough to tell.

A block meets 26 neighbours, and voxels touch across all of them: over a face with a step along one axis, over an edge
with a step along two (18- and 26-connectivity), over a corner along three (26). Each contact is looked at once, from
the block whose neighbour lies in one of the 13 `FORWARD` directions.

      face (0,0,1)            edge (0,1,1)          a pair inside a face may also shift in the plane
      +----++----+            +----+                by one voxel per axis; where the shift leaves the
      |   a||b   |            |   a|                face, the edge or corner neighbour has the voxel
      |   a||b   |            +----+----+
      +----++----+                 |b   |
                                   +----+

Blocks are those of a grid: neighbours have equal extents along the axes in which the direction is 0.
Labels stay below 2^32 (block-local ids do).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Direction = tuple[int, int, int]
Shell = Mapping[str, NDArray[Any]]
"""The six face planes of a block by name: z0 (Y, X), z1, y0 (Z, X), y1, x0 (Z, Y), x1; 0 is the low side."""

FORWARD: tuple[Direction, ...] = tuple((z, y, x) for z, y, x in product((-1, 0, 1), repeat=3) if (z, y, x) > (0, 0, 0))
"""The 13 of the 26 directions (z, y, x) that lie ahead in raster order."""

_REACH = {6: 1, 18: 2, 26: 3}  # along how many axes two touching voxels may differ


def shell(labels: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Copies of the six boundary planes of a block, in the smallest unsigned type that holds each.

    Parameters
    ----------
    labels : (Z, Y, X) unsigned.

    Returns
    -------
    The planes by name (see `Shell`); a mapping that `numpy.savez` takes as it is.
    """
    planes = {f"{name}{side}": labels.take(-side, axis=axis) for axis, name in enumerate("zyx") for side in (0, 1)}
    return {name: plane.astype(np.min_scalar_type(plane.max(initial=0))) for name, plane in planes.items()}


def touching(a: Shell, b: Shell, direction: Direction, connectivity: int) -> NDArray[np.int64]:
    """Labels of two neighbouring blocks that touch.

    Parameters
    ----------
    a, b : shells of the two blocks.
    direction : where block b lies, seen from a; one of the 26.
    connectivity : 6, 18 or 26.

    Returns
    -------
    (M, 2) int64, unique pairs (label in a, label in b), sorted, both non-zero.
    """
    reach = _REACH[connectivity] - sum(map(abs, direction))
    if reach < 0:
        return np.zeros((0, 2), np.int64)
    side_a = _side(a, direction)
    side_b = _side(b, tuple(-d for d in direction))
    planes = [np.atleast_2d(side).astype(np.uint32, copy=False) for side in (side_a, side_b)]
    keys = np.empty(1 << 14, np.uint64)
    count = _pair_keys(planes[0], planes[1], reach, keys)
    if count > keys.size:
        keys = np.empty(count, np.uint64)
        _pair_keys(planes[0], planes[1], reach, keys)
    key = np.unique(keys[:count])
    return np.stack((key >> np.uint64(32), key & np.uint64(0xFFFFFFFF)), axis=1).astype(np.int64)


def same_value(pairs: NDArray[np.int64], value_a: NDArray[np.uint64], value_b: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which pairs of components carry the same input value: only those are one object.

    Parameters
    ----------
    pairs : (M, 2) labels, counted from 1.
    value_a, value_b : value of each component of the two blocks.
    """
    return np.asarray(value_a[pairs[:, 0] - 1] == value_b[pairs[:, 1] - 1])


def _side(planes: Shell, direction: tuple[int, ...]) -> NDArray[Any]:
    """The voxels of a block nearest to its neighbour in that direction: a plane, a line or one voxel."""
    axes = [axis for axis in range(3) if direction[axis]]
    side = planes["zyx"[axes[0]] + ("1" if direction[axes[0]] > 0 else "0")]
    for axis in reversed(axes[1:]):  # the plane lacks the first axis; later axes go first so that the others stay put
        side = side.take(-1 if direction[axis] > 0 else 0, axis=axis - 1)
    return np.atleast_1d(side)  # a corner is a line of one voxel


@njit(cache=True, nogil=True)
def _pair_keys(a: NDArray[np.uint32], b: NDArray[np.uint32], reach: int, keys: NDArray[np.uint64]) -> int:
    """Keys (label in a << 32 | label in b) of voxels that touch; repeats one after the other are written once.

    Writes as many keys as fit and returns how many there are.

    Parameters
    ----------
    a, b : (H, W), the two sides of a seam.
    reach : along how many axes in the plane two touching voxels may differ.
    """
    height, width = a.shape
    count = 0
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            if abs(dy) + abs(dx) > reach:
                continue
            last = np.uint64(0)
            for y in range(max(0, -dy), height - max(0, dy)):
                for x in range(max(0, -dx), width - max(0, dx)):
                    if a[y, x] == 0 or b[y + dy, x + dx] == 0:
                        continue
                    key = (np.uint64(a[y, x]) << np.uint64(32)) | np.uint64(b[y + dy, x + dx])
                    if key != last:
                        if count < keys.size:
                            keys[count] = key
                        count += 1
                        last = key
    return count
