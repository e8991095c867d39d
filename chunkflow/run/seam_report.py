"""Whether the blocks of a run have left traces in its tables: densities near their faces, and elsewhere."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from chunkflow.analysis.seams import SeamCount, added, count_near_seams, count_sides_near_seams
from chunkflow.geometry.box import Triple
from chunkflow.geometry.scale import Scale
from chunkflow.plan.plan import Plan
from chunkflow.run.result import Result
from chunkflow.storage.tables import StoredTable


def seam_report(result: Result, plan: Plan) -> list[SeamCount]:
    """Branch ends, centres of objects, and where objects begin and end, near the faces of blocks.

    Empty where the run left no such table, or one block holds the volume.
    """
    return seam_counts(result, {p.name for p in plan.passes}, plan.shape, plan.block, plan.scale)


def seam_counts(result: Result, made: Collection[str], shape: Triple, core: Triple, scale: Scale) -> list[SeamCount]:
    """`seam_report` of a result whose plan is known by its passes, its shape and blocks in voxels, and its scale."""
    if all(c >= n for c, n in zip(core, shape, strict=True)):
        return []
    folder, found = result.path / "tables", []
    if "graph" in made:
        nodes = StoredTable(folder, "nodes").batches("kind", *_axes("{}_um"))
        ends = (_voxels(rows[rows["kind"] == "end"], "", scale) for rows in nodes)
        found.append(added([count_near_seams("branch ends", points, shape, core) for points in ends]))
    if "objects" in made:
        objects = StoredTable(folder, "objects")
        centres = (_voxels(rows, "centroid_", scale) for rows in objects.batches(*_axes("centroid_{}_um")))
        found.append(added([count_near_seams("objects", points, shape, core) for points in centres]))
        boxes = objects.batches(*_axes("bbox_{}_min"), *_axes("bbox_{}_max"))
        found.append(added([count_sides_near_seams("sides of objects", _sides(b), shape, core) for b in boxes]))
    return found


def _axes(column: str) -> list[str]:
    return [column.format(axis) for axis in "zyx"]


def _sides(boxes: pd.DataFrame) -> list[np.ndarray]:
    """For each axis, where objects begin and end."""
    return [
        np.concatenate([boxes[f"bbox_{axis}_{end}"].to_numpy(np.int64) for end in ("min", "max")]) for axis in "zyx"
    ]


def _voxels(rows: pd.DataFrame, prefix: str, scale: Scale) -> np.ndarray:
    """(N, 3) positions in voxels."""
    um = rows[[f"{prefix}{axis}_um" for axis in "zyx"]].to_numpy(np.float64).reshape(-1, 3)
    voxels: np.ndarray = (um - np.array(scale.translation_um)) / np.array(scale.voxel_um)
    return voxels
