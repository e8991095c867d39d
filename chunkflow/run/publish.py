"""From arrays and records of a complete run to the folder the user opens.

Arrays are moved by renaming, metadata and tables are small files written whole; the journal names what is to be where
before the first move, so a kill half-way is finished by the next run. An object store has no renaming: there the store
copies an array, object by object, and the staged one counts until its metadata are deleted, after all is copied.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Any

from numpy.typing import NDArray

from chunkflow.geometry.scale import Scale
from chunkflow.plan.pipeline import SAVED
from chunkflow.plan.plan import Plan
from chunkflow.run.contrast import contrast_window
from chunkflow.run.jobs import final_layout
from chunkflow.run.journal import Journal
from chunkflow.run.places import LABEL_NAMES, Places, is_staged, target_of
from chunkflow.run.stored_tables import StoredParts, table_rows
from chunkflow.stages.base import table_of
from chunkflow.storage import graphs, omezarr, omezarr_write, tables
from chunkflow.storage.annotations import write_nodes
from chunkflow.storage.channels import channel_shown
from chunkflow.storage.files import copy_tree, remove_files, remove_tree, written_in
from chunkflow.storage.graph_pieces import Part, row_slices
from chunkflow.storage.records import merged_path, read_record
from chunkflow.storage.stores import ObjectPath, Place
from chunkflow.storage.swc import write_swc
from chunkflow.storage.volume import Volume, open_array, restore_metadata

GRAPHML_EDGES = 10**6
SWC_OBJECTS = 10**4
ANNOTATED_NODES = 10**6
TABLES = {  # and the merges they come from
    "objects": "objects",
    "contacts": "contacts",
    "networks": "networks",
    "graph_metrics": "graph-metrics",
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
    stamp = journal.stamp  # of the audit, which was just before
    for array in kept:
        target = plan.output / target_of(array.name)
        _move(places.staged(array.name), target)
        restore_metadata(target, final_layout(places, array))  # anybody may have edited those of one that was there
    _journal_unpublished(plan, places, journal)
    _remove_others(plan.output, wanted)
    _write_groups(plan, places)
    _write_tables(plan, places)
    passes = {p.name: places.fingerprints[p.name] for p in plan.passes}
    journal.append("published", arrays=wanted, passes=passes, time=time(), stamp=stamp)


def _journal_unpublished(plan: Plan, places: Places, journal: Journal) -> None:
    """Arrays of passes that stand, which an earlier result kept and this one does not, are deleted with it."""
    for array in plan.arrays.values():
        fingerprint = places.fingerprints[array.producer]
        was_published = journal.published.get(target_of(array.name)) == fingerprint
        if was_published and not array.kept and not is_staged(places.staged(array.name)):
            journal.append("dropped", **{"pass": fingerprint, "arrays": [array.name]})


def _move(staged: Place, target: Place) -> None:
    """Put an array in its place; what was there is set aside first and deleted last."""
    if isinstance(staged, ObjectPath) or isinstance(target, ObjectPath):
        assert isinstance(staged, ObjectPath)
        assert isinstance(target, ObjectPath)
        _copy(staged, target)
        return
    aside = target.with_name(f".{target.name}.old")
    if staged.exists():  # otherwise it is there already, from this run or an earlier one
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
            target.rename(aside)
        staged.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


def _copy(staged: ObjectPath, target: ObjectPath) -> None:
    """Put an array of an object store in its place, in steps that may be begun again after any of them."""
    if not is_staged(staged):  # it is there already, from this run or an earlier one that may have been killed here
        remove_tree(staged)
        return
    metadata = ("zarr.json", ".zarray")
    remove_files(target, metadata)  # nobody is to read old chunks as new ones
    remove_tree(target)
    copy_tree(staged, target)
    remove_files(staged, metadata)
    remove_tree(staged)


def _remove_others(output: Place, wanted: Mapping[str, str]) -> None:
    """Delete levels of other settings, those of a run that a restart forgot too."""
    for name in SAVED:
        folder = (output / target_of(name)).parent
        levels: Iterable[Place] = folder.iterdir() if folder.is_dir() else ()
        for level in [level for level in levels if level.name[0].isdigit()]:
            if f"{target_of(name).rpartition('/')[0]}/{level.name}" not in wanted:
                remove_tree(level)


def _write_groups(plan: Plan, places: Places) -> None:
    """Metadata of the images and label images; folders of arrays that are no longer kept are removed."""
    style = plan.pipeline.output.format
    image = plan.output / "image.ome.zarr"
    labels = [name for name in LABEL_NAMES if name in plan.levels]
    if "image" in plan.levels:
        limits = _limits(plan, places)
        channel = _shown(plan, contrast_window(_coarsest(plan, "image"), limits), limits)
        levels = _levels(plan.levels["image"])
        omezarr_write.write_image_group(
            image, name="image", levels=levels, format=style, channels=[channel], default_z=plan.shape[0] // 2
        )
    elif labels:
        omezarr_write.write_group(image, format=style)
    else:
        remove_tree(image)
    if labels:
        omezarr_write.write_labels_group(image / "labels", [LABEL_NAMES[name] for name in labels], format=style)
    else:
        remove_tree(image / "labels")
    for name, folder in LABEL_NAMES.items():
        path = image / "labels" / folder
        if name in plan.levels:
            omezarr_write.write_image_group(
                path, name=folder, levels=_levels(plan.levels[name]), format=style, labels=True
            )
        else:
            remove_tree(path)
    probability = plan.output / "probability.ome.zarr"
    if "probability" in plan.levels:
        levels = _levels(plan.levels["probability"])
        channel = omezarr.Channel("probability", (0.0, 1.0))
        omezarr_write.write_image_group(
            probability,
            name="probability",
            levels=levels,
            format=style,
            channels=[channel],
            default_z=plan.shape[0] // 2,
        )
    else:
        remove_tree(probability)


def _shown(plan: Plan, window: tuple[float, float], limits: tuple[float, float]) -> omezarr.Channel:
    """The image goes on under the name and in the colour of the channel that it was made of."""
    source = channel_shown(plan.input)
    name, color = plan.input.channel, None if source is None else source.color
    return omezarr.Channel(name or "image", window, color, limits)


def _coarsest(plan: Plan, array: str) -> Volume:
    """The last level of a kept array, in its place."""
    last = len(plan.levels[array]) - 1
    name = f"{array}@{last}" if last else array
    return open_array(plan.output / target_of(name), plan.levels[array][last], read_only=True)


def _limits(plan: Plan, places: Places) -> tuple[float, float]:
    """The exact range of the image."""
    producer = plan.arrays["image"].producer
    limits = read_record(merged_path(places.records("range" if producer == "scan" else f"{producer}-range")))
    return float(limits["low"][0]), float(limits["high"][0])


def _levels(scales: Any) -> dict[str, Scale]:
    return {str(k): scale for k, scale in enumerate(scales)}


def _write_tables(plan: Plan, places: Places) -> None:
    names = {p.name for p in plan.passes}
    folder, graph = plan.output / "tables", plan.output / "graph"
    stale = [table for table, source in TABLES.items() if source not in names]
    remove_files(folder, [f"{table}.{ending}" for table in stale for ending in ("parquet", "csv")])
    with written_in(folder) as made:
        _write_tables_in(made, names, plan, places, graph)


def _write_tables_in(folder: Path, names: set[str], plan: Plan, places: Places, graph: Place) -> None:
    for table in ("objects", "contacts", "networks", "graph_metrics"):
        if TABLES[table] in names:
            tables.write_table_parts(folder, table, table_rows(places.records(TABLES[table])))
    if "apply-seams" in names:
        tables.write_table(folder, "seams", read_record(merged_path(places.records("apply-seams"))))
    regions = places.records("regions") if "regions" in names else None
    if regions is not None:
        tables.write_table(folder, "regions", table_of(read_record(merged_path(regions)), "regions"))
    if "graph" not in names:
        _remove_graph(graph)
        return
    merged = read_record(merged_path(places.records("graph")))
    parts = StoredParts(places.records("graph-parts"), merged, regions=regions).sliced
    tables.write_table_parts(folder, "nodes", (rows for part in parts for rows in row_slices(part.nodes)))
    tables.write_table_parts(folder, "branches", (rows for part in parts for rows in row_slices(part.branches)))
    _remove_graph(graph)  # of other settings: SWC has a file per object
    with written_in(graph) as made:
        _write_graph(made, parts, merged)


def _write_graph(folder: Path, parts: Sequence[Part], merged: Columns) -> None:
    """GraphML, SWC, precomputed skeletons and nodes, all but the skeletons up to the sizes that programs open."""
    objects = int(merged["object_start"][-1])
    if merged["branch_start"][-1] <= GRAPHML_EDGES:
        graphs.write_graphml(folder / "skeleton.graphml", parts)
    if objects <= SWC_OBJECTS:
        write_swc(folder / "swc", parts)
    largest = int(merged["largest_label"].max(initial=0))
    graphs.write_precomputed(folder / "precomputed", parts, objects=objects, largest=largest)
    if merged["node_start"][-1] <= ANNOTATED_NODES:
        write_nodes(folder / "nodes", (rows for part in parts for rows in row_slices(part.nodes)))


def _remove_graph(folder: Place) -> None:
    """Delete what a run writes there, and nothing that somebody else put beside it."""
    remove_files(folder, ["skeleton.graphml"])
    for name in ("swc", "precomputed", "nodes"):
        remove_tree(folder / name)
    with suppress(OSError):
        if isinstance(folder, Path):
            folder.rmdir()  # if nothing else is there
