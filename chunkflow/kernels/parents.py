"""How much of each object lies in which parent region: voxel counts that add up over blocks, and what they choose.

    object 7:   40 voxels in region 2,  31 in region 5,  31 outside     ->  parent 2, fraction 40 / 102, 3 places

An item belongs where most of it lies, "outside" (region 0) being a place too; of equal shares the smaller region
takes it, and any region before outside. Counts are exact; the choice is made once, on the whole volume's.

Scales with pairs that meet, not with voxels: an object per cell and a cell per object in the best case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Shared:
    """Voxels by pair of object and region, rows by object, then region; 0 is no object, or no region."""

    item: NDArray[np.uint64]
    """(M,) objects."""
    region: NDArray[np.uint64]
    """(M,) regions; not both are 0."""
    voxels: NDArray[np.int64]
    """(M,) > 0."""


@dataclass(frozen=True, slots=True)
class Parents:
    """Where each item belongs, by increasing item."""

    item: NDArray[np.uint64]
    """(K,) each once."""
    region: NDArray[np.uint64]
    """(K,) the region that has most of it, 0 for outside."""
    inside: NDArray[Any]
    """(K,) how much of it lies there."""
    total: NDArray[Any]
    """(K,) all of it."""
    places: NDArray[np.int64]
    """(K,) regions that hold some of it, outside counted as one."""


def block_shared(labels: NDArray[Any], regions: NDArray[Any]) -> Shared:
    """Pairs in one block; (Z, Y, X) unsigned labels and regions. Exact."""
    item, region = labels.ravel(), regions.ravel()
    is_first = np.ones(item.size, np.bool_)
    is_first[1:] = (item[1:] != item[:-1]) | (region[1:] != region[:-1])
    starts = np.flatnonzero(is_first)
    lengths = np.diff(starts, append=item.size)
    return _joined(item[starts].astype(np.uint64), region[starts].astype(np.uint64), lengths)


def merge_shared(parts: Sequence[Shared]) -> Shared:
    """Pairs of several blocks, or of several merges (at least one); exact in any order."""
    return _joined(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("item", "region", "voxels")))


def parents_of(item: NDArray[Any], region: NDArray[np.uint64], amount: NDArray[Any]) -> Parents:
    """The region that has most of each item (see the module).

    Parameters
    ----------
    item, region, amount : (M,) each pair once; amounts are voxels or lengths, >= 0. A region without any of an item is
        its parent only where no region has any.
    """
    outside_last = region - np.uint64(1)  # wraps, so that 0 is the largest
    order = np.lexsort((outside_last, -amount, item))
    starts = _starts(item[order])
    of_item = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
    total, places = np.zeros(len(starts), amount.dtype), np.zeros(len(starts), np.int64)
    np.add.at(total, of_item, amount[order])
    np.add.at(places, of_item, amount[order] > 0)
    chosen = order[starts]
    return Parents(item[chosen].astype(np.uint64), region[chosen], amount[chosen], total, places)


def _joined(item: NDArray[np.uint64], region: NDArray[np.uint64], voxels: NDArray[np.int64]) -> Shared:
    """Equal pairs added up, the pair of nothing with nothing left out."""
    known = (item != 0) | (region != 0)
    item, region, voxels = item[known], region[known], voxels[known]
    order = np.lexsort((region, item))
    item, region, voxels = item[order], region[order], voxels[order]
    starts = _starts(item, region)
    return Shared(item[starts], region[starts], np.add.reduceat(voxels, starts) if len(starts) else voxels)


def _starts(*columns: NDArray[Any]) -> NDArray[np.intp]:
    """Rows that differ from the one before."""
    is_first = np.zeros(len(columns[0]), np.bool_)
    is_first[:1] = True
    for column in columns:
        is_first[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(is_first)
