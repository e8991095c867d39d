"""Real volumes: blocks and workers leave what one block leaves, bit for bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.io import imread

import chunkflow as cf
from chunkflow.geometry.box import Triple
from chunkflow.storage.tiff import import_tiff
from chunkflow.testing import suites

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
WHOLE = (4096, 4096, 4096)
SMALL, LARGE = (32, 48, 40), (64, 64, 64)

NEURITES_UM = (0.04, 0.016, 0.016)
CROP = (slice(60, 156), slice(200, 360), slice(200, 360))
EVERYTHING = (slice(None),) * 3


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


def check(pipeline: cf.Pipeline, volume: Path, folder: Path, expected: cf.Result, block: Triple, **how: Any) -> None:
    plan = pipeline.plan(volume, folder / "out", block=block)
    assert plan.largest_grid > 1
    assert suites.differences(plan.run(**how), expected) == []


@pytest.fixture(scope="module")
def few_neurites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, cf.Result]:
    """A corner of the EM segmentation, and what one block makes of it."""
    folder = tmp_path_factory.mktemp("few")
    path = neurites(CROP, folder)
    return path, skeletons().plan(path, folder / "out", block=WHOLE).run(on="serial")


@pytest.fixture(scope="module")
def all_neurites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, cf.Result]:
    """The EM segmentation, and what one block makes of it."""
    folder = tmp_path_factory.mktemp("all")
    path = neurites(EVERYTHING, folder)
    return path, skeletons().plan(path, folder / "out", block=WHOLE).run(on="serial")


@pytest.fixture(scope="module")
def yeast(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, cf.Result]:
    """A yeast cell, and what one block makes of it with the pipeline of the examples."""
    folder = tmp_path_factory.mktemp("yeast")
    path = folder / "yeast.ome.zarr"
    import_tiff(needed("yeast_mito_03.tif"), path, voxel_um=(0.2, 0.056, 0.056))
    return path, mitochondria().plan(path, folder / "out", block=WHOLE).run(on="serial")


def mitochondria() -> cf.Pipeline:
    return cf.Pipeline.from_yaml(ROOT / "examples" / "mitochondria.yaml")


def test_the_50_largest_objects_are_all_there_with_their_ids_and_certified(
    few_neurites: tuple[Path, cf.Result],
) -> None:
    path, result = few_neurites
    labels = cf.open_volume(path)[...]
    assert len(result.objects) == 50
    np.testing.assert_array_equal(result.objects["object_id"], np.unique(labels[labels != 0]))
    np.testing.assert_array_equal(result.labels[...], labels)
    assert result.objects["certified"].all()
    assert result.objects["b1"].sum() > 0


@pytest.mark.parametrize("block", [LARGE, pytest.param(SMALL, marks=pytest.mark.slow)])
def test_blocks_of_touching_neurites_leave_what_one_block_leaves(
    block: Triple, few_neurites: tuple[Path, cf.Result], tmp_path: Path
) -> None:
    path, expected = few_neurites
    check(skeletons(), path, tmp_path, expected, block, on="serial")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("block", "workers"), [(LARGE, 1), (LARGE, 2), (LARGE, 4), (SMALL, 4)])
def test_blocks_of_the_whole_em_segmentation_leave_what_one_block_leaves(
    block: Triple, workers: int, all_neurites: tuple[Path, cf.Result], tmp_path: Path
) -> None:
    path, expected = all_neurites
    assert expected.objects["certified"].all()
    check(skeletons(), path, tmp_path, expected, block, on="local", workers=workers)


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
    import_tiff(needed(f"{name}.tif"), path, voxel_um=(0.2, 0.056, 0.056))
    pipeline = mitochondria()
    restore, *rest = pipeline.stages
    assert isinstance(restore, cf.Deconvolve)
    pipeline = replace(pipeline, stages=(replace(restore, psf=psf), *rest))
    result = pipeline.plan(path, tmp_path / "out").run(on="serial")
    assert result.branches["length_um"].sum() == pytest.approx(published_um, rel=0.08)


def test_blocks_of_a_yeast_cell_leave_what_one_block_leaves(yeast: tuple[Path, cf.Result], tmp_path: Path) -> None:
    path, expected = yeast
    assert expected.objects["certified"].all()
    check(mitochondria(), path, tmp_path, expected, LARGE, on="serial")


@pytest.mark.slow
@pytest.mark.parametrize("block", [SMALL, LARGE])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_on_a_yeast_cell_leave_what_one_block_leaves(
    block: Triple, workers: int, yeast: tuple[Path, cf.Result], tmp_path: Path
) -> None:
    path, expected = yeast
    check(mitochondria(), path, tmp_path, expected, block, on="local", workers=workers)
