"""Union-find over the pieces of all blocks: from pairs of touching pieces to the ids of the whole volume.

Pieces are elements 0..N-1, block after block (`element_offsets`); a seam gives pairs of them. The classes do not
depend on the order of pairs or elements, because the representative of a class is its smallest element, and neither do
the ids, because they are ranked by the first voxel in the volume. So any blocks give the ids of a whole-volume run.

`components_of` holds 8 bytes per element beside its pairs. The classes of a whole volume are found in two sweeps over
slabs of blocks (`FinalIds`), with about 60 bytes for each piece of two slabs; the rest lies on a shelf.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]

DROPPED = -1
"""In place of a first voxel: of objects that are filtered out, or that go on in the next slab."""


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


class Shelf(Protocol):
    """Where a merge puts down what it cannot hold: arrays by name, each taken once or more."""

    def put(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Put arrays down under a name that is not taken yet."""

    def take(self, name: str) -> Mapping[str, NDArray[Any]]:
        """The arrays under a name."""


@dataclass(frozen=True, slots=True)
class Slab:
    """Pieces of a run of blocks that touch only each other and those of the next slab.

    first : (n,) int64, flat index in the volume of the first voxel of each piece, block after block.
    size : (n,) int64, voxels of each piece.
    excluded : (n,) bool, pieces whose whole object is to be dropped.
    offsets : (B + 1,) first piece of each block, and n (`element_offsets`).
    inner : (M, 2) pairs of pieces of this slab that belong together.
    ahead : (L, 3) a piece of this slab, and what it belongs together with: block of the next slab (0..), piece of it.
    """

    first: Ints
    size: Ints
    excluded: NDArray[np.bool_]
    offsets: Ints
    inner: Ints
    ahead: Ints


