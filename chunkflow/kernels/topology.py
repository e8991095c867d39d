"""Betti numbers of every object of a volume that no machine holds, from blocks and one graph of regions.

An object is 26-connected, what is around it 6-connected. With chi the Euler characteristic of the union of its closed
voxel cubes, b0 its 26-components and b2 its cavities, the independent loops are b1 = b0 + b2 - chi (Euler-Poincare).

**chi is additive** over blocks (`kernels.euler`).

**b0 and b2 come from regions**, the 6-connected pieces of equal value, background included, that cover the volume.
Blocks find them (`block_regions`), seams join them (kernels/contact.py), a union-find numbers them; what remains is a
graph whose nodes are regions and whose edges are shared faces (`object_topology`). The cavities of label l are the
components of that graph without the regions of l that do not hold the outside. A breadth-first tree from the outside
makes this cheap for all labels at once: whatever has a tree path that avoids l is outside, so only the descendants of
l's regions are in question.

Memory: about 150 bytes per region and 80 per contact in one process; a volume with 10^8 regions takes some 40 GB.
Time of `object_topology`: regions times their depth in the tree, which is 3 for objects in one background and about the
number of objects across the volume where objects fill it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels import runs
from chunkflow.kernels.components import ComponentTable, as_unsigned
from chunkflow.kernels.union import components_of

Sides = tuple[tuple[bool, bool], tuple[bool, bool], tuple[bool, bool]]
"""(low, high) for z, y, x."""


@dataclass(frozen=True, slots=True)
class BlockRegions:
    """The 6-connected regions of every value, background included, of one block; region k is row k - 1."""

    pieces: NDArray[np.uint32]
    """(Z, Y, X) region of each voxel, 1..K in raster order."""
    table: ComponentTable
    """First voxel, size and value of each region."""
    touches_border: NDArray[np.bool_]
    """(K,) whether the region has a voxel on a side of the block that is a side of the volume."""
    adjacency: NDArray[np.int64]
    """(M, 2) unique pairs of regions, of different values, that share a voxel face."""
    links26: NDArray[np.int64]
    """(L, 2) pairs of regions of one non-zero value that are 26-connected inside the block: as many as it takes to
    connect all that are, fewer than K. All that touch would be the largest record of a noisy block."""


@dataclass(frozen=True, slots=True)
class ObjectTopology:
    """Components and cavities of every label of a volume; row k of each array is `label[k]`."""

    label: NDArray[np.uint64]
    """(K,) the non-zero values, increasing."""
    b0: NDArray[np.int64]
    """(K,) 26-connected components."""
    b0_filled: NDArray[np.int64]
    """(K,) components after filling; fewer than `b0` where a filled cavity lies between nested shells."""
    b2: NDArray[np.int64]
    """(K,) cavities: 6-connected regions of everything else that do not reach the border of the volume."""
    b2_open: NDArray[np.int64]
    """(K,) the cavities among them that hold other labels and are not filled; b2 after filling."""
    fill: NDArray[np.uint64]
    """(P,) for each region the label that fills it: of a background region that does not reach the border and has
    one label all around; 0 for every other region."""


class _Graph(NamedTuple):
    """Regions 0..P-1 and the outside P; the neighbours of p are `neighbour[start[p]:start[p + 1]]`."""

    start: NDArray[np.int64]
    neighbour: NDArray[np.int64]


class _Tree(NamedTuple):
    """A rooted tree in which every subtree is a slice: `preorder[position[p] : position[p] + size[p]]`, p first."""

    position: NDArray[np.int64]
    size: NDArray[np.int64]
    preorder: NDArray[np.int64]


class _Values(NamedTuple):
    """Regions by value: those of rank k are `members[member_start[k]:member_start[k + 1]]`."""

    rank: NDArray[np.int64]
    members: NDArray[np.int64]
    member_start: NDArray[np.int64]
    background: int
    """Rank of value 0: 0, or -1 where no region has it."""


def block_regions(labels: NDArray[Any], border: Sides) -> BlockRegions:
    """Regions of a block's core and their contacts inside it.

    Parameters
    ----------
    labels : (Z, Y, X) bool or unsigned, the core alone.
    border : which sides of the core are sides of the volume.
    """
    cut = runs.runs_of(as_unsigned(labels))
    region, count = runs.connected(cut, 6, background=True)
    pieces = runs.painted(cut, region)
    return BlockRegions(
        pieces,
        ComponentTable(*runs.table_of(cut, region, count)),
        touches_sides(pieces, count, border),
        runs.face_contacts(cut, region),
        runs.corner_links(cut, region, count),
    )


def touches_sides(pieces: NDArray[np.uint32], count: int, sides: Sides) -> NDArray[np.bool_]:
    """(count,) whether a piece of a block, 1..count, has a voxel on one of the sides that are told."""
    touches = np.zeros(count + 1, np.bool_)
    for axis, ends in enumerate(sides):
        for end, is_meant in zip((0, -1), ends, strict=True):
            if is_meant:
                touches[pieces.take(end, axis=axis)] = True
    return touches[1:]


def object_topology(
    value: NDArray[np.uint64],
    touches_border: NDArray[np.bool_],
    adjacency: NDArray[np.int64],
    links26: NDArray[np.int64],
) -> ObjectTopology:
    """Components and cavities of all labels, from the graph of the regions of a whole volume.

    Parameters
    ----------
    value : (P,) uint64, value of each region 0..P-1, 0 is background.
    touches_border : (P,) whether a region has a voxel on a side of the volume.
    adjacency : (M, 2) pairs of regions that share a voxel face; repeats and any order allowed.
    links26 : (L, 2) pairs of regions of one non-zero value that are 26-connected, enough to connect all that are;
        repeats and any order allowed.

    Returns
    -------
    ObjectTopology, exact and independent of the order of the pairs; of the numbering of the regions too, but for the
    order of `fill`.
    """
    label, rank = np.unique(value, return_inverse=True)
    rank = rank.astype(np.int64)
    cavities, open_cavities, fill = _count_cavities(rank, label, _region_graph(touches_border, adjacency))
    filled_contacts = adjacency[(fill[adjacency] != 0).any(axis=1)]
    b0 = _count_components(value, rank, links26)
    b0_filled = _count_components(value, rank, np.concatenate((links26, filled_contacts)))
    is_object = label != 0
    return ObjectTopology(
        label=label[is_object].astype(np.uint64),
        b0=b0[is_object],
        b0_filled=b0_filled[is_object],
        b2=cavities[is_object],
        b2_open=open_cavities[is_object],
        fill=fill,
    )


def _region_graph(touches_border: NDArray[np.bool_], adjacency: NDArray[np.int64]) -> _Graph:
    count = len(touches_border)
    at_border = np.flatnonzero(touches_border)
    outside = np.full(len(at_border), count)
    source = np.concatenate((adjacency[:, 0], adjacency[:, 1], at_border, outside))
    target = np.concatenate((adjacency[:, 1], adjacency[:, 0], outside, at_border))
    start = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.bincount(source, minlength=count + 1))))
    return _Graph(start.astype(np.int64), target[np.argsort(source, kind="stable")].astype(np.int64))


def _count_cavities(
    rank: NDArray[np.int64], label: NDArray[np.uint64], graph: _Graph
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    """Cavities and open cavities per value, and the label that fills each region (0: none)."""
    tree = _Tree(*_outside_tree(graph))
    members = np.argsort(rank, kind="stable")
    member_start = np.searchsorted(rank[members], np.arange(len(label) + 1)).astype(np.int64)
    cavities, open_cavities = np.zeros(len(label), np.int64), np.zeros(len(label), np.int64)
    filled_by = np.full(len(rank) + 1, -1, np.int64)
    background = 0 if len(label) and label[0] == 0 else -1
    values = _Values(np.append(rank, -2), members, member_start, background)  # the outside has no value
    _flood_cavities(values, graph, tree, cavities, open_cavities, filled_by)
    filled_by = filled_by[:-1]
    return cavities, open_cavities, np.where(filled_by >= 0, label[filled_by], 0).astype(np.uint64)


def _count_components(
    value: NDArray[np.uint64], rank: NDArray[np.int64], pairs: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Classes of regions per value; a filled region counts with the label around it."""
    classes, number = components_of(len(value), pairs)
    rank_of_class = np.full(number, -1, np.int64)
    is_object = value != 0
    rank_of_class[classes[is_object]] = rank[is_object]
    return np.bincount(rank_of_class[rank_of_class >= 0], minlength=int(rank.max(initial=-1)) + 1).astype(np.int64)


