"""The compiled sweeps of the watershed: what `kernels.watershed` runs over the voxels of a frame and over edges.

A frame is flat arrays of a core and two voxels around it: `key` (uint32) and `tie` (int64) order its voxels, with the
index behind them; `own` (bool) is the foreground of the core; `offsets` are the steps to neighbours. What is not there
has the largest key and tie, and so has the outermost layer, except in `on_plateau`: no bounds are checked. Voxels of a
frame are numbered in int32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Triple = tuple[int, int, int]

ABSENT_KEY = np.uint32(2**32 - 1)
ABSENT_TIE = np.int64(2**63 - 1)


@njit(cache=True, nogil=True, inline="always")
def _lower(key: Any, tie: Any, u: int, v: int) -> bool:
    if key[u] != key[v]:
        return bool(key[u] < key[v])
    if tie[u] != tie[v]:
        return bool(tie[u] < tie[v])
    return u < v


@njit(cache=True, nogil=True, inline="always")
def find_root(parent: Any, i: int) -> int:
    """The root of the tree of i; paths are halved on the way."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, nogil=True)
def on_plateau(key: Any, tie: Any, shape: Triple, offsets: Any) -> Any:
    """Voxels inside the outermost layer of a frame that have a neighbour of the same key."""
    flat = np.zeros(key.size, np.bool_)
    for z in range(1, shape[0] - 1):
        for y in range(1, shape[1] - 1):
            for v in range((z * shape[1] + y) * shape[2] + 1, (z * shape[1] + y + 1) * shape[2] - 1):
                if tie[v] == ABSENT_TIE:
                    continue
                same = False
                for k in range(offsets.size):
                    same |= key[v + offsets[k]] == key[v]  # no voxel that is there has the key of those that are not
                flat[v] = same
    return np.flatnonzero(flat)


@njit(cache=True, nogil=True)
def descend(key: Any, tie: Any, own: Any, seed_slot: Any, offsets: Any) -> Any:
    """Basins by steepest descent.

    Returns the basin of each voxel (-1 where it is not the block's), the root of each basin, whether the smallest edge
    of the root leaves the block, and the voxels that have an edge to a lower voxel of another basin or block.
    """
    n = key.size
    basin = np.full(n, -1, np.int32)
    root = np.empty(n, np.int32)
    leaves = np.empty(n, np.bool_)
    count = 0
    for v in range(n):  # a pointer to the lowest lower neighbour, or -2 - basin at a root
        if not own[v]:
            continue
        best = v
        if seed_slot[v] < 0:
            lowest = key[v]
            for k in range(offsets.size):
                u = v + offsets[k]
                if key[u] < lowest or (key[u] == lowest and _lower(key, tie, u, best)):
                    best, lowest = u, key[u]
        if best != v and own[best]:
            basin[v] = best
        else:
            basin[v] = -2 - count
            root[count] = v
            leaves[count] = best != v
            count += 1
    stack = np.empty(n, np.int32)
    for v in range(n):
        depth = 0
        x = v
        while basin[x] >= 0:
            stack[depth] = x
            depth += 1
            x = basin[x]
        for j in range(depth):
            basin[stack[j]] = basin[x]
    for v in range(n):
        basin[v] = -2 - basin[v] if basin[v] < -1 else -1
    return basin, root[:count].copy(), leaves[:count].copy(), _with_lower_neighbours(key, tie, own, basin, offsets)


@njit(cache=True, nogil=True)
def _with_lower_neighbours(key: Any, tie: Any, own: Any, basin: Any, offsets: Any) -> Any:
    """Voxels that have an edge to a lower voxel of another basin or block."""
    half = offsets[offsets > 0]  # every edge once
    is_higher = np.zeros(key.size, np.bool_)
    for v in range(key.size):
        if tie[v] == ABSENT_TIE:
            continue
        for k in range(half.size):
            u = v + half[k]
            if basin[u] != basin[v] and (own[u] or own[v]) and tie[u] != ABSENT_TIE:
                is_higher[v if _lower(key, tie, u, v) else u] = True
    return np.flatnonzero(is_higher).astype(np.int32)


