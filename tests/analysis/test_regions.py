"""What of a graph lies in which region, on a graph small enough to count by hand and on random ones."""

from __future__ import annotations

from dataclasses import asdict

import networkx as nx
import numpy as np
import pytest

from chunkflow.analysis.network import graph_metrics
from chunkflow.analysis.regions import GraphPart, RegionNetworks, branch_shares, point_lengths, region_metrics

IDS = np.array([1, 4, 9], np.uint64)


def random_part(rng: np.random.Generator, nodes: int, branches: int) -> GraphPart:
    """A multigraph with curves between random places; regions change along them."""
    ends = rng.integers(0, nodes, (2, branches))
    degree = np.bincount(ends.ravel(), minlength=nodes)
    count = rng.integers(2, 9, branches)
    offsets = np.concatenate(([0], np.cumsum(count)))
    points = rng.uniform(0, 5, (offsets[-1], 3))
    point_region = rng.choice(np.array([0, 1, 4, 9, 77], np.uint64), offsets[-1])
    lengths = point_lengths(points, offsets)
    return GraphPart(
        degree=degree,
        node_a=ends[0],
        node_b=ends[1],
        length_um=np.add.reduceat(lengths, offsets[:-1]),
        node_region=rng.choice(np.array([0, 1, 4, 9], np.uint64), nodes, p=[0.2, 0.5, 0.25, 0.05]),
        branch_region=rng.choice(np.array([0, 1, 4], np.uint64), branches),
        shares=branch_shares(lengths, offsets, point_region),
        point_region=point_region,
        point_um=lengths,
        radius_um=rng.uniform(0.1, 1, offsets[-1]),
    )


def score_of(graph: nx.MultiGraph, components: list[nx.MultiGraph], length: float, longest: float) -> float:
    """MitoGraph's connectivity score, with the mean degree of all nodes."""
    if not length:
        return np.nan
    nodes, edges = graph.number_of_nodes(), graph.number_of_edges()
    mean_degree = float(np.mean([degree for _, degree in graph.degree()]))
    return (longest / length + length / edges + mean_degree) / (
        nodes / length + edges / length + len(components) / length
    )


def test_points_stand_for_half_of_the_segments_beside_them() -> None:
    points = np.array([(0, 0, 0), (0, 0, 2), (0, 4, 2), (9, 9, 9), (9, 9, 9), (5, 5, 5)], float)
    offsets = np.array([0, 3, 5, 6])  # two branches with length, one that is a point, far from each other
    assert point_lengths(points, offsets).tolist() == [1, 3, 2, 0, 0, 0]
    shares = branch_shares(point_lengths(points, offsets), offsets, np.array([2, 0, 2, 5, 5, 3], np.uint64))
    assert shares.branch.tolist() == [0, 0, 1, 2]
    assert shares.region.tolist() == [0, 2, 5, 3]
    assert shares.length_um.tolist() == [3, 3, 0, 0]


def test_columns_are_those_of_networkx_and_brute_force() -> None:
    part = random_part(np.random.default_rng(1), 60, 90)
    totals = RegionNetworks(IDS)
    totals.add(part)
    found = totals.columns()
    for row, region in enumerate(IDS):
        own = np.flatnonzero(part.node_region == region)
        graph = nx.MultiGraph()
        graph.add_nodes_from(own.tolist())
        both = np.isin(part.node_a, own) & np.isin(part.node_b, own)
        for k in np.flatnonzero(both):
            graph.add_edge(int(part.node_a[k]), int(part.node_b[k]), length=part.length_um[k])
        components = [graph.subgraph(c) for c in nx.connected_components(graph)]
        lengths = [sum(d["length"] for *_, d in c.edges(data=True)) for c in components]
        inside = part.point_region == region
        assigned = part.branch_region == region
        expected = {
            "nodes": len(own),
            "components": len(components),
            "loops": graph.number_of_edges() - len(own) + len(components),
            "ends": int((part.degree[own] == 1).sum()),
            "junctions": int((part.degree[own] >= 3).sum()),
            "junctions_3": int((part.degree[own] == 3).sum()),
            "junctions_4": int((part.degree[own] == 4).sum()),
            "degree_mean": 2 * graph.number_of_edges() / len(own),
            "phi": max(lengths) / sum(lengths) if sum(lengths) else np.nan,
            "connectivity_score": score_of(graph, components, sum(lengths), max(lengths)),
            "branches": int(assigned.sum()),
            "branch_length_mean_um": part.length_um[assigned].mean() if assigned.any() else np.nan,
            "length_um": part.point_um[inside].sum(),
            "radius_mean_um": np.average(part.radius_um[inside], weights=part.point_um[inside]),
        }
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, rel=1e-12, nan_ok=True), (name, region)
    several = [b for b in range(90) if (part.shares.branch == b).sum() > 1]
    crossing = [sum(region in part.shares.region[part.shares.branch == b] for b in several) for region in IDS]
    assert found["branches_crossing"].tolist() == crossing


def test_parts_of_the_graph_leave_the_bits_of_the_whole() -> None:
    rng = np.random.default_rng(2)
    parts = [random_part(rng, nodes, branches) for nodes, branches in ((8, 12), (1, 0), (30, 25), (40, 60))]
    apart = RegionNetworks(IDS)
    for part in parts:
        apart.add(part)
    together = RegionNetworks(IDS)
    together.add(joined(parts))
    for name, column in together.columns().items():
        assert column.tobytes() == apart.columns()[name].tobytes(), name


def joined(parts: list[GraphPart]) -> GraphPart:
    nodes = np.cumsum([0, *(len(part.degree) for part in parts)])
    branches = np.cumsum([0, *(len(part.length_um) for part in parts)])

    def column(name: str, starts: np.ndarray | None = None) -> np.ndarray:
        shift = np.zeros(len(parts), np.int64) if starts is None else starts
        return np.concatenate([getattr(part, name) + s for part, s in zip(parts, shift[: len(parts)], strict=True)])

    def plain(name: str, of: str = "") -> np.ndarray:
        return np.concatenate([getattr(getattr(part, of) if of else part, name) for part in parts])

    shares = type(parts[0].shares)(
        np.concatenate([part.shares.branch + b for part, b in zip(parts, branches[:-1], strict=True)]),
        plain("region", "shares"),
        plain("length_um", "shares"),
    )
    names = ("degree", "length_um", "node_region", "branch_region", "point_region", "point_um", "radius_um")
    return GraphPart(
        node_a=column("node_a", nodes), node_b=column("node_b", nodes), shares=shares, **{n: plain(n) for n in names}
    )


def test_without_a_graph_regions_have_nothing_in_them() -> None:
    found = RegionNetworks(IDS).columns()
    assert not found["length_um"].any() and not found["nodes"].any()
    assert np.isnan(found["radius_mean_um"]).all() and np.isnan(found["phi"]).all()


def test_the_metrics_of_a_region_are_those_of_its_own_nodes_and_branches() -> None:
    part = random_part(np.random.default_rng(3), 40, 70)
    nodes = {"region_id": part.node_region}
    branches = {"node_a": part.node_a, "node_b": part.node_b}
    own = np.flatnonzero(part.node_region == 4)
    both = np.isin(part.node_a, own) & np.isin(part.node_b, own)
    expected = graph_metrics(np.searchsorted(own, part.node_a[both]), np.searchsorted(own, part.node_b[both]), len(own))
    np.testing.assert_equal(asdict(region_metrics(nodes, branches, 4)), asdict(expected))
    assert expected.links > 0
