"""Pruning of an assembled skeleton graph: nodes of degree 2 are merged away, short branches with a free end dropped.

Every node of degree 2 goes first, the chains on its two sides becoming one; then spurs are dropped, the shortest
first, and a junction that is left with two branches is merged in turn, which may make a new spur:

        o o o o C o o o          The branch down is shorter than the tube is thick at C: a bump of the surface.
                o                Dropping it leaves C with degree 2: left and right become one branch.
                o

Only branches with a free end go, never the last one of a component, so b0 and b1 stay. It works on the graph of the
whole volume, so it cannot depend on blocks.

Scale: linear in the chains' points and E log E in the branches, on one machine, in memory.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels.graph import Nodes, SkeletonGraph, ordered

Triple = tuple[float, float, float]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LENGTH_UNIT = 2.0**30
"""Lengths are counted in integers of 2^-30 of the smallest spacing: equal paths tie, whatever the order of steps."""
SLACK = 2.0**-20
"""A path within this part of the smallest spacing of its limit is as long as the limit: rounding decides nothing."""


class _Ends(NamedTuple):
    """The 2E ends of E branches (2b and 2b + 1 of branch b), which joining and dropping change in place.

    A joined run of branches is known by its two open ends: neither joined nor dropped.
    """

    node: Ints
    """The node of each end."""
    tip: Ints
    """(2E, 3) the chain's voxel at each end."""
    opposite: Ints
    """For an open end, the other open end of its run."""
    length: Ints
    """For an open end, the length of its run in `LENGTH_UNIT`."""
    partner: Ints
    """The end it is joined to, or -1."""
    dropped: NDArray[np.bool_]
    degree: Ints
    """(V,) open ends at each node; -1 where the node is gone."""
    rows: Ints
    """(V + 1,) the ends at node v are `at_node[rows[v]:rows[v + 1]]`."""
    at_node: Ints
    scale: Floats
    """(3,) spacing in units of the smallest."""


def prune(graph: SkeletonGraph, *, prune_radii: float, spacing_um: Triple, unit_um: float) -> SkeletonGraph:
    """Merge every node of degree 2 away and drop short branches with a free end.

    A branch with a free end goes if its length is less than `prune_radii` times the radius at its junction plus one
    voxel. Its length is that of its path along voxel centres in um, from the end to the junction's voxel that it
    touches; one voxel is the smallest spacing; the radius is the largest of the junction's voxels. The shortest goes
    first, ties by the first voxel of the end. A junction left with degree 2 is merged at once, so a branch is judged
    by its full length. A component that is a single branch stays, so neither b0 nor b1 changes.

    A merged chain steps from the voxel where one chain touched the node to the voxel where the other did. The node of
    an isolated cycle is its smallest voxel; the chain runs from there towards its smaller neighbour.

    Parameters
    ----------
    prune_radii : >= 0; 0 drops nothing, but merges.
    spacing_um : z, y, x size of a voxel.
    unit_um : um per unit of distance, radius = sqrt(d2) * unit_um.
    """
    smallest = min(spacing_um)
    ends = _ends_of(graph, np.asarray(spacing_um) / smallest)
    limit_um = prune_radii * np.sqrt(graph.nodes.d2.astype(np.float64)) * unit_um + (smallest if prune_radii else 0.0)
    _join_and_drop(ends, graph.nodes.first, (limit_um / smallest - SLACK) * LENGTH_UNIT)
    points, d2, offsets, pairs, is_ring = _walk(ends, graph.points, graph.d2, graph.offsets)
    nodes = _ring_nodes(graph, pairs[is_ring, 0], points[offsets[:-1][is_ring]], d2[offsets[:-1][is_ring]])
    kept = ends.degree >= 0
    rank = np.cumsum(kept) - 1
    return ordered(shape=graph.shape, nodes=nodes.take(kept), ends=rank[pairs], offsets=offsets, points=points, d2=d2)


