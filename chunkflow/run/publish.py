"""From arrays and records of a complete run to the folder the user opens.

Arrays are moved by renaming, metadata and tables are small files written whole; the journal names what is to be where
before the first move, so a kill half-way is finished by the next run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

from numpy.typing import NDArray

from chunkflow.geometry.scale import Scale
from chunkflow.plan.pipeline import SAVED
from chunkflow.plan.plan import Plan
from chunkflow.run.journal import Journal
from chunkflow.run.places import LABEL_NAMES, Places, target_of
from chunkflow.stages.base import table_of
from chunkflow.stages.graph import GraphTables, graph_part
from chunkflow.storage import graphs, omezarr, tables
from chunkflow.storage.records import RecordFolder, merged_path, read_record

GRAPHML_EDGES = 10**6
SWC_OBJECTS = 10**4
TABLES = {  # and the merges they come from
    "objects": "objects",
    "contacts": "contacts",
    "networks": "networks",
    "regions": "regions",
    "seams": "apply-seams",
    "nodes": "graph",
    "branches": "graph",
}

Columns = Mapping[str, NDArray[Any]]


def publish(plan: Plan, places: Places, journal: Journal) -> None:
    """Put everything that is kept in its place. May be called again after a kill at any point."""
    kept = [array for array in plan.arrays.values() if array.kept]
    wanted = {target_of(array.name): places.fingerprints[array.producer] for array in kept}
    journal.append("publishing", arrays=wanted)
    for array in kept:
        _move(places.staged(array.name), plan.output / target_of(array.name))
    _remove_others(plan.output, wanted)
    _write_groups(plan, places)
    _write_tables(plan, places)
    journal.append("published", arrays=wanted, passes={p.name: places.fingerprints[p.name] for p in plan.passes})


def _move(staged: Path, target: Path) -> None:
    """Put an array in its place; what was there is set aside first and deleted last."""
    aside = target.with_name(f".{target.name}.old")
    if staged.exists():  # otherwise it is there already, from this run or an earlier one
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
            target.rename(aside)
        staged.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


def _remove_others(output: Path, wanted: Mapping[str, str]) -> None:
    """Delete levels of other settings, those of a run that a restart forgot too."""
    for name in SAVED:
        for level in (output / target_of(name)).parent.glob("[0-9]*"):
            if str(level.relative_to(output)) not in wanted:
                shutil.rmtree(level)


def _write_groups(plan: Plan, places: Places) -> None:
    """Metadata of the images and label images; folders of arrays that are no longer kept are removed."""
    style = plan.pipeline.output.format
    image = plan.output / "image.ome.zarr"
    labels = [name for name in LABEL_NAMES if name in plan.levels]
    if "image" in plan.levels:
        channel = omezarr.Channel("image", _window(plan, places))
        levels = _levels(plan.levels["image"])
        omezarr.write_image_group(image, name="image", levels=levels, format=style, channels=[channel])
    elif labels:
        omezarr.write_group(image, format=style)
    else:
        shutil.rmtree(image, ignore_errors=True)
    if labels:
        omezarr.write_labels_group(image / "labels", [LABEL_NAMES[name] for name in labels], format=style)
    else:
        shutil.rmtree(image / "labels", ignore_errors=True)
    for name, folder in LABEL_NAMES.items():
        path = image / "labels" / folder
        if name in plan.levels:
            omezarr.write_image_group(path, name=folder, levels=_levels(plan.levels[name]), format=style, labels=True)
        else:
            shutil.rmtree(path, ignore_errors=True)
    probability = plan.output / "probability.ome.zarr"
    if "probability" in plan.levels:
        levels = _levels(plan.levels["probability"])
        channel = omezarr.Channel("probability", (0.0, 1.0))
        omezarr.write_image_group(probability, name="probability", levels=levels, format=style, channels=[channel])
    else:
        shutil.rmtree(probability, ignore_errors=True)


def _window(plan: Plan, places: Places) -> tuple[float, float]:
    """Contrast limits of the image: its exact range."""
    producer = plan.arrays["image"].producer
    limits = read_record(merged_path(places.records("range" if producer == "scan" else f"{producer}-range")))
    return float(limits["low"][0]), float(limits["high"][0])


def _levels(scales: Any) -> dict[str, Scale]:
    return {str(k): scale for k, scale in enumerate(scales)}


def _write_tables(plan: Plan, places: Places) -> None:
    names = {p.name for p in plan.passes}
    folder, graph = plan.output / "tables", plan.output / "graph"
    for table, source in TABLES.items():
        for stale in folder.glob(f"{table}.*") if source not in names else ():
            stale.unlink()
    for table in ("objects", "contacts", "networks", "seams"):
        if TABLES[table] in names:
            tables.write_table(folder, table, read_record(merged_path(places.records(TABLES[table]))))
    regions = read_record(merged_path(places.records("regions"))) if "regions" in names else {}
    if regions:
        tables.write_table(folder, "regions", table_of(regions, "regions"))
    if "graph" not in names:
        _remove_graph(graph)
        return
    parts = StoredParts(
        RecordFolder(places.records("graph-parts"), plan.pass_named("graph-parts").units),
        read_record(merged_path(places.records("graph"))),
        {table: table_of(regions, table) for table in ("nodes", "branches")},
    )
    tables.write_table_parts(folder, "nodes", (part.nodes for part in parts))
    tables.write_table_parts(folder, "branches", (part.branches for part in parts))
    _write_graph(graph, parts)


class StoredParts(Sequence[GraphTables]):
    """The parts of a graph, each read when it is asked for.

    beside : more columns of the tables of nodes and branches, rows of all parts
    """

    def __init__(
        self, records: RecordFolder, merged: Columns, beside: Mapping[str, Columns] = MappingProxyType({})
    ) -> None:
        self._records, self.merged, self._beside = records, merged, beside

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> GraphTables: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[GraphTables]: ...
    def __getitem__(self, index: int | slice) -> GraphTables | Sequence[GraphTables]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = graph_part(self._records, self.merged, index)
        more = {}
        for table, starts in (("nodes", "node_start"), ("branches", "branch_start")):
            start, stop = self.merged[starts][index : index + 2].tolist()
            more[table] = {name: values[start:stop] for name, values in self._beside.get(table, {}).items()}
        return replace(part, nodes={**part.nodes, **more["nodes"]}, branches={**part.branches, **more["branches"]})


def _write_graph(folder: Path, parts: StoredParts) -> None:
    """GraphML, SWC and precomputed skeletons, the first two up to the sizes that other programs open."""
    _remove_graph(folder)  # of other settings: SWC has a file per object
    labels = parts.merged["graph_label"]
    if parts.merged["branch_start"][-1] <= GRAPHML_EDGES:
        graphs.write_graphml(folder / "skeleton.graphml", parts)
    if len(labels) <= SWC_OBJECTS:
        graphs.write_swc(folder / "swc", parts)
    graphs.write_precomputed(folder / "precomputed", parts, labels)


def _remove_graph(folder: Path) -> None:
    """Delete what a run writes there, and nothing that somebody else put beside it."""
    (folder / "skeleton.graphml").unlink(missing_ok=True)
    for name in ("swc", "precomputed"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()  # if nothing else is there
