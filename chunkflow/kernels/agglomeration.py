"""Region-adjacency agglomeration: objects that an open boundary parts become one, the most open boundary first.

    boundary of two objects    the voxel faces between them; the value of a face is the higher relief of its two voxels
    merge                      while some boundary has a mean below the limit, the two objects with the lowest mean
                               become one; boundaries that they shared with a third add up

This is hierarchical clustering of the region adjacency graph by mean boundary value (Nunez-Iglesias et al., PLoS ONE 8,
e71715, 2013; "mean affinity" of waterz). A mean cannot be had from the parts of two blocks, a sum and a number of faces
can: reliefs are rounded to whole multiples of 2^-power, one power for the volume, so that sums are exact in any order,
and means are compared as the fractions they are. Boundaries of one mean are taken in the order of the pairs of objects
before any merge, a joined one counting as its first pair. So the result follows from the objects and the relief alone.

Objects that meet at edges or corners of voxels only have no boundary. The merge takes about 200 bytes and 3 to 6 us per
boundary, and an object has some 7 of them: 10^7 objects are 14 GB and a few minutes on the machine that merges. A
boundary has 2^31 faces at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
from numba import njit
from numba.core import types
from numba.typed import Dict
from numpy.typing import NDArray

from chunkflow.kernels.components import dense_labels

VALUE_BITS = 31  # of a rounded relief, so that int64 holds the sum over 2^31 faces
BEYOND = 2.0**40  # of a rounded value: more than any mean can be
_SLAB = 8  # planes whose faces are held at once: noise has three per voxel


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Boundaries between objects, one row per pair."""

    pair: NDArray[np.uint64]
    """(M, 2) the objects, smaller first; rows in lexicographic order."""
    faces: NDArray[np.int64]
    """(M,) voxel faces between them."""
    total: NDArray[np.int64]
    """(M,) sum over the faces of the higher relief of the two voxels, in units of 2^-power."""


def relief_power(highest: float) -> int:
    """The power of the rounded reliefs round(v * 2^power) of a volume whose largest absolute relief is `highest`.

    Float32 values are represented exactly down to 2^-7 of the largest, all others to 2^-32 of it.
    """
    if highest == 0:
        return 0
    _, exponent = np.frexp(np.float64(highest))
    return VALUE_BITS - int(exponent)


def rounded(values: Any, power: int) -> NDArray[np.int64]:
    """Reliefs in units of 2^-power, halves to even; what is far beyond any relief stays on its side of all of them."""
    limit = np.ldexp(BEYOND, -power)
    near = np.clip(np.asarray(values, np.float64), -limit, limit)
    return np.asarray(np.rint(np.ldexp(near, power)), np.int64)


def block_boundaries(labels: NDArray[Any], relief: NDArray[np.float32], power: int) -> Boundaries:
    """Boundaries between the objects of one block, as far as both sides of a face lie in it.

    Parameters
    ----------
    labels : (Z, Y, X) unsigned, 0 is nothing.
    relief : (Z, Y, X), finite on objects.
    """
    dense, present = dense_labels(labels)
    parts = [_nothing()]
    for first in range(0, len(dense) if len(present) > 1 else 0, _SLAB):
        for axis in range(3):
            here, there = _beside(dense.shape, axis, first)
            parts.append(seam_boundaries(dense[here], dense[there], relief[here], relief[there], power))
    found = merge_boundaries(parts)
    return Boundaries(present[found.pair.astype(np.int64) - 1], found.faces, found.total)


