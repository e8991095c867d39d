"""Which objects of two segmentations of the same voxels are one, by how much of them they share.

Two neighbouring tiles both see what lies near the border between them, and number it differently:

    tile a  . . . . . . . . . |h h h h          the shared voxels, twice h wide, carry numbers of both
    tile b            h h h h| . . . . . . .

Two objects are one when each is the other's partner and they are alike enough. The partner is what has most of an
object's shared voxels, background included (equal shares: the smaller number, background first); likeness is the mean
of both shares, (n / |a| + n / |b|) / 2 with n voxels in common and |a|, |b| counted in the shared voxels: the rule of
cluster_tools (Constantin Pape, github.com/constantinpape/cluster_tools). A pair that is alike enough without being
partners is ambiguous: the tiles disagree about where one object ends and the next begins.

Sorts the runs of equal pairs of numbers, about 50 bytes each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Pairs of objects that have voxels in common, one row each, in lexicographic order."""

    pair: NDArray[np.int64]
    """(M, 2) number in a, number in b, both above 0."""
    voxels: NDArray[np.int64]
    """(M,) voxels in common."""
    likeness: NDArray[np.float64]
    """(M,) mean of their shares of the two objects, above 0, up to 1."""
    is_mutual: NDArray[np.bool_]
    """(M,) whether each is the other's partner."""


def overlaps(a: NDArray[Any], b: NDArray[Any]) -> Overlaps:
    """Overlaps of two segmentations.

    Parameters
    ----------
    a, b : unsigned, of one shape: the same voxels; 0 is background. Exact, but for the rounding of `likeness`.
    """
    pair, voxels = _counted(a.ravel(), b.ravel())
    shares = [_shares(pair, voxels, side) for side in (0, 1)]
    is_pair = (pair > 0).all(axis=1)
    likeness = (shares[0][0] + shares[1][0]) / 2
    is_mutual = shares[0][1] & shares[1][1]
    return Overlaps(pair[is_pair], voxels[is_pair], likeness[is_pair], is_mutual[is_pair])


def _counted(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of numbers that occur, sorted, and how often."""
    if not a.size:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
    starts = np.flatnonzero(np.concatenate(([True], (a[1:] != a[:-1]) | (b[1:] != b[:-1]))))
    length = np.diff(starts, append=a.size)
    runs = np.stack((a[starts], b[starts]), axis=1).astype(np.int64)
    order = np.lexsort((runs[:, 1], runs[:, 0]))
    runs, length = runs[order], length[order]
    first = np.flatnonzero(np.concatenate(([True], (runs[1:] != runs[:-1]).any(axis=1))))
    return runs[first], np.add.reduceat(length, first)


def _shares(
    pair: NDArray[np.int64], voxels: NDArray[np.int64], side: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The share of each pair in the object of one side, and whether it is that object's largest."""
    own, other = pair[:, side], pair[:, 1 - side]
    present, rank = np.unique(own, return_inverse=True)
    size = np.zeros(len(present), np.int64)
    np.add.at(size, rank, voxels)
    order = np.lexsort((other, -voxels, rank))
    is_largest = np.zeros(len(pair), np.bool_)
    is_largest[order[np.searchsorted(rank[order], np.arange(len(present)))]] = True
    return voxels / size[rank], is_largest
