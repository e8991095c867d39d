"""How far objects reach along directions of their own: the sides of oriented boxes, exact over blocks.

A voxel at (z, y, x) lies at s = z wz + y wy + x wx along a direction, with weights w = direction x voxel size. The
smallest and the largest s of an object's voxels are its voxels' whichever blocks they were found in: s is computed from
coordinates in the volume, always in the same order, and no sum goes over voxels. Along a run of voxels s only rises or
only falls, so the two ends of each run are all that is looked at.

Holds for coordinates below 2^31: s is rounded to 1e-6 of a voxel there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels.components import dense_labels
from chunkflow.kernels.runs import stop_of_run

Triple = tuple[int, int, int]
TripleUm = tuple[float, float, float]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reach:
    """The smallest and the largest s of the voxel centres of each label along each of its D directions."""

    label: NDArray[np.uint64]
    """(K,) increasing."""
    low: Floats
    """(K, D)"""
    high: Floats
    """(K, D)"""


def block_reach(
    labels: NDArray[Any], core_start: Triple, known: NDArray[np.uint64], directions: Floats, voxel_um: TripleUm
) -> Reach:
    """Reach of each label as far as it lies in one block.

    Parameters
    ----------
    labels : (Z, Y, X) unsigned, 0 is background.
    core_start : coordinate in the volume of the block's first voxel.
    known : (K,) uint64, increasing; every label of the block is among them.
    directions : (K, D, 3) float64 unit vectors z, y, x of each; NaN where there is none, and so is the reach.
    voxel_um : distance of voxel centres along z, y, x.
    """
    dense, present = dense_labels(labels)
    weights = np.zeros((len(present) + 1, *directions.shape[1:]))
    weights[1:] = directions[np.searchsorted(known, present)] * np.asarray(voxel_um)
    low, high = np.full(weights.shape[:2], np.inf), np.full(weights.shape[:2], -np.inf)
    _extend(dense, np.asarray(core_start, np.int64), weights, low, high)
    has_none = np.isnan(weights).any(axis=2)
    low[has_none] = high[has_none] = np.nan
    return Reach(present, low[1:], high[1:])


def merge_reach(parts: Sequence[Reach]) -> Reach:
    """Reach over several blocks, or several merges (at least one); exact in any order."""
    label, where = np.unique(np.concatenate([part.label for part in parts]), return_inverse=True)
    shape = (len(label), parts[0].low.shape[1])
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    np.minimum.at(low, where, np.concatenate([part.low for part in parts]))
    np.maximum.at(high, where, np.concatenate([part.high for part in parts]))
    return Reach(label, low, high)


def extents_um(reach: Reach, directions: Floats, voxel_um: TripleUm) -> Floats:
    """(K, D) sides of the boxes around the voxels, taken as boxes themselves: between the planes across each direction
    that touch them. A voxel adds the sum over the axes of its side times the direction's component.

    Parameters
    ----------
    reach : merged, of the whole volume.
    directions : (K, D, 3) of its labels.
    """
    return np.asarray(reach.high - reach.low + (np.abs(directions) * np.asarray(voxel_um)).sum(axis=2))


@njit(cache=True, nogil=True)
def _extend(dense: NDArray[np.uint32], start: NDArray[np.int64], weights: Floats, low: Floats, high: Floats) -> None:
    depth, height, width = dense.shape
    for z in range(depth):
        for y in range(height):
            x = 0
            while x < width:
                begin, label = x, dense[z, y, x]
                x = stop_of_run(dense[z, y], begin)
                if label == 0:
                    continue
                for d in range(weights.shape[1]):
                    wz, wy, wx = weights[label, d]
                    line = (z + start[0]) * wz + (y + start[1]) * wy
                    for end in (begin, x - 1):
                        s = line + (end + start[2]) * wx
                        low[label, d] = min(low[label, d], s)
                        high[label, d] = max(high[label, d], s)
