"""The tables of a run: the same from any blocks, and equal to what brute force finds in the arrays."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import ndimage

from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.grid import Grid
from chunkflow.plan.pipeline import InputOptions, OutputOptions, Pipeline
from chunkflow.run.result import Result
from chunkflow.stages.base import Region, Stage, View
from chunkflow.stages.label import Label
from chunkflow.stages.measure import Measure, Surfaces
from chunkflow.stages.skeleton import Skeleton
from chunkflow.stages.threshold import Threshold
from chunkflow.storage.tables import read_table
from chunkflow.testing.memory import run_in_memory
from chunkflow.testing.suites import check_stage, random_volume, write_volume

VOXEL_UM = (0.3, 0.1, 0.1)


def run(folder: Path, volume: np.ndarray, stages: list[Stage], kind: str, block: Triple = (9, 14, 17)) -> Result:
    source = write_volume(folder / "in.ome.zarr", volume, VOXEL_UM)
    pipeline = Pipeline(stages, input=InputOptions(kind=kind), output=OutputOptions(save=("labels",)))
    return pipeline.plan(source, folder / "out", block=block).run(on="serial")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Result]:
    volume = random_volume("labels", (19, 31, 27), np.random.default_rng(1))
    return volume, run(tmp_path_factory.mktemp("labelled"), volume, [Label(), Skeleton(), Measure()], "labels")


@pytest.mark.parametrize("stages", [[Label(), Skeleton(), Measure()], [Label(), Measure()]])
def test_blocks_leave_the_tables_of_the_whole_volume_for_labels(tmp_path: Path, stages: list[Stage]) -> None:
    check_stage(stages, folder=tmp_path, kind="labels", cases=2, grids=1, largest=(18, 30, 30))


def test_blocks_leave_the_tables_of_the_whole_volume_for_images(tmp_path: Path) -> None:
    stages = [Threshold(), Label(), Skeleton(), Measure(intensity="image")]
    check_stage(stages, folder=tmp_path, cases=1, grids=2, largest=(18, 30, 30))


def test_surfaces_take_no_more_than_they_say_of_noise() -> None:
    core = Box((1, 1, 1), (65, 65, 65))
    noise = ndimage.label(np.random.default_rng(0).random((66, 66, 66)) < 0.5, np.ones((3, 3, 3)))[0].astype(np.uint32)
    whole = Box.of_shape(noise.shape)
    grid = Grid((66, 66, 66), (66, 66, 66))
    view = View(block=0, core=core, grid=grid, regions={"labels": Region(whole, noise)}, values={}, records={})
    Surfaces().run(view, core)
    tracemalloc.start()
    Surfaces().run(view, core)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.7 * Surfaces().working_bytes(core.shape) < peak <= Surfaces().working_bytes(core.shape)


def test_the_table_of_contacts_holds_every_face_between_two_objects(labelled: tuple[np.ndarray, Result]) -> None:
    volume, result = labelled
    expected: dict[tuple[int, int], float] = {}
    for axis, side in enumerate((0.1 * 0.1, 0.3 * 0.1, 0.3 * 0.1)):
        a, b = np.moveaxis(volume, axis, 0)[:-1].ravel(), np.moveaxis(volume, axis, 0)[1:].ravel()
        for low, high in zip(np.minimum(a, b).tolist(), np.maximum(a, b).tolist(), strict=True):
            if low and low != high:
                expected[low, high] = expected.get((low, high), 0.0) + side
    found = read_table(result.path / "tables", "contacts")
    assert list(zip(found.object_a, found.object_b, strict=True)) == sorted(expected)
    np.testing.assert_allclose(found.area_um2, [expected[pair] for pair in sorted(expected)])


def test_the_inscribed_radius_is_the_largest_distance_in_the_object(labelled: tuple[np.ndarray, Result]) -> None:
    volume, result = labelled
    found = result.objects[result.objects.b2 == 0]
    assert len(found) > 5
    for row in found.itertuples():
        mask = np.pad(volume == row.object_id, 1)  # it ends where the volume does
        distance = ndimage.distance_transform_edt(mask, sampling=VOXEL_UM)
        assert row.inscribed_radius_um == pytest.approx(distance.max(), rel=1e-6)


def test_networks_add_up_to_the_tables_of_nodes_and_branches(labelled: tuple[np.ndarray, Result]) -> None:
    _, result = labelled
    found = read_table(result.path / "tables", "networks").set_index("object_id")
    nodes, branches = result.nodes, result.branches
    assert found.branches.sum() == len(branches) and found.nodes.sum() == len(nodes)
    np.testing.assert_allclose(found.length_um.sum(), branches.length_um.sum())
    ends = nodes[nodes.degree == 1].groupby("object_id").size()
    assert found.ends[ends.index].tolist() == ends.tolist()
    objects = result.objects.set_index("object_id")
    assert found.loops.tolist() == objects.b1_graph[found.index].tolist()


def test_columns_name_their_unit_in_parquet_and_what_was_measured(
    tmp_path: Path, labelled: tuple[np.ndarray, Result]
) -> None:
    schema = pq.read_schema(labelled[1].path / "tables" / "objects.parquet")
    assert schema.field("surface_um2").metadata == {b"unit": b"um^2"}
    assert schema.field("axis_major_um").metadata == {b"unit": b"um"}
    assert schema.field("bbox_z_min").metadata == {b"unit": b"voxel"}
    assert schema.field("sphericity").metadata is None
    assert set(labelled[1].objects.intensity_of) == {"none"}
    image = random_volume("image", (12, 20, 20), np.random.default_rng(2))
    raw = run(tmp_path, image, [Threshold(), Label(), Measure()], "image")
    assert set(raw.objects.intensity_of) == {"raw"}
    assert raw.objects.inscribed_radius_um.isna().all()  # no skeleton, no distances
    assert not (raw.path / "tables" / "networks.parquet").exists()
    assert len(read_table(raw.path / "tables", "contacts")) == 0  # components never share a face


def test_objects_of_a_plane_have_no_surface(tmp_path: Path) -> None:
    volume = random_volume("labels", (1, 40, 40), np.random.default_rng(3))
    found = run(tmp_path, volume, [Label(), Skeleton(), Measure()], "labels", (1, 16, 16)).objects
    assert found.surface_um2.isna().all() and found.sphericity.isna().all()
    assert (found.axis_major_um >= found.axis_middle_um).all() and (found.inscribed_radius_um > 0).all()


def phantom(name: str) -> np.ndarray:
    z, y, x = np.indices((32, 44, 44))
    across, middle = (z - 16) ** 2 + (y - 22) ** 2, abs(x - 22) < 19
    return {
        "tube": (across < 6) & middle,
        "thick tube": (across < 30) & middle,
        "wavy tube": (((y - 22 - 6 * np.sin(x / 6)) ** 2 + (z - 16) ** 2) < 9) & middle,
        "torus": (np.sqrt((y - 22) ** 2 + (x - 22) ** 2) - 14) ** 2 + (z - 16) ** 2 < 12,
        "cell with processes": (across + (x - 22) ** 2 < 70) | ((across < 5) & middle),
        "plate of a voxel": (z == 16) & (abs(y - 22) < 18) & middle,
        "plate": (abs(z - 16) <= 2) & (abs(y - 22) < 18) & middle,
        "wavy plate": (abs(z - 16 - 3 * np.sin(x / 7)) <= 1.5) & (abs(y - 22) < 18) & middle,
        "ball": across + (x - 22) ** 2 < 120,
        "ellipsoid": across / 49 + (x - 22) ** 2 / 289 < 1,
    }[name].astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, "tubes") for name in ("tube", "thick tube", "wavy tube", "torus", "cell with processes")),
        *((name, "sheet") for name in ("plate of a voxel", "plate", "wavy plate")),
        *((name, "blob") for name in ("ball", "ellipsoid")),
    ],
)
def test_objects_that_a_skeleton_tells_little_of_are_named(name: str, form: str) -> None:
    stages = [Label(), Skeleton(), Measure()]
    for block in ((32, 44, 44), (16, 24, 20)):
        left = run_in_memory(stages, phantom(name), kind="mask", block=block)
        assert left.tables["objects"]["form"].tolist() == [form]


@pytest.mark.parametrize("radius", [0.8, 1.0, 1.2, 1.5, 1.8, 2.0, 2.5])
def test_thin_tubes_are_no_sheets_whatever_way_they_go(radius: float) -> None:
    rng = np.random.default_rng(int(10 * radius))
    for kind, axes in (("straight", np.eye(3)), ("bent", rng.standard_normal((3, 3)))):
        for number in (1, 3) if radius <= 1.5 else (1,):  # arms, longer than four times their width
            middle = 21.5 + rng.uniform(-1, 1, 3)
            away = np.moveaxis(np.indices((44, 44, 44)), 0, -1) - middle
            tube = np.zeros((44, 44, 44), bool)
            for axis in axes[:number]:
                along = axis / np.linalg.norm(axis)
                t = np.clip(away @ along, -17 if number == 1 else 0, 17)
                tube |= np.linalg.norm(away - t[..., None] * along, axis=-1) <= radius
            left = run_in_memory([Label(min_voxels=9), Skeleton(), Measure()], tube, kind="mask", block=(44, 44, 44))
            assert set(left.tables["objects"]["form"]) == {"tubes"}, (kind, number)


def test_without_a_skeleton_no_form_is_told() -> None:
    left = run_in_memory([Label(), Measure()], phantom("tube"), kind="mask", block=(32, 44, 44))
    assert left.tables["objects"]["form"].tolist() == [""]


@pytest.mark.parametrize("taper", [0.0, 0.08])
def test_a_branch_has_the_surface_and_volume_of_its_tube_as_far_as_it_reaches(taper: float) -> None:
    centre, radius = np.array([25.3, 24.8, 25.1]), 6.0
    along = np.array([1.0, 2.0, -2.0]) / 3
    away = np.moveaxis(np.indices((52, 50, 51)), 0, -1) - centre
    t = away @ along
    tube = (np.linalg.norm(away - t[..., None] * along, axis=-1) < radius + taper * t) & (abs(t) < 21)
    stages = [Label(), Skeleton()]
    whole, cut = (
        run_in_memory(stages, tube.astype(np.uint8), kind="mask", block=block, voxel_um=(0.5, 0.5, 0.5)).tables
        for block in ((52, 50, 51), (19, 16, 23))
    )
    branches, points = whole["branches"], whole["curves"]["points_um"]
    assert len(branches["branch_id"]) == 1
    first, last = (points[k] / 0.5 @ along - centre @ along for k in (0, -1))
    height = abs(last - first) * 0.5
    r, s = ((radius + taper * end) * 0.5 for end in (first, last))
    surface = np.pi * (r + s) * np.hypot(height, r - s)
    volume = np.pi * height * (r * r + r * s + s * s) / 3
    assert 0.93 < branches["tube_surface_um2"][0] / surface < 1
    assert 0.88 < branches["tube_volume_um3"][0] / volume < 0.97
    for name in ("tube_surface_um2", "tube_volume_um3"):
        assert branches[name].tobytes() == cut["branches"][name].tobytes()


def test_blocks_leave_the_oriented_boxes_of_the_whole_volume(tmp_path: Path) -> None:
    check_stage(
        [Label(), Measure(oriented_extents=True)],
        folder=tmp_path,
        kind="labels",
        cases=1,
        grids=2,
        largest=(18, 30, 30),
    )


def test_oriented_boxes_hold_the_objects_and_their_ellipsoids_are_not_much_longer() -> None:
    volume = random_volume("labels", (19, 31, 27), np.random.default_rng(5))
    stages = [Label(), Measure(oriented_extents=True)]
    left = run_in_memory(stages, volume, kind="labels", block=(9, 14, 17), voxel_um=VOXEL_UM)
    objects = left.tables["objects"]
    assert len(objects["object_id"]) > 5
    for k, label in enumerate(objects["object_id"].tolist()):
        at = np.argwhere(volume == label) * VOXEL_UM
        for name in ("major", "middle", "minor"):
            along = np.array([objects[f"axis_{name}_{axis}"][k] for axis in "zyx"])
            side = objects[f"extent_{name}_um"][k]
            if np.isnan(along).any():
                assert np.isnan(side)
                continue
            assert side == pytest.approx(np.ptp(at @ along) + np.abs(along) @ VOXEL_UM, rel=1e-9)
            assert objects[f"axis_{name}_um"][k] <= 2 * np.sqrt(5 / 4) * side  # all of it at both ends
    assert (
        "extent_major_um"
        not in run_in_memory([Label(), Measure()], volume, kind="labels", block=(19, 31, 27)).tables["objects"]
    )
