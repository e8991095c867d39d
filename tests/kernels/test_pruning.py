"""Pruning against a slow implementation of its definition and against graphs that can be drawn by hand."""

from __future__ import annotations

from itertools import pairwise
from math import dist

import networkx as nx
import numpy as np
import pytest
from numpy.typing import NDArray

from chunkflow.kernels.graph import SkeletonGraph, assemble, loops_per_object
from chunkflow.kernels.pruning import prune

Voxel = tuple[int, ...]
UNIT = (1.0, 1.0, 1.0)


def graph_of(mask: NDArray[np.bool_], d2: int | NDArray[np.int64] = 1) -> SkeletonGraph:
    index = np.flatnonzero(mask).astype(np.int64)
    distance = np.broadcast_to(d2, mask.shape).ravel()[index].astype(np.int64)
    return assemble(index, np.ones(len(index), np.uint64), distance, shape=mask.shape)


def drawn(*voxels: tuple[int, int], d2: int = 1) -> SkeletonGraph:
    mask = np.zeros((1, 20, 80), np.bool_)
    for y, x in voxels:
        mask[0, y, x] = True
    return graph_of(mask, d2)


def slow_prune(graph: SkeletonGraph, radii: float, spacing: tuple[float, ...]) -> nx.MultiGraph:
    """Repeat word for word: merge nodes of degree 2; drop the shortest short branch with a free end."""
    network = nx.MultiGraph()
    network.add_nodes_from(range(len(graph.nodes.label)))
    for e in range(len(graph.node_a)):
        path = [tuple(p) for p in graph.points[graph.offsets[e] : graph.offsets[e + 1]].tolist()]
        network.add_edge(int(graph.node_a[e]), int(graph.node_b[e]), path=path, start=int(graph.node_a[e]))

    def away_from(node: int, start: int, path: list[Voxel]) -> list[Voxel]:
        return path if start == node else path[::-1]

    def length(path: list[Voxel]) -> float:
        steps = [
            dist([p * s for p, s in zip(a, spacing, strict=True)], [q * s for q, s in zip(b, spacing, strict=True)])
            for a, b in pairwise(path)
        ]
        return round(sum(steps), 6)

    def merge() -> None:
        for node in list(network):
            at = list(network.edges(node, data=True, keys=True))
            if network.degree(node) != 2 or len(at) != 2:
                continue
            (_, a, _, first), (_, b, _, second) = at
            left = away_from(node, first["start"], first["path"])[::-1]
            right = away_from(node, second["start"], second["path"])
            path = left + right[1:] if left[-1] == right[0] else left + right
            network.remove_node(node)
            network.add_edge(a, b, path=path, start=a)

    while True:
        merge()
        spurs = []
        for a, b, key, data in network.edges(keys=True, data=True):
            for end, junction in ((a, b), (b, a)):
                limit = radii * np.sqrt(graph.nodes.d2[junction]) + min(spacing)
                if (
                    network.degree(end) == 1
                    and network.degree(junction) > 2
                    and length(data["path"]) < limit - 2.0**-20
                ):
                    spurs.append((length(data["path"]), int(graph.nodes.first[end]), end, junction, key))
        if not spurs or radii == 0:
            return network
        _, _, end, junction, key = min(spurs)
        network.remove_edge(end, junction, key)
        network.remove_node(end)


@pytest.mark.parametrize("seed", range(24))
def test_the_same_branches_remain_as_by_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 11, 10)) < rng.uniform(0.06, 0.2)
    spacing = [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (0.5, 0.3, 0.3)][seed % 3]
    radii = [0.0, 0.5, 1.0, 3.0][seed % 4]
    graph = graph_of(mask, rng.integers(1, 12, mask.shape))
    pruned = prune(graph, prune_radii=radii, spacing_um=spacing, unit_um=1.0)
    expected = slow_prune(graph, radii, spacing)
    assert len(pruned.nodes.label) == expected.number_of_nodes()
    chains = [list(map(tuple, chain.tolist())) for chain in np.split(pruned.points, pruned.offsets[1:-1])]
    keys = [(a, b, chain[1]) for a, b, chain in zip(pruned.node_a, pruned.node_b, chains, strict=False)]
    assert all(one < other for one, other in pairwise(keys))
    assert all(chains[e] < chains[e][::-1] for e in np.flatnonzero(pruned.node_a == pruned.node_b))
    found = [frozenset(chain) for chain in chains]
    wanted = [frozenset(path) for _, _, path in expected.edges(data="path")]
    if len(pruned.node_a):
        assert sorted(map(sorted, found)) == sorted(map(sorted, wanted))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("radii", [0.0, 1.0, 100.0])
