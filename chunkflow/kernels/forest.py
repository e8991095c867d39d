"""The merge of a watershed over slabs of blocks: from slots to labels, and from minima to seeds, of any volume.

Blocks have reduced their voxels to slots and to edges between them (`kernels.watershed`); a slab is a run of blocks
that touch only each other and those of the next slab. One sweep takes slab after slab and reduces what it has by the
same rule, the blocks so far being one block: a slot that touches the next slab is open, since its smallest edge may lie
there, and only open and seeded slots and the edges that may join them are carried on. What a slot has become is put
down on a shelf, and a sweep back names it. About 150 bytes per edge and slot of two slabs are held, however many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels.floods import find_root
from chunkflow.kernels.union import Shelf
from chunkflow.kernels.watershed import EDGE_COLUMNS, in_order, key_value

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Edges:
    """Edges of the slots of a slab, rows as in `watershed.EDGE_COLUMNS`.

    offsets : (B + 1,) first slot of each block, and their number.
    inner : (M, 8) between slots of this slab.
    ahead, block : (L, 8) from a slot of this slab to one of a block of the next slab; (L,) which block, from 0.
    """

    offsets: Ints
    inner: Ints
    ahead: Ints
    block: Ints


@dataclass(slots=True)
class _Carried:
    """What is carried on to the next slab: edges among carried slots, and edges from them to its blocks."""

    kept: Ints
    ahead: Ints
    block: Ints

    @classmethod
    def nothing(cls) -> _Carried:
        none = np.zeros((0, EDGE_COLUMNS), np.int64)
        return cls(none, none, np.zeros(0, np.int64))

    def joined(self, edges: Edges) -> Ints:
        """All edges among the slots of a slab and, behind them, the carried ones, in order."""
        slots = edges.offsets[-1]
        kept, back = self.kept.copy(), self.ahead.copy()
        kept[:, :2] += slots
        back[:, 0] += slots
        back[:, 1] += edges.offsets[self.block]
        return in_order(np.concatenate((edges.inner, kept, back)))

    @classmethod
    def of(cls, edges: Edges, joined: Ints, rows: Ints, ends: Ints, onward: Ints) -> _Carried:
        """What goes on: rows of the edges with these (2, K) ends, and those ahead, by place in `onward`."""
        kept, ahead = joined[rows], edges.ahead.copy()
        kept[:, :2] = np.searchsorted(onward, ends).T
        ahead[:, 0] = np.searchsorted(onward, ahead[:, 0])
        return cls(kept, ahead, edges.block)


def _open(edges: Edges, count: int) -> NDArray[np.bool_]:
    is_open = np.zeros(count, np.bool_)
    is_open[edges.ahead[:, 0]] = True
    return is_open


class FloodedLabels:
    """The label of every slot; 0 where no seed is connected.

    Parameters
    ----------
    slabs, number : in order, (n,) int64 labels of the slots (0 where a slot has none) and their edges; looked at once;
        and how many there are.
    """

    def __init__(self, slabs: Iterable[tuple[Ints, Edges]], number: int, shelf: Shelf) -> None:
        self._shelf, self._number = shelf, number
        carried, carried_label = _Carried.nothing(), np.zeros(0, np.int64)
        for slab, (label, edges) in enumerate(slabs):
            label = np.concatenate((label, carried_label))
            joined = carried.joined(edges)
            is_open = _open(edges, len(label))
            a, b = (np.ascontiguousarray(joined[:, column]) for column in (0, 1))
            slot, rows, ends = _flooded(label, is_open, a, b)
            onward = np.unique(np.concatenate((np.flatnonzero(is_open), ends.ravel())))
            shelf.put(
                f"slab-{slab}", {"slot": slot, "label": label, "onward": onward, "slots": np.array(edges.offsets[-1])}
            )
            carried, carried_label = _Carried.of(edges, joined, rows, ends, onward), label[onward]

    def __iter__(self) -> Iterator[tuple[int, Ints]]:
        """Each slab's number and the (n,) labels of its slots, the last slab first."""
        above = np.zeros(0, np.int64)
        for slab in range(self._number - 1, -1, -1):
            part = self._shelf.take(f"slab-{slab}")
            known = np.array(part["label"])
            known[part["onward"]] = above
            found = np.where(part["slot"] >= 0, known[part["slot"]], 0)
            slots = int(part["slots"])
            above = found[slots:]
            yield slab, found[:slots]


