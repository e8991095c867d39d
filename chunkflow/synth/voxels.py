"""Networks of tubes as voxels, taken only where the voxels have the topology of the design.

A voxel belongs to a network where its centre is inside a round tube around one of the links between samples:

      . . x x x .      x  centre inside: at most the radius from the link a-b, which changes linearly along it
      . a-----x .
      . x x x b .      Each network is drawn and checked in a box of its own, which takes some bytes per voxel of its
      . . . x x .      bounding box: little beside the labels, unless one network spans the volume.

Voxels nearly as coarse as the tube can open a loop or close a gap. So the voxels are checked against the design: one
26-connected component, no cavity, and the Euler number 1 - loops.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.synth.tubes import Network

Float = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]
Triple = tuple[int, int, int]


def tube_voxels(network: Network, shape: Triple, voxel: Float) -> Index | None:
    """Sorted flat indices of the network's voxels, or None where they do not have the designed topology."""
    reach = network.radii.max()
    start = np.floor((network.points.min(axis=0) - reach) / voxel).astype(np.int64) - 1
    stop = np.ceil((network.points.max(axis=0) + reach) / voxel).astype(np.int64) + 2
    mask = np.zeros(tuple(int(n) for n in stop - start), np.bool_)
    _fill_tubes(mask, network.points - start * voxel, network.radii, network.links, voxel)
    if euler_number(mask) != 1 - network.loops:
        return None
    if ndimage.label(mask, np.ones((3, 3, 3)))[1] != 1:
        return None
    if ndimage.label(~mask)[1] != 1:  # 6-connected
        return None
    z, y, x = (indices + first for indices, first in zip(np.nonzero(mask), start, strict=True))
    return np.asarray(np.ravel_multi_index((z, y, x), shape), np.int64)


@njit(cache=True, nogil=True)
def _fill_tubes(mask: Mask, points: Float, radii: Float, links: Index, voxel: Float) -> None:
    """Set the voxels whose centre is inside a link's round tube; the radius changes linearly along the link."""
    for link in range(len(links)):
        a, b = points[links[link, 0]], points[links[link, 1]]
        radius_a, radius_b = radii[links[link, 0]], radii[links[link, 1]]
        reach = max(radius_a, radius_b)
        step = b - a
        step2 = max(np.sum(step * step), 1e-12)
        first, last = np.empty(3, np.int64), np.empty(3, np.int64)
        for axis in range(3):
            first[axis] = int(np.ceil((min(a[axis], b[axis]) - reach) / voxel[axis]))
            last[axis] = int(np.floor((max(a[axis], b[axis]) + reach) / voxel[axis]))
        for z in range(first[0], last[0] + 1):
            for y in range(first[1], last[1] + 1):
                for x in range(first[2], last[2] + 1):
                    dz, dy, dx = z * voxel[0] - a[0], y * voxel[1] - a[1], x * voxel[2] - a[2]
                    t = min(max((dz * step[0] + dy * step[1] + dx * step[2]) / step2, 0.0), 1.0)
                    radius = radius_a + t * (radius_b - radius_a)
                    d2 = (dz - t * step[0]) ** 2 + (dy - t * step[1]) ** 2 + (dx - t * step[2]) ** 2
                    if d2 <= radius * radius:
                        mask[z, y, x] = True


@njit(cache=True, nogil=True)
def euler_number(mask: Mask) -> int:
    """Euler number of the union of closed voxel cubes (26-connectivity): vertices - edges + faces - cubes.

    mask : (Z, Y, X) bool whose border is background, so each cell of the complex is seen from one 2^3 window.
    """
    number = 0
    nz, ny, nx = mask.shape
    for z in range(nz - 1):
        for y in range(ny - 1):
            for x in range(nx - 1):
                a, b, c, d = mask[z, y, x], mask[z, y, x + 1], mask[z, y + 1, x], mask[z, y + 1, x + 1]
                e, f, g, h = mask[z + 1, y, x], mask[z + 1, y, x + 1], mask[z + 1, y + 1, x], mask[z + 1, y + 1, x + 1]
                if not (a or b or c or d or e or f or g or h):
                    continue
                edges = int(a or b or c or d) + int(a or b or e or f) + int(a or c or e or g)
                faces = int(a or b) + int(a or c) + int(a or e)
                number += 1 - edges + faces - int(a)
    return number
