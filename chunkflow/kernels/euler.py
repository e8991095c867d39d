"""The Euler characteristic of every object, from blocks: chi of the union of its closed voxel cubes.

Every cell of the cubical complex belongs to the lattice vertex at its lower corner, so a vertex owns itself, three
edges, three squares and one cube, and needs to see the 2 x 2 x 2 voxels around it:

    chi = sum over vertices of [any of 8] - sum [any of 4 at the edge] + sum [any of 2 at the square] - [the cube]

A block owns the vertices at the lower corners of its core's voxels, integers that add up to chi.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels.components import dense_labels
from chunkflow.kernels.distance import TILE, occupied_tiles


def euler(labels: NDArray[Any]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Euler characteristic, per label, of the cells that a block owns; sums over the blocks of a grid are exact.

    Parameters
    ----------
    labels : (Z + 1, Y + 1, X + 1) bool or unsigned: the core and one layer of voxels before it on each axis, zeros
        outside the volume; and one layer of zeros more behind it on each axis where the core ends with the volume.
        A whole volume is padded by one on every side.

    Returns
    -------
    (K,) uint64, the non-zero labels in the array, increasing, and (K,) int64, their share of chi (any sign, 0 too).
    """
    dense, present = dense_labels(labels)
    chi = np.zeros(len(present) + 1, np.int64)
    _sum_vertices(dense, _tiles_that_see(dense), _OWNED_CELLS, chi)
    return present, chi[1:]


def _owned_cells() -> NDArray[np.int64]:
    """(256,) vertices - edges + squares - cubes that a vertex owns, by the occupied octants around it.

    Bit 4 dz + 2 dy + dx is the octant; the vertex is the lower corner of octant 7.
    """
    table = np.zeros(256, np.int64)
    for occupied in range(256):
        for span in range(8):  # the axes a cell extends along, as bits; 0 is the vertex, 7 the cube
            around = [octant for octant in range(8) if octant & span == span]
            if any(occupied >> octant & 1 for octant in around):
                table[occupied] += (-1) ** span.bit_count()
    return table


_OWNED_CELLS = _owned_cells()


def _tiles_that_see(dense: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """(Z - 1, Y - 1, T) bool: tiles of vertices with any label around them; a vertex looks one voxel into the next."""
    tiles = occupied_tiles(dense)
    tiles = tiles[:-1] | tiles[1:]
    tiles = tiles[:, :-1] | tiles[:, 1:]
    return np.asarray(tiles | np.pad(tiles[:, :, 1:], ((0, 0), (0, 0), (0, 1))))


@njit(cache=True, nogil=True)
def _sum_vertices(
    dense: NDArray[np.uint32], tiles: NDArray[np.bool_], owned_cells: NDArray[np.int64], chi: NDArray[np.int64]
) -> None:
    depth, height, width = dense.shape
    around = np.empty(8, np.int64)
    for z in range(depth - 1):
        for y in range(height - 1):
            for tile in range(tiles.shape[2]):
                if not tiles[z, y, tile]:
                    continue
                for x in range(tile * TILE, min((tile + 1) * TILE, width - 1)):
                    is_uniform = True
                    for octant in range(8):
                        around[octant] = dense[z + (octant >> 2), y + (octant >> 1 & 1), x + (octant & 1)]
                        is_uniform &= around[octant] == around[0]
                    if not is_uniform:  # inside and outside own no cell on balance
                        _add_cells(around, owned_cells, chi)


@njit(cache=True, nogil=True)
def _add_cells(around: NDArray[np.int64], owned_cells: NDArray[np.int64], chi: NDArray[np.int64]) -> None:
    """Add what a vertex owns of every label around it."""
    done = 0
    for octant in range(8):
        label = around[octant]
        if label == 0 or done >> octant & 1:
            continue
        occupied = 0
        for other in range(octant, 8):
            if around[other] == label:
                occupied |= 1 << other
        done |= occupied
        chi[label] += owned_cells[occupied]
