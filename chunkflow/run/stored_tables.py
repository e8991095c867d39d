"""Tables and the graph as the merges of a run left them: parts, of which one at a time is read, or a slice of one.

table_rows            parts of a table, one after the other
StoredParts           parts of the graph, each held as arrays
StoredParts.sliced    the same parts, whose columns are read in slices where they are large: the memory of what goes
                      through them depends neither on the number of objects nor on the size of one
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from numpy.typing import NDArray

from chunkflow.stages.base import TABLE_PARTS, table_of
from chunkflow.stages.graph import GraphTables, graph_part
from chunkflow.storage.graph_pieces import Part
from chunkflow.storage.record_columns import Column, Cut, record_columns
from chunkflow.storage.records import RecordFolder, merged_path, read_record, record_path
from chunkflow.storage.stores import Place

Columns = Mapping[str, NDArray[Any]]


def table_rows(records: Place) -> Iterator[Columns]:
    """The parts of the table that a merge left."""
    count = int(read_record(merged_path(records))[TABLE_PARTS][0])
    return iter(RecordFolder(records, count))


class StoredParts(Sequence[GraphTables]):
    """The parts of a graph, each read when it is asked for.

    records : folder of the parts; merged : what the merge of the graph left
    regions : folder of the merge that says which region nodes and branches lie in, None without one
    """

    def __init__(self, records: Place, merged: Columns, *, regions: Place | None = None) -> None:
        self.records, self.merged, self.regions = records, merged, regions

    def __len__(self) -> int:
        return len(self.merged["node_start"]) - 1

    @overload
    def __getitem__(self, index: int) -> GraphTables: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[GraphTables]: ...
    def __getitem__(self, index: int | slice) -> GraphTables | Sequence[GraphTables]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        part = graph_part(RecordFolder(self.records, len(self)), self.merged, index)
        beside = self._beside(index)
        return replace(
            part,
            nodes={**part.nodes, **table_of(beside, "nodes")},
            branches={**part.branches, **table_of(beside, "branches")},
        )

    @property
    def sliced(self) -> SlicedParts:
        """The same parts, for what goes through them."""
        return SlicedParts(self)

    def _beside(self, index: int) -> Columns:
        return {} if self.regions is None else read_record(record_path(self.regions, index))


@dataclass(frozen=True, slots=True)
class SlicedPart:
    """A part whose columns are read in slices."""

    nodes: Mapping[str, Column]
    branches: Mapping[str, Column]
    curves: Mapping[str, Column]


class SlicedParts(Sequence[Part]):
    """The parts of a graph; the last one that was asked for stays open."""

    def __init__(self, parts: StoredParts) -> None:
        self._parts = parts
        self._last: tuple[int, SlicedPart] | None = None

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, index: int) -> Part: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Part]: ...
    def __getitem__(self, index: int | slice) -> Part | Sequence[Part]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._last is None or self._last[0] != index:
            self._last = None  # two are not open at once
            self._last = index, self._opened(index)
        return self._last[1]

    def _opened(self, index: int) -> SlicedPart:
        parts = self._parts
        record = dict(record_columns(record_path(parts.records, index)))
        if parts.regions is not None:
            record |= record_columns(record_path(parts.regions, index))
        node, branch = (int(parts.merged[name][index]) for name in ("node_start", "branch_start"))
        first = {"nodes.node_id": node, "branches.branch_id": branch, "branches.node_a": node, "branches.node_b": node}
        for name, add in first.items():
            record[name] = Cut(record[name], 0, len(record[name]), add=add)
        return SlicedPart(*(_table(record, table) for table in ("nodes", "branches", "curves")))


def _table(record: Mapping[str, Column], table: str) -> dict[str, Column]:
    start = table + "."
    return {name.removeprefix(start): column for name, column in record.items() if name.startswith(start)}
