"""Random graphs and lattices with the degrees of a network, by swapping the ends of its links.

    a - b      a   b       The ends of two links are swapped: every node keeps its degree. A swap that would make a
            ->   x         self-loop or a link that is there already, or tear a component, is not made; links of
    c - d      c   d       different components are never paired, so every component keeps its nodes too.

`rewired` swaps at random, which leaves each graph with these degrees and components equally likely, once it has gone on
for long enough (Maslov & Sneppen, Science 296, 2002, 910-913; connected graphs are reached from each other by such
swaps: Taylor, Lect. Notes Math. 884, 1981, 314-336). `lattice` makes swaps that bring linked nodes closer on a ring
(Sporns & Zwi, Neuroinformatics 2, 2004, 145-162), looking for partners nearby, as the sliding windows of Telesford et
al. (Brain Connectivity 1, 2011, 367-375) do.

Degrees never change, so neither does the length of a node's list of neighbours: a swap writes four numbers. Whether a
component is torn is asked from both new gaps at once, which mostly ends after few steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

REWIRED_SWEEPS = 10
LATTICE_SWEEPS = 300
"""Pairs of links that are tried, for each link: distances settle after 2 to 5, the clustering of lattices after 100."""


class _Links(NamedTuple):
    """Every link from both of its ends: 2M places of the nodes' lists of neighbours, some of which swaps change."""

    start: Ints
    """(N + 1,) the neighbours of node v are `to[start[v]:start[v + 1]]`."""
    owner: Ints
    """(2M,) whose list a place is in."""
    to: Ints
    """(2M,) the neighbour; changes."""
    twin: Ints
    """(2M,) the place of the same link in the neighbour's list; changes."""
    component: Ints
    """(N,)"""


class _Ring(NamedTuple):
    """Where nodes lie on the ring of their component."""

    place: Ints
    """(N,) from 0."""
    size: Ints
    """(N,) of the component."""
    first: Ints
    """(N,) where the component begins in `nodes`."""
    nodes: Ints
    """(N,) by component and place."""


def rewired(links: Ints, component: Ints, rng: np.random.Generator) -> Ints:
    """A random graph with the degrees and components of another.

    Parameters
    ----------
    links : (M, 2) int64, a simple graph.
    component : (N,) int64, the component of each node.

    Returns (M, 2) int64, smaller node first, in order.
    """
    graph = _links_of(links, component)
    search = _search(len(component))
    for _ in range(REWIRED_SWEEPS):
        _swap_at_random(graph, rng.random((len(links), 2)), *search)
    return _pairs(graph)


def lattice(links: Ints, component: Ints, rng: np.random.Generator) -> Ints:
    """A graph with the degrees and components of another whose links are short on rings, one for each component.

    Nodes lie on them at random. Parameters and result as of `rewired`.
    """
    graph = _links_of(links, component)
    ring = _ring(component, rng)
    search = _search(len(component))
    for _ in range(LATTICE_SWEEPS):
        _swap_closer(graph, ring, rng.random((len(links), 3)), *search)
    return _pairs(graph)


def _links_of(links: Ints, component: Ints) -> _Links:
    owner, to = np.concatenate((links, links[:, ::-1])).T
    order = np.lexsort((to, owner))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    twin = rank[(order + len(links)) % (2 * len(links))]
    counts = np.bincount(owner, minlength=len(component))
    start = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    return _Links(start, owner[order], to[order], twin, component)


def _ring(component: Ints, rng: np.random.Generator) -> _Ring:
    nodes = np.lexsort((rng.random(len(component)), component))
    sizes = np.bincount(component)
    first = (np.cumsum(sizes) - sizes)[component]
    place = np.empty_like(component)
    place[nodes] = np.arange(len(nodes))
    return _Ring(place - first, sizes[component], first, nodes)


def _search(nodes: int) -> tuple[Ints, Ints]:
    """What `_is_joined` writes in: which search saw each node last, behind them how many there were; two queues."""
    return np.zeros(nodes + 1, np.int64), np.empty((2, nodes), np.int64)


def _pairs(graph: _Links) -> Ints:
    found = np.stack((graph.owner, graph.to), axis=1)
    found = found[graph.owner < graph.to]
    return found[np.lexsort((found[:, 1], found[:, 0]))]