class FinalIds:
    """Ids in the whole volume of all pieces: 1..N without gaps, by the first voxel in raster order.

    One sweep over the slabs joins pieces and carries on only the classes that the next slab touches; what ends is an
    object, and its first voxel is put down in a bucket of its part of the volume. The buckets are sorted one by one,
    and a sweep back hands every piece its id. So two slabs and one bucket are held, however many there are.

    Parameters
    ----------
    slabs, number : the slabs in order, looked at once, and how many they are.
    voxels : of the volume.
    min_size : objects of fewer voxels, all their pieces together, get id 0; the others are ranked without them.

    Attributes
    ----------
    count : N. Without a filter the ids are the labels that `scipy.ndimage.label` gives on the whole volume.
    """

    def __init__(self, slabs: Iterable[Slab], number: int, shelf: Shelf, *, voxels: int, min_size: int = 0) -> None:
        self._shelf, self._slabs, self._min_size = shelf, number, min_size
        self._width = max(1, -(-voxels // max(1, self._slabs)))
        self._waiting: dict[int, list[str]] = {}
        self._sweep(slabs)
        self._before = self._sort_buckets()
        self.count = int(self._before[-1])

    def _sweep(self, slabs: Iterable[Slab]) -> None:
        carried_first = carried_size = np.zeros(0, np.int64)
        carried_excluded = np.zeros(0, np.bool_)
        touched = np.zeros((0, 3), np.int64)
        for number, slab in enumerate(slabs):
            pieces = len(slab.first)
            back = np.stack((pieces + touched[:, 0], slab.offsets[touched[:, 1]] + touched[:, 2]), axis=1)
            classes, count = components_of(pieces + len(carried_first), np.concatenate((slab.inner, back)))
            size = np.zeros(count, np.int64)
            np.add.at(size, classes, np.concatenate((slab.size, carried_size)))
            first = np.full(count, np.iinfo(np.int64).max)
            np.minimum.at(first, classes, np.concatenate((slab.first, carried_first)))
            onward = np.unique(classes[slab.ahead[:, 0]])
            excluded = np.zeros(count, np.bool_)
            excluded[classes[np.concatenate((slab.excluded, carried_excluded))]] = True
            first_of_ended = np.where((size >= self._min_size) & ~excluded, first, DROPPED)
            first_of_ended[onward] = DROPPED
            self._put_down(number, first_of_ended[first_of_ended != DROPPED])
            self._shelf.put(
                f"slab-{number}",
                {
                    "classes": classes.astype(np.uint32 if count < 2**32 else np.int64),
                    "pieces": np.array(pieces),
                    "first": first_of_ended,
                    "onward": onward,
                },
            )
            carried_first, carried_size, carried_excluded = first[onward], size[onward], excluded[onward]
            touched = slab.ahead.copy()
            touched[:, 0] = np.searchsorted(onward, classes[slab.ahead[:, 0]])

    def _put_down(self, slab: int, first: Ints) -> None:
        """Put the first voxels of objects that end in a slab into the buckets of their parts of the volume."""
        first = np.sort(first)
        for bucket, rows in _runs(first // self._width):
            name = f"first-{bucket}-{slab}"
            self._shelf.put(name, {"first": first[rows]})
            self._waiting.setdefault(bucket, []).append(name)

    def _sort_buckets(self) -> Ints:
        """Sort every bucket; returns the number of objects before each, and their total."""
        counts = np.zeros(self._slabs, np.int64)
        for bucket, names in self._waiting.items():
            first = np.sort(np.concatenate([self._shelf.take(name)["first"] for name in names]))
            self._shelf.put(f"sorted-{bucket}", {"first": first})
            counts[bucket] = len(first)
        return element_offsets(counts)

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        """Each slab's number and the (n,) ids of its pieces, the last slab first."""
        above = np.zeros(0, np.uint64)
        for number in range(self._slabs - 1, -1, -1):
            part = self._shelf.take(f"slab-{number}")
            ids = self._ids(part["first"])
            ids[part["onward"]] = above
            ids = ids[part["classes"]]
            pieces = int(part["pieces"])
            above = ids[pieces:]
            yield number, ids[:pieces]

    def _ids(self, first: Ints) -> NDArray[np.uint64]:
        """Ids of objects by their first voxel, 0 of those that were dropped."""
        ids = np.zeros(len(first), np.uint64)
        order = np.argsort(first, kind="stable")[np.count_nonzero(first == DROPPED) :]
        for bucket, rows in _runs(first[order] // self._width):
            known = self._shelf.take(f"sorted-{bucket}")["first"]
            ids[order[rows]] = self._before[bucket] + np.searchsorted(known, first[order[rows]]) + 1
        return ids


class KeptValues:
    """Which values of an input that is labels are kept, whatever blocks they lie in; they keep their number.

    Parameters
    ----------
    tables : of the pieces of each slab: values (n,) uint64, voxels (n,) int64, and whether their whole object is to be
        dropped (n,) bool; looked at once, in order.
    number : how many slabs there are.
    min_size : as in `FinalIds`.

    Attributes
    ----------
    count, largest : of the values kept; 0 where there is none.
    """

    def __init__(
        self,
        tables: Iterable[tuple[NDArray[np.uint64], Ints, NDArray[np.bool_]]],
        number: int,
        shelf: Shelf,
        *,
        min_size: int = 0,
    ) -> None:
        self._shelf, self._slabs = shelf, number
        waiting: dict[int, list[str]] = {}
        for slab, (values, sizes, excluded) in enumerate(tables):
            shelf.put(f"slab-{slab}", {"value": values})
            for bucket, rows in self._buckets(values):
                name = f"value-{bucket}-{slab}"
                shelf.put(name, _totals(values[rows], sizes[rows], excluded[rows]))
                waiting.setdefault(bucket, []).append(name)
        self.count = self.largest = 0
        for bucket, names in waiting.items():
            parts = [shelf.take(name) for name in names]
            total = _totals(*(np.concatenate([part[key] for part in parts]) for key in ("value", "size", "excluded")))
            kept = total["value"][(total["size"] >= min_size) & ~total["excluded"]]
            shelf.put(f"kept-{bucket}", {"value": kept})
            self.count += len(kept)
            self.largest = max(self.largest, int(kept.max(initial=0)))

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        """Each slab's number and the (n,) values of its pieces, 0 where they are dropped."""
        for number in range(self._slabs):
            values = np.array(self._shelf.take(f"slab-{number}")["value"])
            for bucket, rows in self._buckets(values):
                kept = self._shelf.take(f"kept-{bucket}")["value"]
                values[rows[~np.isin(values[rows], kept)]] = 0
            yield number, values

    def _buckets(self, values: NDArray[np.uint64]) -> Iterator[tuple[int, NDArray[np.intp]]]:
        bucket = values % np.uint64(max(1, self._slabs))
        order = np.argsort(bucket, kind="stable")
        return ((number, order[rows]) for number, rows in _runs(bucket[order]))


def _runs(values: NDArray[Any]) -> Iterator[tuple[int, slice]]:
    """The different values of a sorted array, and where each stands."""
    ends = np.flatnonzero(values[1:] != values[:-1]) + 1
    edges = [0, *ends.tolist(), len(values)] if len(values) else []
    for start, stop in pairwise(edges):
        yield int(values[start]), slice(start, stop)


def _totals(values: NDArray[np.uint64], sizes: Ints, excluded: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """The different values, the voxels of each, and whether any of its pieces is excluded."""
    present, inverse = np.unique(values, return_inverse=True)
    total = np.zeros(len(present), np.int64)
    np.add.at(total, inverse, sizes)
    is_excluded = np.zeros(len(present), np.bool_)
    is_excluded[inverse[excluded]] = True
    return {"value": present, "size": total, "excluded": is_excluded}


@njit(cache=True, nogil=True)
def join(parent: NDArray[Any], a: int, b: int) -> bool:
    """Join the trees of two elements in place; whether they were different trees.

    The larger root always hangs below the smaller, so a root is the smallest element of its tree.

    Parameters
    ----------
    parent : (count,) signed integers, a root is its own parent. For use inside numba kernels.
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
