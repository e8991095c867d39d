"""Networks in numbers: counts and lengths per object, and the metrics of a network as a graph.

`network_columns` counts what MitoGraph and MiNA count, on the multigraph as it is: parallel branches are two branches,
a self-loop is a branch and two of its node's degree.

`graph_metrics` looks at the shape of the graph alone, in steps from node to node. These metrics are defined on simple
graphs, so self-loops are dropped and parallel branches become one link; how many there were is in the result. Nodes of
degree 2 do not occur but on rings, since a branch is all that lies between ends and junctions.

Distances are breadth-first from every node up to `EXACT_NODES` (half a minute), beyond that from `PIVOTS` seeded
pivots, with standard errors; in null models from `NULL_PIVOTS`. Time is pivots times links. Modularity and null models
are random and take a seed; nodes keep their order, so equal seeds give equal numbers.

Everything is exact and the same with and without igraph but the communities: from `network_communities.IGRAPH_NODES`
nodes on igraph looks for them where it is installed, about twenty times as fast as networkx, and
the metric `louvain` says which did. Distances stay here: igraph takes 1.4 times as long for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan, sqrt
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from chunkflow.analysis.network_communities import communities

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
    is_exact: bool


@dataclass(frozen=True, slots=True)
class _Distances:
    diameter: int
    path_length: float
    path_length_se: float
    efficiency: float
    efficiency_se: float


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
        "length_share": length_shares(total),
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


def length_shares(length_um: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each object's share of the length of all of them, NaN where there is none."""
    return _ratio(length_um, np.full(len(length_um), float(length_um.sum())))


def graph_metrics(node_a: Ints, node_b: Ints, nodes: int, *, seed: int = 0) -> GraphMetrics:
    """The metrics of one network.

    Parameters
    ----------
    node_a, node_b : (E,) ends of each branch, 0 <= end < nodes; any multigraph.
    nodes : how many there are, isolated ones included.
    seed : of the pivots, of Louvain and of the null models.
    """
    links, loops, parallel = _simple(node_a, node_b)
    matrix = _adjacency(links, nodes)
    degree = np.diff(matrix.indptr).astype(np.int64)
    rng = np.random.default_rng(seed)
    distances = _distances(matrix, rng, nodes if nodes <= EXACT_NODES else PIVOTS)
    transitivity = _transitivity(matrix, degree)
    null = np.array([_null_model(nodes, len(links), rng) for _ in range(NULL_MODELS if len(links) else 0)])
    null = null.reshape(-1, 3)
    mean, spread = (null.mean(axis=0), null.std(axis=0, ddof=1)) if len(null) else np.full((2, 3), nan)
    clustered = transitivity / float(mean[0]) if mean[0] > 0 else nan
    found = communities(links, nodes, seed=seed)
    return GraphMetrics(
        nodes=nodes,
        links=len(links),
        self_loops=loops,
        parallel_links=parallel,
        components=int(csgraph.connected_components(matrix, directed=False)[0]) if nodes else 0,
        link_density=2 * len(links) / (nodes * (nodes - 1)) if nodes > 1 else nan,
        degree_mean=2 * len(links) / nodes if nodes else nan,
        degree_counts=tuple(np.bincount(degree).tolist()),
        degree_entropy=_entropy(degree),
        assortativity=_assortativity(links, degree),
        transitivity=transitivity,
        diameter=distances.diameter,
        path_length=distances.path_length,
        path_length_se=distances.path_length_se,
        efficiency=distances.efficiency,
        efficiency_se=distances.efficiency_se,
        modularity=found.modularity,
        communities=found.count,
        louvain=found.by,
        null_transitivity=float(mean[0]),
        null_transitivity_sd=float(spread[0]),
        null_path_length=float(mean[1]),
        null_path_length_sd=float(spread[1]),
        null_efficiency=float(mean[2]),
        null_efficiency_sd=float(spread[2]),
        sigma=clustered * float(mean[1]) / distances.path_length if distances.path_length > 0 else nan,
        is_exact=nodes <= EXACT_NODES,
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


def _simple(node_a: Ints, node_b: Ints) -> tuple[Ints, int, int]:
    """(M, 2) links, smaller node first, in order; and how many self-loops and parallel branches were left out."""
    ends = np.sort(np.stack((node_a, node_b), axis=1).astype(np.int64).reshape(-1, 2), axis=1)
    proper = ends[ends[:, 0] != ends[:, 1]]
    links = proper[_first_of_each(proper)]
    links = links[np.lexsort((links[:, 1], links[:, 0]))]
    return links, len(ends) - len(proper), len(proper) - len(links)


def _first_of_each(pairs: Ints) -> NDArray[np.intp]:
    """Where each pair comes first, in the order of `pairs`; ten times as fast as `np.unique(axis=0)`."""
    second = int(pairs.max(initial=0)) + 1  # nodes below 3e9, so that a pair fits an int64
    return np.sort(np.unique(pairs[:, 0] * second + pairs[:, 1], return_index=True)[1])


def _adjacency(links: Ints, nodes: int) -> Any:
    rows, columns = np.concatenate((links, links[:, ::-1])).T
    return sparse.csr_array((np.ones(len(rows), np.int64), (rows, columns)), shape=(nodes, nodes))


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


def _transitivity(matrix: Any, degree: Ints) -> float:
    paths = int((degree * (degree - 1)).sum())  # each path of two links twice, each triangle six times
    return int((matrix @ matrix).multiply(matrix).sum()) / paths if paths else nan


def _distances(matrix: Any, rng: np.random.Generator, pivots: int) -> _Distances:
    """Of all nodes, or of pivots: ratios of means over them, standard errors for a sample without replacement."""
    nodes = matrix.shape[0]
    is_exact = nodes <= pivots
    sources = np.arange(nodes) if is_exact else np.sort(rng.choice(nodes, pivots, replace=False))
    indptr, indices = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)
    reached, steps, inverse, farthest = _breadth_first(indptr, indices, sources)
    pairs = int(reached.sum())
    length = int(steps.sum()) / pairs if pairs else nan
    efficiency = float(inverse.mean()) / (nodes - 1) if nodes > 1 else nan
    length_se = efficiency_se = 0.0
    if not is_exact:
        left = (1 - len(sources) / nodes) / len(sources)
        efficiency_se = sqrt(left * float(inverse.var(ddof=1))) / (nodes - 1)
        length_se = sqrt(left * float((steps - length * reached).var(ddof=1))) / float(reached.mean()) if pairs else nan
    return _Distances(int(farthest.max(initial=0)), length, length_se, efficiency, efficiency_se)


