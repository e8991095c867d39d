"""The order in which thinning visits voxels: by key(v) = 8 D2(v) + G(v), see `kernels.thinning`.

D2 is the squared distance to what is not the label, G the rank of the parities of (z, y, x) in Gray code. Keys are
small numbers where distances are, so voxels are sorted by counting; by comparison only where those are large.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels.distance import TILE, UNKNOWN, Labels

Indices = NDArray[np.signedinteger[Any]]

MOST_BUCKETS = 1 << 22
"""Keys up to which voxels are sorted by counting (16 MiB of counters)."""

PARITY_RANK = np.array([[[0, 1], [3, 2]], [[7, 6], [4, 5]]], np.int64)
"""Rank of the parities [z, y, x] in the Gray code 000 001 011 010 110 111 101 100."""


def in_order(
    labels: Labels,
    distance2: NDArray[np.int32],
    rank: NDArray[np.int64],
    strides: NDArray[np.int64],
    occupied: NDArray[np.bool_],
    known: int,
    largest: int,
) -> Indices:
    """The voxels with a known distance in increasing key; those of one key in raster order.

    Parameters
    ----------
    labels, distance2 : (Z, Y, X), as `thinning.thin` takes them
    rank : (2, 2, 2) int64, PARITY_RANK for the parities of the crop
    strides : (3,) int64, of the crop padded by one voxel on each side
    occupied : tiles that hold labels, see `distance.occupied_tiles`
    known : how many such voxels there are
    largest : the largest known distance

    Returns their flat indices in the padded crop, int32 where those fit.
    """
    padded_size = strides[0] * (labels.shape[0] + 2)
    order: Indices = np.empty(known, np.int32 if padded_size < 2**31 else np.int64)
    buckets = 8 * (largest + 1)
    if buckets <= MOST_BUCKETS:
        _count_into_order(labels, distance2, rank, strides, occupied, np.zeros(buckets + 1, np.uint32), order)
        return order
    keys = np.empty(order.size, np.int64)
    _list_keys(labels, distance2, rank, strides, occupied, keys, order)
    return order[np.argsort(keys, kind="stable")]


@njit(cache=True, nogil=True)
def _count_into_order(
    labels: Labels,
    distance2: NDArray[np.int32],
    rank: NDArray[np.int64],
    strides: NDArray[np.int64],
    occupied: NDArray[np.bool_],
    places: NDArray[np.uint32],
    order: Indices,
) -> None:
    """Counting sort: voxels of equal key stay in raster order. `places` are zeros, one more than there are keys."""
    depth, height, width = labels.shape
    for z in range(depth):
        for y in range(height):
            for tile in range(occupied.shape[2]):
                if not occupied[z, y, tile]:
                    continue
                for x in range(tile * TILE, min(width, (tile + 1) * TILE)):
                    if labels[z, y, x] != 0 and distance2[z, y, x] != UNKNOWN:
                        places[np.int64(distance2[z, y, x]) * 8 + rank[z & 1, y & 1, x & 1] + 1] += 1
    for key in range(1, places.size):
        places[key] += places[key - 1]
    for z in range(depth):
        for y in range(height):
            row = (z + 1) * strides[0] + (y + 1) * strides[1] + 1
            for tile in range(occupied.shape[2]):
                if not occupied[z, y, tile]:
                    continue
                for x in range(tile * TILE, min(width, (tile + 1) * TILE)):
                    if labels[z, y, x] != 0 and distance2[z, y, x] != UNKNOWN:
                        key = np.int64(distance2[z, y, x]) * 8 + rank[z & 1, y & 1, x & 1]
                        order[places[key]] = row + x
                        places[key] += 1


@njit(cache=True, nogil=True)
def _list_keys(
    labels: Labels,
    distance2: NDArray[np.int32],
    rank: NDArray[np.int64],
    strides: NDArray[np.int64],
    occupied: NDArray[np.bool_],
    keys: NDArray[np.int64],
    order: Indices,
) -> None:
    """Keys and padded flat indices of the voxels with a known distance, in raster order."""
    depth, height, width = labels.shape
    n = 0
    for z in range(depth):
        for y in range(height):
            row = (z + 1) * strides[0] + (y + 1) * strides[1] + 1
            for tile in range(occupied.shape[2]):
                if not occupied[z, y, tile]:
                    continue
                for x in range(tile * TILE, min(width, (tile + 1) * TILE)):
                    if labels[z, y, x] != 0 and distance2[z, y, x] != UNKNOWN:
                        keys[n] = np.int64(distance2[z, y, x]) * 8 + rank[z & 1, y & 1, x & 1]
                        order[n] = row + x
                        n += 1
