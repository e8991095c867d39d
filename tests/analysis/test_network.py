"""Networks against closed forms, networkx and igraph."""

from __future__ import annotations

from dataclasses import asdict

import networkx as nx
import numpy as np
import pytest

from chunkflow.analysis import network
from chunkflow.analysis.network import GraphMetrics, graph_metrics, network_columns, object_metrics, volume_network
from chunkflow.analysis.simple_graph import adjacency, distances, simple_links


def metrics_of(graph: nx.Graph, seed: int = 0) -> GraphMetrics:
    ends = np.array(list(graph.edges()), np.int64).reshape(-1, 2)
    return graph_metrics(ends[:, 0], ends[:, 1], graph.number_of_nodes(), seed=seed)


GRAPHS = {
    "sparse": nx.gnm_random_graph(60, 75, seed=1),
    "dense": nx.gnm_random_graph(30, 120, seed=2),
    "tree": nx.random_labeled_tree(40, seed=3),
    "small world": nx.watts_strogatz_graph(50, 6, 0.1, seed=4),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_metrics_equal_those_of_networkx(name: str) -> None:
    graph = GRAPHS[name]
    found = metrics_of(graph)
    assert (found.nodes, found.links) == (graph.number_of_nodes(), graph.number_of_edges())
    assert found.link_density == pytest.approx(nx.density(graph), rel=1e-14)
    assert found.transitivity == pytest.approx(nx.transitivity(graph), rel=1e-14)
    assert found.clustering == pytest.approx(nx.average_clustering(graph), rel=1e-14)
    assert found.assortativity == pytest.approx(nx.degree_assortativity_coefficient(graph), rel=1e-9)
    assert found.efficiency == pytest.approx(nx.global_efficiency(graph), rel=1e-12)
    assert found.components == nx.number_connected_components(graph)
    lengths = [d for _, to in nx.all_pairs_shortest_path_length(graph) for d in to.values() if d]
    assert found.path_length == pytest.approx(np.mean(lengths), rel=1e-12)
    assert found.diameter == max(lengths) and found.is_exact and found.efficiency_se == 0
    assert sum(found.degree_counts) == found.nodes and list(found.degree_counts) == nx.degree_histogram(graph)
    assert found.modularity <= 1
    best = nx.community.modularity(graph, nx.community.greedy_modularity_communities(graph))
    assert found.modularity > best - 0.1


def test_a_ring_has_the_metrics_of_a_ring() -> None:
    count = 12
    found = metrics_of(nx.cycle_graph(count))
    distances = [min(k, count - k) for k in range(1, count)]
    assert found.path_length == pytest.approx(np.mean(distances))
    assert found.efficiency == pytest.approx(np.mean([1 / d for d in distances]))
    assert (found.diameter, found.degree_entropy, found.transitivity) == (6, 0.0, 0.0)
    assert np.isnan(found.assortativity)  # all degrees are equal
    assert found.degree_mean == 2


def test_a_star_is_as_disassortative_as_can_be() -> None:
    found = metrics_of(nx.star_graph(7))
    assert found.assortativity == pytest.approx(-1)
    assert found.degree_entropy == pytest.approx(-(7 / 8) * np.log2(7 / 8) - (1 / 8) * np.log2(1 / 8))


def test_self_loops_and_parallel_branches_are_left_out_and_counted() -> None:
    simple = graph_metrics(np.array([0, 1, 2]), np.array([1, 2, 3]), 4)
    multi = graph_metrics(np.array([0, 1, 1, 2, 2, 3]), np.array([1, 2, 0, 3, 2, 3]), 4)
    assert (multi.self_loops, multi.parallel_links) == (2, 1)
    for name, value in asdict(simple).items():
        if name not in ("self_loops", "parallel_links"):
            assert value == getattr(multi, name) or np.isnan(value), name


def test_a_small_world_has_a_sigma_above_one_and_a_random_graph_has_not() -> None:
    small_world = metrics_of(nx.connected_watts_strogatz_graph(200, 8, 0.05, seed=5))
    random = metrics_of(nx.gnm_random_graph(200, 800, seed=6))
    assert small_world.sigma > 3 and abs(random.sigma - 1) < 0.4
    assert random.null_transitivity_sd > 0 and random.null_path_length_sd > 0
    assert abs(random.null_path_length / random.path_length - 1) < 0.02
    assert abs(random.null_efficiency / random.efficiency - 1) < 0.02 and random.null_efficiency_sd > 0


def test_equal_seeds_give_equal_numbers() -> None:
    graph = GRAPHS["small world"]
    assert metrics_of(graph, seed=3) == metrics_of(graph, seed=3)
    assert metrics_of(graph, seed=3).null_path_length != metrics_of(graph, seed=4).null_path_length


def test_pivots_come_within_their_standard_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = nx.watts_strogatz_graph(400, 4, 0.05, seed=7)
    exact = metrics_of(graph)
    off_length, off_efficiency = [], []
    for seed in range(30):
        ends = np.array(list(graph.edges()))
        matrix = adjacency(simple_links(ends[:, 0], ends[:, 1])[0], 400)
        found = distances(matrix, np.random.default_rng(seed), 60)
        off_length.append((found.path_length - exact.path_length) / found.path_length_se)
        off_efficiency.append((found.efficiency - exact.efficiency) / found.efficiency_se)
        assert found.diameter <= exact.diameter
    monkeypatch.setattr(network, "EXACT_NODES", 100)
    monkeypatch.setattr(network, "PIVOTS", 60)
    assert not metrics_of(graph).is_exact and metrics_of(graph).path_length_se > 0
    for off in (off_length, off_efficiency):
        assert 0.6 < np.sqrt(np.mean(np.square(off))) < 1.5


@pytest.mark.parametrize("nodes", [0, 1, 3])
def test_networks_without_a_link_have_no_lengths(nodes: int) -> None:
    found = graph_metrics(np.zeros(0, np.int64), np.zeros(0, np.int64), nodes)
    assert (found.nodes, found.links, found.components, found.diameter) == (nodes, 0, nodes, 0)
    assert np.isnan(found.path_length) and np.isnan(found.sigma) and np.isnan(found.modularity)


def tables() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Object 3: a three-way junction with a self-loop beside an edge; 5: a point; 9: two parallel branches, a ring."""
    nodes = {
        "object_id": np.array([3, 9, 3, 3, 5, 9, 3, 9, 3], np.uint64),
        "degree": np.array([3, 2, 1, 1, 0, 2, 1, 2, 0]),
    }
    branches = {
        "object_id": np.array([3, 3, 9, 9, 3, 9], np.uint64),
        "node_a": np.array([0, 0, 1, 1, 3, 7]),
        "node_b": np.array([0, 2, 5, 5, 6, 7]),
        "length_um": np.array([4.0, 1.0, 2.0, 3.0, 5.0, 10.0]),
    }
    return nodes, branches


def test_networks_are_counted_as_the_multigraph_is() -> None:
    found = network_columns(*tables())
    assert found["object_id"].tolist() == [3, 5, 9]
    assert found["length_um"].tolist() == [10, 0, 15]
    assert found["branches"].tolist() == [3, 0, 3]
    assert found["nodes"].tolist() == [5, 1, 3]
    assert found["components"].tolist() == [3, 1, 2]
    assert found["loops"].tolist() == [1, 0, 2]
    assert found["ends"].tolist() == [3, 0, 0]
    assert found["junctions"].tolist() == [1, 0, 0] and found["junctions_3"].tolist() == [1, 0, 0]
    assert found["junctions_4"].tolist() == [0, 0, 0]
    assert found["degree_mean"].tolist() == [6 / 5, 0, 2]
    np.testing.assert_array_equal(found["phi"], [0.5, np.nan, 10 / 15])
    scores = [(0.5 + 10 / 3 + 6 / 5) / ((5 + 3 + 3) / 10), np.nan, (10 / 15 + 5 + 2) / ((3 + 3 + 2) / 15)]
    np.testing.assert_allclose(found["connectivity_score"], scores, rtol=1e-14)
    np.testing.assert_array_equal(found["length_share"], [10 / 25, 0, 15 / 25])
    np.testing.assert_array_equal(found["branch_length_mean_um"], [10 / 3, np.nan, 5])


def test_a_volume_is_scored_as_one_network() -> None:
    found = volume_network(network_columns(*tables()))
    assert (found["length_um"], found["branches"], found["nodes"], found["components"]) == (25, 6, 9, 6)
    assert (found["loops"], found["ends"], found["junctions"]) == (3, 3, 1)
    assert found["phi"] == pytest.approx(10 / 25)  # the ring of object 9
    assert found["degree_mean"] == pytest.approx(12 / 9)
    expected = (10 / 25 + 25 / 6 + 12 / 9) / (9 / 25 + 6 / 25 + 6 / 25)
    assert found["connectivity_score"] == pytest.approx(expected, rel=1e-14)


def test_a_volume_without_a_network_has_no_score() -> None:
    nodes, branches = tables()
    empty = network_columns({n: c[:0] for n, c in nodes.items()}, {n: c[:0] for n, c in branches.items()})
    found = volume_network(empty)
    assert found["length_um"] == 0 and np.isnan(found["phi"]) and np.isnan(found["connectivity_score"])


def test_a_single_edge_has_mitographs_score() -> None:
    """phi 1, edge length L, mean degree 1, over (2 + 1 + 1) / L."""
    found = network_columns(
        {"object_id": np.array([1, 1], np.uint64), "degree": np.array([1, 1])},
        {"object_id": np.array([1], np.uint64), "node_a": np.array([0]), "node_b": np.array([1]), "length_um": [8.0]},
    )
    assert found["connectivity_score"].tolist() == [(1 + 8 + 1) / (4 / 8)]


def test_no_nodes_make_an_empty_table() -> None:
    nodes, branches = tables()
    found = network_columns(
        {name: column[:0] for name, column in nodes.items()}, {name: column[:0] for name, column in branches.items()}
    )
    assert {len(column) for column in found.values()} == {0}


def test_one_object_is_measured_by_its_own_nodes_and_branches() -> None:
    found = object_metrics(*tables(), 9)
    assert (found.nodes, found.links, found.self_loops, found.parallel_links, found.components) == (3, 1, 1, 1, 2)
