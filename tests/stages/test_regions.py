"""Parent regions: tables against brute force on the whole volume, and the same from any blocks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
import tifffile

from chunkflow.errors import ChunkflowError, InputError, InputNotFoundError, PlanError
from chunkflow.geometry.box import Triple
from chunkflow.kernels import resample
from chunkflow.plan.pipeline import InputOptions, OutputOptions, Pipeline
from chunkflow.run.result import Result
from chunkflow.stages.base import Stage
from chunkflow.stages.label import Label
from chunkflow.stages.measure import Measure
from chunkflow.stages.resample import Resample
from chunkflow.stages.skeleton import Skeleton
from chunkflow.stages.threshold import Threshold
from chunkflow.testing.suites import differences, random_volume, write_volume

SHAPE = (17, 33, 29)
VOXEL_UM = (0.3, 0.1, 0.1)
ORIGIN_UM = (5.0, -2.0, 11.0)
BLOCKS: tuple[Triple, ...] = ((64, 64, 64), (9, 14, 17), (5, 33, 8))


def cells() -> np.ndarray:
    """Slanted slabs, two gaps among them: regions 0, 2, 4, 6 and 9."""
    z, y, x = np.indices(SHAPE)
    return np.array([2, 0, 4, 6, 9, 0], np.uint16)[(x + y // 2 + z) // 11]


def blobs(seed: int) -> np.ndarray:
    """Labels that touch, some 60 of them, with gaps in their ids; smaller than regions are."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.arange(n) // 7 for n in SHAPE)
    ids = 3 * (1 + z[:, None, None] * 25 + y[None, :, None] * 5 + x)
    either = random_volume("mask", SHAPE, rng) | random_volume("mask", SHAPE, rng)
    return np.where(either, ids, 0).astype(np.uint16)


def run(
    folder: Path,
    volume: np.ndarray,
    regions: Path,
    *,
    stages: list[Stage] | None = None,
    kind: Any = "labels",
    block: Triple = BLOCKS[0],
    name: str = "out",
) -> Result:
    source = folder / "in.ome.zarr"
    if not source.exists():
        write_volume(source, volume, VOXEL_UM, translation_um=ORIGIN_UM)
    front = [Label(), Skeleton()] if stages is None else stages
    pipeline = Pipeline(
        [*front, Measure(regions=str(regions))], input=InputOptions(kind=kind), output=OutputOptions(save=("labels",))
    )
    return pipeline.plan(source, folder / name, block=block).run(on="serial")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray, list[Result]]:
    """Labels, regions, and the result in one block and in others."""
    folder = tmp_path_factory.mktemp("measured")
    labels = blobs(1)
    write_volume(folder / "cells.ome.zarr", cells(), VOXEL_UM)
    paths = folder / "cells.ome.zarr"
    return labels, cells(), [run(folder, labels, paths, block=block, name=str(block)) for block in BLOCKS]


def test_blocks_leave_the_tables_of_the_whole_volume(measured: tuple[np.ndarray, np.ndarray, list[Result]]) -> None:
    whole, *others = measured[2]
    for other in others:
        assert differences(other, whole) == []


def test_objects_belong_where_most_of_their_voxels_lie(measured: tuple[np.ndarray, np.ndarray, list[Result]]) -> None:
    labels, regions, (result, *_) = measured
    objects = result.objects
    assert set(objects.region_id) == {0, 2, 4, 6, 9} and objects.region_fraction.min() < 0.6
    for row in objects.itertuples():
        counts = np.bincount(regions[labels == row.object_id], minlength=10)
        best = next(region for region in (1, 2, 3, 4, 5, 6, 7, 8, 9, 0) if counts[region] == counts.max())
        assert row.region_id == best
        assert row.region_fraction == counts[best] / counts.sum()


def test_regions_count_voxels_and_whole_objects(measured: tuple[np.ndarray, np.ndarray, list[Result]]) -> None:
    labels, regions, (result, *_) = measured
    found = result.regions
    assert found.region_id.tolist() == [2, 4, 6, 9]
    for row in found.itertuples():
        own = regions == row.region_id
        inside = np.unique(labels[own & (labels > 0)])
        crossing = [label for label in inside if not own[labels == label].all()]
        assert row.volume_vox == own.sum() and row.objects_volume_vox == (own & (labels > 0)).sum()
        assert row.volume_um3 == pytest.approx(own.sum() * np.prod(VOXEL_UM))
        assert row.volume_fraction == (own & (labels > 0)).sum() / own.sum()
        assert row.objects == (result.objects.region_id == row.region_id).sum()
        assert row.objects_crossing == len(crossing) > 0