@njit(cache=True, nogil=True)
def radix_order(key: Any, digits: int) -> Any:
    """Stable order of unsigned keys, by a radix sort with digits of 11 bits; digits that never differ are skipped."""
    n = key.size
    order = np.arange(n)
    other = np.empty(n, np.int64)
    for digit in range(digits):
        shift = np.uint64(11 * digit)
        place = np.zeros(2049, np.int64)
        for i in range(n):
            place[((key[i] >> shift) & np.uint64(2047)) + np.uint64(1)] += 1
        if place.max() == n:
            continue
        for j in range(2048):
            place[j + 1] += place[j]
        for i in range(n):
            d = (key[order[i]] >> shift) & np.uint64(2047)
            other[place[d]] = order[i]
            place[d] += 1
        order, other = other, order
    return order


@njit(cache=True, nogil=True, inline="always")
def _lower_neighbours(v: int, basin: Any, key: Any, tie: Any, own: Any, offsets: Any, found: Any) -> int:
    """The lowest lower neighbour of v in each other basin, lowest first; of a voxel of another block, in this one.

    Larger edges between v and the same basin close a cycle. All that is not in the block counts as one basin here:
    its first edge says that v's basin is stuck, and others say nothing new.
    """
    count = 0
    for k in range(offsets.size):
        u = v + offsets[k]
        if basin[u] == basin[v] or not (own[u] or own[v]) or not _lower(key, tie, u, v):
            continue
        j = 0
        while j < count and basin[found[j]] != basin[u]:
            j += 1
        if j == count:
            count += 1
        elif not _lower(key, tie, u, found[j]):
            continue
        while j > 0 and _lower(key, tie, u, found[j - 1]):
            found[j] = found[j - 1]
            j -= 1
        found[j] = u
    return count


@njit(cache=True, nogil=True)
def flood(
    active: Any, basin: Any, seed: Any, leaves: Any, key: Any, tie: Any, own: Any, seeds: int, offsets: Any
) -> Any:
    """The sweep for labels. Returns the slot of each basin (-1: none), the number of slots, and the edges kept."""
    basins = seed.size
    parent = np.arange(basins).astype(np.int32)
    size = np.ones(basins, np.int32)
    slot = np.full(basins, -1, np.int32)
    tree = np.empty(seeds + basins, np.int32)  # of slots; all seeds hang on one root
    tree[:seeds] = 0
    count = seeds
    for b in range(basins):
        if seed[b] >= 0:
            slot[b] = seed[b]
        elif leaves[b]:
            slot[b] = count
            tree[count] = count
            count += 1
    ends = np.empty((4, seeds + basins), np.int64)
    kept = 0
    lower = np.empty(offsets.size, np.int64)
    for i in range(active.size):
        v = active[i]
        for j in range(_lower_neighbours(v, basin, key, tie, own, offsets, lower)):
            u = lower[j]
            if not (own[v] and own[u]):
                a = find_root(parent, basin[v] if own[v] else basin[u])
                if slot[a] < 0:
                    slot[a] = count
                    tree[count] = count
                    count += 1
                continue
            a, b = find_root(parent, basin[v]), find_root(parent, basin[u])
            if a == b:
                continue
            if slot[a] >= 0 and slot[b] >= 0:
                s, t = find_root(tree, slot[a]), find_root(tree, slot[b])
                if s != t:
                    tree[max(s, t)] = min(s, t)
                    ends[0, kept], ends[1, kept], ends[2, kept], ends[3, kept] = slot[a], slot[b], v, u
                    kept += 1
                continue
            joined = max(slot[a], slot[b])
            if size[a] < size[b]:
                a, b = b, a
            parent[b] = a
            size[a] += size[b]
            slot[a] = joined
    for b in range(basins):
        slot[b] = slot[find_root(parent, b)]
    return slot, count, (ends[0, :kept].copy(), ends[1, :kept].copy(), ends[2, :kept].copy(), ends[3, :kept].copy())


