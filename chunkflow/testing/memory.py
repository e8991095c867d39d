"""A pipeline on an array in memory: the steps and merges of a run, without files, workers or a journal.

    left = run_in_memory([Label(), Skeleton(), Measure()], mask, kind="mask", block=(8, 8, 8))
    left.arrays["labels"], left.tables["objects"]["volume_vox"]

Drafts, grids and the boxes that each step reads are those of a real run; what lies around them, reading and storing
(`run/worker.py`), resuming and publishing, is left out, and with it most of a tiny run's time: hundreds of volumes of
20^3 voxels a minute. Everything is held in memory at once, so for tests of small volumes only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import IntegrityError
from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.scale import MicrometerTriple, Scale
from chunkflow.plan.passes import drafts_of
from chunkflow.plan.pipeline import InputOptions, OutputOptions, Pipeline
from chunkflow.stages.base import TABLE_PARTS, Draft, Record, Region, Stage, View, boxes_of_chain, is_idle, spared
from chunkflow.stages.graph import PARTS, GraphTables, graph_part
from chunkflow.stages.label import label_dtype
from chunkflow.storage.volume import Volume

TABLES = ("objects", "contacts", "networks", "graph-metrics")
"""Merges whose parts are tables of a result; nodes, branches and their curves come in parts of the graph."""


@dataclass(frozen=True, slots=True)
class InMemory:
    """What a pipeline left: arrays by name, temporary ones too, and columns by table."""

    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    tables: dict[str, Record] = field(default_factory=dict)

    def differences(self, expected: InMemory, arrays: Iterable[str] = ("mask", "labels", "skeleton")) -> list[str]:
        """What differs, bit for bit, in some arrays and in all tables; one sentence part each."""
        found = [
            f"array {name} differs in {_count_unlike(self.arrays[name], expected.arrays[name])} voxels"
            for name in arrays
            if name in expected.arrays and not _is_same(self.arrays[name], expected.arrays[name])
        ]
        for table in sorted(self.tables.keys() | expected.tables.keys()):
            ours, theirs = self.tables.get(table, {}), expected.tables.get(table, {})
            found += [f"{table}: {name} is in one of them only" for name in sorted(ours.keys() ^ theirs.keys())]
            both = sorted(ours.keys() & theirs.keys())
            found += [f"{table}: {name} differs" for name in both if not _is_same(ours[name], theirs[name])]
        return found


def _is_same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    if np.ma.isMaskedArray(a) or np.ma.isMaskedArray(b):
        masks = np.ma.getmaskarray(a), np.ma.getmaskarray(b)
        return _is_same(*masks) and _is_same(np.ma.filled(a, 0), np.ma.filled(b, 0))
    return (a.shape, a.dtype) == (b.shape, b.dtype) and a.tobytes() == b.tobytes()


def _count_unlike(a: NDArray[Any], b: NDArray[Any]) -> int:
    return int((a != b).sum()) if a.shape == b.shape else a.size


def run_in_memory(
    stages: Sequence[Stage],
    voxels: NDArray[Any],
    *,
    block: Triple,
    kind: str = "image",
    voxel_um: MicrometerTriple = (1.0, 1.0, 1.0),
    mask: NDArray[Any] | None = None,
    save: tuple[str, ...] = ("labels", "skeleton"),
    **options: Any,
) -> InMemory:
    """Run stages on an array, block after block.

    Parameters
    ----------
    stages : what a pipeline would list, beginning where an input of that kind begins.
    voxels : (Z, Y, X) an image, a mask or labels, as `kind` says.
    block : nominal core; larger than the volume is one block.
    mask : (Z, Y, X) the user's mask, or None.
    save : arrays that a run would keep, which stages may ask for.
    options : other keys of `input:`, as nodata.
    """
    pipeline = Pipeline(
        stages, input=InputOptions(kind=cast(Any, kind), **options), output=OutputOptions(save=save), block=block
    )
    inputs = {"input": voxels} | ({} if mask is None else {"input_mask": mask})
    opened = {name: _opened(array, voxel_um) for name, array in inputs.items()}
    drafts, _ = drafts_of(pipeline, opened["input"], opened.get("input_mask"), block)
    left = _Left(dict(inputs))
    for draft in drafts:
        left.run(draft)
    return InMemory(left.arrays, left.tables())


def _opened(array: NDArray[Any], voxel_um: MicrometerTriple) -> Volume:
    """A stand-in for a volume on disk: a plan looks at its shape and dtype alone."""
    return Volume(cast(Any, array), path="", axes="zyx", at=(), scale=Scale(voxel_um))


class _Records(Sequence[Record]):
    """Records of a pass by block; of a merge, its parts."""

    def __init__(self, name: str, count: int) -> None:
        self.of_block: dict[int, Record] = {}
        self._name, self._count = name, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(self._count)[index]]
        if not 0 <= index < self._count:
            raise IndexError(index)
        if index not in self.of_block:
            raise IntegrityError(f"pass {self._name} left no record of block {index}", "Ask for what it leaves")
        return self.of_block[index]


class _Shelf:
    """What a merge puts down, held all the same."""

    def __init__(self) -> None:
        self._held: dict[str, Record] = {}

    def put(self, name: str, arrays: Record) -> None:
        """See `kernels.union.Shelf`."""
        if name in self._held:
            raise IntegrityError(f"{name} lies on the shelf already", "Put each thing down under a name of its own")
        self._held[name] = {key: np.array(array) for key, array in arrays.items()}

    def take(self, name: str) -> Record:
        """See `kernels.union.Shelf`."""
        return self._held[name]


class _Left:
    """What the passes so far have left."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.arrays = arrays
        self.merged: dict[str, Record] = {}
        self._records: dict[str, _Records] = {}
        self._drafts: dict[str, Draft] = {}

    def run(self, draft: Draft) -> None:
        """Run a pass."""
        self._drafts[draft.name] = draft
        own = self._records[draft.name] = _Records(draft.name, len(draft.grid))
        needed = {name: self._records[name] for name in draft.needs}
        if draft.merge is not None:
            shelf = (_Shelf(),) if getattr(draft.merge, "shelves", False) else ()
            merged = draft.merge.run(needed, self._values(draft, None), *shelf)
            own.of_block.update(merged.parts)
            self.merged[draft.name] = merged.values
            return
        written = {spec.source: np.zeros(draft.grid.shape, self._dtype(spec.dtype)) for spec in draft.writes}
        for block in range(len(draft.grid)):
            core = draft.grid.core_of(block)
            if is_idle(draft.steps, partial(self._values, draft, block), core):
                continue
            regions, record = self._visit(draft, block, needed)
            own.of_block[block] = record
            for source, array in written.items():
                array[core.slices] = regions[source].cut(core)
        self.arrays |= {spec.name: written[spec.source] for spec in draft.writes}

    def tables(self) -> dict[str, Record]:
        """Columns by table, as far as the passes made them."""
        found = {name: self._table(name) for name in TABLES if name in self.merged}
        if "graph" in self.merged:
            graph = _whole_graph(self._records[PARTS], self.merged["graph"])
            found |= {"nodes": graph.nodes, "branches": graph.branches, "curves": graph.curves}
        return found

    def _table(self, name: str) -> Record:
        """The parts of a table as one."""
        parts = [self._records[name].of_block[number] for number in range(int(self.merged[name][TABLE_PARTS][0]))]
        return {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}

    def _visit(
        self, draft: Draft, block: int, records: Mapping[str, Sequence[Record]]
    ) -> tuple[dict[str, Region], Record]:
        """The arrays around one block and its record."""
        core = draft.grid.core_of(block)
        products = [spec.source for spec in draft.writes]
        outs, wanted = boxes_of_chain(draft.steps, core, Box.of_shape(draft.grid.shape), products)
        values = self._values(draft, block)
        without = spared(draft.steps, lambda: values, block)
        regions = {name: self._region(name, box) for name, box in wanted.items() if name not in without}
        record: dict[str, NDArray[Any]] = {}
        for step, out in zip(draft.steps, outs, strict=True):
            view = View(block=block, core=core, grid=draft.grid, regions=regions, values=values, records=records)
            output = step.run(view, out)
            regions |= {name: Region(out, data) for name, data in output.arrays.items()}
            record |= output.record
        return regions, record

    def _region(self, name: str, box: Box) -> Region:
        array = self.arrays[name]
        z, y, x = array.shape
        inside = box.clip(Box.of_shape((z, y, x)))
        return Region(inside, np.ascontiguousarray(array[inside.slices]))

    def _values(self, draft: Draft, block: int | None) -> dict[str, Record]:
        """Merged values, and of a merge on the same grid the block's own part."""
        found: dict[str, Record] = {"": draft.constants} if draft.constants else {}
        for name in draft.needs:
            if name not in self.merged:
                continue
            is_own = block is not None and self._drafts[name].grid == draft.grid
            part = self._records[name].of_block.get(block, {}) if is_own and block is not None else {}
            found[name] = {**self.merged[name], **part}
        return found

    def _dtype(self, name: str) -> np.dtype[Any]:
        return label_dtype(self.merged["label-merge"]) if name == "labels" else np.dtype(name)


def _whole_graph(records: Sequence[Record], merged: Record) -> GraphTables:
    """The parts of a graph as one."""
    parts = [graph_part(records, merged, number) for number in range(len(records))]
    nodes, rows = (
        {name: np.concatenate([getattr(part, table)[name] for part in parts]) for name in getattr(parts[0], table)}
        for table in ("nodes", "branches")
    )
    lengths = np.concatenate([np.diff(part.curves["offsets"]) for part in parts])
    curves = {
        name: np.concatenate([part.curves[name] for part in parts]) for name in parts[0].curves if name != "offsets"
    }
    curves["offsets"] = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    return GraphTables(nodes, rows, curves)
