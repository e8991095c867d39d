"""Clusters: the parts of a skeleton that are not chains, and the loops inside them.

A cluster is a 26-component of the voxels that are not regular (see `chunkflow.kernels.graph`). One without a loop
inside becomes one node. Any other is expanded: its voxels become nodes, joined by a spanning tree and by one edge for
each of its loops, so that the graph has the loops of the voxels whatever the cluster's shape.

Loops are those of the union of closed voxels. Boxes that meet in pairs meet all together, so the union has the homotopy
type of the flag complex of 26-adjacency: voxels, touching pairs, triples that touch each other, and so on.

Scale: the clusters of one-dimensional skeletons have a few voxels and collapse to a point in linear time. Where a loop
may be left (surfaces around a hole, dense noise) a reduction over GF(2) decides, linear in practice and cubic at worst:
10^5 voxels of noise in one cluster take a second, a surface of 3 * 10^5 two, and 0.8 kB per voxel.
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels.union import components_of

Ints = NDArray[np.int64]
Numbers = NDArray[np.int32]
"""Of edges and triangles, of which a cluster has fewer than 2^31."""
Bools = NDArray[np.bool_]


def cluster_nodes(rows: Ints, cols: Ints, coords: Ints, member: Bools) -> tuple[Ints, Ints]:
    """Node of each voxel, and the edges inside expanded clusters.

    Parameters
    ----------
    rows, cols : (N + 1,) and (M,) int64; the 26-neighbours of voxel i are `cols[rows[i]:rows[i + 1]]`, ascending.
    coords : (N, 3) int64, in raster order.
    member : (N,) bool, the voxels that clusters are made of.

    Returns
    -------
    node_of : (N,) int64, the number of the first voxel of the node that the voxel belongs to, -1 for non-members.
    edges : (K, 2) int64, voxel numbers, each voxel a node of its own.
    """
    here = np.repeat(np.arange(len(member)), np.diff(rows))
    inside = member[here] & member[cols] & (here < cols)
    pairs = np.stack((here[inside], cols[inside]), axis=1)
    classes, count = components_of(len(member), pairs)
    left = np.bincount(classes[_collapse(rows, cols, coords, member)], minlength=count)
    first = np.unique(classes, return_index=True)[1]
    node_of = np.where(member, first[classes], -1)
    edges = _expand(np.flatnonzero(left > 1), classes, coords, pairs, node_of)
    return node_of, edges


def _expand(suspects: Ints, classes: Ints, coords: Ints, pairs: Ints, node_of: Ints) -> Ints:
    """Edges inside the suspects that do hold a loop; there every voxel becomes its own node, `node_of` in place."""
    by_class = np.argsort(classes, kind="stable")
    bounds = np.searchsorted(classes[by_class], np.stack((suspects, suspects + 1)))
    pair_class = classes[pairs[:, 0]]
    pairs_by_class = np.argsort(pair_class, kind="stable")
    pair_bounds = np.searchsorted(pair_class[pairs_by_class], np.stack((suspects, suspects + 1)))
    edges = [np.empty((0, 2), np.int64)]
    for k in range(len(suspects)):
        members = by_class[bounds[0, k] : bounds[1, k]]
        own = pairs[pairs_by_class[pair_bounds[0, k] : pair_bounds[1, k]]]
        tree, loops = expanded_edges(coords[members], np.searchsorted(members, own))
        if len(loops):
            node_of[members] = members
            edges.append(members[np.concatenate((tree, loops))])
    return np.concatenate(edges)


def expanded_edges(coords: Ints, pairs: Ints) -> tuple[Ints, Ints]:
    """Spanning tree and loop edges of one 26-connected cluster of voxels.

    Edges of the flag complex enter by (length^2, first voxel, second voxel). One that joins two parts is in the tree;
    one that closes a loop is a loop edge, unless a triangle kills that loop (persistent homology over GF(2):
    Edelsbrunner, Letscher & Zomorodian 2002).

    Parameters
    ----------
    coords : (n, 3) int64, in raster order.
    pairs : (m, 2) int64, every pair of touching voxels i < j.

    Returns
    -------
    tree (n - 1, 2) and loops (b1, 2), rows i < j of voxel numbers.
    """
    squared = ((coords[pairs[:, 0]] - coords[pairs[:, 1]]) ** 2).sum(axis=1)
    edges = np.ascontiguousarray(pairs[np.lexsort((pairs[:, 1], pairs[:, 0], squared))])
    in_tree = _spanning_tree(edges, len(coords))
    killed = _killed_edges(_triangles(edges, len(coords)), in_tree)
    return edges[in_tree], edges[~in_tree & ~killed]


@njit(cache=True, nogil=True)
def _touch(coords: Ints, i: int, j: int) -> bool:
    """Whether two voxels are 26-neighbours or the same."""
    near = True
    for axis in range(3):
        near &= abs(coords[i, axis] - coords[j, axis]) <= 1
    return near


@njit(cache=True, nogil=True)
def _collapse(rows: Ints, cols: Ints, coords: Ints, member: Bools) -> Bools:
    """Members that are left when dominated ones go, one at a time, until none is dominated.

    v is dominated when a neighbour touches all of v's other neighbours; removing it keeps the homotopy type (strong
    collapse, Barmak & Minian 2012). A cluster with one voxel left has no loop. Clusters of 1-D skeletons nearly all
    end so, which spares them the reduction.
    """
    left = member.copy()
    queued = member.copy()
    stack = [i for i in range(member.size) if member[i]]
    while stack:
        v = stack.pop()
        queued[v] = False
        if not left[v] or not _is_dominated(v, rows, cols, coords, left):
            continue
        left[v] = False
        for q in range(rows[v], rows[v + 1]):
            if left[cols[q]] and not queued[cols[q]]:
                queued[cols[q]] = True
                stack.append(cols[q])
    return left


@njit(cache=True, nogil=True)
def _is_dominated(v: int, rows: Ints, cols: Ints, coords: Ints, left: Bools) -> bool:
    for q in range(rows[v], rows[v + 1]):
        if not left[cols[q]]:
            continue
        touches_all = True
        for r in range(rows[v], rows[v + 1]):
            if left[cols[r]] and not _touch(coords, cols[q], cols[r]):
                touches_all = False
                break
        if touches_all:
            return True
    return False


@njit(cache=True, nogil=True)
def _spanning_tree(edges: Ints, count: int) -> Bools:
    """Which edges join two parts when they enter in this order (Kruskal 1956)."""
    parent = np.arange(count)
    joins = np.zeros(edges.shape[0], np.bool_)
    for e in range(edges.shape[0]):
        a, b = edges[e, 0], edges[e, 1]
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        if a != b:
            parent[max(a, b)] = min(a, b)
            joins[e] = True
    return joins


def _triangles(edges: Ints, count: int) -> Numbers:
    """(T, 3) the edges of every triangle in descending order of entry; rows in the order they enter."""
    by_key = np.argsort(edges[:, 0] * count + edges[:, 1])
    sorted_edges = np.ascontiguousarray(edges[by_key])
    starts = np.searchsorted(sorted_edges[:, 0], np.arange(count + 1))
    entered = np.empty((_sides(sorted_edges, starts, by_key, np.empty((0, 3), np.int32)), 3), np.int32)
    _sides(sorted_edges, starts, by_key, entered)
    return np.ascontiguousarray(entered[np.lexsort((entered[:, 2], entered[:, 1], entered[:, 0]))])


@njit(cache=True, nogil=True)
def _sides(edges: Ints, starts: Ints, entry: Ints, found: Numbers) -> int:
    """Number of triangles; fills (T, 3) when their sides enter, the last one first, if there is room.

    edges : in raster order, those of voxel i from `starts[i]`; entry : when each enters
    """
    count = 0
    for e in range(edges.shape[0]):
        i, j = edges[e, 0], edges[e, 1]
        p, q = e + 1, starts[j]
        while p < starts[i + 1] and q < starts[j + 1]:
            if edges[p, 1] < edges[q, 1]:
                p += 1
            elif edges[p, 1] > edges[q, 1]:
                q += 1
            else:
                if found.shape[0]:
                    a, b, c = entry[e], entry[p], entry[q]
                    last, first = max(a, b, c), min(a, b, c)
                    found[count, 0], found[count, 1], found[count, 2] = last, a + b + c - last - first, first
                count += 1
                p += 1
                q += 1
    return count


@njit(cache=True, nogil=True)
def _killed_edges(triangles: Numbers, in_tree: Bools) -> Bools:
    """Which edges close a loop that a triangle kills: columns of triangles reduced over GF(2), the last edge first.

    The column of an edge is the ascending list of the triangles it is a side of, and leads to the first. Pairs are
    those of the reduction of triangles by their sides (de Silva, Morozov & Vejdemo-Johansson 2011, "Dualities in
    persistent (co)homology"), but the edges of the tree have none, and nearly every other edge leads to a triangle that
    is free. A column that was reduced lies in `pool[start[e]:stop[e]]`, any other in `sides`.
    """
    count = in_tree.size
    row = np.zeros(count + 2, np.int64)
    for t in range(triangles.shape[0]):
        for k in range(3):
            row[triangles[t, k] + 2] += 1
    for e in range(count):
        row[e + 2] += row[e + 1]
    sides = np.empty(3 * triangles.shape[0], np.int32)
    for t in range(triangles.shape[0]):
        for k in range(3):
            sides[row[triangles[t, k] + 1]] = t
            row[triangles[t, k] + 1] += 1
    killed = np.zeros(count, np.bool_)
    leader = np.full(triangles.shape[0], -1, np.int32)
    start, stop = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    pool, used = np.empty(1024, np.int32), 0
    inside = np.zeros(triangles.shape[0], np.bool_)  # of the column that is reduced
    waiting = [np.int64(0) for _ in range(0)]  # a heap of what is inside, and of some that was
    for e in range(count - 1, -1, -1):
        if in_tree[e] or row[e] == row[e + 1]:
            continue
        first = sides[row[e]]
        if leader[first] < 0:
            killed[e], leader[first] = True, e
            continue
        _flip(sides[row[e] : row[e + 1]], inside, waiting)
        while waiting and (not inside[waiting[0]] or leader[waiting[0]] >= 0):
            if inside[waiting[0]]:
                by = leader[waiting[0]]
                column = sides[row[by] : row[by + 1]] if start[by] < 0 else pool[start[by] : stop[by]]
                _flip(column, inside, waiting)
            else:
                heappop(waiting)
        if not waiting:
            continue
        killed[e], leader[waiting[0]] = True, e
        start[e] = used
        while waiting:
            triangle = heappop(waiting)
            if inside[triangle]:
                inside[triangle] = False
                if used == pool.size:
                    pool = np.append(pool, np.empty_like(pool))
                pool[used] = triangle
                used += 1
        stop[e] = used
    return killed


@njit(cache=True, nogil=True)
def _flip(column: Numbers, inside: Bools, waiting: list[np.int64]) -> None:
    for triangle in column:
        inside[triangle] = not inside[triangle]
        if inside[triangle]:
            heappush(waiting, np.int64(triangle))
