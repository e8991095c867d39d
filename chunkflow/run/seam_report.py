"""Whether the blocks of a run have left traces in its tables: densities near their faces, and elsewhere."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from chunkflow.analysis.seams import SeamCount, count_near_seams, count_sides_near_seams
from chunkflow.geometry.box import Triple
from chunkflow.geometry.scale import Scale
from chunkflow.plan.plan import Plan
from chunkflow.run.result import Result


def seam_report(result: Result, plan: Plan) -> list[SeamCount]:
    """Branch ends, centres of objects, and where objects begin and end, near the faces of blocks.

    Empty where the run left no such table, or one block holds the volume.
    """
    return seam_counts(result, {p.name for p in plan.passes}, plan.shape, plan.block, plan.scale)


def seam_counts(result: Result, made: Collection[str], shape: Triple, core: Triple, scale: Scale) -> list[SeamCount]:
    """`seam_report` of a result whose plan is known by its passes, its shape and blocks in voxels, and its scale."""
    if all(c >= n for c, n in zip(core, shape, strict=True)):
        return []
    found = []
    if "graph" in made:
        nodes = result.nodes
        found.append(count_near_seams("branch ends", _voxels(nodes[nodes["kind"] == "end"], "", scale), shape, core))
    if "objects" in made:
        objects = result.objects
        found.append(count_near_seams("objects", _voxels(objects, "centroid_", scale), shape, core))
        ends = [
            np.concatenate([objects[f"bbox_{axis}_{end}"].to_numpy(np.int64) for end in ("min", "max")])
            for axis in "zyx"
        ]
        found.append(count_sides_near_seams("sides of objects", ends, shape, core))
    return found


def _voxels(rows: pd.DataFrame, prefix: str, scale: Scale) -> np.ndarray:
    """(N, 3) positions in voxels."""
    um = rows[[f"{prefix}{axis}_um" for axis in "zyx"]].to_numpy(np.float64).reshape(-1, 3)
    voxels: np.ndarray = (um - np.array(scale.translation_um)) / np.array(scale.voxel_um)
    return voxels
