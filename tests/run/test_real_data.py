"""Real volumes: blocks and workers leave what one block leaves, bit for bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cc3d
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects, label
from skimage.io import imread
from skimage.measure import euler_number, regionprops_table

import chunkflow as cf
from chunkflow.geometry.box import Triple
from chunkflow.storage.importing import import_image
from chunkflow.testing import suites

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
WHOLE = (4096, 4096, 4096)
SMALL, LARGE = (32, 48, 40), (64, 64, 64)

NEURITES_UM = (0.04, 0.016, 0.016)
CROP = (slice(60, 156), slice(200, 360), slice(200, 360))
EVERYTHING = (slice(None),) * 3

Stored = tuple[Path, cf.Result]
"""A volume on disk, and what one block makes of it."""
Neurites = tuple[NDArray[np.uint32], cf.Result]
"""All labels of the EM segmentation, and what blocks make of them."""


def takes_long(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test of minutes to an hour."""
    return pytest.mark.slow(pytest.mark.timeout(3600)(test))


def needed(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{name} is missing from ../shared/data")
    return path


def largest_objects(labels: NDArray[Any], count: int) -> NDArray[Any]:
    """The labels without all but the `count` largest objects; ids are kept."""
    ids, sizes = np.unique(labels[labels != 0], return_counts=True)
    kept = ids[np.argsort(-sizes, kind="stable")[:count]]
    return np.where(np.isin(labels, kept), labels, 0)


def neurites(part: tuple[slice, ...], folder: Path) -> Path:
    """The 50 largest objects of that part of the EM segmentation, on disk."""
    labels = imread(needed("em_segmentation_256x512x512.tif"))[part]
    path = folder / "neurites.ome.zarr"
    suites.write_volume(path, largest_objects(labels, 50), NEURITES_UM)
    return path


def skeletons() -> cf.Pipeline:
    """Every block may look at the whole volume."""
    return cf.Pipeline(
        [cf.Skeleton(max_halo=512), cf.Measure()],
        input=cf.InputOptions(kind="labels"),
        output=cf.OutputOptions(save=("labels", "skeleton")),
    )


def of_one_block(pipeline: cf.Pipeline, volume: Path) -> Stored:
    return volume, pipeline.plan(volume, volume.parent / "out", block=WHOLE).run(on="serial")


def check(pipeline: cf.Pipeline, volume: Path, folder: Path, expected: cf.Result, block: Triple, **how: Any) -> None:
    plan = pipeline.plan(volume, folder / "out", block=block)
    assert plan.largest_grid > 1
    assert suites.differences(plan.run(**how), expected) == []


@pytest.fixture(scope="module")
def few_neurites(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """A corner of the EM segmentation, and what one block makes of it."""
    return of_one_block(skeletons(), neurites(CROP, tmp_path_factory.mktemp("few")))


@pytest.fixture(scope="module")
def all_neurites(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """The EM segmentation, and what one block makes of it."""
    return of_one_block(skeletons(), neurites(EVERYTHING, tmp_path_factory.mktemp("all")))


@pytest.fixture(scope="module")
def every_neurite(tmp_path_factory: pytest.TempPathFactory) -> Neurites:
    """The EM segmentation with all its labels, and what blocks on four workers make of it."""
    folder = tmp_path_factory.mktemp("every")
    labels = np.asarray(imread(needed("em_segmentation_256x512x512.tif")), np.uint32)
    suites.write_volume(folder / "neurites.ome.zarr", labels, NEURITES_UM)
    plan = skeletons().plan(folder / "neurites.ome.zarr", folder / "out", block=(128, 128, 128))
    return labels, plan.run(on="local", workers=4)


@pytest.fixture(scope="module")
def yeast(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """A yeast cell, and what one block makes of it with the pipeline of the examples."""
    path = tmp_path_factory.mktemp("yeast") / "yeast.ome.zarr"
    import_image(needed("yeast_mito_03.tif"), path, voxel_um=(0.2, 0.056, 0.056))
    return of_one_block(mitochondria(), path)


def mitochondria() -> cf.Pipeline:
    return cf.Pipeline.from_yaml(ROOT / "examples" / "mitochondria.yaml")


def test_the_50_largest_objects_are_all_there_with_their_ids_and_certified(few_neurites: Stored) -> None:
    path, result = few_neurites
    labels = cf.open_volume(path)[...]
    assert len(result.objects) == 50
    np.testing.assert_array_equal(result.objects["object_id"], np.unique(labels[labels != 0]))
    np.testing.assert_array_equal(result.labels[...], labels)
    assert result.objects["certified"].all()
    assert result.objects["b1"].sum() > 0


@pytest.mark.parametrize("block", [LARGE, pytest.param(SMALL, marks=pytest.mark.slow)])
def test_blocks_of_touching_neurites_leave_what_one_block_leaves(
    block: Triple, few_neurites: Stored, tmp_path: Path
) -> None:
    path, expected = few_neurites
    check(skeletons(), path, tmp_path, expected, block, on="serial")


@takes_long
@pytest.mark.parametrize(("block", "workers"), [(LARGE, 1), (LARGE, 2), (LARGE, 4), (SMALL, 4)])
def test_blocks_of_the_whole_em_segmentation_leave_what_one_block_leaves(
    block: Triple, workers: int, all_neurites: Stored, tmp_path: Path
) -> None:
    path, expected = all_neurites
    assert expected.objects["certified"].all()
    check(skeletons(), path, tmp_path, expected, block, on="local", workers=workers)


@takes_long
def test_every_neurite_is_certified_and_in_the_pieces_that_cc3d_finds(every_neurite: Neurites) -> None:
    labels, result = every_neurite
    objects = result.objects
    assert len(objects) > 900
    assert objects["certified"].all()
    pieces, count = cc3d.connected_components(labels, connectivity=26, return_N=True)
    label_of = np.zeros(count + 1, np.uint32)
    label_of[pieces.ravel()] = labels.ravel()
    ids, components = np.unique(label_of[1:], return_counts=True)
    np.testing.assert_array_equal(objects["object_id"], ids)
    np.testing.assert_array_equal(objects["b0"], components)
    np.testing.assert_array_equal(result.labels[...], labels)


@takes_long
@pytest.mark.parametrize("connectivity", [6, 26])
def test_components_of_the_em_foreground_are_those_of_cc3d_in_raster_order(
    connectivity: Literal[6, 26], tmp_path: Path
) -> None:
    mask = imread(needed("em_segmentation_256x512x512.tif")) > 0
    suites.write_volume(tmp_path / "in.ome.zarr", mask.astype(np.uint8), NEURITES_UM)
    pipeline = cf.Pipeline([cf.Label(connectivity=connectivity)], input=cf.InputOptions(kind="mask"))
    result = pipeline.plan(tmp_path / "in.ome.zarr", tmp_path / "out", block=(128, 128, 128)).run(on="serial")
    found, count = cc3d.connected_components(mask, connectivity=connectivity, return_N=True)
    present, first = np.unique(found, return_index=True)
    rank = np.zeros(count + 1, np.uint32)
    rank[present[present > 0][np.argsort(first[present > 0])]] = np.arange(1, count + 1)
    np.testing.assert_array_equal(result.labels[...], rank[found])


@takes_long
def test_sizes_boxes_and_places_of_all_neurites_are_scikit_images(every_neurite: Neurites) -> None:
    labels, result = every_neurite
    wanted = ("label", "num_pixels", "area", "bbox", "centroid")
    theirs = regionprops_table(labels, properties=wanted, spacing=NEURITES_UM)
    ours = result.objects
    np.testing.assert_array_equal(ours["object_id"], theirs["label"])
    np.testing.assert_array_equal(ours["volume_vox"], theirs["num_pixels"])
    np.testing.assert_allclose(ours["volume_um3"], theirs["area"], rtol=1e-9)
    for axis, name in enumerate("zyx"):
        np.testing.assert_array_equal(ours[f"bbox_{name}_min"], theirs[f"bbox-{axis}"])
        np.testing.assert_array_equal(ours[f"bbox_{name}_max"], theirs[f"bbox-{axis + 3}"])
        np.testing.assert_allclose(ours[f"centroid_{name}_um"], theirs[f"centroid-{axis}"], rtol=1e-9)


@takes_long
def test_contacts_of_all_neurites_are_those_counted_face_by_face(every_neurite: Neurites) -> None:
    labels, result = every_neurite
    ours = pd.read_parquet(result.path / "tables/contacts.parquet")
    counted: dict[tuple[int, int], list[int]] = {}
    for axis in range(3):
        lines = np.moveaxis(labels, axis, 0)
        a, b = lines[:-1], lines[1:]
        touch = (a != b) & (a > 0) & (b > 0)
        low, high = np.minimum(a[touch], b[touch]), np.maximum(a[touch], b[touch])
        pairs, faces = np.unique(low.astype(np.uint64) << np.uint64(32) | high, return_counts=True)
        for pair, count in zip(pairs.tolist(), faces.tolist(), strict=True):
            counted.setdefault((pair >> 32, pair & 0xFFFFFFFF), [0, 0, 0])[axis] = count
    rows = ours[["object_a", "object_b", "faces_z", "faces_y", "faces_x"]].to_numpy().tolist()
    assert len(rows) > 1000
    assert rows == [[*pair, *faces] for pair, faces in sorted(counted.items())]


@takes_long
def test_loops_cavities_and_radii_of_neurites_are_those_of_their_voxels(every_neurite: Neurites) -> None:
    """Of every thirtieth object by size: the largest too."""
    labels, result = every_neurite
    objects = result.objects.sort_values("volume_vox", ascending=False)
    boxes = find_objects(labels)
    for row in objects.iloc[::30].itertuples():
        mask = np.pad(labels[boxes[int(row.object_id) - 1]] == row.object_id, 1)
        cavities = label(~mask)[1] - 1
        pieces = label(mask, np.ones((3, 3, 3)))[1]
        assert (row.b0, row.b2) == (pieces, cavities)
        assert row.b1 == pieces + cavities - euler_number(mask, connectivity=3)
        if not cavities:
            radius = distance_transform_edt(mask, sampling=NEURITES_UM).max()
            assert row.inscribed_radius_um == pytest.approx(radius, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published_um"), [("yeast_mito_01", 46.57995), ("yeast_mito_03", 15.97084), ("yeast_mito_05", 16.01066)]
)
@pytest.mark.parametrize(
    "psf",
    [
        cf.Psf(fwhm_um=(0.6, 0.25, 0.25)),
        cf.Psf(microscope="confocal", objective="100x/1.4 oil", emission_nm=600, sample_index=1.36),
    ],
    ids=["widths-alone", "confocal"],
)
def test_another_psf_of_such_a_microscope_keeps_the_length_within_8_percent_of_mitographs(
    psf: cf.Psf, name: str, published_um: float, tmp_path: Path
) -> None:
    """The example has the spinning disk that took these stacks; its lengths are in tests/test_examples.py."""
    path = tmp_path / "yeast.ome.zarr"
    import_image(needed(f"{name}.tif"), path, voxel_um=(0.2, 0.056, 0.056))
    pipeline = mitochondria()
    restore, *rest = pipeline.stages
    assert isinstance(restore, cf.Deconvolve)
    pipeline = replace(pipeline, stages=(replace(restore, psf=psf), *rest))
    result = pipeline.plan(path, tmp_path / "out").run(on="serial")
    assert result.branches["length_um"].sum() == pytest.approx(published_um, rel=0.08)


def test_blocks_of_a_yeast_cell_leave_what_one_block_leaves(yeast: Stored, tmp_path: Path) -> None:
    path, expected = yeast
    assert expected.objects["certified"].all()
    check(mitochondria(), path, tmp_path, expected, LARGE, on="serial")


@pytest.mark.slow
@pytest.mark.parametrize("block", [SMALL, LARGE])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_on_a_yeast_cell_leave_what_one_block_leaves(
    block: Triple, workers: int, yeast: Stored, tmp_path: Path
) -> None:
    path, expected = yeast
    check(mitochondria(), path, tmp_path, expected, block, on="local", workers=workers)