@njit(cache=True, nogil=True)
def _breadth_first(indptr: Ints, indices: Ints, sources: Ints) -> tuple[Ints, Ints, Floats, Ints]:
    """Per source: nodes reached, sum of their distances, of 1 / distance, and the largest; itself not counted."""
    nodes = indptr.size - 1
    reached, steps = np.zeros(sources.size, np.int64), np.zeros(sources.size, np.int64)
    inverse, farthest = np.zeros(sources.size), np.zeros(sources.size, np.int64)
    seen_by, queue = np.full(nodes, -1, np.int64), np.empty(nodes, np.int64)
    for s in range(sources.size):
        queue[0] = sources[s]
        seen_by[sources[s]] = s
        begin, end, distance = 0, 1, 0
        while begin < end:
            stop = end
            for q in range(begin, stop):
                for k in range(indptr[queue[q]], indptr[queue[q] + 1]):
                    if seen_by[indices[k]] != s:
                        seen_by[indices[k]] = s
                        queue[end] = indices[k]
                        end += 1
            distance += 1
            begin = stop
            if end > stop:
                reached[s] += end - stop
                steps[s] += distance * (end - stop)
                inverse[s] += (end - stop) / distance
                farthest[s] = distance
    return reached, steps, inverse, farthest


def _null_model(nodes: int, links: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Transitivity, path length and efficiency of one of Erdos & Renyi's random graphs G(n, M)."""
    drawn = np.zeros((0, 2), np.int64)
    while len(drawn) < links:  # pairs in the order they were drawn, so that the first M are a fair sample
        ends = rng.integers(0, nodes, (2 * (links - len(drawn)) + 8, 2))
        drawn = np.concatenate((drawn, np.sort(ends[ends[:, 0] != ends[:, 1]], axis=1)))
        drawn = drawn[_first_of_each(drawn)]
    matrix = _adjacency(drawn[:links], nodes)
    transitivity = _transitivity(matrix, np.diff(matrix.indptr).astype(np.int64))
    distances = _distances(matrix, rng, NULL_PIVOTS)
    return (0.0 if transitivity != transitivity else transitivity), distances.path_length, distances.efficiency
