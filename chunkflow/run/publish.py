"""From arrays and records of a complete run to the folder the user opens.

Arrays are moved by renaming, metadata and tables are small files written whole; the journal names what is to be where
before the first move, so a kill half-way is finished by the next run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.scale import Scale
from chunkflow.plan.pipeline import SAVED
from chunkflow.plan.plan import Plan
from chunkflow.run.journal import Journal
from chunkflow.run.places import LABEL_NAMES, Places, target_of
from chunkflow.storage import graphs, omezarr, tables
from chunkflow.storage.records import merged_path, read_record

GRAPHML_EDGES = 10**6
SWC_OBJECTS = 10**4
TABLES = {  # and the merges they come from
    "objects": "objects",
    "contacts": "contacts",
    "networks": "networks",
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
    passes = {p.name for p in plan.passes}
    merge = next(name for name in ("resample-range", "deconvolve-range", "correct-range", "range") if name in passes)
    limits = read_record(merged_path(places.records(merge)))
    return float(limits["low"][0]), float(limits["high"][0])


def _levels(scales: Any) -> dict[str, Scale]:
    return {str(k): scale for k, scale in enumerate(scales)}


def _write_tables(plan: Plan, places: Places) -> None:
    names = {p.name for p in plan.passes}
    folder, graph = plan.output / "tables", plan.output / "graph"
    for table, source in TABLES.items():
        for stale in folder.glob(f"{table}.*") if source not in names else ():
            stale.unlink()
    for table in ("objects", "contacts", "networks"):
        if table in names:
            tables.write_table(folder, table, read_record(merged_path(places.records(table))))
    if "graph" not in names:
        _remove_graph(graph)
        return
    merged = read_record(merged_path(places.records("graph")))
    nodes, branches, curves = (_columns(merged, table) for table in ("nodes", "branches", "curves"))
    tables.write_table(folder, "nodes", nodes)
    tables.write_table(folder, "branches", branches)
    _write_graph(graph, nodes, branches, curves)


def _columns(merged: Columns, table: str) -> dict[str, NDArray[Any]]:
    start = table + "."
    return {name[len(start) :]: column for name, column in merged.items() if name.startswith(start)}


def _write_graph(folder: Path, nodes: Columns, branches: Columns, curves: dict[str, NDArray[Any]]) -> None:
    """GraphML, SWC and precomputed skeletons, the first two up to the sizes that other programs open."""
    _remove_graph(folder)  # of other settings: SWC has a file per object
    if len(branches["branch_id"]) <= GRAPHML_EDGES:
        graphs.write_graphml(folder / "skeleton.graphml", nodes, branches)
    if len(np.unique(nodes["object_id"])) <= SWC_OBJECTS:
        graphs.write_swc(folder / "swc", nodes, branches, **curves)
    graphs.write_precomputed(folder / "precomputed", nodes, branches, **curves)


def _remove_graph(folder: Path) -> None:
    """Delete what a run writes there, and nothing that somebody else put beside it."""
    (folder / "skeleton.graphml").unlink(missing_ok=True)
    for name in ("swc", "precomputed"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()  # if nothing else is there
