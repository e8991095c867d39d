"""Communities with igraph and without it, against networkx and closed forms."""

from __future__ import annotations

import random
import sys
from dataclasses import asdict

import networkx as nx
import numpy as np
import pytest

from chunkflow.analysis import network_communities
from chunkflow.analysis.network import GraphMetrics, graph_metrics
from chunkflow.analysis.network_communities import communities, modularity

OF_LOUVAIN = ("modularity", "communities", "louvain", "rewired_modularity", "rewired_modularity_sd")
PATHS = ("igraph", "networkx")


def take(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on communities of any size are found with igraph, or as if it were not installed."""
    monkeypatch.setattr(network_communities, "IGRAPH_NODES", 0)
    if path == "networkx":
        monkeypatch.setitem(sys.modules, "igraph", None)
    else:
        pytest.importorskip("igraph", reason="igraph is not installed (the extra networks)")


def multigraph(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Several components, isolated nodes, self-loops and parallel branches."""
    rng = np.random.default_rng(seed)
    nodes = int(rng.integers(20, 90))
    ends = rng.integers(0, nodes, (int(rng.integers(nodes // 2, 3 * nodes)), 2))
    twice = ends[rng.integers(0, len(ends), 5)]
    loops = np.repeat(rng.integers(0, nodes, (4, 1)), 2, axis=1)
    node_a, node_b = np.concatenate((ends, twice[:, ::-1], loops)).T
    return node_a, node_b, nodes + 3


def truth(node_a: np.ndarray, node_b: np.ndarray, nodes: int) -> dict[str, float]:
    graph = nx.Graph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from((a, b) for a, b in zip(node_a.tolist(), node_b.tolist(), strict=True) if a != b)
    lengths = [d for _, to in nx.all_pairs_shortest_path_length(graph) for d in to.values() if d]
    return {
        "links": graph.number_of_edges(),
        "components": nx.number_connected_components(graph),
        "link_density": nx.density(graph),
        "transitivity": nx.transitivity(graph),
        "assortativity": nx.degree_assortativity_coefficient(graph),
        "efficiency": nx.global_efficiency(graph),
        "path_length": float(np.mean(lengths)),
        "diameter": max(lengths),
    }


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(8))
def test_metrics_of_multigraphs_equal_those_of_networkx(path: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    take(path, monkeypatch)
    ends = multigraph(seed)
    found = graph_metrics(*ends)
    assert found.louvain == path and found.self_loops >= 4 and found.parallel_links >= 1
    for name, value in truth(*ends).items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-9), name


def test_all_but_the_communities_is_the_same_with_igraph_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[GraphMetrics] = []
    for path in PATHS:
        with monkeypatch.context() as patch:
            take(path, patch)
            found.append(graph_metrics(*multigraph(3)))
    with_igraph, without = ({k: v for k, v in asdict(f).items() if k not in OF_LOUVAIN} for f in found)
    assert with_igraph == without
    assert abs(found[0].modularity - found[1].modularity) < 0.03


@pytest.mark.parametrize("seed", range(4))
def test_the_modularity_of_a_partition_is_that_of_networkx_and_igraph(seed: int) -> None:
    igraph = pytest.importorskip("igraph", reason="igraph is not installed (the extra networks)")
    graph = nx.gnm_random_graph(70, 110, seed=seed)
    of_node = np.random.default_rng(seed).integers(0, 6, 70)
    links = np.array(graph.edges())
    found = modularity(links, of_node)
    parts = [set(np.flatnonzero(of_node == k).tolist()) for k in range(6)]
    assert found == pytest.approx(nx.community.modularity(graph, parts), abs=1e-9)
    assert found == pytest.approx(igraph.Graph(n=70, edges=links).modularity(of_node.tolist()), abs=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_cliques_that_touch_at_one_link_are_the_communities(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take(path, monkeypatch)
    cliques, size = 6, 5
    links = np.array(nx.ring_of_cliques(cliques, size).edges())
    found = communities(links, cliques * size + 2, seed=1)
    inside = size * (size - 1) // 2
    expected = inside / (inside + 1) - 1 / cliques  # all cliques have the same share of the degrees
    assert found.count == cliques + 2  # and two isolated nodes
    assert found.modularity == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_equal_seeds_find_equal_communities(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take(path, monkeypatch)
    links = np.array(nx.gnm_random_graph(300, 500, seed=2).edges())
    found = [communities(links, 300, seed=seed).modularity for seed in (5, 5, 6, 7, 8)]
    assert found[0] == found[1] and len(set(found)) > 1


def test_the_generator_of_python_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    take("igraph", monkeypatch)
    before = random.getstate()
    communities(np.array(nx.gnm_random_graph(50, 80, seed=2).edges()), 50, seed=1)
    assert random.getstate() == before


def test_small_networks_have_the_same_communities_wherever_they_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    links = np.array(nx.gnm_random_graph(200, 300, seed=2).edges())
    found = communities(links, 200, seed=1)
    monkeypatch.setitem(sys.modules, "igraph", None)
    assert found == communities(links, 200, seed=1) and found.by == "networkx"
