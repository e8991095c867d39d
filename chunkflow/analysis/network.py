"""Networks in numbers: counts and lengths per object, and the metrics of a network as a graph.

`network_columns` counts what MitoGraph and MiNA count, on the multigraph as it is: parallel branches are two branches,
a self-loop is a branch and two of its node's degree.

`graph_metrics` looks at the shape of the graph alone, in steps from node to node. These metrics are defined on simple
graphs, so self-loops are dropped and parallel branches become one link; how many there were is in the result. Nodes of
degree 2 do not occur but on rings, since a branch is all that lies between ends and junctions.

Distances are breadth-first from every node up to `EXACT_NODES` (half a minute), beyond that from `PIVOTS` seeded
pivots, with standard errors; in null models from `NULL_PIVOTS`. Time is pivots times links. Modularity and null models
are random and take a seed; nodes keep their order, so equal seeds give equal numbers. Random graphs and lattices that
keep the degrees (`network_small_world`) take 0.3 s at 200 nodes, 15 s at 5,000, and a minute at `EXACT_NODES`, where
they end.

Everything is the same with and without igraph but the communities, of the network and of random graphs: from
`network_communities.IGRAPH_NODES` nodes on igraph looks for them where it is installed, about twenty times as fast as
networkx, and the metric `louvain` says which did. Distances stay here: igraph takes 1.4 times as long for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import fsum, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from chunkflow.analysis.network_communities import communities
from chunkflow.analysis.network_small_world import SmallWorld, small_world
from chunkflow.analysis.simple_graph import (
    adjacency,
    clustering,
    distances,
    first_of_each,
    simple_links,
    transitivity,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]

EXACT_NODES = 20_000
"""Up to here distances start at every node."""
PIVOTS = 2_000
NULL_PIVOTS = 100
NULL_MODELS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphMetrics:
    """The shape of a network; NaN where a metric is not defined (no links, no pairs, all degrees equal).

    nodes, links : of the simple graph
    self_loops, parallel_links : branches left out of it
    components : connected components
    link_density : links over pairs of nodes, 2 M / (N (N - 1))
    degree_mean : 2 M / N
    degree_counts : nodes of degree 0, 1, 2 and so on, up to the largest degree
    degree_entropy : of the distribution of degrees, - sum p log2 p, in bits
    assortativity : correlation of the degrees at both ends of a link (Newman, PRL 89, 2002, eq. 4)
    transitivity : 3 triangles over paths of two links
    clustering : mean over all nodes of the share of pairs of its neighbours that are linked, 0 for nodes with fewer
        than two (Watts & Strogatz, Nature 393, 1998)
    diameter : largest distance between connected nodes; of pivots only, a lower bound, where `is_exact` is false
    path_length, path_length_se : mean distance over connected pairs, and its standard error (0 where exact)
    efficiency, efficiency_se : mean of 1 / distance over all pairs, 0 for those not connected (Latora & Marchiori, PRL
        87, 2001)
    modularity, communities : of the partition that Louvain finds (Blondel et al., J. Stat. Mech. P10008, 2008);
        modularity as Newman & Girvan, PRE 69, 2004, have it, from exact integers
    louvain : "networkx" or "igraph", which found it; "none" without links
    null_transitivity, null_transitivity_sd, null_path_length, null_path_length_sd, null_efficiency,
        null_efficiency_sd : mean and standard deviation of `NULL_MODELS` random graphs with as many nodes and links;
        their distances from `NULL_PIVOTS` nodes
    sigma : (transitivity / null) / (path length / null), above 1 in a small world (Humphries & Gurney, PLoS ONE 3,
        2008); NaN where random graphs as sparse as this one have no triangles
    rewired_path_length, rewired_path_length_sd, rewired_modularity, rewired_modularity_sd : mean and standard deviation
        of 20 random graphs in which every node keeps its degree and every component its nodes (`network_null`);
        modularity of the partition that Louvain finds in each
    lattice_clustering, lattice_clustering_sd : the largest clustering of 5 lattices with these degrees and components
        and of the network itself, and the standard deviation over the lattices
    omega, omega_se : rewired_path_length / path_length - clustering / lattice_clustering (Telesford et al., Brain
        Connectivity 1, 2011, 367-375), and its standard error: -1 as a lattice, 0 in a small world, 1 as a random
        graph; NaN where lattices as sparse as this network have no triangles, as those of trees. From rewired to
        omega_se all are NaN above `EXACT_NODES` nodes
    is_exact : distances start at every node
    """

    nodes: int
    links: int
    self_loops: int
    parallel_links: int
    components: int
    link_density: float
    degree_mean: float
    degree_counts: tuple[int, ...]
    degree_entropy: float
    assortativity: float
    transitivity: float
    clustering: float
    diameter: int
    path_length: float
    path_length_se: float
    efficiency: float
    efficiency_se: float
    modularity: float
    communities: int
    louvain: str
    null_transitivity: float
    null_transitivity_sd: float
    null_path_length: float
    null_path_length_sd: float
    null_efficiency: float
    null_efficiency_sd: float
    sigma: float
    rewired_path_length: float
    rewired_path_length_sd: float
    rewired_modularity: float
    rewired_modularity_sd: float
    lattice_clustering: float
    lattice_clustering_sd: float
    omega: float
    omega_se: float
    is_exact: bool


def network_columns(nodes: Columns, branches: Columns) -> dict[str, NDArray[Any]]:
    """The table of networks: one row per object that has a node, by increasing id.

    Parameters
    ----------
    nodes : columns object_id and degree of the table of nodes, whose row k is node k.
    branches : columns object_id, node_a, node_b and length_um of the table of branches.

    Returns
    -------
    object_id; length_um, of all its branches; branches, nodes, components, loops (branches - nodes + components);
    ends, nodes of degree 1; junctions, nodes of degree 3 or more, and junctions_3, junctions_4 of just that;
    degree_mean, 2 branches / nodes; branch_length_mean_um; phi, the share of the length that the object's longest
    component has; connectivity_score, see the function; length_share, the object's
    share of the volume's length, whose maximum is the PHI of the volume where objects are connected (MitoGraph: Viana
    et al., Methods Cell Biol. 2020). Shares of no length are NaN.
    """
    object_id, of_node = np.unique(nodes["object_id"], return_inverse=True)
    rows = len(object_id)
    degree = nodes["degree"]
    of_branch = of_node[branches["node_a"]]
    length = np.asarray(branches["length_um"], np.float64)
    component = components_of(branches["node_a"], branches["node_b"], len(degree))
    pieces = int(component.max(initial=-1)) + 1
    of_piece = np.zeros(pieces, np.int64)
    of_piece[component] = of_node
    piece_length = np.bincount(component[branches["node_a"]], weights=length, minlength=pieces)
    longest = np.zeros(rows)
    np.maximum.at(longest, of_piece, piece_length)
    total = np.bincount(of_branch, weights=length, minlength=rows).astype(
        np.float64
    )  # in the order of the branches: any blocks, one sum
    count = np.bincount(of_branch, minlength=rows)
    nodes_of = np.bincount(of_node, minlength=rows)
    components = np.bincount(of_piece, minlength=rows)

    def nodes_where(chosen: NDArray[np.bool_]) -> Ints:
        return np.bincount(of_node[chosen], minlength=rows)

    return {
        "object_id": object_id,
        "length_um": total,
        "branches": count,
        "nodes": nodes_of,
        "components": components,
        "loops": count - nodes_of + components,
        "ends": nodes_where(degree == 1),
        "junctions": nodes_where(degree >= 3),
        "junctions_3": nodes_where(degree == 3),
        "junctions_4": nodes_where(degree == 4),
        "degree_mean": 2 * count / nodes_of,
        "branch_length_mean_um": _ratio(total, count),
        "phi": (phi := _ratio(longest, total)),
        "connectivity_score": connectivity_score(phi, total, count, nodes_of, components),
        "length_share": length_shares(total, fsum(total.tolist())),
    }


def connectivity_score(phi: Floats, length_um: Floats, branches: Ints, nodes: Ints, components: Ints) -> Floats:
    """MitoGraph's connectivity score of each network, high where few long pieces branch much.

        (phi + length / branches + 2 branches / nodes) / ((nodes + branches + components) / length)

    As `CreateSummary.R` of Hill-Lab/MitoGraph-Contrib-RScripts has it, the scripts of Harwig et al., Anal. Biochem. 552
    (2018) 81-99. It adds um to pure numbers, so it holds for lengths in um only. The mean degree here counts
    every node; the script's leaves out degrees other than 1, 3 and 4. Points without a branch count as nodes and
    components; MitoGraph's files do not hold them.

    Parameters
    ----------
    phi : (R,) share of the length in the longest component.
    length_um : (R,) of all branches.
    branches, nodes, components : (R,) how many.

    Returns (R,) NaN where there is no length.
    """
    summed = phi + _ratio(length_um, branches) + _ratio(2 * branches, nodes)
    return np.asarray(summed * length_um / np.maximum(nodes + branches + components, 1))


def volume_network(networks: Columns) -> dict[str, float]:
    """All networks of the table as one, for a volume that holds one cell: counts, means, PHI and the score.

    Parameters
    ----------
    networks : what `network_columns` gives, the table `networks` of a result too.

    Returns
    -------
    length_um, branches, nodes, components, loops, ends, junctions, junctions_3 and junctions_4, summed; degree_mean,
    branch_length_mean_um, phi and connectivity_score of all together, NaN where there is no length.
    """
    names = ("length_um", "branches", "nodes", "components", "loops", "ends", "junctions", "junctions_3", "junctions_4")
    sums = {name: np.asarray(networks[name]).sum(keepdims=True) for name in names}
    length, branches, nodes = (sums[name] for name in ("length_um", "branches", "nodes"))
    longest = np.nan_to_num(np.asarray(networks["phi"], np.float64)) * np.asarray(networks["length_um"])
    phi = _ratio(longest.max(initial=0, keepdims=True), length)
    found = sums | {
        "degree_mean": _ratio(2 * branches, nodes),
        "branch_length_mean_um": _ratio(length, branches),
        "phi": phi,
        "connectivity_score": connectivity_score(phi, length, branches, nodes, sums["components"]),
    }
    return {name: values[0].item() for name, values in found.items()}


def length_shares(length_um: NDArray[np.float64], total_um: float) -> NDArray[np.float64]:
    """Each object's share of the length of all of them, which is the total; NaN where there is none."""
    return _ratio(length_um, np.full(len(length_um), total_um))