def _ends_of(graph: SkeletonGraph, scale: Floats) -> _Ends:
    """The ends of all branches, none joined or dropped."""
    count = len(graph.node_a)
    node = np.stack((graph.node_a, graph.node_b), axis=1).ravel()
    tip = np.stack((graph.points[graph.offsets[:-1]], graph.points[graph.offsets[1:] - 1]), axis=1).reshape(-1, 3)
    degree = graph.degree
    return _Ends(
        node=node,
        tip=np.ascontiguousarray(tip),
        opposite=np.arange(2 * count) ^ 1,
        length=np.repeat(_path_lengths(graph.points, graph.offsets, scale), 2),
        partner=np.full(2 * count, -1, np.int64),
        dropped=np.zeros(2 * count, np.bool_),
        degree=degree,
        rows=np.concatenate((np.zeros(1, np.int64), np.cumsum(degree))),
        at_node=np.argsort(node, kind="stable"),
        scale=scale,
    )


def _ring_nodes(graph: SkeletonGraph, which: Ints, voxel: Ints, d2: Ints) -> Nodes:
    """The graph's nodes, those of isolated cycles moved to the cycle's smallest voxel."""
    old = graph.nodes
    position, distance, voxels, first = old.position.copy(), old.d2.copy(), old.voxels.copy(), old.first.copy()
    position[which], distance[which], voxels[which] = voxel, d2, 1
    first[which] = np.ravel_multi_index(tuple(voxel.T), graph.shape)
    return Nodes(position=position, label=old.label, d2=distance, voxels=voxels, first=first)


@njit(cache=True, nogil=True)
def _step(p: Ints, q: Ints, scale: Floats) -> int:
    """Distance of two voxels in `LENGTH_UNIT`."""
    dz, dy, dx = (p[0] - q[0]) * scale[0], (p[1] - q[1]) * scale[1], (p[2] - q[2]) * scale[2]
    return int(np.rint(np.sqrt(dz * dz + dy * dy + dx * dx) * LENGTH_UNIT))


@njit(cache=True, nogil=True)
def _path_lengths(points: Ints, offsets: Ints, scale: Floats) -> Ints:
    lengths = np.zeros(offsets.size - 1, np.int64)
    for b in range(lengths.size):
        for p in range(offsets[b] + 1, offsets[b + 1]):
            lengths[b] += _step(points[p - 1], points[p], scale)
    return lengths


@njit(cache=True, nogil=True)
def _join_and_drop(ends: _Ends, first: Ints, limit: Floats) -> None:
    """Merge nodes of degree 2, then drop spurs shorter than their junction's limit, the shortest first."""
    for node in range(ends.degree.size):
        if ends.degree[node] == 2:
            _join_at(node, ends)
    heap = [(ends.length[h], first[ends.node[h]], h) for h in range(ends.node.size) if _is_spur(h, ends, limit)]
    heapq.heapify(heap)
    while len(heap) > 0:
        length, _, h = heapq.heappop(heap)
        if not _is_spur(h, ends, limit) or length != ends.length[h]:
            continue  # it has become longer, or the last branch of its component
        root = ends.opposite[h]
        ends.dropped[h] = ends.dropped[root] = True
        ends.degree[ends.node[h]] = -1
        ends.degree[ends.node[root]] -= 1
        if ends.degree[ends.node[root]] != 2:
            continue
        grown = _join_at(ends.node[root], ends)
        if grown < 0:
            continue
        for g in (grown, ends.opposite[grown]):
            if _is_spur(g, ends, limit):
                heapq.heappush(heap, (ends.length[g], first[ends.node[g]], g))


@njit(cache=True, nogil=True)
def _is_open(h: int, ends: _Ends) -> bool:
    return ends.partner[h] < 0 and not ends.dropped[h]


@njit(cache=True, nogil=True)
def _is_spur(h: int, ends: _Ends, limit: Floats) -> bool:
    """Whether h is the free end of a run from a junction that is shorter than the junction's limit."""
    if not _is_open(h, ends) or ends.degree[ends.node[h]] != 1:
        return False
    junction = ends.node[ends.opposite[h]]
    return bool(ends.degree[junction] > 2 and ends.length[h] < limit[junction])


