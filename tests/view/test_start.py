"""Where viewers look first: at something. No browser."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.testing import suites
from chunkflow.view import start as starts
from chunkflow.view.scene import open_scene
from chunkflow.view.start import start_of
from chunkflow.view.state import Look, neuroglancer_state

SHAPE, VOXEL_UM = (13, 60, 75), (0.5, 0.2, 0.1)


def at(folder: Path) -> tuple[int, ...]:
    return tuple(map(int, start_of(open_scene(folder))))


def image_of(place: tuple[int, int, int]) -> Any:
    """Noise, one hot voxel, and a dim blob of 3 x 7 x 7 voxels at a place."""
    image = np.random.default_rng(3).integers(0, 40, SHAPE).astype(np.uint16)
    image[1, 2, 3] = 4000
    z, y, x = place
    image[z - 1 : z + 2, y - 3 : y + 4, x - 3 : x + 4] += 500
    return image


def segmented(folder: Path, *stages: Any, pyramid: Any = "auto") -> Path:
    """A ring, in a corner of the volume, and a ball of less than half its voxels."""
    z, y, x = np.indices(SHAPE)
    radius = np.hypot(y - 42, x - 55)
    image = np.where((z >= 9) & (radius > 9) & (radius < 13), 100, 0)
    image[(z - 6) ** 2 * 6 + (y - 12) ** 2 + (x - 20) ** 2 < 30] = 100
    suites.write_volume(folder / "in.ome.zarr", image.astype(np.uint8), VOXEL_UM, translation_um=(7.0, 0.0, -3.0))
    output = cf.OutputOptions(save=("image", "labels"), pyramid=pyramid)
    pipeline = cf.Pipeline([cf.Threshold(method="fixed", value=50), cf.Label(), *stages], output=output)
    return Path(str(pipeline.plan(folder / "in.ome.zarr", folder / "out").run(on="serial", device="cpu").path))


@pytest.mark.parametrize("stages", [(cf.Skeleton(), cf.Measure()), (cf.Measure(),)])
def test_the_first_voxel_is_of_the_largest_object_though_its_centroid_is_empty(
    tmp_path: Path, stages: tuple[Any, ...]
) -> None:
    out = segmented(tmp_path, *stages)
    labels = np.asarray(cf.open_result(out).labels[...])
    largest = np.argmax(np.bincount(labels.ravel())[1:]) + 1
    centroid = np.argwhere(labels == largest).mean(axis=0).round().astype(int)
    assert labels[tuple(centroid)] == 0 and labels[tuple(n // 2 for n in SHAPE)] == 0
    assert labels[at(out)] == largest


def test_of_objects_that_are_large_the_one_nearest_to_the_middle_is_looked_at(tmp_path: Path) -> None:
    image = np.zeros(SHAPE, np.uint8)
    image[2:11, 2:14, 2:14] = image[3:10, 25:35, 40:52] = image[6, 29, 36] = 100  # and a speck that is nearer still
    suites.write_volume(tmp_path / "in.ome.zarr", image, VOXEL_UM)
    for name, stages in {"a": (), "b": (cf.Skeleton(), cf.Measure())}.items():
        pipeline = cf.Pipeline([cf.Threshold(method="fixed", value=50), cf.Label(), *stages])
        out = pipeline.plan(tmp_path / "in.ome.zarr", tmp_path / name).run(on="serial", device="cpu")
        z, y, x = at(Path(str(out.path)))
        assert 3 <= z < 10 and 25 <= y < 35 and 40 <= x < 52


def test_the_coarsest_level_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = np.zeros((9, 300, 280), np.uint8)
    big[5:8, 250:270, 30:50] = 100
    suites.write_volume(tmp_path / "in.ome.zarr", big, VOXEL_UM, translation_um=(7.0, 0.0, -3.0))
    output = cf.OutputOptions(save=("labels",))
    pipeline = cf.Pipeline([cf.Threshold(method="fixed", value=50), cf.Label()], output=output)
    out = pipeline.plan(tmp_path / "in.ome.zarr", tmp_path / "out").run(on="serial", device="cpu")
    monkeypatch.setattr(starts, "LARGEST", 9 * 150 * 150)
    labels = out.path / "image.ome.zarr" / "labels" / "objects"
    shutil.rmtree(labels / "0" / "c")
    assert big[at(out.path)] == 100


def test_without_labels_it_is_the_brightest_place_and_no_hot_voxel(tmp_path: Path) -> None:
    suites.write_volume(tmp_path / "a.ome.zarr", image_of((9, 40, 60)), VOXEL_UM, translation_um=(7.0, 0.0, -3.0))
    assert np.abs(np.subtract(at(tmp_path / "a.ome.zarr"), (9, 40, 60))).max() <= 1


def test_where_nothing_is_seen_or_too_much_would_be_read_it_is_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites.write_volume(tmp_path / "empty.ome.zarr", np.full(SHAPE, 7, np.uint8), VOXEL_UM)
    suites.write_volume(tmp_path / "huge.ome.zarr", image_of((9, 40, 60)), VOXEL_UM)
    monkeypatch.setattr(starts, "LARGEST", 100)
    for name in ("empty", "huge"):
        assert at(tmp_path / f"{name}.ome.zarr") == tuple(n // 2 for n in SHAPE)


def test_a_level_that_is_damaged_is_no_reason_not_to_open_the_viewer(tmp_path: Path) -> None:
    suites.write_volume(tmp_path / "a.ome.zarr", image_of((9, 40, 60)), VOXEL_UM)
    chunk = next(path for path in (tmp_path / "a.ome.zarr" / "0" / "c").rglob("*") if path.is_file())
    chunk.write_bytes(b"broken")
    assert at(tmp_path / "a.ome.zarr") == tuple(n // 2 for n in SHAPE)


def test_a_state_begins_there_in_units_that_begin_at_the_origin(tmp_path: Path) -> None:
    suites.write_volume(tmp_path / "a.ome.zarr", image_of((9, 40, 60)), VOXEL_UM, translation_um=(7.0, 0.0, -3.0))
    scene = open_scene(tmp_path / "a.ome.zarr")
    z, y, x = start_of(scene)
    assert neuroglancer_state(scene, "https://host/a")["position"] == pytest.approx([x - 30, y, z + 14])


def test_from_wherever_one_looks_the_panels_hold_the_whole_volume(tmp_path: Path) -> None:
    suites.write_volume(tmp_path / "a.ome.zarr", image_of((9, 40, 60)), VOXEL_UM)
    scene = open_scene(tmp_path / "a.ome.zarr")
    for layout, sides in {"xy": (2, 1), "xz": (2, 0), "yz": (0, 1)}.items():
        look = Look(at=(9, 40, 60), layout=layout, window_px=(300, 200))
        scale = neuroglancer_state(scene, "https://host/a", look)["crossSectionScale"]
        for side, pixels in zip(sides, (300, 200), strict=True):
            farther = max(look.at[side] + 0.5, SHAPE[side] - look.at[side] - 0.5) * VOXEL_UM[side] / 0.1
            assert farther / scale <= pixels / 2