@njit(cache=True, nogil=True)
def _swap_at_random(graph: _Links, draws: Floats, seen: Ints, queues: Ints) -> None:
    """Try a pair of links, each from either end, for each (2,) of the draws."""
    for i in range(draws.shape[0]):
        s, t = int(draws[i, 0] * graph.to.size), int(draws[i, 1] * graph.to.size)
        if _is_allowed(graph, s, t):
            _swap(graph, s, t)
            if not _is_joined(graph, graph.owner[s], graph.to[t], seen, queues):
                _swap(graph, s, t)


@njit(cache=True, nogil=True)
def _swap_closer(graph: _Links, ring: _Ring, draws: Floats, seen: Ints, queues: Ints) -> None:
    """Try a link a - b with one of a node d that lies nearer to a than b does, for each (3,) of the draws."""
    for i in range(draws.shape[0]):
        s = int(draws[i, 0] * graph.to.size)
        a, b = graph.owner[s], graph.to[s]
        length = _apart(ring, a, b)
        if length < 2:
            continue
        side = 1 if draws[i, 1] < 0.5 else -1
        steps = int(length ** (2 * draws[i, 1] % 1))  # 1 to length - 1, every scale as often
        d = ring.nodes[ring.first[a] + (ring.place[a] + side * steps) % ring.size[a]]
        t = graph.twin[graph.start[d] + int(draws[i, 2] * (graph.start[d + 1] - graph.start[d]))]
        c = graph.owner[t]
        if _apart(ring, a, d) + _apart(ring, c, b) > length + _apart(ring, c, d) or not _is_allowed(graph, s, t):
            continue
        _swap(graph, s, t)
        if not _is_joined(graph, a, b, seen, queues):
            _swap(graph, s, t)


@njit(cache=True, nogil=True)
def _apart(ring: _Ring, a: int, b: int) -> int:
    """Steps between two nodes of a component, the shorter way round."""
    steps = abs(ring.place[a] - ring.place[b])
    return int(min(steps, ring.size[a] - steps))


@njit(cache=True, nogil=True)
def _is_allowed(graph: _Links, s: int, t: int) -> bool:
    """Whether a - b, c - d may become a - d, c - b in a simple graph of the same components."""
    a, b, c, d = graph.owner[s], graph.to[s], graph.owner[t], graph.to[t]
    if a in (c, d) or b in (c, d) or graph.component[a] != graph.component[c]:
        return False
    return not (_is_linked(graph, a, d) or _is_linked(graph, c, b))


@njit(cache=True, nogil=True)
def _is_linked(graph: _Links, a: int, b: int) -> bool:
    for k in range(graph.start[a], graph.start[a + 1]):  # noqa: SIM110 (numba knows no generators)
        if graph.to[k] == b:
            return True
    return False


@njit(cache=True, nogil=True)
def _swap(graph: _Links, s: int, t: int) -> None:
    """a - b, c - d become a - d, c - b; again, and they are what they were."""
    a, b, c, d = graph.owner[s], graph.to[s], graph.owner[t], graph.to[t]
    from_b, from_d = graph.twin[s], graph.twin[t]
    graph.to[s], graph.to[from_d], graph.to[t], graph.to[from_b] = d, a, b, c
    graph.twin[s], graph.twin[from_d], graph.twin[t], graph.twin[from_b] = from_d, s, from_b, t


@njit(cache=True, nogil=True)
def _is_joined(graph: _Links, a: int, b: int, seen: Ints, queues: Ints) -> bool:
    """Whether a path leads from a to b: breadth-first from both, the side with fewer nodes to go on from first."""
    seen[-1] += 1
    mark = seen[-1]
    seen[a], seen[b] = mark, -mark
    queues[0, 0], queues[1, 0] = a, b
    begin, end = np.zeros(2, np.int64), np.ones(2, np.int64)
    while True:
        side = 0 if end[0] - begin[0] <= end[1] - begin[1] else 1
        own = mark if side == 0 else -mark
        stop = end[side]
        if begin[side] == stop:
            return False
        while begin[side] < stop:
            node = queues[side, begin[side]]
            begin[side] += 1
            for k in range(graph.start[node], graph.start[node + 1]):
                other = graph.to[k]
                if seen[other] == -own:
                    return True
                if seen[other] != own:
                    seen[other] = own
                    queues[side, end[side]] = other
                    end[side] += 1
