"""Simple graphs: their links, clustering, and distances from node to node in steps.

Distances are breadth-first: from every node, which is exact, or from seeded pivots, with standard errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, sqrt
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Distances:
    """What breadth-first searches found, with standard errors, 0 where they began at every node.

    diameter : the largest; of pivots only, a lower bound
    path_length : mean over connected pairs
    efficiency : mean of 1 / distance over all pairs, 0 for those not connected
    """

    diameter: int
    path_length: float
    path_length_se: float
    efficiency: float
    efficiency_se: float


def simple_links(node_a: Ints, node_b: Ints) -> tuple[Ints, int, int]:
    """(M, 2) links, smaller node first, in order; and how many self-loops and parallel branches were left out."""
    ends = np.sort(np.stack((node_a, node_b), axis=1).astype(np.int64).reshape(-1, 2), axis=1)
    proper = ends[ends[:, 0] != ends[:, 1]]
    links = proper[first_of_each(proper)]
    links = links[np.lexsort((links[:, 1], links[:, 0]))]
    return links, len(ends) - len(proper), len(proper) - len(links)


def first_of_each(pairs: Ints) -> NDArray[np.intp]:
    """Where each pair comes first, in the order of `pairs`; ten times as fast as `np.unique(axis=0)`."""
    second = int(pairs.max(initial=0)) + 1  # nodes below 3e9, so that a pair fits an int64
    return np.sort(np.unique(pairs[:, 0] * second + pairs[:, 1], return_index=True)[1])


def adjacency(links: Ints, nodes: int) -> Any:
    """(N, N) sparse matrix of ones where a link is; (M, 2) links of a simple graph."""
    rows, columns = np.concatenate((links, links[:, ::-1])).T
    return sparse.csr_array((np.ones(len(rows), np.int64), (rows, columns)), shape=(nodes, nodes))


def clustering(matrix: Any) -> float:
    """Mean over all nodes of the share of pairs of a node's neighbours that are linked, 0 for nodes with fewer than two
    (Watts & Strogatz, Nature 393, 1998); NaN without nodes.
    """
    degree = np.diff(matrix.indptr).astype(np.int64)
    pairs = degree * (degree - 1)  # each pair twice, as each triangle below
    triangles = np.asarray((matrix @ matrix).multiply(matrix).sum(axis=1)).ravel()
    shares = np.divide(triangles, pairs, out=np.zeros(len(degree)), where=pairs > 0)
    return float(shares.mean()) if len(shares) else nan


def transitivity(matrix: Any) -> float:
    """3 triangles over paths of two links; NaN without such a path."""
    degree = np.diff(matrix.indptr).astype(np.int64)
    paths = int((degree * (degree - 1)).sum())  # each path of two links twice, each triangle six times
    return int((matrix @ matrix).multiply(matrix).sum()) / paths if paths else nan


def distances(matrix: Any, rng: np.random.Generator, pivots: int) -> Distances:
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
    return Distances(int(farthest.max(initial=0)), length, length_se, efficiency, efficiency_se)


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