@njit(cache=True, nogil=True)
def sink(
    active: Any,
    basin: Any,
    root: Any,
    leaves: Any,
    key: Any,
    tie: Any,
    own: Any,
    depth: Any,
    height: Any,
    h: float,
    offsets: Any,
) -> Any:
    """The sweep for minima. Trees of basins have their lowest basin as root.

    Returns the slot of each basin (-1: decided), the lowest basin of each slot, the edges kept, and basins: those deep
    enough, and the lowest of foreground that does not leave the block.
    """
    basins = root.size
    parent = np.arange(basins).astype(np.int32)
    slot = np.full(basins, -1, np.int32)
    tree = np.arange(basins).astype(np.int32)
    lowest_of = np.empty(basins, np.int64)
    count = 0
    for b in range(basins):
        if leaves[b]:
            slot[b] = count
            lowest_of[count] = b
            count += 1
    ends = np.empty((4, basins), np.int64)
    kept = 0
    deep = np.empty(basins, np.int64)
    found = 0
    lower = np.empty(offsets.size, np.int64)
    for i in range(active.size):
        v = active[i]
        for j in range(_lower_neighbours(v, basin, key, tie, own, offsets, lower)):
            u = lower[j]
            if not (own[v] and own[u]):
                a = find_root(parent, basin[v] if own[v] else basin[u])
                if slot[a] < 0:
                    slot[a] = count
                    lowest_of[count] = a
                    count += 1
                continue
            a, b = find_root(parent, basin[v]), find_root(parent, basin[u])
            if a == b:
                continue
            if _lower(key, tie, root[b], root[a]):
                a, b = b, a
            if slot[b] < 0:  # the younger is closed below this edge: it ends here
                if height[i] - depth[b] > h:
                    deep[found] = b
                    found += 1
                parent[b] = a
                continue
            if slot[a] < 0:
                slot[a] = count
                lowest_of[count] = a
                count += 1
            s, t = find_root(tree, slot[a]), find_root(tree, slot[b])
            if s != t:
                tree[max(s, t)] = min(s, t)
                ends[0, kept], ends[1, kept], ends[2, kept], ends[3, kept] = slot[a], slot[b], v, u
                kept += 1
    closed = np.empty(basins, np.int64)
    number = 0
    for b in range(basins):
        if parent[b] == b and slot[b] < 0:
            closed[number] = b
            number += 1
    for b in range(basins):
        slot[b] = slot[find_root(parent, b)]
    edges = (ends[0, :kept].copy(), ends[1, :kept].copy(), ends[2, :kept].copy(), ends[3, :kept].copy())
    return slot, lowest_of[:count].copy(), edges, deep[:found].copy(), closed[:number].copy()


@njit(cache=True, nogil=True)
def slot_of_voxels(basin: Any, slot: Any) -> Any:
    """Slots from 1, 0 where there is none."""
    found = np.zeros(basin.size, np.uint32)
    for v in range(basin.size):
        if basin[v] >= 0:
            found[v] = slot[basin[v]] + 1
    return found


@njit(cache=True, nogil=True)
def count_slots(slots: Any, first: Any, size: Any) -> None:
    """Fill in the first voxel of every slot and the number of its voxels (zeros before)."""
    for i in range(slots.size):
        if slots[i] > 0:
            s = slots[i] - 1
            if size[s] == 0:
                first[s] = i
            size[s] += 1


@njit(cache=True, nogil=True)
def smallest_of_runs(edges: Any) -> Any:
    """Row of the smallest edge of each run of equal pairs."""
    rows = np.empty(edges.shape[0], np.int64)
    count = 0
    for i in range(edges.shape[0]):
        if i == 0 or edges[i, 0] != edges[i - 1, 0] or edges[i, 1] != edges[i - 1, 1]:
            rows[count] = i
            count += 1
            continue
        best = rows[count - 1]
        for column in range(2, 8):
            if edges[i, column] != edges[best, column]:
                if edges[i, column] < edges[best, column]:
                    rows[count - 1] = i
                break
    return rows[:count].copy()