def test_components_and_loops_stay_and_no_node_of_degree_2_but_those_of_cycles(seed: int, radii: float) -> None:
    rng = np.random.default_rng(seed)
    graph = graph_of(rng.random((13, 12, 15)) < rng.uniform(0.05, 0.4), 4)
    pruned = prune(graph, prune_radii=radii, spacing_um=UNIT, unit_um=1.0)
    for before, after in zip(loops_per_object(graph), loops_per_object(pruned), strict=True):
        np.testing.assert_array_equal(before, after)
    assert np.count_nonzero(pruned.degree == 2) == np.count_nonzero(pruned.is_ring)
    if radii == 100.0:
        spur = (pruned.degree[pruned.node_a] == 1) != (pruned.degree[pruned.node_b] == 1)
        assert not spur.any()


BAR = [(5, x) for x in range(1, 16)]
LONG_BAR = [(5, x) for x in range(1, 80)]


def test_a_spur_goes_when_its_path_is_shorter_than_radius_and_one_voxel_and_not_when_it_is_as_long() -> None:
    for tip, branches in ((9, 1), (10, 3)):  # 3 or 4 steps from (6, 7), which is in the junction; the limit is 3 + 1
        graph = drawn(*BAR, *[(y, 7) for y in range(6, tip + 1)], d2=9)
        assert len(prune(graph, prune_radii=1.0, spacing_um=UNIT, unit_um=1.0).node_a) == branches


@pytest.mark.parametrize("diagonals", range(1, 7))
@pytest.mark.parametrize("height", [1, 5])  # sqrt(2) 2^30 is rounded up, sqrt(26) 2^30 down
def test_a_path_as_long_as_an_irrational_limit_stays(diagonals: int, height: int) -> None:
    spur = [(6 + k, 40 + k) for k in range(diagonals + 1)]
    graph = drawn(*LONG_BAR, *spur, (6 + diagonals, 41 + diagonals), d2=(height**2 + 1) * diagonals**2)
    spacing = (1.0, float(height), 1.0)
    assert len(prune(graph, prune_radii=1.0, spacing_um=spacing, unit_um=1.0).node_a) == 3
    assert len(prune(graph, prune_radii=1.00001, spacing_um=spacing, unit_um=1.0).node_a) == 1


def test_the_step_across_a_thick_spot_counts() -> None:
    graph = drawn(*LONG_BAR, *[(y, 40) for y in range(6, 15)], (10, 41), d2=49)  # 8 steps, 2 across (9..11, 40)
    assert len(prune(graph, prune_radii=1.0, spacing_um=UNIT, unit_um=1.0).node_a) == 3
    assert len(prune(graph, prune_radii=1.01, spacing_um=UNIT, unit_um=1.0).node_a) == 1


def test_a_spur_that_grew_waits_for_its_new_length() -> None:
    left = [(8, x) for x in range(1, 14)]
    down = [(y, 9) for y in range(9, 15)]  # 5 steps
    fork = [(8, 14), (7, 15), (6, 16), (9, 15), (10, 16), (11, 17)]  # 2.8 steps up; 4.2 down, 8.2 with the handle
    pruned = prune(drawn(*left, *down, *fork, d2=400), prune_radii=1.0, spacing_um=UNIT, unit_um=1.0)
    assert pruned.nodes.position[:, 1:].tolist() == [[8, 1], [11, 17]]


