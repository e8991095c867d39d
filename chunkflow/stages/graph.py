"""The graph of all skeletons, in parts that each hold whole objects.

    graph-cuts    voxels per object -> parts of consecutive objects, and the blocks that hold their skeletons
    graph-parts   the skeleton voxels of a part -> exact multigraph -> pruned -> nodes, branches and curves
    graph         how many nodes and branches each part has, so what their ids are

Voxels of different objects are no neighbours, so a graph falls apart into those of its objects, and ids that go through
the objects one by one are known from counts alone. A part takes about 200 bytes per skeleton voxel: one object of 10^7
voxels, some 10 m of neurites at 1 um, takes 2 GB in one worker. Beyond that an object itself would have to be cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import branches, graph, pruning
from chunkflow.stages.base import Draft, Merged, Output, Record, View, iterate, table_of
from chunkflow.stages.merging import folded

PARTS = "graph-parts"
"""The pass that leaves the parts."""

PART_BLOCKS = 8
"""Blocks whose skeletons make a part, on average."""
MOST_PARTS = 4096
PART_BYTES = 16 * 2**20
"""What the projection gives a part: 80,000 skeleton voxels."""

Voxels = tuple[NDArray[np.uint64], NDArray[np.int64]]
"""Objects that have a skeleton, increasing, and their voxels."""


def part_grid(blocks: int) -> Grid:
    """A row of parts, for the skeletons of so many blocks."""
    return Grid((min(MOST_PARTS, -(-blocks // PART_BLOCKS)), 1, 1), (1, 1, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class CutParts:
    """Which objects make a part, in shares of about as many voxels, and where their voxels are."""

    parts: int

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        label, count = folded(records["skeleton"], _voxels_of, _merge_voxels)
        before = np.cumsum(count) - count
        part = before * self.parts // max(1, int(count.sum()))
        blocks: dict[int, list[int]] = {}
        for block, record in enumerate(iterate(records["skeleton"])):
            for p in np.unique(part[np.searchsorted(label, np.unique(record["label"]))]).tolist():
                blocks.setdefault(p, []).append(block)
        parts = (
            (p, {"objects": label[part == p][[0, -1]], "blocks": np.array(found, np.int64)})
            for p, found in sorted(blocks.items())
        )
        return Merged({"objects": np.array([len(label)])}, parts)

    def working_bytes(self, blocks: int) -> int:
        return 4096 * blocks


def _voxels_of(record: Record) -> Voxels:
    return np.unique(record["label"], return_counts=True)


def _merge_voxels(parts: Sequence[Voxels]) -> Voxels:
    labels, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    label, inverse = np.unique(labels, return_inverse=True)
    count = np.zeros(len(label), np.int64)
    np.add.at(count, inverse, counts)
    return label, count


@dataclass(frozen=True, slots=True, kw_only=True)
class AssemblePart:
    """The graph of the objects of one part; nodes and branches count from 0.

    Takes 250 B per skeleton voxel of the part, which holds one whole object at the least; 800 B where closed surfaces
    are left around cavities.
    """

    shape: Triple
    prune_radii: float
    voxel_um: tuple[float, float, float]
    translation_um: tuple[float, float, float]
    unit_um: float

    version: ClassVar[int] = 2
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {}

    def run(self, view: View, out: Box) -> Output:
        voxels = self._voxels(view)
        order = np.argsort(voxels["index"], kind="stable")
        index, label, d2 = (voxels[name][order] for name in ("index", "label", "d2"))
        whole = graph.assemble(index, label, d2, shape=self.shape)
        pruned = pruning.prune(whole, prune_radii=self.prune_radii, spacing_um=self.voxel_um, unit_um=self.unit_um)
        labels, b0, b1 = graph.loops_per_object(pruned)
        return Output(record={"graph_label": labels, "graph_b0": b0, "graph_b1": b1} | self._tables(pruned))

    @staticmethod
    def _voxels(view: View) -> Record:
        cuts = view.values["graph-cuts"]
        found: list[Record] = [
            {"index": np.zeros(0, np.int64), "label": np.zeros(0, np.uint64), "d2": np.zeros(0, np.int64)}
        ]
        for block in cuts["blocks"].tolist() if "blocks" in cuts else ():
            record = view.records["skeleton"][block]
            low, high = cuts["objects"]
            own = (record["label"] >= low) & (record["label"] <= high)
            found.append({name: record[name][own] for name in found[0]})
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    def _tables(self, pruned: graph.SkeletonGraph) -> dict[str, NDArray[Any]]:
        """Columns of nodes and branches, and the curves of the branches, by "table.column"."""
        spacing, unit, origin = self.voxel_um, self.unit_um, self.translation_um
        nodes = branches.node_columns(pruned, spacing_um=spacing, unit_um=unit, translation_um=origin)
        rows = branches.branch_columns(pruned, spacing_um=spacing, unit_um=unit)
        curves = branches.polylines(pruned, spacing_um=spacing, unit_um=unit, translation_um=origin, smooth=True)
        tables = {f"nodes.{name}": column for name, column in nodes.items()}
        tables |= {f"branches.{name}": column for name, column in rows.items()}
        tables |= {f"curves.{f.name}": getattr(curves, f.name) for f in fields(curves)}
        return tables

    def working_bytes(self, out: Triple) -> int:
        return PART_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeGraph:
    """Where the nodes, branches and objects of each part begin, and, of parts that hold objects, with which label.

    Holds a few numbers per part, of which there are at most `MOST_PARTS`, and none per object, node, branch or voxel.
    """

    version: ClassVar[int] = 4

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        counts: list[list[int]] = []
        labels: list[NDArray[np.uint64]] = []
        for record in iterate(records[PARTS]):
            counts.append([len(record[name]) for name in ("nodes.node_id", "branches.branch_id", "graph_label")])
            if counts[-1][2]:
                labels.append(record["graph_label"][[0, -1]])
        starts = np.concatenate((np.zeros((1, 3), np.int64), np.cumsum(np.array(counts, np.int64), axis=0)))
        found = dict(zip(("node_start", "branch_start", "object_start"), starts.T.copy(), strict=True))
        found |= {"label_start": np.array([first for first, _ in labels], np.uint64)}
        found |= {"largest_label": np.array([last for _, last in labels[-1:]], np.uint64)}
        return Merged(found | {name: values["residual-merge"][name] for name in ("open_label", "open_count")})

    def working_bytes(self, blocks: int) -> int:
        return min(65536 * blocks, PART_BYTES)


def parts_with(merged: Record, labels: NDArray[np.uint64]) -> list[int]:
    """Which parts hold any of some objects that have a skeleton; `merged` is what graph left."""
    filled = np.flatnonzero(np.diff(merged["object_start"]))
    found = np.searchsorted(merged["label_start"], labels, side="right") - 1
    return [int(part) for part in filled[np.unique(found[found >= 0])]]


@dataclass(frozen=True, slots=True)
class GraphTables:
    """Nodes, branches and curves of some objects, with the ids they have in the volume.

    nodes, branches : columns of the tables; curves : points_um (P, 3), radius_um (P,) and offsets (E + 1,), branch k of
    the part being `points_um[offsets[k]:offsets[k + 1]]`
    """

    nodes: Mapping[str, NDArray[Any]]
    branches: Mapping[str, NDArray[Any]]
    curves: Mapping[str, NDArray[Any]]


def graph_part(records: Sequence[Record], merged: Record, number: int) -> GraphTables:
    """One part of the graph; `records` are those of graph-parts, `merged` is what graph left."""
    record = records[number]
    node, branch = (int(merged[name][number]) for name in ("node_start", "branch_start"))
    nodes, rows, curves = (table_of(record, table) for table in ("nodes", "branches", "curves"))
    nodes["node_id"] = nodes["node_id"] + node
    rows |= {"branch_id": rows["branch_id"] + branch, "node_a": rows["node_a"] + node, "node_b": rows["node_b"] + node}
    return GraphTables(nodes, rows, curves)


def graph_drafts(assemble: AssemblePart, grid: Grid) -> tuple[Draft, ...]:
    """The passes from the skeleton voxels of blocks to the graph."""
    parts = part_grid(len(grid))
    return (
        Draft(name="graph-cuts", grid=parts, merge=CutParts(parts=len(parts)), needs=("skeleton",)),
        Draft(name=PARTS, grid=parts, steps=(assemble,), needs=("graph-cuts", "skeleton")),
        Draft(name="graph", grid=grid, merge=MergeGraph(), needs=(PARTS, "residual-merge")),
    )
