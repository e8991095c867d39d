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
    shifts = [range(-1, 2) if length > 1 else range(1) for length in side_a.shape]
    keys = [
        _pair_keys(_shifted(side_a, shift, 1), _shifted(side_b, shift, -1))
        for shift in product(*shifts)
        if sum(map(abs, shift)) <= reach
    ]
    key = np.unique(np.concatenate(keys))
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


def _shifted(side: NDArray[Any], shift: tuple[int, ...], sign: int) -> NDArray[Any]:
    """The part of a side that has a partner at `shift` on the other; sign +1 for the first, -1 for the second."""
    return side[
        tuple(slice(max(0, -sign * s), length - max(0, sign * s)) for s, length in zip(shift, side.shape, strict=True))
    ]


def _pair_keys(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.uint64]:
    touch = (a != 0) & (b != 0)
    key: NDArray[np.uint64] = (a[touch].astype(np.uint64) << np.uint64(32)) | b[touch].astype(np.uint64)
    return key