def test_nodes_and_branches_belong_where_they_lie(measured: tuple[np.ndarray, np.ndarray, list[Result]]) -> None:
    _, regions, (result, *_) = measured
    at = np.rint((result.nodes[["z_um", "y_um", "x_um"]].to_numpy() - ORIGIN_UM) / VOXEL_UM).astype(int)
    assert result.nodes.region_id.tolist() == regions[tuple(at.T)].tolist()
    lengths = {int(region): np.zeros(len(result.branches)) for region in np.unique(regions)}
    for _, _, branch, data in result.graph.edges(keys=True, data=True):
        points = data["points"]
        steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
        share = (np.append(steps, 0) + np.append(0, steps)) / 2
        for (z, y, x), length in zip(np.rint((points - ORIGIN_UM) / VOXEL_UM).astype(int), share, strict=True):
            lengths[int(regions[z, y, x])][branch] += length
    total = np.stack(list(lengths.values()))
    np.testing.assert_allclose(total.sum(axis=0), result.branches.length_um, rtol=1e-12)
    best = total.max(axis=0)
    for branch, region in enumerate(result.branches.region_id):
        assert lengths[region][branch] == pytest.approx(best[branch], rel=1e-9)
    found = result.regions.set_index("region_id")
    assert found.branches_crossing.sum() > 10 and found.length_um.min() > 0
    for region in found.index:
        row, own = found.loc[region], lengths[region]
        assert row.length_um == pytest.approx(own.sum(), rel=1e-12)
        assert row.branches == (result.branches.region_id == region).sum()
        assert row.branches_crossing == ((own > 0) & (own < total.sum(axis=0) * (1 - 1e-12))).sum()
        assert row.nodes == (result.nodes.region_id == region).sum()
        assert row.ends == ((result.nodes.region_id == region) & (result.nodes.degree == 1)).sum()


def test_mean_radii_are_weighted_by_length(measured: tuple[np.ndarray, np.ndarray, list[Result]]) -> None:
    _, _, (result, *_) = measured
    inside = result.regions.radius_mean_um
    assert (inside > result.branches.radius_min_um.min()).all() and (inside < result.branches.radius_max_um.max()).all()


def test_regions_are_in_the_graph_and_in_the_report(
    measured: tuple[np.ndarray, np.ndarray, list[Result]],
) -> None:
    _, _, (result, *_) = measured
    assert 'attr.name="region_id"' in (result.path / "graph" / "skeleton.graphml").read_text()
    assert all("region_id" in data for _, data in result.graph.nodes(data=True))
    assert "<h2>Regions</h2>" in (result.path / "report.html").read_text()


def test_a_tiff_and_a_bare_array_say_what_the_label_image_says(
    tmp_path: Path, measured: tuple[np.ndarray, np.ndarray, list[Result]]
) -> None:
    labels, regions, _ = measured
    tifffile.imwrite(tmp_path / "cells.tif", regions, compression="zlib")
    tifffile.imwrite(tmp_path / "signed.tif", regions.astype(np.int16))
    write_volume(tmp_path / "cells.ome.zarr", regions, VOXEL_UM)
    expected = run(tmp_path, labels, tmp_path / "cells.ome.zarr", stages=[Label()])
    for name in ("cells.tif", "signed.tif"):
        found = run(tmp_path, labels, tmp_path / name, stages=[Label()], block=BLOCKS[1], name=name[:3])
        assert differences(found, expected) == []
    bare_array = str(tmp_path / "cells.ome.zarr" / "0")
    pipeline = Pipeline([Label(), Measure(regions=bare_array)], input=InputOptions(kind="labels"))
    bare = pipeline.plan(tmp_path / "in.ome.zarr", tmp_path / "other").beside.arrays["input_regions"]
    np.testing.assert_array_equal(bare.read(bare.box), regions)


def roi_set(path: Path) -> np.ndarray:
    """Two ROIs, one of them on plane 3 alone and over the other; what they cover of the volume."""
    square = roifile.ImagejRoi.frompoints(np.array([(2, 3), (20, 3), (20, 28), (2, 28)]), name="all planes")
    corner = roifile.ImagejRoi.frompoints(np.array([(15, 20), (29, 20), (29, 33), (15, 33)]), name="plane 3", z=3)
    roifile.roiwrite(path, [square, corner])
    regions = np.zeros(SHAPE, np.uint32)
    regions[:, 3:28, 2:20] = 1
    regions[3, 20:33, 15:29] = 2
    return regions


