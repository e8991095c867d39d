"""The exact multigraph of a skeleton: from a sparse set of voxels to nodes and chains.

A skeleton voxel is *regular* when it has exactly two 26-neighbours of its label and these two do not touch each
other. Regular voxels form chains; the 26-components of all the others are the clusters that chains end in:

      ... o o C C C o o ...     o  regular voxels, three chains that go on
                C               C  one cluster of four voxels, a junction: one node at its mean
                o
                o
                :

No triangle of touching voxels holds a regular voxel, so every loop of the object is a loop of chains and clusters or
lies inside one cluster. A cluster without a loop inside becomes one node. Any other is *expanded*: its voxels become
nodes, joined by a spanning tree and by one edge for each of its loops (`clusters.py`). A closed ring of regular
voxels gets one node and a self-loop. So the graph is a multigraph: parallel edges and self-loops are real, and per
object E - V + b0 is the number b1 of loops of the voxel set, which `loops_per_object` counts.

The graph is a function of the voxel set alone: nodes, chains and their directions are ordered by coordinates.

Scale: time and memory are linear in the voxels, about 0.2 kB of memory for each, all on the machine that assembles.
Only clusters with a loop inside cost more; `clusters.py` says what.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels.clusters import cluster_nodes
from chunkflow.kernels.union import components_of

Shape = tuple[int, int, int]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NEIGHBOURS: list[Shape] = [(z, y, x) for z, y, x in product((-1, 0, 1), repeat=3) if (z, y, x) != (0, 0, 0)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nodes:
    """The V nodes of a graph.

    position : (V, 3) float64, z, y, x in voxels: the mean of the node's voxels (one division of integer sums).
    label : (V,) uint64, the object.
    d2 : (V,) int64, largest squared distance of the node's voxels.
    voxels : (V,) int64, how many voxels the node stands for.
    first : (V,) int64, flat index of the first of them in raster order; no two nodes share it.
    """

    position: NDArray[np.float64]
    label: NDArray[np.uint64]
    d2: Ints
    voxels: Ints
    first: Ints

    def take(self, which: Ints | Bools) -> Nodes:
        """The nodes of that selection, in its order."""
        return Nodes(
            position=self.position[which],
            label=self.label[which],
            d2=self.d2[which],
            voxels=self.voxels[which],
            first=self.first[which],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SkeletonGraph:
    """A multigraph of V nodes and E branches, each a chain of voxels.

    Nodes are ordered by label, then by position (z, y, x), then by `first`; branches by (`node_a`, `node_b`, second
    voxel of the chain), with `node_a <= node_b`. A chain runs from `node_a` to `node_b`, a self-loop from its smaller
    end, or towards its smaller second voxel where both ends are one voxel.

    shape : of the volume.
    nodes : the V nodes.
    node_a, node_b : (E,) int64, the ends of each branch.
    offsets : (E + 1,) int64; branch e is `points[offsets[e]:offsets[e + 1]]`.
    points : (P, 3) int64, z, y, x of the chains' voxels, from the voxel of `node_a` that the chain touches to the one
        of `node_b`; a ring starts and ends at the same voxel.
    d2 : (P,) int64, squared distance to the background at each.
    """

    shape: Shape
    nodes: Nodes
    node_a: Ints
    node_b: Ints
    offsets: Ints
    points: Ints
    d2: Ints

    @property
    def branch_label(self) -> NDArray[np.uint64]:
        """(E,) the object of each branch."""
        return self.nodes.label[self.node_a]

    @property
    def degree(self) -> Ints:
        """(V,) branch ends at each node; a self-loop counts twice."""
        ends = np.concatenate((self.node_a, self.node_b))
        return np.bincount(ends, minlength=len(self.nodes.label)).astype(np.int64)

    @property
    def is_ring(self) -> Bools:
        """(E,) whether the branch is an isolated cycle: a self-loop that is all its node holds."""
        ring: Bools = (self.node_a == self.node_b) & (self.degree[self.node_a] == 2)
        return ring


def assemble(index: Ints, label: NDArray[np.uint64], d2: Ints, *, shape: Shape) -> SkeletonGraph:
    """Graph of a skeleton, not pruned: nodes of degree 2 (thick spots of a chain) are still there.

    Parameters
    ----------
    index : (N,) int64, flat indices of the skeleton's voxels in C order, each once; sorted here if they are not.
    label : (N,) uint64, the object of each; only voxels of one label are neighbours.
    d2 : (N,) int64, squared distance to the background, in any integer unit.
    shape : of the volume that the indices mean.

    Returns
    -------
    SkeletonGraph. For each label E - V + b0 equals b1 of its voxels.
    """
    if np.any(index[1:] <= index[:-1]):
        order = np.argsort(index, kind="stable")
        index, label, d2 = index[order], label[order], d2[order]
    coords = np.stack(np.unravel_index(index, shape), axis=1).astype(np.int64).reshape(-1, 3)
    rows, cols = _neighbours(index, label, coords, shape)
    regular = _regular(rows, cols, coords)
    node_of, inner = cluster_nodes(rows, cols, coords, ~regular)
    path, offsets = _chains(rows, cols, regular)
    starts = path[offsets[:-1]]
    rings = starts[regular[starts]]
    node_of[rings] = rings
    path = np.concatenate((path, inner.ravel()))
    offsets = np.concatenate((offsets, offsets[-1] + 2 * np.arange(1, len(inner) + 1)))
    nodes, node_rank = _nodes_of(node_of, index, label, d2, coords)
    ends = node_rank[node_of[np.stack((path[offsets[:-1]], path[offsets[1:] - 1]), axis=1)]]
    return ordered(shape=shape, nodes=nodes, ends=ends, offsets=offsets, points=coords[path], d2=d2[path])


def ordered(*, shape: Shape, nodes: Nodes, ends: Ints, offsets: Ints, points: Ints, d2: Ints) -> SkeletonGraph:
    """The graph of these nodes and chains in the one order that `SkeletonGraph` promises.

    ends : (E, 2) int64, the node at the first and at the last point of each chain; the rest as in `SkeletonGraph`.
    """
    z, y, x = nodes.position.T
    order = np.lexsort((nodes.first, x, y, z, nodes.label))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    a, b = rank[ends].reshape(-1, 2).T
    flat = np.ravel_multi_index(tuple(points.T), shape).astype(np.int64)
    first, last = offsets[:-1], offsets[1:] - 1
    comes_back_smaller = (flat[last] < flat[first]) | ((flat[last] == flat[first]) & (flat[last - 1] < flat[first + 1]))
    reverse = (a > b) | ((a == b) & comes_back_smaller)
    a, b = np.minimum(a, b), np.maximum(a, b)
    second = flat[np.where(reverse, last - 1, first + 1)]
    branch_order = np.lexsort((second, b, a))
    new_offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.diff(offsets)[branch_order])))
    lengths = np.diff(new_offsets)
    step = np.arange(new_offsets[-1]) - np.repeat(new_offsets[:-1], lengths)
    backwards = np.repeat(reverse[branch_order], lengths)
    source = np.where(
        backwards, np.repeat(last[branch_order], lengths) - step, np.repeat(first[branch_order], lengths) + step
    )
    return SkeletonGraph(
        shape=shape,
        nodes=nodes.take(order),
        node_a=a[branch_order],
        node_b=b[branch_order],
        offsets=new_offsets,
        points=points[source],
        d2=d2[source],
    )


def loops_per_object(graph: SkeletonGraph) -> tuple[NDArray[np.uint64], Ints, Ints]:
    """Components and loops of each object's graph.

    Returns
    -------
    labels (L,) uint64 ascending, b0 (L,) int64 and b1 (L,) int64 = E - V + b0.
    """
    labels, of_node = np.unique(graph.nodes.label, return_inverse=True)
    pairs = np.stack((graph.node_a, graph.node_b), axis=1)
    classes, _ = components_of(len(of_node), pairs)
    first_node = np.unique(classes, return_index=True)[1]
    b0 = np.bincount(of_node[first_node], minlength=len(labels)).astype(np.int64)
    nodes = np.bincount(of_node, minlength=len(labels))
    branches = np.bincount(of_node[graph.node_a], minlength=len(labels))
    return labels, b0, branches - nodes + b0


def _neighbours(index: Ints, label: NDArray[np.uint64], coords: Ints, shape: Shape) -> tuple[Ints, Ints]:
    """26-neighbours of the same label as rows of ascending voxel numbers: of voxel i, `cols[rows[i]:rows[i + 1]]`."""
    degree = np.zeros(len(index), np.int64)
    partner = np.empty(len(index), np.int64)
    for offset in NEIGHBOURS:
        _find_partners(index, label, coords, shape, offset, partner)
        degree += partner >= 0
    rows = np.concatenate((np.zeros(1, np.int64), np.cumsum(degree)))
    cols = np.empty(rows[-1], np.int64)
    cursor = rows[:-1].copy()
    for offset in NEIGHBOURS:
        _find_partners(index, label, coords, shape, offset, partner)
        found = partner >= 0
        cols[cursor[found]] = partner[found]
        cursor += found
    return rows, cols


@njit(cache=True, nogil=True)
def _find_partners(
    index: Ints,
    label: NDArray[np.uint64],
    coords: Ints,
    shape: Shape,
    offset: tuple[int, int, int],
    partner: Ints,
) -> None:
    """Number of the voxel at `offset` from each voxel, -1 where there is none of its label; one walk along `index`."""
    step = (offset[0] * shape[1] + offset[1]) * shape[2] + offset[2]
    j = 0
    for i in range(index.size):
        partner[i] = -1
        inside = True
        for axis in range(3):
            inside &= 0 <= coords[i, axis] + offset[axis] < shape[axis]
        if not inside:
            continue
        while j < index.size and index[j] < index[i] + step:
            j += 1
        if j < index.size and index[j] == index[i] + step and label[j] == label[i]:
            partner[i] = j


def _regular(rows: Ints, cols: Ints, coords: Ints) -> Bools:
    """(N,) whether a voxel has exactly two neighbours and these do not touch."""
    regular: Bools = np.diff(rows) == 2
    first = rows[:-1][regular]
    apart = np.abs(coords[cols[first]] - coords[cols[first + 1]]).max(axis=1) > 1
    regular[regular] = apart
    return regular


@njit(cache=True, nogil=True)
def _chains(rows: Ints, cols: Ints, regular: Bools) -> tuple[Ints, Ints]:
    """Chains of regular voxels with the cluster voxels at both ends, then the rings, closed by their first voxel.

    Returns
    -------
    path (P,) voxel numbers, chain after chain, and offsets (chains + 1,).
    """
    n = regular.size
    path = np.empty(3 * np.count_nonzero(regular), np.int64)
    offsets = np.zeros(np.count_nonzero(regular) + 1, np.int64)
    visited = np.zeros(n, np.bool_)
    count = 0
    size = 0
    for start_regular in (False, True):
        for start in range(n):
            if regular[start] != start_regular or visited[start]:
                continue
            for q in range(rows[start], rows[start + 1]):
                voxel = cols[q]
                if not regular[voxel] or visited[voxel]:
                    continue
                previous = start
                path[size] = start
                size += 1
                while regular[voxel] and voxel != start:
                    visited[voxel] = True
                    path[size] = voxel
                    size += 1
                    following = cols[rows[voxel]]
                    if following == previous:
                        following = cols[rows[voxel] + 1]
                    previous = voxel
                    voxel = following
                path[size] = voxel
                size += 1
                count += 1
                offsets[count] = size
                if start_regular:
                    visited[start] = True
                    break
    return path[:size].copy(), offsets[: count + 1].copy()


def _nodes_of(node_of: Ints, index: Ints, label: NDArray[np.uint64], d2: Ints, coords: Ints) -> tuple[Nodes, Ints]:
    """Nodes by first voxel, and the node's rank for the number of each node's first voxel (-1 elsewhere)."""
    voxels = np.flatnonzero(node_of >= 0)
    voxels = voxels[np.argsort(node_of[voxels], kind="stable")]
    owner = node_of[voxels]
    starts = np.flatnonzero(np.concatenate((np.ones(min(1, len(owner)), np.bool_), owner[1:] != owner[:-1])))
    first = owner[starts]
    count = np.diff(np.append(starts, len(owner)))
    sums = np.add.reduceat(coords[voxels], starts, axis=0) if len(starts) else np.zeros((0, 3), np.int64)
    largest = np.maximum.reduceat(d2[voxels], starts) if len(starts) else np.zeros(0, np.int64)
    rank = np.full(len(node_of), -1, np.int64)
    rank[first] = np.arange(len(first))
    nodes = Nodes(position=sums / count[:, None], label=label[first], d2=largest, voxels=count, first=index[first])
    return nodes, rank
