"""Random graphs and lattices of given degrees against enumeration, closed forms and networkx."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import combinations

import networkx as nx
import numpy as np
import pytest
from scipy import stats

from chunkflow.analysis import network_null
from chunkflow.analysis.network import components_of
from chunkflow.analysis.network_null import lattice, rewired
from chunkflow.analysis.simple_graph import adjacency, clustering, distances

Draw = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def links_of(graph: nx.Graph) -> tuple[np.ndarray, np.ndarray]:
    """Links, smaller node first, and the component of each node."""
    links = np.sort(np.array(graph.edges(), np.int64).reshape(-1, 2), axis=1)
    return links, components_of(links[:, 0], links[:, 1], graph.number_of_nodes())


def graph_of(links: np.ndarray, nodes: int) -> nx.Graph:
    graph = nx.empty_graph(nodes)
    graph.add_edges_from(links.tolist())
    return graph


SEVERAL = nx.disjoint_union_all(
    [
        nx.gnm_random_graph(40, 48, seed=1),
        nx.random_labeled_tree(25, seed=2),
        nx.complete_graph(4),
        nx.path_graph(2),
        nx.connected_watts_strogatz_graph(30, 4, 0.2, seed=3),
        nx.empty_graph(3),
    ]
)


@pytest.mark.parametrize("draw", [rewired, lattice])
@pytest.mark.parametrize("seed", range(4))
def test_degrees_and_components_stay_and_no_link_comes_twice(draw: Draw, seed: int) -> None:
    links, component = links_of(SEVERAL)
    found = draw(links, component, np.random.default_rng(seed))
    graph = graph_of(found, len(component))
    assert [d for _, d in graph.degree()] == [SEVERAL.degree(v) for v in range(len(component))]
    assert graph.number_of_edges() == len(links) and (found[:, 0] < found[:, 1]).all()
    assert (np.lexsort((found[:, 1], found[:, 0])) == np.arange(len(found))).all()
    assert {frozenset(c) for c in nx.connected_components(graph)} == {
        frozenset(c) for c in nx.connected_components(SEVERAL)
    }
    same = set(map(tuple, found.tolist())) & set(map(tuple, links.tolist()))
    assert len(same) < 0.5 * len(links)


def test_every_connected_graph_with_these_degrees_is_as_likely() -> None:
    graph = nx.Graph([(0, 1), (1, 2), (2, 3), (3, 4), (1, 3), (2, 5), (4, 5)])
    links, component = links_of(graph)
    degrees = [graph.degree(v) for v in range(6)]
    pairs = list(combinations(range(6), 2))
    every = {
        chosen
        for chosen in combinations(pairs, len(links))
        if np.bincount(np.ravel(chosen), minlength=6).tolist() == degrees
        and nx.is_connected(graph_of(np.array(chosen), 6))
    }
    rng = np.random.default_rng(5)
    found = Counter(tuple(map(tuple, rewired(links, component, rng).tolist())) for _ in range(100 * len(every)))
    assert set(found) == every and len(every) > 20
    assert stats.chisquare([found[each] for each in every]).pvalue > 0.001


def test_random_graphs_have_the_distances_of_those_of_networkx() -> None:
    graph = nx.connected_watts_strogatz_graph(40, 4, 0.05, seed=4)
    links, component = links_of(graph)
    rng = np.random.default_rng(6)
    ours = [distances(adjacency(rewired(links, component, rng), 40), rng, 40).path_length for _ in range(30)]
    theirs = [
        nx.average_shortest_path_length(nx.algorithms.smallworld.random_reference(graph, niter=2, seed=k))
        for k in range(6)
    ]
    assert stats.ttest_ind(ours, theirs, equal_var=False).pvalue > 0.001
    assert max(ours) < 0.9 * nx.average_shortest_path_length(graph)


@pytest.mark.parametrize(("nodes", "degree"), [(60, 4), (120, 6), (200, 8)])
def test_the_lattice_of_a_regular_graph_is_clustered_as_a_ring_lattice(nodes: int, degree: int) -> None:
    links, component = links_of(nx.random_regular_graph(degree, nodes, seed=1))
    expected = 3 * (degree - 2) / (4 * (degree - 1))  # Watts & Strogatz, Nature 393, 1998
    found = [clustering(adjacency(lattice(links, component, np.random.default_rng(k)), nodes)) for k in range(3)]
    assert clustering(adjacency(links, nodes)) < 0.1
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_lattices_are_more_clustered_than_those_of_networkx() -> None:
    graph = nx.gnm_random_graph(60, 120, seed=2)
    graph = graph.subgraph(max(nx.connected_components(graph), key=len))
    graph = nx.convert_node_labels_to_integers(graph)
    links, component = links_of(graph)
    ours = clustering(adjacency(lattice(links, component, np.random.default_rng(1)), len(graph)))
    theirs = nx.average_clustering(nx.algorithms.smallworld.lattice_reference(graph, niter=5, seed=1))
    assert ours > 1.5 * theirs


def test_equal_seeds_draw_equal_graphs() -> None:
    links, component = links_of(SEVERAL)
    for draw in (rewired, lattice):
        first, again, other = (draw(links, component, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_swaps_that_tear_a_component_are_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = nx.random_labeled_tree(200, seed=3)
    links, component = links_of(tree)
    monkeypatch.setattr(network_null, "REWIRED_SWEEPS", 3)
    for seed in range(20):
        found = rewired(links, component, np.random.default_rng(seed))
        assert nx.is_tree(graph_of(found, 200))