def graph_metrics(node_a: Ints, node_b: Ints, nodes: int, *, seed: int = 0) -> GraphMetrics:
    """The metrics of one network.

    Parameters
    ----------
    node_a, node_b : (E,) ends of each branch, 0 <= end < nodes; any multigraph.
    nodes : how many there are, isolated ones included.
    seed : of the pivots, of Louvain and of the null models.
    """
    links, loops, parallel = simple_links(node_a, node_b)
    matrix = adjacency(links, nodes)
    degree = np.diff(matrix.indptr).astype(np.int64)
    is_exact = nodes <= EXACT_NODES
    rng = np.random.default_rng(seed)
    steps = distances(matrix, rng, nodes if is_exact else PIVOTS)
    triangles, clustered = transitivity(matrix), clustering(matrix)
    null = _null_models(nodes, len(links), rng)
    ratio = triangles / null["null_transitivity"] if null["null_transitivity"] > 0 else nan
    found = communities(links, nodes, seed=seed)
    component = components_of(links[:, 0], links[:, 1], nodes)
    beside = SmallWorld()
    if is_exact:
        own = np.random.default_rng([seed, 1])
        beside = small_world(links, component, path_length=steps.path_length, clustered=clustered, rng=own)
    given: dict[str, Any] = asdict(steps) | null | asdict(beside)
    return GraphMetrics(
        nodes=nodes,
        links=len(links),
        self_loops=loops,
        parallel_links=parallel,
        components=int(component.max(initial=-1)) + 1,
        link_density=2 * len(links) / (nodes * (nodes - 1)) if nodes > 1 else nan,
        degree_mean=2 * len(links) / nodes if nodes else nan,
        degree_counts=tuple(np.bincount(degree).tolist()),
        degree_entropy=_entropy(degree),
        assortativity=_assortativity(links, degree),
        transitivity=triangles,
        clustering=clustered,
        modularity=found.modularity,
        communities=found.count,
        louvain=found.by,
        sigma=ratio * null["null_path_length"] / steps.path_length if steps.path_length > 0 else nan,
        is_exact=is_exact,
        **given,
    )


