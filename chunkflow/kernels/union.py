"""Union-find over the pieces of all blocks: from pairs of touching pieces to the ids of the whole volume.

Pieces are elements 0..N-1, block after block (`element_offsets`); a seam gives pairs of them. The classes do not
depend on the order of pairs or elements, because the representative of a class is its smallest element, and neither do
the ids, because they are ranked by the first voxel in the volume. So any blocks give the ids of a whole-volume run.

Memory beside the input: 8 bytes per element in `components_of`, at most 56 in `final_ids` (no two elements in one
class). A billion pieces take about 64 GB on the machine that merges; beyond that the merge itself has to be cut.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def element_offsets(block_counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """First element of each block, and the total behind them.

    Component k (1..K) of block b is element `offsets[b] + k - 1`.

    Parameters
    ----------
    block_counts : (B,) number of components per block, in block order.

    Returns
    -------
    (B + 1,) int64.
    """
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(block_counts, dtype=np.int64)))


def components_of(count: int, pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Classes of elements 0..count-1 under the equivalence that the pairs generate.

    Parameters
    ----------
    count : number of elements.
    pairs : (M, 2) elements that belong together, in any order, repeats allowed.

    Returns
    -------
    (count,) int64 class of each element, and the number of classes. Classes are 0, 1, 2 ... in the order of their
    smallest element, whatever the order of the pairs.
    """
    classes = np.arange(count, dtype=np.int64)
    number = _unite(classes, np.ascontiguousarray(pairs, dtype=np.int64).reshape(-1, 2))
    return classes, number


def final_ids(
    first_voxel: NDArray[np.int64], size: NDArray[np.int64], pairs: NDArray[np.int64], *, min_size: int = 0
) -> NDArray[np.uint64]:
    """Id in the whole volume of each element: 1..N without gaps, by the first voxel in raster order.

    Parameters
    ----------
    first_voxel : (count,) int64, flat index in the volume of the first voxel of each element.
    size : (count,) int64, voxels of each element.
    pairs : (M, 2) elements that belong together.
    min_size : objects of fewer voxels, all their elements together, get id 0; the others are ranked without them.

    Returns
    -------
    (count,) uint64. Without a filter it is the label that `scipy.ndimage.label` gives on the whole volume.
    """
    classes, number = components_of(len(first_voxel), pairs)
    class_size = np.zeros(number, np.int64)
    np.add.at(class_size, classes, size)
    class_first = np.full(number, np.iinfo(np.int64).max)
    np.minimum.at(class_first, classes, first_voxel)
    kept = np.flatnonzero(class_size >= min_size)
    ids = np.zeros(number, np.uint64)
    ids[kept[np.argsort(class_first[kept], kind="stable")]] = np.arange(1, len(kept) + 1, dtype=np.uint64)
    return ids[classes]


@njit(cache=True, nogil=True)
def join(parent: NDArray[np.int64], a: int, b: int) -> bool:
    """Join the trees of two elements in place; whether they were different trees.

    The larger root always hangs below the smaller, so a root is the smallest element of its tree.

    Parameters
    ----------
    parent : (count,) int64, a root is its own parent. For use inside numba kernels.
    a, b : elements.
    """
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    while parent[b] != b:
        parent[b] = parent[parent[b]]
        b = parent[b]
    parent[max(a, b)] = min(a, b)
    return bool(a != b)


@njit(cache=True, nogil=True)
def _unite(parent: NDArray[np.int64], pairs: NDArray[np.int64]) -> int:
    """Replace every element's parent by its class; return the number of classes."""
    for m in range(pairs.shape[0]):
        join(parent, pairs[m, 0], pairs[m, 1])
    number = 0
    for i in range(parent.size):  # parents come before children and already hold their class
        if parent[i] == i:
            parent[i] = number
            number += 1
        else:
            parent[i] = parent[parent[i]]
    return number
