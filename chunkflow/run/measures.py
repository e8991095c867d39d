"""A result in numbers: its totals, what each of its tables says in the mean and in the median, what its image was like.

    objects.csv    volume_um3       ->  object_volume_mean_um3, object_volume_median_um3
    branches.csv   length_um        ->  branch_length_mean_um, branch_length_median_um
    networks.csv   phi              ->  network_phi, of all of them as one

A row of numbers per result is what results are compared by. The unit stays at the end of a name, as in the tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from math import fsum, isfinite, prod
from typing import Any

import numpy as np
import pandas as pd

from chunkflow.analysis.network import volume_network
from chunkflow.run.findings import Findings
from chunkflow.run.places import run_folder
from chunkflow.run.result import Result
from chunkflow.storage.column_units import UNITS

Row = dict[str, Any]

NO_MEASURES = ("object_id", "branch_id", "node_a", "node_b", "region_id", "volume_vox", "b1_filled", "b1_graph")
NO_MEASURES_BEGIN = ("bbox_", "centroid_", "axis_major_", "axis_middle_", "axis_minor_")
MEASURES_STILL = ("axis_major_um", "axis_middle_um", "axis_minor_um")
"""Columns that say where something is, or which, or what another says too; and those that begin alike and do not."""
OF_NETWORKS = (
    "nodes",
    "branches",
    "components",
    "junctions_3",
    "junctions_4",
    "degree_mean",
    "phi",
    "connectivity_score",
)
"""Of all networks of a volume; their length, loops and ends are among the totals."""


def totals_of(
    objects: Iterable[pd.DataFrame] | None,
    branches: Iterable[pd.DataFrame] | None,
    nodes: Iterable[pd.DataFrame] | None,
) -> dict[str, float]:
    """Counts and sums over the tables of a result, of those that there are, each some rows at a time.

    Parameters
    ----------
    objects, branches, nodes : their columns in `SUMMED` at least.
    """
    found: dict[str, float] = {}
    if objects is not None:
        seen = [(len(rows), int(rows["b1_filled"].sum()), float(rows["volume_um3"].sum())) for rows in objects]
        found |= {"objects": sum(row[0] for row in seen), "loops": sum(row[1] for row in seen)}
    if nodes is not None:
        kinds = [((rows["kind"] == "end").sum(), (rows["kind"] == "junction").sum()) for rows in nodes]
        found |= {"free_ends": sum(int(ends) for ends, _ in kinds), "junctions": sum(int(n) for _, n in kinds)}
    lengths: list[tuple[float, float]] = []
    if branches is not None:
        lengths = [
            (float(rows["length_um"].sum()), float((rows["radius_mean_um"] * rows["length_um"]).sum()))
            for rows in branches
        ]
        found["length_um"] = fsum(length for length, _ in lengths)
    if objects is not None:
        found["volume_um3"] = fsum(row[2] for row in seen)
    if branches is not None and found["length_um"] > 0:
        found["mean_diameter_um"] = 2 * fsum(weighted for _, weighted in lengths) / found["length_um"]
    return found


SUMMED = {
    "objects": ("b1_filled", "volume_um3"),
    "branches": ("length_um", "radius_mean_um"),
    "nodes": ("kind",),
}
"""Columns that totals are made of, by table."""


def measures_of(result: Result) -> Row:
    """Everything a result says in one row; measures that the pipeline did not make are left out."""
    stored = json.loads((run_folder(result.path) / "plan.json").read_text(encoding="utf-8"))
    made = set(stored["fingerprints"])
    objects = result.objects if "objects" in made else None
    branches, nodes = (result.branches, result.nodes) if "graph" in made else (None, None)
    row: Row = totals_of(*(None if table is None else [table] for table in (objects, branches, nodes)))
    if objects is None and "label-merge" in made and "count" in (merged := result.pass_values("label-merge")):
        row["objects"] = int(merged["count"][0])
    if objects is not None:
        row |= _summed_up(objects, "object")
    if branches is not None:
        row |= _summed_up(branches, "branch")
    if "networks" in made:
        row |= _network(result.networks)
    return row | _image_facts(result, stored, made)


def _summed_up(table: pd.DataFrame, what: str) -> Row:
    """Mean and median of every column that measures something."""
    found: Row = {}
    for column in table.columns:
        if not _is_measure(str(column), table[column]):
            continue
        values = table[column].to_numpy(np.float64)
        values = values[np.isfinite(values)]
        for how, rule in (("mean", np.mean), ("median", np.median)):
            found[_name(what, str(column), how)] = float(rule(values)) if len(values) else None
    return found


def _network(networks: pd.DataFrame) -> Row:
    """All networks of the volume as one, for a volume that holds one cell."""
    found = volume_network({str(name): column.to_numpy() for name, column in networks.items()})
    return {f"network_{name}": found[name] if isfinite(found[name]) else None for name in OF_NETWORKS}


def _is_measure(name: str, values: pd.Series[Any]) -> bool:
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    elsewhere = name.startswith(NO_MEASURES_BEGIN) and name not in MEASURES_STILL
    return bool(is_number and name not in NO_MEASURES and not elsewhere)


def _name(what: str, column: str, how: str) -> str:
    """`volume_um3` of an object, in the mean: `object_volume_mean_um3`."""
    words, _, last = column.rpartition("_")
    return f"{what}_{words}_{how}_{last}" if words and last in UNITS else f"{what}_{column}_{how}"


def _image_facts(result: Result, stored: Mapping[str, Any], made: set[str]) -> Row:
    """Threshold, range and size of the image, and what the run found odd about it."""
    plan, pipeline = stored["plan"], stored["pipeline"]
    findings = Findings(pipeline, plan, result.pass_values)
    row: Row = {"threshold": _threshold(result, pipeline["stages"], made)}
    if "range" in made:
        limits = result.pass_values("range")
        count = findings.saturated()
        row |= {"image_min": float(limits["low"][0]), "image_max": float(limits["high"][0])}
        row |= {"saturated": count > 0, "saturated_voxels": count}
    shape, voxel = plan["input"]["shape"], plan["input"]["voxel_um"]
    row |= {f"voxels_{axis}": n for axis, n in zip("zyx", shape, strict=True)}
    row |= {f"voxel_{axis}_um": v for axis, v in zip("zyx", voxel, strict=True)}
    row["image_volume_um3"] = float(prod(shape) * prod(voxel))
    row["warnings"] = "; ".join([*plan["warnings"], *findings.all()])
    return row


def _threshold(result: Result, stages: Sequence[Mapping[str, Any]], made: set[str]) -> float | None:
    """The one threshold of the volume, if it had one."""
    if "threshold" in made:
        return float(result.pass_values("threshold")["threshold"][0])
    for stage in stages:
        for key, values in stage.items():
            if key == "threshold" and values.get("value") is not None:
                return float(values["value"])
    return None