def object_metrics(nodes: Columns, branches: Columns, object_id: int, *, seed: int = 0) -> GraphMetrics:
    """`graph_metrics` of one object of the tables of nodes and branches."""
    own = np.flatnonzero(np.asarray(nodes["object_id"]) == object_id)
    chosen = np.asarray(branches["object_id"]) == object_id
    ends = (np.searchsorted(own, np.asarray(branches[name])[chosen]) for name in ("node_a", "node_b"))
    node_a, node_b = ends
    return graph_metrics(node_a, node_b, len(own), seed=seed)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """part / whole, NaN where the whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.full(len(part), nan), where=whole > 0))


def components_of(node_a: Ints, node_b: Ints, nodes: int) -> Ints:
    """(V,) the connected component of each node, from 0; by the ends of the branches."""
    if nodes == 0:
        return np.zeros(0, np.int64)
    ones = np.ones(len(node_a), np.int8)
    matrix = sparse.coo_array((ones, (node_a, node_b)), shape=(nodes, nodes)).tocsr()
    return np.asarray(csgraph.connected_components(matrix, directed=False)[1], np.int64)


def _entropy(degree: Ints) -> float:
    if not len(degree):
        return nan
    share = np.unique(degree, return_counts=True)[1] / len(degree)
    return abs(float(-(share * np.log2(share)).sum()))


def _assortativity(links: Ints, degree: Ints) -> float:
    """Newman's r from exact integer sums."""
    a, b = degree[links].T.astype(object) if len(links) else np.zeros((2, 0), object)
    count = len(links)
    both, either = 4 * count * int((a * b).sum()), int((a + b).sum()) ** 2
    spread = 2 * count * int((a * a + b * b).sum()) - either
    return (both - either) / spread if spread else nan


