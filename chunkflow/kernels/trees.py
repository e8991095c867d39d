"""Probabilities from a random forest in plain arrays: one row per node of all trees, one tree after another.

    node         0        1     2      3     4   | 5     6    7
    left         1       -1     3     -1    -1   | 6    -1   -1      children stand behind their parents; -1 is a leaf
    right        2       -1     4     -1    -1   | 7    -1   -1
    roots        0                               | 5

A voxel goes left where its feature is at most the threshold, and a forest's probability is the mean of what the leaves
say, added up as float64 in the order of the trees: the same bits in every block. One thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

AT_ONCE = 4096
"""Voxels that go down a tree before the next one: the nodes of a tree then stay in the cache."""


def probability(
    features: NDArray[np.float32],
    *,
    roots: NDArray[np.int64],
    feature: NDArray[np.int32],
    threshold: NDArray[np.float64],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    value: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Probability of one class.

    Parameters
    ----------
    features : (..., F), contiguous
    roots : (T,) first node of each tree
    feature, threshold, left, right : (N,) of nodes; not looked at in leaves, but for `left`, which is -1 there
    value : (N,) share of the class in each leaf, 0..1

    Returns
    -------
    features.shape[:-1] float32; that of scikit-learn's `predict_proba` up to rounding to float32.
    """
    rows = features.reshape(-1, features.shape[-1])
    total = np.zeros(len(rows), np.float64)
    # Unsigned indices cannot count from the end, which numba would look for at every step: a third of the time. The
    # first node is nobody's child, so 0 is as good a mark of a leaf as -1.
    low, high = (np.maximum(child, 0).astype(np.uint32) for child in (left, right))
    _add_trees(rows, roots, feature.astype(np.uint32), threshold, low, high, value, total)
    total /= len(roots)
    return total.astype(np.float32).reshape(features.shape[:-1])


@njit(cache=True, nogil=True)
def _add_trees(
    rows: Any, roots: Any, feature: Any, threshold: Any, left: Any, right: Any, value: Any, total: Any
) -> None:
    for start in range(0, len(rows), AT_ONCE):
        for root in roots:
            for i in range(start, min(start + AT_ONCE, len(rows))):
                row, node = rows[i], np.uintp(root)
                child = left[node]
                while child != 0:
                    if row[np.uintp(feature[node])] > threshold[node]:
                        child = right[node]
                    node = np.uintp(child)
                    child = left[node]
                total[i] += value[node]
