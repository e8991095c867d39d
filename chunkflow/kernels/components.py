"""Connected components of one block, numbered in raster order, with the table that a merge needs.

A block labels its core alone. Component k of a block is the k-th that a raster scan meets, and its row in the table
says where that was (`first`), how many voxels it has in the block and which input value it carries. A component of the
whole volume is a class of such pieces (kernels/union.py), and since a box keeps the raster order of the volume, the
first voxel of the class is the smallest of the pieces' first voxels: whole-volume numbering needs nothing but tables.

Stops working at 2^32 - 1 components in a block, which is a block of 1,600^3 voxels at the least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels import runs


@dataclass(frozen=True, slots=True)
class ComponentTable:
    """One row per component of a block; component k is row k - 1."""

    first: NDArray[np.int64]
    """(K,) flat C-order index, in the block's array, of the first voxel in raster order; increasing."""
    size: NDArray[np.int64]
    """(K,) voxels of the component in the block, > 0."""
    value: NDArray[np.uint64]
    """(K,) the input value that all voxels of the component have (1 for a mask)."""

    def __len__(self) -> int:
        return len(self.first)


def label_block(values: NDArray[Any], connectivity: int) -> tuple[NDArray[np.uint32], ComponentTable]:
    """Components of the non-zero voxels of a block; touching voxels of different values stay apart.

    Parameters
    ----------
    values : (Z, Y, X) bool or unsigned, 0 is background.
    connectivity : 6, 18 or 26.

    Returns
    -------
    (Z, Y, X) uint32, 0 on background, components 1..K in raster order of their first voxel; and their table.
    Exact, and for a mask equal to `scipy.ndimage.label`.
    """
    cut = runs.runs_of(as_unsigned(values))
    component, count = runs.connected(cut, connectivity, background=False)
    return runs.painted(cut, component), ComponentTable(*runs.table_of(cut, component, count))


def volume_index(
    index: NDArray[np.int64], shape: tuple[int, int, int], start: tuple[int, int, int], volume: tuple[int, int, int]
) -> NDArray[np.int64]:
    """Flat C-order index in a volume of the voxels that have flat index `index` in one of its boxes.

    Parameters
    ----------
    index : (K,) flat index in the box.
    shape, start : shape of the box and where it begins in the volume; z, y, x.
    volume : shape of the volume, below 2^63 voxels.

    Returns
    -------
    (K,) int64, in the order of `index`: a box keeps the raster order.
    """
    z, y, x = np.unravel_index(index, shape)
    return np.asarray(((z + start[0]) * volume[1] + (y + start[1])) * volume[2] + (x + start[2]), dtype=np.int64)


def dense_labels(labels: NDArray[Any]) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """Labels replaced by their rank, so that a kernel can index arrays with them.

    Parameters
    ----------
    labels : (Z, Y, X) bool or unsigned.

    Returns
    -------
    (Z, Y, X) uint32, 0 where the label is 0, else 1 + its position in the second array; and (K,) uint64, the non-zero
    labels present, increasing.
    """
    cut, rank, present = ranked_runs(labels)
    return runs.painted(cut, rank), present


def ranked_runs(labels: NDArray[Any]) -> tuple[runs.Runs, NDArray[np.uint32], NDArray[np.uint64]]:
    """The runs of an array of labels, the rank of each as in `dense_labels`, (R,), and the labels present, (K,)."""
    cut = runs.runs_of(as_unsigned(labels))
    top = int(cut.value.max())
    if top > 4 * len(cut.value) + 2**16:  # too far apart for a table of all numbers up to the largest
        present, position = np.unique(cut.value, return_inverse=True)
        has_background = int(present[0] == 0)
        return cut, (position + (1 - has_background)).astype(np.uint32), present[has_background:].astype(np.uint64)
    rank = np.empty(len(cut.value), np.uint32)
    return cut, rank, np.flatnonzero(_rank(cut.value, np.zeros(top + 1, np.uint32), rank)).astype(np.uint64)


def replaced(labels: NDArray[Any], ids: NDArray[Any]) -> NDArray[Any]:
    """ids[labels] where ids[0] is 0; background, which is most of many volumes, costs next to nothing.

    Parameters
    ----------
    labels : (Z, Y, X) unsigned, below the length of `ids`
    ids : (K,) of any type

    Raises
    ------
    IndexError : a label has no id.
    """
    found = np.zeros(labels.shape, ids.dtype)
    _replace(np.ascontiguousarray(labels).ravel(), ids, found.ravel())
    return found


@njit(cache=True, nogil=True)
def _rank(values: NDArray[Any], table: NDArray[np.uint32], rank: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Ranks of values below the length of a table of zeros, counted from 1 and 0 for 0; the table, of rank by value."""
    for value in values:
        table[value] = 1
    table[0] = 0
    count = 0
    for value in range(table.size):
        if table[value]:
            count += 1
            table[value] = count
    for i in range(values.size):
        rank[i] = table[values[i]]
    return table


@njit(cache=True, nogil=True)
def _replace(labels: NDArray[Any], ids: NDArray[Any], found: NDArray[Any]) -> None:
    for i in range(labels.size):
        if labels[i] != 0:
            if labels[i] >= ids.size:
                raise IndexError("a label beyond the last id")
            found[i] = ids[labels[i]]


def as_unsigned(values: NDArray[Any]) -> NDArray[Any]:
    """Values as kernels want them: a mask as uint8; contiguous, and not read-only, which is a type of its own there."""
    values = np.require(values, requirements=["C", "W"])
    return values.view(np.uint8) if values.dtype == np.bool_ else values
