"""Distances that blocks measure in crops, and those that pencils measure for the others: the whole volume's, all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import chunkflow as cf
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels.distance import squared_distance
from chunkflow.stages import distance, skeleton
from chunkflow.stages.base import Region, Stage, View
from chunkflow.testing import suites
from chunkflow.testing.memory import InMemory, run_in_memory

SHAPE = (22, 34, 40)
VOXELS = {"cubes": (0.1, 0.1, 0.1), "long": (0.3, 0.1, 0.1), "a plane": (0.1, 0.2, 0.1)}
HALO = 2


def blobs(seed: int, shape: Triple) -> NDArray[np.uint16]:
    """Touching labels of any width, a fine one, and one thick at a corner of the volume."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), [min(2.0, n / 8) for n in shape])
    labels = np.where(noise > np.quantile(noise, 0.75), 1, 0) + (noise > np.quantile(noise, 0.9))
    labels[: shape[0] // 2, :11, :12] = 3
    labels[shape[0] // 2, shape[1] // 2] = 4
    return np.asarray(labels, np.uint16)


def tower() -> NDArray[np.uint16]:
    """A stick through the volume that is thick half-way up, in a thin sheet across."""
    labels = np.zeros((40, 40, 40), np.uint16)
    labels[:, 7:10, 7:10] = 1
    labels[16:24, 2:14, 2:14] = 1
    labels[21:23] = 1
    return labels


def run(labels: NDArray[np.uint16], voxel_um: tuple[float, float, float], block: Triple) -> InMemory:
    stages: list[Stage] = [cf.Label(), cf.Skeleton(max_halo=HALO), cf.Measure()]
    return run_in_memory(stages, labels, kind="labels", voxel_um=voxel_um, block=block)


def far_blocks(labels: NDArray[np.uint16], weights: Triple, grid: Grid) -> set[int]:
    """Blocks with a voxel in reach whose nearest other one is farther off than the margin may show; by brute force."""
    truth = squared_distance(labels, weights=weights)
    reach = (grid.core_of(block).grow(triple(HALO)).clip(Box.of_shape(labels.shape)) for block in range(len(grid)))
    limit = distance.near_limit(labels.shape, weights)
    return {block for block, box in enumerate(reach) if truth[box.slices].max() > limit}


@pytest.mark.parametrize("voxel", VOXELS)
@pytest.mark.parametrize("block", [(8, 8, 8), (8, 9, 10), (11, 17, 6), (3, 40, 11)])
def test_crops_and_pencils_measure_what_the_whole_volume_does(
    block: Triple, voxel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (distance, skeleton):
        monkeypatch.setattr(module, "MARGIN", 3)
    monkeypatch.setattr(distance, "PENCIL_SIDE", 4)
    voxel_um = VOXELS[voxel]
    labels = blobs(len(voxel), (1, 34, 40) if voxel == "a plane" else SHAPE) if block != (8, 8, 8) else tower()
    grid = Grid(labels.shape, triple(tuple(map(min, block, labels.shape))))
    weights, _ = distance.spacing_weights(labels.shape, voxel_um)
    left = run(labels, voxel_um, block)
    truth = squared_distance(left.arrays["filled"], weights=weights)
    seen: list[int] = []

    def measured(self: skeleton.Thin, view: View, crop: Box) -> NDArray[np.int32]:
        found = original(self, view, crop)
        np.testing.assert_array_equal(found, truth[crop.slices])
        if view.block in view.values["shortcuts"]["far"]:
            seen.append(view.block)
        return np.asarray(found)

    original = skeleton.Thin._distances
    monkeypatch.setattr(skeleton.Thin, "_distances", measured)
    again = run(labels, voxel_um, block)
    assert again.differences(left) == []
    assert set(seen) >= far_blocks(left.arrays["filled"], weights, grid), "a block measures in a crop that is too small"
    assert 0 < len(seen) <= len(grid) - (block[1] < 10), "or the comparison says nothing"


def test_pencils_that_no_block_wants_stay_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance, "PENCIL_SIDE", 16)
    labels = np.zeros((32, 96, 96), np.uint16)
    labels[4:8] = 1
    thin = run(labels, VOXELS["cubes"], (32, 32, 32))
    assert not any(thin.arrays[name].any() for name in ("distance-x", "distance-y", "distance"))
    thick = (slice(2, 30), slice(66, 94), slice(65, 93))
    labels[thick] = 2
    found = run(labels, VOXELS["cubes"], (32, 32, 32)).arrays["distance"]
    assert not found[:, :16].any() and not found[:, :, :16].any()
    np.testing.assert_array_equal(found[thick], squared_distance(labels, weights=(1, 1, 1))[thick])


def test_a_region_at_a_side_of_the_volume_ends_in_background_there_alone() -> None:
    labels = np.ones((9, 9, 9), np.uint16)
    box = Box((0, 2, 4), (5, 7, 9))
    found = distance.near_distances(Region(box, labels[box.slices]), labels.shape, (1, 1, 1))
    z, _, x = np.indices((5, 5, 5))
    np.testing.assert_array_equal(found, np.minimum(z + 1, 5 - x) ** 2)


@pytest.mark.parametrize("kind", ["thin", "thick"])
def test_a_run_writes_distances_of_thick_objects_alone_and_leaves_what_one_block_does(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distance, "PENCIL_SIDE", 16)
    labels = np.zeros((32, 96, 96), np.uint16)
    labels[14:17, :, 46:51] = 1
    if kind == "thick":
        labels[2:30, 66:94, 65:93] = 2
        labels[10:20, 75:85, 75:85] = 0  # a cavity: labels and filled labels differ
    suites.write_volume(tmp_path / "in.ome.zarr", labels, VOXELS["cubes"])
    stages: list[Stage] = [cf.Label(), cf.Skeleton(), cf.Measure()]
    pipeline = cf.Pipeline(stages, input=cf.InputOptions(kind="labels"), output=cf.OutputOptions(save=("skeleton",)))
    pipeline.plan(tmp_path / "in.ome.zarr", tmp_path / "out", block=(32, 32, 32)).run(on="serial")
    files = (path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("c/*/*/*"))
    written = {name for path in files for name in ("distance-x", "distance-y", "distance-") if f"/{name}" in str(path)}
    assert written == ({"distance-x", "distance-y", "distance-"} if kind == "thick" else set())
    whole = run_in_memory(stages, labels, kind="labels", voxel_um=VOXELS["cubes"], block=(96, 96, 96))
    result = cf.open_result(tmp_path / "out")
    np.testing.assert_array_equal(result.skeleton[:], whole.arrays["skeleton"])
    for name in ("b0", "b1", "b2", "b1_filled", "inscribed_radius_um"):
        np.testing.assert_array_equal(result.objects[name], whole.tables["objects"][name])
