"""Communities of a network by Louvain's method, and the modularity of a partition.

Louvain's method visits nodes in random order, so two programs find two partitions, about equally good. Up to
`IGRAPH_NODES` nodes networkx looks (half a second), whether igraph is installed or not: the numbers are the same
everywhere. Beyond, igraph does where it is installed (`pip install igraph`; it is GPL): 0.08 s instead of 2.5 s for
20,000 nodes, 0.8 s instead of 13 s for 100,000. Either gives the same numbers for the same seed. The modularity itself
is a ratio of exact integers, rounded once, of whichever partition.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

IGRAPH_NODES = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Communities:
    """A partition in numbers.

    modularity : NaN without links
    count : communities; isolated nodes are communities of their own
    by : "networkx", "igraph", or "none" without links
    """

    modularity: float
    count: int
    by: str


def communities(links: Ints, nodes: int, *, seed: int) -> Communities:
    """Louvain's partition of a simple graph.

    Parameters
    ----------
    links : (M, 2) ends of each link; no self-loops, none twice.
    nodes : how many there are, isolated ones included.
    seed : of the order of visits.
    """
    if not len(links):
        return Communities(modularity=nan, count=nodes, by="none")
    of_node = _by_igraph(links, nodes, seed) if nodes > IGRAPH_NODES else None
    by = "networkx" if of_node is None else "igraph"
    if of_node is None:
        of_node = _by_networkx(links, nodes, seed)
    return Communities(modularity=modularity(links, of_node), count=int(of_node.max()) + 1, by=by)


def modularity(links: Ints, of_node: Ints) -> float:
    """Share of links inside communities, less what the degrees alone would give (Newman & Girvan, PRE 69, 2004, eq. 5).

    Parameters
    ----------
    links : (M, 2), M > 0; parallel links and self-loops count as often as they come.
    of_node : (N,) community of each node, from 0.
    """
    ends = of_node[links]
    inside = int((ends[:, 0] == ends[:, 1]).sum())
    squares = sum(degree * degree for degree in np.bincount(ends.ravel()).tolist())  # Python's integers never overflow
    return float((4 * len(links) * inside - squares) / (4 * len(links) * len(links)))


def _by_networkx(links: Ints, nodes: int, seed: int) -> Ints:
    import networkx as nx  # workers that find no communities do without

    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(links.tolist())
    of_node = np.zeros(nodes, np.int64)
    for k, members in enumerate(nx.community.louvain_communities(graph, seed=seed)):
        of_node[list(members)] = k
    return of_node


def _by_igraph(links: Ints, nodes: int, seed: int) -> Ints | None:
    """None where igraph is not installed."""
    try:
        import igraph
    except ImportError:
        return None
    igraph.set_random_number_generator(random.Random(seed))
    try:
        found = igraph.Graph(n=nodes, edges=links).community_multilevel()
    finally:
        igraph.set_random_number_generator(random)  # igraph's default; there is one for the whole process
    return np.asarray(found.membership, np.int64)
