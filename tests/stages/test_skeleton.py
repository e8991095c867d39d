"""The stage skeleton: what its plan says before anything runs."""

import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import chunkflow as cf
from chunkflow.geometry.box import Box
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import decisions, distance, residual
from chunkflow.kernels.open_voxels import OpenVoxels
from chunkflow.stages.base import BlockStep, Record, Region, View
from chunkflow.stages.skeleton import Residual, Thin, tree_above
from chunkflow.testing import suites

STAGES = (cf.Threshold(method="fixed", value=50.0), cf.Label(), cf.Skeleton(), cf.Measure())


def rod(tmp_path: Path, depth_um: float) -> Path:
    """A rod 1.8 um wide and 18 um long along z, in planes of that depth."""
    z, y, x = np.indices((round(21 / depth_um), 41, 41))
    inside = ((y - 20) ** 2 + (x - 20) ** 2 < 81) & (abs(z * depth_um - 10) < 9)
    path = tmp_path / "in.ome.zarr"
    suites.write_volume(path, (100 * inside).astype(np.uint8), (depth_um, 0.1, 0.1))
    return path


@pytest.mark.parametrize(("depth_um", "is_told"), [(0.1, False), (0.3, False), (1.0, True)])
def test_long_voxels_are_told_since_skeletons_along_them_are_too_short(
    tmp_path: Path, depth_um: float, is_told: bool
) -> None:
    path = rod(tmp_path, depth_um)
    told = [text for text in cf.Pipeline(STAGES).plan(path, tmp_path / "out").warnings if "too short" in text]
    assert told == ([told[0]] if is_told else [])
    if is_told:
        assert "voxels are 10 times as long along z as they are wide" in told[0]
    cubes = cf.Pipeline((cf.Resample(voxel_um="isotropic"), *STAGES)).plan(path, tmp_path / "cubes").warnings
    assert not any("too short" in text for text in cubes)


def test_a_plane_has_no_long_side_across_it(tmp_path: Path) -> None:
    suites.write_volume(tmp_path / "in.ome.zarr", np.arange(400, dtype=np.uint8).reshape(1, 20, 20), (5.0, 0.1, 0.1))
    told = cf.Pipeline(STAGES).plan(tmp_path / "in.ome.zarr", tmp_path / "out").warnings
    assert not any("too short" in text for text in told)


# Memory of the tree

NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.uint8))


class Stored(Sequence[Record]):
    """Records that are made anew whenever they are read, as those of a run are."""

    def __init__(self, kept: list[Record]) -> None:
        self.kept = kept

    def __getitem__(self, index: Any) -> Any:
        return {name: column.copy() for name, column in self.kept[index].items()}

    def __len__(self) -> int:
        return len(self.kept)


def solid(kind: str, side: int) -> NDArray[np.bool_]:
    """Objects much thicker than blocks."""
    z, y, x = np.indices((side,) * 3) - side / 2 + 0.5
    masks = {"ball": z**2 + y**2 + x**2 <= (side / 2 - 1) ** 2, "slab": abs(z) < side / 4, "full": abs(z) < side}
    return np.asarray(masks[kind])


def run_all(
    step: BlockStep,
    grid: Grid,
    arrays: dict[str, Any],
    records: dict[str, Sequence[Record]],
    *,
    is_far: bool = True,
) -> list[Record]:
    """The records that a step leaves, and that each took no more than it projects.

    is_far : whether distances come from pencils.
    """
    left = []
    for block in range(len(grid)):
        core = grid.core_of(block)
        boxes = {name: box.clip(Box.of_shape(grid.shape)) for name, box in step.reads(core).items()}
        regions = {name: Region(box, np.ascontiguousarray(arrays[name][box.slices])) for name, box in boxes.items()}
        values = {"shortcuts": {"far": np.arange(len(grid)) if is_far else np.zeros(0, np.int64)}}
        view = View(block=block, core=core, grid=grid, regions=regions, values=values, records=records)
        tracemalloc.start()
        left.append(step.run(view, core).record)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= step.working_bytes(core.shape)
    return left


@pytest.mark.parametrize("kind", ["ball", "slab", "full"])
def test_no_joint_takes_more_memory_than_is_projected_however_thick_the_object(kind: str) -> None:
    mask = solid(kind, 100)
    arrays = {"filled": mask.astype(np.uint16), "distance": distance.squared_distance(mask, weights=(1, 1, 1))}
    decisions.table()  # in memory once, and counted
    below = Grid(mask.shape, (20, 20, 20))
    kept = run_all(Thin(weights=(1, 1, 1), halo=8, t0=1, inscribed=True), below, arrays, {})
    longest, first = 0, len(kept[0]["open_index"])
    for grid in tree_above(below):
        step = Residual(below=below, source="below", t0=1)
        longest = max(longest, sum(len(record["open_index"]) for record in kept))
        kept = run_all(step, grid, {}, {"below": Stored(kept)})
        below = grid
    assert longest > 0.1 * mask.size > first  # or the comparison says nothing
    assert len(kept) == 1 and not len(kept[0]["open_index"])


def test_a_voxel_of_a_list_takes_what_the_plan_counts() -> None:
    """All of a cube deep inside a solid is open, and nothing is decided: the most that a joint can hold."""
    side, shape = 40, (80, 80, 80)
    z, y, x = np.indices((side,) * 3) + 20
    listed = OpenVoxels.empty(side**3)
    columns = {"index": ((z * 80 + y) * 80 + x).ravel(), "key": 8 * z.ravel() + (z + 2 * y + 4 * x).ravel() % 8}
    full = {name: getattr(listed, name) for name in ("label", "start", "history", "lower")}
    full["history"][:] = 254
    full["start"][:] = 1
    residual.solve(OpenVoxels(**columns, **full), *NOTHING, shape=shape)  # compiled
    tracemalloc.start()
    parts: dict[str, list[Any]] = {name: [column.copy()] for name, column in (columns | full).items()}
    solved = residual.solve(OpenVoxels.gathered(parts), *NOTHING, shape=shape)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(solved.still_open) > 0.9 * side**3
    assert 0.8 * residual.VOXEL_BYTES * side**3 < peak <= residual.VOXEL_BYTES * side**3