def test_rois_say_what_the_voxels_in_them_say(tmp_path: Path) -> None:
    labels = blobs(1)
    filled = roi_set(tmp_path / "RoiSet.zip")
    write_volume(tmp_path / "filled.ome.zarr", filled, VOXEL_UM)
    drawn = run(tmp_path, labels, tmp_path / "RoiSet.zip", stages=[Label()], block=BLOCKS[1], name="drawn")
    voxels = run(tmp_path, labels, tmp_path / "filled.ome.zarr", stages=[Label()], name="voxels")
    assert drawn.regions.pop("name").tolist() == ["all planes", "plane 3"]
    assert drawn.regions.equals(voxels.regions) and drawn.objects.equals(voxels.objects)


def test_regions_are_resampled_with_the_image(tmp_path: Path) -> None:
    image = random_volume("image", SHAPE, np.random.default_rng(3))
    write_volume(tmp_path / "cells.ome.zarr", cells(), VOXEL_UM)
    stages: list[Stage] = [Resample(voxel_um=(0.2, 0.15, 0.1)), Threshold(), Label()]
    results = [
        run(tmp_path, image, tmp_path / "cells.ome.zarr", stages=stages, kind="image", block=block, name=str(block))
        for block in BLOCKS[:2]
    ]
    assert differences(results[1], results[0]) == []
    labels = results[0].labels[:]
    voxel = results[0].labels.voxel_um
    regions = resample.nearest(cells(), (0, 0, 0), (0, 0, 0), labels.shape, SHAPE, VOXEL_UM, voxel)
    for row in results[0].regions.itertuples():
        assert row.volume_vox == (regions == row.region_id).sum()
        assert row.objects_volume_vox == ((regions == row.region_id) & (labels > 0)).sum()


def test_without_a_skeleton_regions_tell_of_objects_alone(tmp_path: Path) -> None:
    labels = blobs(4)
    write_volume(tmp_path / "cells.ome.zarr", cells(), VOXEL_UM)
    result = run(tmp_path, labels, tmp_path / "cells.ome.zarr", stages=[Label()])
    assert "length_um" not in result.regions and "region_fraction" in result.objects
    with pytest.raises(InputNotFoundError, match="networks"):
        assert result.networks is None
    assert len(result.contacts) > 0


@pytest.mark.parametrize("value", [0, 5])
def test_no_regions_and_one_region_are_tables_too(tmp_path: Path, value: int) -> None:
    labels = blobs(5)
    write_volume(tmp_path / "cells.ome.zarr", np.full(SHAPE, value, np.uint8), VOXEL_UM)
    result = run(tmp_path, labels, tmp_path / "cells.ome.zarr")
    assert result.regions.region_id.tolist() == ([value] if value else [])
    assert set(result.objects.region_id) == set(result.nodes.region_id) == {value}
    assert (result.objects.region_fraction == 1).all()
    if value:
        assert result.regions.loops[0] == result.networks.loops.sum() and result.regions.objects_crossing[0] == 0
        assert result.regions.length_um[0] == pytest.approx(result.branches.length_um.sum())


def test_an_empty_mask_has_regions_without_objects(tmp_path: Path) -> None:
    write_volume(tmp_path / "cells.ome.zarr", cells(), VOXEL_UM)
    mask = np.zeros(SHAPE, np.uint8)
    result = run(tmp_path, mask, tmp_path / "cells.ome.zarr", stages=[Label(), Skeleton()], kind="mask")
    assert result.regions.region_id.tolist() == [2, 4, 6, 9]
    assert not result.regions.objects.any() and not result.regions.nodes.any()
    assert len(result.objects) == 0 and "region_id" in result.objects and "region_id" in result.nodes


def test_negative_regions_stop_the_run_and_say_where(tmp_path: Path) -> None:
    labels = blobs(6)
    regions = cells().astype(np.int16)
    regions[10, 11, 12] = -3
    write_volume(tmp_path / "cells.ome.zarr", regions, VOXEL_UM)
    with pytest.raises(InputError, match=r"negative label -3, first at z, y, x = \(10, 11, 12\)"):
        run(tmp_path, labels, tmp_path / "cells.ome.zarr", stages=[Label()])


def refused(tmp_path: Path, regions: Path, match: str, error: type[ChunkflowError] = InputError) -> None:
    labels = blobs(6)
    with pytest.raises(error, match=match):
        run(tmp_path, labels, regions)
    assert not (tmp_path / "out").exists()