def _null_models(nodes: int, links: int, rng: np.random.Generator) -> dict[str, float]:
    """Means and standard deviations over random graphs G(n, M), NaN without links."""
    drawn = np.array([_null_model(nodes, links, rng) for _ in range(NULL_MODELS if links else 0)]).reshape(-1, 3)
    mean, spread = (drawn.mean(axis=0), drawn.std(axis=0, ddof=1)) if len(drawn) else np.full((2, 3), nan)
    names = ("null_transitivity", "null_path_length", "null_efficiency")
    means = {name: float(value) for name, value in zip(names, mean, strict=True)}
    return means | {f"{name}_sd": float(value) for name, value in zip(names, spread, strict=True)}


def _null_model(nodes: int, links: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Transitivity, path length and efficiency of one of Erdos & Renyi's random graphs G(n, M)."""
    drawn = np.zeros((0, 2), np.int64)
    while len(drawn) < links:  # pairs in the order they were drawn, so that the first M are a fair sample
        ends = rng.integers(0, nodes, (2 * (links - len(drawn)) + 8, 2))
        drawn = np.concatenate((drawn, np.sort(ends[ends[:, 0] != ends[:, 1]], axis=1)))
        drawn = drawn[first_of_each(drawn)]
    matrix = adjacency(drawn[:links], nodes)
    triangles = transitivity(matrix)
    steps = distances(matrix, rng, NULL_PIVOTS)
    return (0.0 if triangles != triangles else triangles), steps.path_length, steps.efficiency
