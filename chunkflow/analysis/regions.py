"""Parent regions (cells, tissue) in numbers: what of a skeleton graph lies in which of them.

A region is often the unit of a statistic: a treatment is given to cells, not to mitochondria. Its network is made of
the nodes in it and of the branches that join two of them; a branch that leads out is split by length and counted, and
no part of any loop.

            region 1          |          region 2
      n1 ------------ n2 -----|------------- n3        n1-n2 is of region 1's network, n2-n3 of none;
                              |                        its length goes to each as far as it lies there

Lengths are split by points: each point of a branch's curve stands for half of the segments at either side of it, so a
length is right within half a voxel per crossing. The graph comes in parts of whole objects, one held at a time, and
sums run in the order of its nodes and points, so neither parts nor blocks change a bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.analysis.network import GraphMetrics, components_of, connectivity_score, graph_metrics

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Ids = NDArray[np.uint64]
Bools = NDArray[np.bool_]
Columns = Mapping[str, NDArray[Any]]

_COUNTS = (
    "branches",
    "branches_crossing",
    "nodes",
    "ends",
    "junctions",
    "junctions_3",
    "junctions_4",
    "components",
    "loops",
)


@dataclass(frozen=True, slots=True)
class Shares:
    """The length of each branch by region: M pairs, by branch, then region."""

    branch: Ints
    """(M,) row of the branch."""
    region: Ids
    """(M,) 0 is outside all regions."""
    length_um: Floats
    """(M,) what of it lies there; 0 only where all of the branch is a point."""


def point_lengths(points_um: Floats, offsets: Ints) -> Floats:
    """(P,) length that each point of the curves stands for: half of the segments before and behind it.

    Parameters
    ----------
    points_um : (P, 3) points of all branches.
    offsets : (E + 1,) branch e has the points offsets[e] to offsets[e + 1], one at least.
    """
    step = np.sqrt(((points_um[1:] - points_um[:-1]) ** 2).sum(axis=1))
    step[offsets[1:-1] - 1] = 0  # from the end of a branch to the start of the next
    lengths = np.zeros(len(points_um))
    lengths[:-1] += step / 2
    lengths[1:] += step / 2
    return lengths


def branch_shares(lengths: Floats, offsets: Ints, point_region: Ids) -> Shares:
    """The length of each branch by region, from the length and the region of each of its points."""
    branch = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((point_region, branch))  # stable: points in their order
    branch, region = branch[order], point_region[order]
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = (branch[1:] != branch[:-1]) | (region[1:] != region[:-1])
    total = np.zeros(int(is_first.sum()))
    np.add.at(total, np.cumsum(is_first) - 1, lengths[order])
    return Shares(branch[is_first], region[is_first], total)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPart:
    """Some objects of the graph, and where their pieces belong; row k is node or branch k.

    degree : (V,) branch ends at each node
    node_a, node_b : (E,) rows of the nodes that each branch joins
    length_um : (E,) of each branch
    node_region, branch_region : (V,), (E,) 0 is outside
    shares : lengths of the branches by region
    point_region, point_um, radius_um : (P,) region, length and radius of each point of the branches' curves
    """

    degree: Ints
    node_a: Ints
    node_b: Ints
    length_um: Floats
    node_region: Ids
    branch_region: Ids
    shares: Shares
    point_region: Ids
    point_um: Floats
    radius_um: Floats


@dataclass(slots=True)
class RegionNetworks:
    """The columns of the table of regions that tell of the graph, added up part by part.

    region_id : (R,) the regions of the table, increasing; what lies in others, 0 among them, is left out
    """

    region_id: Ids
    _counts: dict[str, Ints] = field(init=False)
    _sums: dict[str, Floats] = field(init=False)

    def __post_init__(self) -> None:
        rows = len(self.region_id)
        self._counts = {name: np.zeros(rows, np.int64) for name in (*_COUNTS, "links")}
        self._sums = {name: np.zeros(rows) for name in ("length", "radius", "branch_length", "inner", "longest")}

    def add(self, part: GraphPart) -> None:
        """Add the next part of the graph."""
        self._sum("length", part.point_region, part.point_um)
        self._sum("radius", part.point_region, part.point_um * part.radius_um)
        self._sum("branch_length", part.branch_region, part.length_um)
        self._count("branches", part.branch_region)
        has_some = part.shares.length_um > 0
        places = np.bincount(part.shares.branch[has_some], minlength=len(part.length_um))
        self._count("branches_crossing", part.shares.region[has_some & (places[part.shares.branch] > 1)])
        self._count("nodes", part.node_region)
        self._count("ends", part.node_region[part.degree == 1])
        self._count("junctions", part.node_region[part.degree >= 3])
        self._count("junctions_3", part.node_region[part.degree == 3])
        self._count("junctions_4", part.node_region[part.degree == 4])
        self._add_networks(part)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns, one row per region.

        length_um, split by point; radius_mean_um, over the points, weighted by the lengths they stand for; branches,
        most of whose length lies there, and branch_length_mean_um, of these, whole; branches_crossing, which have
        length there and elsewhere; nodes, ends, junctions, junctions_3 and junctions_4, by their degrees in the whole
        graph; and of the region's network (see the module) components, loops, degree_mean = 2 branches / nodes, and
        phi, the share of its length in its longest component, and connectivity_score (`analysis.network`). What is a
        share of nothing is NaN.
        """
        counts, sums = self._counts, self._sums
        phi = _ratio(sums["longest"], sums["inner"])
        sizes = counts["links"], counts["nodes"], counts["components"]
        return {
            "length_um": sums["length"],
            "radius_mean_um": _ratio(sums["radius"], sums["length"]),
            "branches": counts["branches"],
            "branch_length_mean_um": _ratio(sums["branch_length"], counts["branches"]),
            **{name: counts[name] for name in _COUNTS[1:]},
            "degree_mean": _ratio(2 * counts["links"], counts["nodes"]),
            "phi": phi,
            "connectivity_score": connectivity_score(phi, sums["inner"], *sizes),
        }

    def _add_networks(self, part: GraphPart) -> None:
        """Components and loops of what lies in each region; none of them has nodes in two parts."""
        is_inner = part.node_region[part.node_a] == part.node_region[part.node_b]
        a, b, length = part.node_a[is_inner], part.node_b[is_inner], part.length_um[is_inner]
        component = components_of(a, b, len(part.degree))
        pieces = int(component.max(initial=-1)) + 1
        of_piece = np.zeros(pieces, np.uint64)
        of_piece[component] = part.node_region
        of_link = part.node_region[a]
        self._count("links", of_link)
        self._count("components", of_piece)
        self._count("loops", of_link)  # branches - nodes + components, below
        self._count("loops", part.node_region, -1)
        self._count("loops", of_piece)
        self._sum("inner", of_link, length)
        piece_length = np.zeros(pieces)
        np.add.at(piece_length, component[a], length)
        known, row = self._rows(of_piece)
        np.maximum.at(self._sums["longest"], row[known], piece_length[known])

    def _rows(self, region: Ids) -> tuple[Bools, NDArray[np.intp]]:
        return np.isin(region, self.region_id), np.searchsorted(self.region_id, region)

    def _count(self, name: str, region: Ids, by: int = 1) -> None:
        known, row = self._rows(region)
        np.add.at(self._counts[name], row[known], by)

    def _sum(self, name: str, region: Ids, weights: Floats) -> None:
        """One after the other, on top of the parts before: no sum knows where a part begins."""
        known, row = self._rows(region)
        np.add.at(self._sums[name], row[known], weights[known])


def region_metrics(nodes: Columns, branches: Columns, region_id: int, *, seed: int = 0) -> GraphMetrics:
    """`analysis.network.graph_metrics` of the network of one region.

    Parameters
    ----------
    nodes, branches : tables of a result that was measured with regions; nodes in the order of their ids.
    """
    region = np.asarray(nodes["region_id"])
    ends = np.stack([np.asarray(branches[name]) for name in ("node_a", "node_b")])
    inner = ends[:, (region[ends] == region_id).all(axis=0)]
    own = np.flatnonzero(region == region_id)
    node_a, node_b = np.searchsorted(own, inner)
    return graph_metrics(node_a, node_b, len(own), seed=seed)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """part / whole, NaN where the whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0))