def test_regions_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_volume(tmp_path / "float.ome.zarr", cells().astype(np.float32), VOXEL_UM)
    refused(tmp_path, tmp_path / "float.ome.zarr", "hold float32, not labels")
    write_volume(tmp_path / "small.ome.zarr", cells()[:-1], VOXEL_UM)
    refused(tmp_path, tmp_path / "small.ome.zarr", r"shape \(16, 33, 29\), the input \(17, 33, 29\).*on the input's")
    write_volume(tmp_path / "coarse.ome.zarr", cells(), (0.6, 0.2, 0.2))
    refused(tmp_path, tmp_path / "coarse.ome.zarr", r"voxels of \(0.6, 0.2, 0.2\) um, the input of \(0.3, 0.1, 0.1\)")
    tifffile.imwrite(tmp_path / "flat.tif", cells()[0])
    refused(tmp_path, tmp_path / "flat.tif", r"shape \(1, 33, 29\), the input")
    refused(tmp_path, tmp_path / "none.zarr", "no such file or folder", InputNotFoundError)
    (tmp_path / "cells.csv").write_text("1")
    refused(tmp_path, tmp_path / "cells.csv", "no format that can be read.*RoiSet.zip")


def test_rois_of_another_image_are_refused(tmp_path: Path) -> None:
    points = np.array([(2, 3), (9, 3), (9, 8)])
    roifile.roiwrite(tmp_path / "deep.zip", [roifile.ImagejRoi.frompoints(points, name="a", z=17)])
    refused(tmp_path, tmp_path / "deep.zip", "ROI a .* lies on plane 18, and the input has 17")
    roifile.roiwrite(tmp_path / "wide.zip", [roifile.ImagejRoi.frompoints(points + np.array([29, 0]), name="b")])
    refused(tmp_path, tmp_path / "wide.zip", "ROI b .* x 31 to 38, outside the input's planes of 33 x 29")
    roifile.roiwrite(tmp_path / "later.zip", [roifile.ImagejRoi.frompoints(points, name="c", t=4)])
    refused(tmp_path, tmp_path / "later.zip", "no ROI .* lies at time point 0")


def test_regions_inside_the_output_are_refused(tmp_path: Path) -> None:
    labels = blobs(6)
    write_volume(tmp_path / "cells.ome.zarr", cells(), VOXEL_UM)
    first = run(tmp_path, labels, tmp_path / "cells.ome.zarr", stages=[Label()])
    with pytest.raises((PlanError, ChunkflowError), match="would write over its input"):
        run(tmp_path, labels, first.path / "image.ome.zarr" / "labels" / "objects")


def changed(tmp_path: Path, path: Path, before: Any, after: Any) -> set[str]:
    """Passes with other fingerprints once `after` has written other regions than `before`."""
    write_volume(tmp_path / "in.ome.zarr", blobs(8), VOXEL_UM)
    stages = [Label(), Skeleton(), Measure(regions=str(path))]
    pipeline = Pipeline(stages, input=InputOptions(kind="labels"))
    found = []
    for write in (before, after):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        write()
        found.append(pipeline.plan(tmp_path / "in.ome.zarr", tmp_path / "out", block=BLOCKS[1]).fingerprints("cpu"))
    return {name for name in found[0] if found[0][name] != found[1].get(name)}


def test_changed_regions_compute_what_looks_at_them_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "cells.ome.zarr"
    write = [lambda gone=gone: write_volume(path, np.where(cells() == gone, 0, cells()), VOXEL_UM) for gone in (0, 4)]
    assert changed(tmp_path, path, *write) == {"input_regions", "region-blocks", "regions", "objects"}


def test_changed_rois_compute_what_looks_at_them_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "RoiSet.zip"
    roi = roifile.ImagejRoi.frompoints(np.array([(0, 0), (9, 0), (9, 9)]), name="other")
    found = changed(tmp_path, path, lambda: roi_set(path), lambda: roifile.roiwrite(path, [roi]))
    assert found == {"region-blocks", "regions", "objects"}


def test_paths_in_a_pipeline_are_relative_to_it(tmp_path: Path) -> None:
    pipeline = Pipeline.from_dict(
        {"version": 1, "stages": ["label", {"measure": {"regions": "a/b.zip"}}]}, folder=tmp_path
    )
    assert pipeline.stages[-1] == Measure(regions=str(tmp_path / "a" / "b.zip"))