@njit(cache=True, nogil=True)
def _join_at(node: int, ends: _Ends) -> int:
    """Join the two runs at a node of degree 2; an open end of the new run, or -1 where the node holds a cycle."""
    left, right = -1, -1
    for q in range(ends.rows[node], ends.rows[node + 1]):
        h = ends.at_node[q]
        if _is_open(h, ends):
            left, right = right, h
    if ends.opposite[left] == right:
        return -1
    a, b = ends.opposite[left], ends.opposite[right]
    length = ends.length[left] + ends.length[right] + _step(ends.tip[left], ends.tip[right], ends.scale)
    ends.partner[left], ends.partner[right] = right, left
    ends.opposite[a], ends.opposite[b] = b, a
    ends.length[a] = ends.length[b] = length
    ends.degree[node] = -1
    return int(a)


@njit(cache=True, nogil=True)
def _walk(ends: _Ends, points: Ints, d2: Ints, offsets: Ints) -> tuple[Ints, Ints, Ints, Ints, NDArray[np.bool_]]:
    """The runs as chains: points, d2, offsets, nodes at both ends (E, 2), and whether it is an isolated cycle."""
    capacity = points.shape[0] + offsets.size
    out, out_d2 = np.empty((capacity, 3), np.int64), np.empty(capacity, np.int64)
    out_offsets = np.zeros(offsets.size, np.int64)
    pairs = np.empty((offsets.size, 2), np.int64)
    is_ring = np.zeros(offsets.size, np.bool_)
    count, size = 0, 0
    for h in range(ends.node.size):
        if not _is_open(h, ends) or ends.opposite[h] < h:
            continue
        start = size
        end = h
        while True:
            size = _append(end, points, d2, offsets, out, out_d2, start, size)
            end ^= 1
            if ends.partner[end] < 0:
                break
            end = ends.partner[end]
        pairs[count, 0], pairs[count, 1] = ends.node[h], ends.node[end]
        is_ring[count] = ends.node[h] == ends.node[end] and ends.degree[ends.node[h]] == 2
        if is_ring[count]:
            size = _close_ring(out, out_d2, start, size)
        count += 1
        out_offsets[count] = size
    return out[:size].copy(), out_d2[:size].copy(), out_offsets[: count + 1], pairs[:count], is_ring[:count]


@njit(cache=True, nogil=True)
def _append(end: int, points: Ints, d2: Ints, offsets: Ints, out: Ints, out_d2: Ints, start: int, size: int) -> int:
    """Append the chain of a branch from that end on, its first voxel not twice; the new size of `out`."""
    first, last = offsets[end >> 1], offsets[(end >> 1) + 1] - 1
    for step in range(last - first + 1):
        p = first + step if end & 1 == 0 else last - step
        if step == 0 and size > start and np.all(points[p] == out[size - 1]):
            continue
        out[size], out_d2[size] = points[p], d2[p]
        size += 1
    return size


@njit(cache=True, nogil=True)
def _close_ring(out: Ints, out_d2: Ints, start: int, size: int) -> int:
    """Turn a cycle in place so that it starts and ends at its smallest voxel, towards the smaller neighbour."""
    count = size - start
    if np.all(out[start] == out[size - 1]):
        count -= 1
    ring, ring_d2 = out[start : start + count].copy(), out_d2[start : start + count].copy()
    low = 0
    for p in range(1, count):
        if _is_before(ring[p], ring[low]):
            low = p
    step = 1 if _is_before(ring[(low + 1) % count], ring[low - 1]) else -1
    for p in range(count + 1):
        out[start + p], out_d2[start + p] = ring[(low + step * p) % count], ring_d2[(low + step * p) % count]
    return start + count + 1


@njit(cache=True, nogil=True)
def _is_before(p: Ints, q: Ints) -> bool:
    """Whether voxel p comes before q in raster order."""
    for axis in range(3):
        if p[axis] != q[axis]:
            return bool(p[axis] < q[axis])
    return False