def _beside(shape: tuple[int, ...], axis: int, first: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Voxels of a slab from plane `first` on, and those behind them along an axis."""
    stop = min(first + _SLAB, shape[0] - (axis == 0))
    here = [slice(first, stop), slice(None), slice(None)]
    there = list(here)
    if axis == 0:
        there[0] = slice(first + 1, stop + 1)
    else:
        here[axis], there[axis] = slice(None, -1), slice(1, None)
    return tuple(here), tuple(there)


def seam_boundaries(
    labels_a: NDArray[Any], labels_b: NDArray[Any], relief_a: NDArray[Any], relief_b: NDArray[Any], power: int
) -> Boundaries:
    """Boundaries across the faces between voxels of two arrays: the planes on both sides of a seam.

    Parameters
    ----------
    labels_a, labels_b : unsigned, of one shape; a voxel of the one touches that of the other at its place.
    relief_a, relief_b : of that shape, finite on objects.
    """
    touch = (labels_a != labels_b) & (labels_a != 0) & (labels_b != 0)
    pair = np.sort(np.stack((labels_a[touch], labels_b[touch]), axis=-1).astype(np.uint64), axis=1)
    higher = np.maximum(relief_a[touch], relief_b[touch])
    return _added(pair, np.ones(len(pair), np.int64), rounded(higher, power))


def merge_boundaries(parts: Sequence[Boundaries]) -> Boundaries:
    """Boundaries of several blocks and seams, or of several merges; exact in any order."""
    names = ("pair", "faces", "total")
    pair, faces, total = (np.concatenate([getattr(part, n) for part in (_nothing(), *parts)]) for n in names)
    return _added(pair, faces, total)


def agglomerate(boundaries: Boundaries, count: int, limit: int) -> NDArray[np.int64]:
    """Which objects become one.

    Parameters
    ----------
    boundaries : all those between objects 1..count.
    limit : boundaries whose mean is below it do not last, in units of 2^-power.

    Returns
    -------
    (count,) int64: for object k at k - 1, the smallest of the objects that it is one with.
    """
    pair = boundaries.pair.astype(np.int64) - 1
    return np.asarray(_merged(pair, boundaries.faces.copy(), boundaries.total.copy(), count, limit) + 1)


def _nothing() -> Boundaries:
    return Boundaries(np.zeros((0, 2), np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64))


def _added(pair: NDArray[np.uint64], faces: NDArray[np.int64], total: NDArray[np.int64]) -> Boundaries:
    """Rows of equal pairs added up."""
    order = np.lexsort((pair[:, 1], pair[:, 0]))
    pair, faces, total = pair[order], faces[order], total[order]
    is_first = np.ones(len(pair), np.bool_)
    is_first[1:] = (pair[1:] != pair[:-1]).any(axis=1)
    starts = np.flatnonzero(is_first)
    if not len(starts):
        return Boundaries(pair, faces, total)
    return Boundaries(pair[starts], np.add.reduceat(faces, starts), np.add.reduceat(total, starts))


@njit(cache=True, nogil=True)
def _mean(total: int, faces: int) -> Any:
    """total / faces as its floor and the first 64 bits behind the point: two fractions of less than 2^32 faces that
    differ do so by more than 2^-64.
    """
    whole = total // faces
    rest, of, half = np.uint64(total - whole * faces), np.uint64(faces), np.uint64(32)
    high = (rest << half) // of
    low = (((rest << half) % of) << half) // of
    return whole, (high << half) | low


@njit(cache=True, nogil=True)
def _lists(ends: Any, count: int) -> Any:
    """For every object the list of its boundaries: first and last place, place behind each place, number of places.

    A place is 2 row + side.
    """
    head, tail, length = np.full(count, -1), np.full(count, -1), np.zeros(count, np.int64)
    following = np.full(2 * len(ends), -1)
    for place in range(2 * len(ends)):
        owner = ends[place >> 1, place & 1]
        following[place] = head[owner]
        if head[owner] < 0:
            tail[owner] = place
        head[owner] = place
        length[owner] += 1
    return head, tail, following, length


@njit(cache=True, nogil=True)
def _merged(pair: Any, faces: Any, total: Any, count: int, limit: int) -> Any:
    """The smallest member of the class of each of `count` objects.

    A boundary is known by its row. `ends` are the objects it parts, as they are by now; every object has a list of its
    boundaries, and the shorter list is the one to be gone through when two objects become one, so that no
    boundary is visited more than log2 of their number times. Heap entries of boundaries that have changed are stale.
    """
    ends = pair.copy()
    parent, lowest = np.arange(count), np.arange(count)
    lasts, stamp = np.ones(len(pair), np.bool_), np.zeros(len(pair), np.int64)
    head, tail, following, length = _lists(ends, count)
    row_of = Dict.empty(types.int64, types.int64)
    heap: Any = [(np.int64(0), np.uint64(0), np.int64(0), np.int64(0)) for _ in range(0)]
    for row in range(len(pair)):
        row_of[ends[row, 0] * count + ends[row, 1]] = row
        whole, part = _mean(total[row], faces[row])
        if whole < limit:
            heap.append((whole, part, np.int64(row), np.int64(0)))
    heapify(heap)
    while len(heap):
        _, _, row, seen = heappop(heap)
        if not lasts[row] or stamp[row] != seen:
            continue
        stays, goes = ends[row, 0], ends[row, 1]
        if length[stays] < length[goes]:
            stays, goes = goes, stays
        lasts[row] = False
        parent[goes] = stays
        lowest[stays] = min(lowest[stays], lowest[goes])
        place = head[goes]
        while place >= 0:
            row, side = place >> 1, place & 1
            place = following[place]
            if not lasts[row]:
                continue
            third = ends[row, 1 - side]
            ends[row, side] = stays
            row_of.pop(min(goes, third) * count + max(goes, third))
            key = min(stays, third) * count + max(stays, third)
            if key not in row_of:
                row_of[key] = row
                continue
            other = row_of[key]
            kept, lost = min(row, other), max(row, other)
            row_of[key] = kept
            lasts[lost] = False
            faces[kept] += faces[lost]
            total[kept] += total[lost]
            stamp[kept] += 1
            whole, part = _mean(total[kept], faces[kept])
            if whole < limit:
                heappush(heap, (whole, part, np.int64(kept), stamp[kept]))
        following[tail[stays]] = head[goes]
        tail[stays] = tail[goes]
        length[stays] += length[goes]
    for k in range(count):
        root = k
        while parent[root] != root:
            parent[root] = parent[parent[root]]
            root = parent[root]
        lowest[k] = lowest[root]
    return lowest
