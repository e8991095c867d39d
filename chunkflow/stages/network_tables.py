"""The tables of networks: what there is of each object's network, and on request of `measure` its shape.

    networks              nodes and branches of the graph, counted per object
    graph-metrics-parts   nodes and branches of a part of the graph -> metrics of each of its objects
    graph-metrics         their rows

A part holds whole objects, their nodes in the order of their positions, so the numbers are those of the whole volume.
The metrics of an object of 200 nodes take 0.3 s, of one of 20,000 nodes a minute (`analysis.network`), most of it for
random graphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from math import fsum
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.analysis import network
from chunkflow.geometry.box import Box, Triple
from chunkflow.kernels.union import Shelf
from chunkflow.stages.base import Draft, Merged, Output, Record, View, iterate, table_of, table_parts
from chunkflow.stages.graph import PARTS, part_grid

METRICS_PARTS, METRICS = "graph-metrics-parts", "graph-metrics"
"""The pass over parts and the merge whose values are the table."""

PART_BYTES = 64 * 2**20
"""What the projection gives a part: 10^5 links."""
TYPES: dict[str, Any] = {"int": np.int64, "float": np.float64, "bool": np.bool_}
"""Of columns, by the types of `GraphMetrics`; the others are text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeNetworks:
    """One row per object that the skeleton graph has nodes of."""

    version: ClassVar[int] = 4
    shelves: ClassVar[bool] = True

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record], shelf: Shelf) -> Merged:
        total = fsum(chain.from_iterable(self._shelved(records[PARTS], shelf)))
        return Merged(table_parts(len(records[PARTS])), enumerate(self._parts(len(records[PARTS]), total, shelf)))

    @staticmethod
    def _shelved(records: Sequence[Record], shelf: Shelf) -> Iterator[list[float]]:
        """The lengths of the objects of each part, whose rows are put down."""
        for number, part in enumerate(iterate(records)):  # nodes count from 0 in each
            columns = network.network_columns(
                {name: part[f"nodes.{name}"] for name in ("object_id", "degree")},
                {name: part[f"branches.{name}"] for name in ("object_id", "node_a", "node_b", "length_um")},
            )
            shelf.put(f"networks-{number}", columns)
            yield columns["length_um"].tolist()

    @staticmethod
    def _parts(count: int, total_um: float, shelf: Shelf) -> Iterator[Record]:
        for number in range(count):
            columns = shelf.take(f"networks-{number}")
            yield {**columns, "length_share": network.length_shares(columns["length_um"], total_um)}

    def working_bytes(self, blocks: int) -> int:
        return min(65536 * blocks, PART_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsOfPart:
    """`analysis.network.graph_metrics` of every object of one part of the graph."""

    seed: int = 0

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {}

    def run(self, view: View, out: Box) -> Output:
        part = view.records[PARTS][view.block]
        nodes, branches = table_of(part, "nodes"), table_of(part, "branches")
        label = np.unique(nodes["object_id"])
        found = list(self._metrics(label, nodes, branches))
        columns = {f.name: _column([row[f.name] for row in found], f.type) for f in fields(network.GraphMetrics)}
        return Output(record={"metrics.object_id": label} | {f"metrics.{name}": c for name, c in columns.items()})

    def _metrics(
        self, label: NDArray[np.uint64], nodes: Mapping[str, NDArray[Any]], branches: Mapping[str, NDArray[Any]]
    ) -> Iterator[dict[str, Any]]:
        """Objects lie one after the other, in their nodes and in their branches."""
        node, branch = (
            [*np.searchsorted(table["object_id"], label).tolist(), len(table["object_id"])]
            for table in (nodes, branches)
        )
        for k in range(len(label)):
            own = slice(branch[k], branch[k + 1])
            node_a, node_b = (branches[name][own] - node[k] for name in ("node_a", "node_b"))
            metrics = asdict(network.graph_metrics(node_a, node_b, node[k + 1] - node[k], seed=self.seed))
            yield metrics | {"degree_counts": " ".join(map(str, metrics["degree_counts"]))}

    def working_bytes(self, out: Triple) -> int:
        return PART_BYTES


def _column(values: Sequence[Any], kind: Any) -> NDArray[Any]:
    return np.array(values, TYPES.get(kind, np.str_))


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeMetrics:
    """The rows of all parts."""

    version: ClassVar[int] = 2

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        parts = (table_of(part, "metrics") for part in iterate(records[METRICS_PARTS]))
        return Merged(table_parts(len(records[METRICS_PARTS])), enumerate(parts))

    def working_bytes(self, blocks: int) -> int:
        return min(65536 * blocks, PART_BYTES)


def metrics_drafts(blocks: int) -> tuple[Draft, ...]:
    """The passes from the parts of a graph, of the skeletons of so many blocks, to the table."""
    grid = part_grid(blocks)
    return (
        Draft(name=METRICS_PARTS, grid=grid, steps=(MetricsOfPart(),), needs=(PARTS,)),
        Draft(name=METRICS, grid=grid, merge=MergeMetrics(), needs=(METRICS_PARTS,)),
    )
