"""The assembled graph against the topology of the voxels and against graphs that can be drawn by hand."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise, product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize

from chunkflow.kernels.clusters import expanded_edges
from chunkflow.kernels.graph import SkeletonGraph, assemble, loops_per_object

FULL = np.ones((3, 3, 3), np.bool_)


def betti(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """b0 and b1 of the union of closed voxels, by counting the cells of every kind in the whole volume."""
    padded = np.pad(mask, 1)
    b0 = ndimage.label(padded, FULL)[1]
    b2 = ndimage.label(~padded)[1] - 1
    chi = 0
    for extent in product((0, 1), repeat=3):
        cells = padded
        for axis in range(3):
            if extent[axis] == 0:
                cells = cells | np.roll(cells, 1, axis)
        chi += (-1) ** sum(extent) * int(cells.sum())
    return b0, b0 + b2 - chi


def graph_of(labels: NDArray[np.uint64] | NDArray[np.bool_]) -> SkeletonGraph:
    """The graph of all non-zero voxels; d2 is the flat index, so that it tells voxels apart."""
    index = np.flatnonzero(labels).astype(np.int64)
    return assemble(index, labels.ravel()[index].astype(np.uint64), index.copy(), shape=labels.shape)


def drawn(*voxels: tuple[int, int], shape: tuple[int, int] = (12, 12)) -> SkeletonGraph:
    """The graph of voxels (y, x) in a plane."""
    mask = np.zeros((1, *shape), np.bool_)
    for y, x in voxels:
        mask[0, y, x] = True
    return graph_of(mask)


def assert_same(a: SkeletonGraph, b: SkeletonGraph) -> None:
    for field in fields(a):
        if field.name == "nodes":
            for inner in fields(a.nodes):
                np.testing.assert_array_equal(getattr(a.nodes, inner.name), getattr(b.nodes, inner.name))
        else:
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))


@pytest.mark.parametrize("seed", range(40))
def test_noise_has_the_components_and_loops_of_its_voxels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 13, 3))
    mask = rng.random(shape) < rng.uniform(0.03, 0.8)
    _, b0, b1 = loops_per_object(graph_of(mask))
    assert (b0.sum(), b1.sum()) == betti(mask)


@pytest.mark.parametrize("seed", range(4))
def test_a_thinned_network_has_the_components_and_loops_of_its_voxels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(37, 41, 33)), 2.2)
    skeleton = skeletonize(np.abs(field) < 0.35 * field.std(), method="lee") > 0
    _, b0, b1 = loops_per_object(graph_of(skeleton))
    assert b1.sum() > 20
    assert (b0.sum(), b1.sum()) == betti(skeleton)


def test_a_hollow_torus_is_expanded_to_its_two_loops_and_a_hollow_ball_is_one_node() -> None:
    z, y, x = np.ogrid[:25, :47, :47]
    ring = np.hypot(np.hypot(y - 23, x - 23) - 14, z - 12)
    torus = graph_of((ring < 7) & (ring >= 6))
    assert loops_per_object(torus)[2] == [2]
    ball = np.sqrt((z - 12) ** 2 + (y - 23) ** 2 + (x - 23) ** 2)
    assert len(graph_of((ball < 10) & (ball >= 9)).nodes.label) == 1


@pytest.mark.parametrize("seed", range(8))
def test_touching_objects_keep_their_own_components_and_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 3, 7, 2**63 + 1], np.uint64), size=(7, 9, 11), p=[0.4, 0.2, 0.2, 0.2])
    found, b0, b1 = loops_per_object(graph_of(labels))
    assert found.tolist() == [3, 7, 2**63 + 1]
    for label, components, loops in zip(found, b0, b1, strict=True):
        assert (components, loops) == betti(labels == label)


def test_the_order_of_the_voxels_changes_no_bit() -> None:
    rng = np.random.default_rng(5)
    labels = (rng.random((17, 19, 13)) < 0.15) * rng.integers(1, 3, (17, 19, 13)).astype(np.uint64)
    index = np.flatnonzero(labels)
    label, d2 = labels.ravel()[index], rng.integers(1, 99, len(index))
    whole = assemble(index, label, d2, shape=labels.shape)
    z, y, x = np.unravel_index(index, labels.shape)
    for order in (rng.permutation(len(index)), np.lexsort((index, x // 5, y // 7, z // 4))):
        assert_same(whole, assemble(index[order], label[order], d2[order], shape=labels.shape))


def test_the_last_voxel_of_a_row_does_not_touch_the_first_of_the_next() -> None:
    graph = drawn((0, 11), (2, 0), (11, 11))
    assert graph.degree.tolist() == [0, 0, 0]


def test_a_line_is_one_branch_between_its_end_voxels() -> None:
    graph = drawn(*[(4, x) for x in range(2, 9)])
    assert graph.nodes.position.tolist() == [[0, 4, 2], [0, 4, 8]]
    assert graph.points.tolist() == [[0, 4, x] for x in range(2, 9)]
    assert (graph.node_a.tolist(), graph.node_b.tolist()) == ([0], [1])
    assert graph.d2.tolist() == [4 * 12 + x for x in range(2, 9)]


def test_one_voxel_and_a_block_of_voxels_are_nodes_without_branches() -> None:
    graph = drawn((1, 1), (5, 5), (5, 6), (6, 5), (6, 6), (6, 7))
    assert graph.nodes.position.tolist() == [[0, 1, 1], [0, 28 / 5, 29 / 5]]
    assert graph.nodes.voxels.tolist() == [1, 5]
    assert graph.nodes.first.tolist() == [13, 65]
    assert graph.nodes.d2.tolist() == [13, 79]
    assert len(graph.node_a) == 0


def test_a_ring_is_one_node_with_a_loop_from_its_smallest_voxel_towards_its_smaller_neighbour() -> None:
    graph = drawn((1, 2), (2, 3), (3, 2), (2, 1))
    assert graph.points[:, 1:].tolist() == [[1, 2], [2, 1], [3, 2], [2, 3], [1, 2]]
    assert (graph.node_a.tolist(), graph.node_b.tolist(), graph.degree.tolist()) == ([0], [0], [2])
    assert graph.is_ring.tolist() == [True]


def test_a_theta_has_three_parallel_branches() -> None:
    middle = [(5, x) for x in range(2, 9)]
    arcs = [(y, x) for y in (2, 8) for x in range(4, 7)]
    corners = [(4, 2), (3, 3), (4, 8), (3, 7), (6, 2), (7, 3), (6, 8), (7, 7)]
    graph = drawn(*middle, *arcs, *corners)
    joined = [(a, b) for a, b in zip(graph.node_a.tolist(), graph.node_b.tolist(), strict=True) if a != b]
    junctions = np.flatnonzero(graph.degree == 3)
    assert len(junctions) == 2
    assert joined.count(tuple(junctions.tolist())) == 3
    assert loops_per_object(graph)[2] == [2]


def test_a_lollipop_has_a_self_loop_at_its_junction() -> None:
    graph = drawn((1, 4), (2, 3), (2, 5), (3, 2), (3, 6), (4, 3), (4, 5), (5, 4), (6, 4), (7, 4), (8, 4), (9, 4))
    loop = np.flatnonzero(graph.node_a == graph.node_b)
    assert len(loop) == 1
    assert graph.degree[graph.node_a[loop]] == [3]
    assert not graph.is_ring.any()


@pytest.mark.parametrize("seed", range(12))
def test_every_chain_steps_from_neighbour_to_neighbour_and_touches_its_nodes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = graph_of(rng.random((9, 14, 11)) < 0.1)
    assert (graph.node_a <= graph.node_b).all()
    inner = np.ones(len(graph.points), np.bool_)
    inner[graph.offsets[1:-1]] = False
    assert np.abs(np.diff(graph.points, axis=0)[inner[1:]]).max() == 1
    for ends, at in ((graph.node_a, graph.offsets[:-1]), (graph.node_b, graph.offsets[1:] - 1)):
        one_voxel = graph.nodes.voxels[ends] == 1
        np.testing.assert_array_equal(graph.points[at[one_voxel]], graph.nodes.position[ends[one_voxel]])


@pytest.mark.parametrize("seed", range(12))
def test_branches_are_ordered_by_nodes_and_second_voxel_and_loops_start_at_their_smaller_end(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = graph_of(rng.random((9, 14, 11)) < 0.16)
    chains = [list(map(tuple, chain.tolist())) for chain in np.split(graph.points, graph.offsets[1:-1])]
    keys = [(a, b, chain[1]) for a, b, chain in zip(graph.node_a, graph.node_b, chains, strict=True)]
    assert all(one < other for one, other in pairwise(keys))
    loops = [chains[e] for e in np.flatnonzero(graph.node_a == graph.node_b)]
    assert all(loop < loop[::-1] for loop in loops)


@pytest.mark.parametrize("seed", range(15))
def test_loop_edges_and_triangles_span_all_cycles_of_a_cluster_and_no_loop_edge_is_spare(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, _ = ndimage.label(rng.random((4, 6, 5)) < 0.45, FULL)
    coords = np.argwhere(labels == np.bincount(labels.ravel())[1:].argmax() + 1)
    near = np.abs(coords[:, None] - coords[None]).max(axis=2) == 1
    pairs = np.argwhere(np.triu(near))
    tree, loops = expanded_edges(coords, pairs)
    number = {tuple(pair): bit for bit, pair in enumerate(pairs.tolist())}
    triangles = [
        1 << number[i, j] | 1 << number[i, k] | 1 << number[j, k]
        for i, j in pairs.tolist()
        for k in range(j + 1, len(coords))
        if near[i, k] and near[j, k]
    ]
    up = parents_of(tree, len(coords))
    closed = [1 << number[i, j] ^ path_bits(up, number, i) ^ path_bits(up, number, j) for i, j in loops.tolist()]
    cycles = len(pairs) - len(coords) + 1
    assert gf2_rank(triangles + closed) == cycles
    assert gf2_rank(triangles) == cycles - len(loops)


def parents_of(tree: NDArray[np.int64], count: int) -> dict[int, int]:
    """Parent of each voxel in the tree rooted at voxel 0."""
    up = {0: -1}
    while len(up) < count:
        for i, j in tree.tolist():
            if (i in up) != (j in up):
                up[j if i in up else i] = i if i in up else j
    return up


def path_bits(up: dict[int, int], number: dict[tuple[int, int], int], voxel: int) -> int:
    bits = 0
    while up[voxel] >= 0:
        bits ^= 1 << number[min(voxel, up[voxel]), max(voxel, up[voxel])]
        voxel = up[voxel]
    return bits


def gf2_rank(rows: list[int]) -> int:
    basis: dict[int, int] = {}
    for row in rows:
        while row and row.bit_length() in basis:
            row ^= basis[row.bit_length()]
        if row:
            basis[row.bit_length()] = row
    return len(basis)


def test_the_edge_that_closes_a_loop_is_the_longest_then_the_last() -> None:
    coords = np.array([[0, 0, 1], [0, 1, 0], [0, 1, 2], [0, 2, 1]])
    pairs = np.array([[0, 1], [0, 2], [1, 3], [2, 3]])
    tree, loops = expanded_edges(coords, pairs)
    assert tree.tolist() == [[0, 1], [0, 2], [1, 3]]
    assert loops.tolist() == [[2, 3]]

    coords = np.array([[0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 3], [0, 2, 1], [0, 2, 2]])
    pairs = np.array([[0, 1], [0, 2], [1, 3], [2, 4], [3, 5], [4, 5]])
    assert expanded_edges(coords, pairs)[1].tolist() == [[3, 5]]  # a diagonal, though (4, 5) comes behind it


def test_no_voxels_make_an_empty_graph() -> None:
    graph = graph_of(np.zeros((3, 4, 5), np.bool_))
    assert (len(graph.nodes.label), len(graph.node_a), graph.offsets.tolist()) == (0, 0, [0])
    assert [len(part) for part in loops_per_object(graph)] == [0, 0, 0]