@njit(cache=True, nogil=True)
def _outside_tree(graph: _Graph) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Breadth-first tree from the outside, as the arrays of `_Tree`."""
    nodes = graph.start.size - 1
    parent = np.full(nodes, -1, np.int64)
    queue = np.empty(nodes, np.int64)
    queue[0] = nodes - 1
    parent[nodes - 1] = nodes - 1
    reached = 1
    for head in range(nodes):
        if head == reached:
            raise ValueError("the contacts do not connect all regions of the volume: some are missing")
        for j in range(graph.start[queue[head]], graph.start[queue[head] + 1]):
            if parent[graph.neighbour[j]] < 0:
                parent[graph.neighbour[j]] = queue[head]
                queue[reached] = graph.neighbour[j]
                reached += 1
    size = np.ones(nodes, np.int64)
    for i in range(nodes - 1, 0, -1):
        size[parent[queue[i]]] += size[queue[i]]
    position, free = np.zeros(nodes, np.int64), np.ones(nodes, np.int64)
    preorder = np.empty(nodes, np.int64)
    preorder[0] = queue[0]
    for i in range(1, nodes):
        node = queue[i]
        position[node] = free[parent[node]]
        free[parent[node]] += size[node]
        free[node] = position[node] + 1
        preorder[position[node]] = node
    return position, size, preorder


@njit(cache=True, nogil=True)
def _flood_cavities(
    values: _Values,
    graph: _Graph,
    tree: _Tree,
    cavities: NDArray[np.int64],
    open_cavities: NDArray[np.int64],
    filled_by: NDArray[np.int64],
) -> None:
    """Count the cavities of every value but background; note the value that fills a region."""
    nodes = tree.size.size
    below = np.full(nodes, -1, np.int64)  # the last value that the node was found below of
    seen = np.full(nodes, -1, np.int64)
    stack = np.empty(nodes, np.int64)
    for k in range(values.background + 1, cavities.size):
        members = values.members[values.member_start[k] : values.member_start[k + 1]]
        for region in members:
            for i in range(tree.position[region] + 1, tree.position[region] + tree.size[region]):
                if values.rank[tree.preorder[i]] != k:
                    below[tree.preorder[i]] = k
        for region in members:
            for i in range(tree.position[region] + 1, tree.position[region] + tree.size[region]):
                seed = tree.preorder[i]
                if below[seed] != k or seen[seed] == k:
                    continue
                count = _flood(seed, k, values, graph, below, seen, stack)
                if count == 1 and values.rank[seed] == values.background:
                    cavities[k] += 1
                    filled_by[seed] = k
                elif count > 0:
                    cavities[k] += 1
                    open_cavities[k] += 1


@njit(cache=True, nogil=True)
def _flood(
    seed: int,
    k: int,
    values: _Values,
    graph: _Graph,
    below: NDArray[np.int64],
    seen: NDArray[np.int64],
    stack: NDArray[np.int64],
) -> int:
    """Regions in the component of `seed` without value k, as far as it lies below k; 0 where it reaches the outside."""
    stack[0] = seed
    seen[seed] = k
    depth, count, is_closed = 1, 0, True
    while depth > 0:
        depth -= 1
        node = stack[depth]
        count += 1
        for j in range(graph.start[node], graph.start[node + 1]):
            other = graph.neighbour[j]
            if values.rank[other] == k:
                continue
            if below[other] != k:  # it has a tree path to the outside that avoids k
                is_closed = False
            elif seen[other] != k:
                seen[other] = k
                stack[depth] = other
                depth += 1
    return count if is_closed else 0
