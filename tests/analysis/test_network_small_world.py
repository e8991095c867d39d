"""Omega and the modularity of random graphs against brute force, networkx and closed forms."""

from __future__ import annotations

import random
from dataclasses import asdict
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

from chunkflow.analysis import network, network_small_world
from chunkflow.analysis.network import GraphMetrics, graph_metrics

NULLS = (
    "rewired_path_length",
    "rewired_path_length_sd",
    "rewired_modularity",
    "rewired_modularity_sd",
    "lattice_clustering",
    "lattice_clustering_sd",
    "omega",
    "omega_se",
)


def metrics_of(graph: nx.Graph, seed: int = 0) -> GraphMetrics:
    ends = np.array(list(graph.edges()), np.int64).reshape(-1, 2)
    return graph_metrics(ends[:, 0], ends[:, 1], graph.number_of_nodes(), seed=seed)


def latticed(graph: nx.Graph, seed: int) -> nx.Graph:
    """Sporns & Zwi's lattice by trial and error: swaps that shorten links on a ring and leave the graph connected."""
    rng, found, count = random.Random(seed), graph.copy(), graph.number_of_nodes()
    place = rng.sample(range(count), count)

    def apart(a: int, b: int) -> int:
        steps = abs(place[a] - place[b])
        return min(steps, count - steps)

    for _ in range(30_000):
        (a, b), (c, d) = (rng.sample(link, 2) for link in rng.sample(list(found.edges()), 2))
        if len({a, b, c, d}) < 4 or found.has_edge(a, d) or found.has_edge(c, b):
            continue
        if apart(a, d) + apart(c, b) <= apart(a, b) + apart(c, d):
            found.remove_edges_from([(a, b), (c, d)])
            found.add_edges_from([(a, d), (c, b)])
            if not nx.has_path(found, a, b):
                found.remove_edges_from([(a, d), (c, b)])
                found.add_edges_from([(a, b), (c, d)])
    return found


def test_omega_is_what_trial_and_error_and_networkx_come_to() -> None:
    graph = nx.connected_watts_strogatz_graph(26, 4, 0.15, seed=3)
    drawn = [nx.algorithms.smallworld.random_reference(graph, niter=2, seed=k) for k in range(10)]
    length = np.mean([nx.average_shortest_path_length(each) for each in drawn])
    clustered = nx.average_clustering(graph)
    regular = max(clustered, *(nx.average_clustering(latticed(graph, seed)) for seed in range(2)))
    expected = length / nx.average_shortest_path_length(graph) - clustered / regular
    found = metrics_of(graph)
    assert found.clustering == pytest.approx(clustered)
    assert found.rewired_path_length == pytest.approx(length, rel=0.02)
    assert found.lattice_clustering == pytest.approx(regular, rel=0.1)
    assert found.omega == pytest.approx(expected, abs=0.08)


def test_omega_rises_from_a_lattice_over_a_small_world_to_a_random_graph() -> None:
    found = [metrics_of(nx.connected_watts_strogatz_graph(200, 6, p, seed=1)).omega for p in (0, 0.1, 1)]
    assert all(a < b for a, b in pairwise(found))
    assert found[0] < -0.7 and abs(found[1]) < 0.1 and found[-1] > 0.9


def test_omega_varies_between_seeds_as_its_standard_error_says() -> None:
    graph = nx.gnm_random_graph(60, 84, seed=5)
    found = [metrics_of(graph, seed) for seed in range(12)]
    claimed = np.sqrt(np.mean([each.omega_se**2 for each in found]))
    assert 0.6 < np.std([each.omega for each in found], ddof=1) / claimed < 1.5


def test_networks_of_several_components_are_compared_pair_by_pair() -> None:
    """Of cliques every graph with their degrees and components is the same one."""
    found = metrics_of(nx.disjoint_union(nx.complete_graph(4), nx.complete_graph(5)))
    assert (found.rewired_path_length, found.rewired_path_length_sd) == (1, 0)
    assert (found.lattice_clustering, found.omega, found.omega_se) == (1, 0, 0)


def test_trees_have_no_omega_and_networks_without_links_nothing_at_all() -> None:
    tree = metrics_of(nx.random_labeled_tree(30, seed=1))
    assert tree.lattice_clustering == 0 and np.isnan(tree.omega) and np.isnan(tree.omega_se)
    assert np.isfinite(tree.rewired_path_length) and np.isfinite(tree.rewired_modularity)
    empty = asdict(metrics_of(nx.empty_graph(3)))
    assert all(np.isnan(empty[name]) for name in NULLS)


def test_communities_stand_out_from_random_graphs_of_their_degrees() -> None:
    cliques = metrics_of(nx.ring_of_cliques(8, 6))
    assert cliques.modularity > cliques.rewired_modularity + 10 * cliques.rewired_modularity_sd
    rng = np.random.default_rng(2)
    none = metrics_of(nx.gnm_random_graph(80, 160, seed=int(rng.integers(99))))
    assert abs(none.modularity - none.rewired_modularity) < 4 * none.rewired_modularity_sd


def test_self_loops_and_parallel_branches_change_nothing_beside_random_graphs() -> None:
    graph = nx.connected_watts_strogatz_graph(40, 4, 0.2, seed=2)
    a, b = np.array(graph.edges()).T
    plain = asdict(graph_metrics(a, b, 40))
    more = asdict(graph_metrics(np.append(a, [3, b[0], 7]), np.append(b, [3, a[0], 7]), 40))
    assert (more["self_loops"], more["parallel_links"]) == (2, 1)
    assert {name: plain[name] for name in NULLS} == {name: more[name] for name in NULLS}


def test_large_networks_are_not_rewired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "EXACT_NODES", 30)
    monkeypatch.setattr(network_small_world, "rewired", lambda *_: pytest.fail("rewired"))
    found = asdict(metrics_of(nx.gnm_random_graph(40, 80, seed=1)))
    assert all(np.isnan(found[name]) for name in NULLS) and np.isfinite(found["sigma"])