def surviving_minima(slabs: Iterable[tuple[Ints, Ints, Edges]], h: float) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Minima whose dynamics exceed `h`, and the lowest of each connected foreground.

    Parameters
    ----------
    slabs : in order, (n,) int64 index in the volume and (n,) int64 key of the minimum of each slot, and the edges.

    Returns
    -------
    (K,) index and (K,) key of each, and (K,) whether it is the lowest of its foreground; no minimum twice.
    """
    found: list[tuple[Ints, Ints, NDArray[np.bool_]]] = [
        (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    ]
    carried, carried_minimum, carried_key = _Carried.nothing(), np.zeros(0, np.int64), np.zeros(0, np.int64)
    for minimum, key, edges in slabs:
        minimum, key = np.concatenate((minimum, carried_minimum)), np.concatenate((key, carried_key))
        joined = carried.joined(edges)
        rank = np.empty(len(minimum), np.int64)
        rank[np.lexsort((minimum, key))] = np.arange(len(minimum))
        a, b = (np.ascontiguousarray(joined[:, column]) for column in (0, 1))
        deep, lowest, onward, rows, ends = _sunk(
            rank, key_value(key), _open(edges, len(minimum)), a, b, key_value(joined[:, 2]), h
        )
        ended = np.concatenate((deep, lowest))
        found.append((minimum[ended], key[ended], np.arange(len(ended)) >= len(deep)))
        carried, carried_minimum, carried_key = (
            _Carried.of(edges, joined, rows, ends, onward),
            minimum[onward],
            key[onward],
        )
    index, keys, is_lowest = (np.concatenate(column) for column in zip(*found, strict=True))
    return index, keys, is_lowest


@njit(cache=True, nogil=True)
def _flooded(label: Any, is_open: Any, a: Any, b: Any) -> Any:
    """The sweep over edges a[i], b[i], in order. A class holds one slot that is open or seeded, or none (free).

    An edge with a free side is that side's smallest: contract it. Between two that are not free: keep it if it joins
    two trees, all seeds being one, else drop it: it is the largest of a cycle.

    Returns the open or seeded slot of the class of each slot (-1: none), rows of the edges kept, and their (2, K) ends.
    """
    count = label.size
    parent, tree, size = np.arange(count), np.arange(count + 1), np.ones(count, np.int64)
    slot = np.full(count, -1, np.int64)
    for s in range(count):
        if label[s] > 0:
            slot[s], tree[s] = s, count
        elif is_open[s]:
            slot[s] = s
    rows, ends = np.empty(a.size, np.int64), np.empty((2, a.size), np.int64)
    kept = 0
    for i in range(a.size):
        p, q = find_root(parent, a[i]), find_root(parent, b[i])
        if p == q:
            continue
        if slot[p] >= 0 and slot[q] >= 0:
            s, t = find_root(tree, slot[p]), find_root(tree, slot[q])
            if s != t:
                tree[min(s, t)] = max(s, t)
                rows[kept], ends[0, kept], ends[1, kept] = i, slot[p], slot[q]
                kept += 1
            continue
        joined = max(slot[p], slot[q])
        if size[p] < size[q]:
            p, q = q, p
        parent[q] = p
        size[p] += size[q]
        slot[p] = joined
    for s in range(count):
        slot[s] = slot[find_root(parent, s)]
    return slot, rows[:kept].copy(), ends[:, :kept].copy()


@njit(cache=True, nogil=True)
def _sunk(rank: Any, depth: Any, is_open: Any, a: Any, b: Any, height: Any, h: float) -> Any:
    """The sweep over edges a[i], b[i] of these heights, in order: at each the younger minimum ends, if all its edges
    are seen; the root of a class is its oldest minimum. One that meets a younger open class cannot be decided either.

    Returns slots: those that end more than h above their depth, and the lowest of closed foreground; those that go on;
    rows of the edges kept between them, and their (2, K) ends.
    """
    count = rank.size
    parent, tree = np.arange(count), np.arange(count)
    is_stuck = is_open.copy()
    deep = np.empty(count, np.int64)
    found = 0
    rows, ends = np.empty(a.size, np.int64), np.empty((2, a.size), np.int64)
    kept = 0
    for i in range(a.size):
        old, young = find_root(parent, a[i]), find_root(parent, b[i])
        if old == young:
            continue
        if rank[old] > rank[young]:
            old, young = young, old
        if not is_stuck[young]:
            if height[i] - depth[young] > h:
                deep[found] = young
                found += 1
            parent[young] = old
            continue
        is_stuck[old] = True
        s, t = find_root(tree, old), find_root(tree, young)
        if s != t:
            tree[max(s, t)] = min(s, t)
            rows[kept], ends[0, kept], ends[1, kept] = i, old, young
            kept += 1
    is_root = parent == np.arange(count)
    lowest, onward = np.flatnonzero(is_root & ~is_stuck), np.flatnonzero(is_root & is_stuck)
    return deep[:found].copy(), lowest, onward, rows[:kept].copy(), ends[:, :kept].copy()
