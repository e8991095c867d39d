"""How a network stands between random graphs and lattices of its degrees: Telesford's omega, and its modularity beside.

    omega = L_random / L - C / C_lattice       -1 as a lattice, 0 as a small world, +1 as a random graph

L is the mean distance over connected pairs and C the mean clustering of the nodes; the random graphs and the lattices
(`network_null`) have the degrees and the components of the network, so the same pairs are connected in all of them.
Telesford, Joyce, Hayasaka, Burdette & Laurienti, Brain Connectivity 1, 2011, 367-375.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numpy.typing import NDArray

from chunkflow.analysis.network_communities import communities
from chunkflow.analysis.network_null import lattice, rewired
from chunkflow.analysis.simple_graph import adjacency, clustering, distances

Ints = NDArray[np.int64]

REWIRED = 20
"""Random graphs."""
LATTICES = 5
PIVOTS = 100
"""Nodes that distances in a random graph start at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallWorld:
    """Means and standard deviations over the random graphs and over the lattices; see `network.GraphMetrics`.

    lattice_clustering is the largest, of all lattices and of the network itself.
    """

    rewired_path_length: float = nan
    rewired_path_length_sd: float = nan
    rewired_modularity: float = nan
    rewired_modularity_sd: float = nan
    lattice_clustering: float = nan
    lattice_clustering_sd: float = nan
    omega: float = nan
    omega_se: float = nan


def small_world(
    links: Ints, component: Ints, *, path_length: float, clustered: float, rng: np.random.Generator
) -> SmallWorld:
    """The network beside `REWIRED` random graphs and `LATTICES` lattices, all NaN without links.

    The standard error of omega is that of the mean path length of the random graphs, with the spread of the lattices'
    clustering: of the largest of several, which varies less, so it is rather too large than too small.

    Parameters
    ----------
    links : (M, 2) int64, a simple graph.
    component : (N,) int64, the component of each node.
    path_length, clustered : of the network, exact.
    """
    if not len(links):
        return SmallWorld()
    nodes = len(component)
    lengths, modularities = np.empty(REWIRED), np.empty(REWIRED)
    for k in range(REWIRED):
        drawn = rewired(links, component, rng)
        lengths[k] = distances(adjacency(drawn, nodes), rng, PIVOTS).path_length
        modularities[k] = communities(drawn, nodes, seed=int(rng.integers(2**31))).modularity
    regular = np.array([clustering(adjacency(lattice(links, component, rng), nodes)) for _ in range(LATTICES)])
    largest, spread = max(clustered, float(regular.max())), float(regular.std(ddof=1))
    of_length = float(lengths.std(ddof=1)) / sqrt(REWIRED) / path_length
    of_clustering = clustered * spread / largest**2 if largest > clustered else 0.0
    has_triangles = largest > 0
    return SmallWorld(
        rewired_path_length=float(lengths.mean()),
        rewired_path_length_sd=float(lengths.std(ddof=1)),
        rewired_modularity=float(modularities.mean()),
        rewired_modularity_sd=float(modularities.std(ddof=1)),
        lattice_clustering=largest,
        lattice_clustering_sd=spread,
        omega=float(lengths.mean()) / path_length - clustered / largest if has_triangles else nan,
        omega_se=sqrt(of_length**2 + of_clustering**2) if has_triangles else nan,
    )