def test_the_limit_is_in_um() -> None:
    graph = drawn(*BAR, *[(y, 7) for y in range(6, 10)], d2=9)
    for unit_um, branches in ((0.25, 3), (0.75, 1)):
        assert len(prune(graph, prune_radii=1.0, spacing_um=(0.5, 0.5, 0.5), unit_um=unit_um).node_a) == branches


def test_pruning_0_merges_and_drops_nothing() -> None:
    graph = drawn(*BAR, (6, 7), (7, 7), (8, 7), d2=100)
    pruned = prune(graph, prune_radii=0.0, spacing_um=UNIT, unit_um=1.0)
    assert sorted(pruned.degree.tolist()) == [1, 1, 1, 3]


def test_a_thick_spot_of_a_line_is_merged_into_one_branch_without_a_detour() -> None:
    graph = drawn(*BAR, (6, 7))
    assert len(graph.node_a) == 2
    pruned = prune(graph, prune_radii=0.0, spacing_um=UNIT, unit_um=1.0)
    assert pruned.points[:, 1:].tolist() == [[5, x] for x in range(1, 16) if x != 7]


def test_the_last_branch_of_a_component_stays_and_ties_go_by_the_end_voxel() -> None:
    arms = (
        [(5 + k, 8) for k in range(5)] + [(5 - k, 8 - k) for k in range(1, 5)] + [(5 - k, 8 + k) for k in range(1, 5)]
    )
    pruned = prune(drawn(*arms, d2=400), prune_radii=1.0, spacing_um=UNIT, unit_um=1.0)
    assert pruned.nodes.position[:, 1:].tolist() == [[1, 4], [1, 12]]  # the straight arm is the shortest

    plus = [(5, 8)] + [(5 + k, 8) for k in range(-4, 5) if k] + [(5, 8 + k) for k in range(-4, 5) if k]
    pruned = prune(drawn(*plus, d2=400), prune_radii=1.0, spacing_um=UNIT, unit_um=1.0)
    assert pruned.nodes.position[:, 1:].tolist() == [[5, 12], [9, 8]]  # (1, 8) and (5, 4) come first


def test_a_pruned_lollipop_is_a_ring_at_its_smallest_voxel() -> None:
    ring = [(1, 4), (2, 3), (2, 5), (3, 2), (3, 6), (4, 3), (4, 5), (5, 4)]
    pruned = prune(drawn(*ring, (6, 4), (7, 4), d2=100), prune_radii=1.0, spacing_um=UNIT, unit_um=1.0)
    assert pruned.is_ring.tolist() == [True]
    assert pruned.nodes.position.tolist() == [[0, 1, 4]]
    assert (pruned.nodes.voxels.tolist(), pruned.nodes.first.tolist()) == ([1], [84])
    assert pruned.points[:4, 1:].tolist() == [[1, 4], [2, 3], [3, 2], [4, 3]]
    assert pruned.points[-1].tolist() == [0, 1, 4]


def test_a_merged_loop_starts_towards_its_smaller_voxel_seen_from_its_junction() -> None:
    junction_and_stick = [(10, 10), (11, 11), (12, 12), (13, 13), (14, 14)]
    thick = [(4, 9), (4, 10), (4, 11), (3, 10)]  # merged; seen from here the left side comes first
    left = [(5, 8), (6, 7), (7, 7), (8, 7), (9, 8), (10, 9)]
    right = [(5, 12), (6, 13), (7, 13), (8, 12), (9, 11)]
    pruned = prune(drawn(*junction_and_stick, *thick, *left, *right), prune_radii=0.0, spacing_um=UNIT, unit_um=1.0)
    loop = int(np.flatnonzero(pruned.node_a == pruned.node_b)[0])
    chain = pruned.points[pruned.offsets[loop] : pruned.offsets[loop + 1], 1:].tolist()
    assert (chain[:2], chain[-2:]) == ([[10, 10], [9, 11]], [[10, 9], [10, 10]])


def test_an_empty_graph_prunes_to_an_empty_graph() -> None:
    pruned = prune(graph_of(np.zeros((2, 3, 4), np.bool_)), prune_radii=1.0, spacing_um=UNIT, unit_um=1.0)
    assert len(pruned.nodes.label) == len(pruned.node_a) == 0
