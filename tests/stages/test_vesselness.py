"""The vesselness stage: the same for any blocks, with data missing or masked, and what a pipeline makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

import chunkflow as cf
from chunkflow.errors import ConfigError
from chunkflow.kernels import vesselness as kernel
from chunkflow.stages.vesselness import Vesselness
from chunkflow.testing.memory import InMemory, run_in_memory
from chunkflow.testing.suites import check_stage, random_volume

WHOLE = (4096, 4096, 4096)
VOXEL_UM = (0.3, 0.1, 0.1)


def run(image: np.ndarray, stages: list[Any], block: tuple[int, int, int] = WHOLE, **options: Any) -> InMemory:
    return run_in_memory(stages, image, block=block, voxel_um=VOXEL_UM, save=("mask", "labels"), **options)


def image_of(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.asarray(random_volume("image", shape, np.random.default_rng(seed)))


@pytest.mark.parametrize("name", ["sato", "frangi"])
def test_tubes_do_not_depend_on_blocks(name: Any, tmp_path: Path) -> None:
    stages = [Vesselness(filter=name, radii_um=(0.12, 0.2)), cf.Threshold(), cf.Label(), cf.Measure()]
    check_stage(stages, folder=tmp_path, cases=1, grids=2, seed=4, largest=(12, 26, 26), options={"nodata": 420})


@pytest.mark.parametrize("name", ["sato", "frangi"])
def test_vesselness_under_a_mask_does_not_depend_on_blocks(name: Any) -> None:
    shape = (10, 27, 31)
    image = image_of(shape)
    usable = (ndimage.gaussian_filter(np.random.default_rng(5).standard_normal(shape), 2) > -0.03).astype(np.uint8)
    stages = [Vesselness(filter=name, radii_um=(0.1, 0.2)), cf.Threshold(), cf.Label()]
    options = {"mask": usable, "nodata": float(image[3, 4, 5])}
    whole = run(image, stages, **options)
    assert 0.01 < whole.arrays["mask"].mean() < 0.5
    for block in ((4, 7, 9), (3, 40, 5), (10, 27, 1)):
        found = run(image, stages, block, **options)
        assert found.arrays["vesselness"].tobytes() == whole.arrays["vesselness"].tobytes()
        assert np.array_equal(found.arrays["mask"], whole.arrays["mask"])


def test_c_follows_from_the_range_of_the_volume_that_is_used() -> None:
    image = image_of((9, 22, 24))
    usable = np.ones(image.shape, np.uint8)
    usable[:, :3] = 0
    image[4, 1, 5] = 60_000
    found = run(image, [Vesselness(filter="frangi", radii_um=(0.15,)), cf.Threshold(), cf.Label()], mask=usable)
    inside = image[usable > 0]
    measure = kernel.Measure(filter="frangi", c=(float(inside.max()) - float(inside.min())) / (np.sqrt(2) * np.e))
    expected = kernel.vesselness(
        image,
        np.ones(image.shape, bool),
        inner=(slice(0, 9), slice(0, 22), slice(0, 24)),
        radii_um=(0.15,),
        voxel_um=VOXEL_UM,
        measure=measure,
    )
    assert np.array_equal(found.arrays["vesselness"], expected)


def test_a_threshold_after_it_is_one_of_the_vesselness() -> None:
    image = image_of((9, 22, 24))
    found = run(image, [Vesselness(radii_um=(0.15,)), cf.Threshold(method="fixed", value=20.0), cf.Label()])
    assert np.array_equal(found.arrays["mask"], found.arrays["vesselness"] > 20)
    assert found.arrays["mask"].any()


def test_tubes_of_every_brightness_are_found_where_one_threshold_loses_the_dim_ones() -> None:
    z, y, _ = np.indices((20, 60, 90)) * np.array([0.3, 0.1, 0.1]).reshape(3, 1, 1, 1)
    light = np.linspace(1, 5, 90)
    tubes = [(z - 3) ** 2 + (y - centre) ** 2 <= 0.25**2 for centre in (1.5, 3, 4.5)]
    truth = np.any(tubes, axis=0)
    blurred = ndimage.gaussian_filter(truth.astype(float), (0.5, 1, 1)) * 60 * light + 40 * light
    image = np.random.default_rng(0).poisson(blurred).astype(np.uint16)

    def dice(stages: list[Any]) -> float:
        found = run(image, [*stages, cf.Label()]).arrays["mask"] > 0
        return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))

    assert dice([cf.Threshold()]) < 0.5
    assert dice([Vesselness(radii_um=(0.25,)), cf.Threshold(method="li")]) > 0.6
    assert dice([cf.Threshold(method="sauvola", window_um=1.5, smooth_um=0.1)]) > 0.7


def test_the_result_keeps_no_vesselness(tmp_path: Path, write_volume: Any) -> None:
    source = write_volume(tmp_path / "in.ome.zarr", image_of((8, 20, 22)), VOXEL_UM)
    stages = [{"vesselness": {"radii_um": [0.15]}}, "threshold", "label"]
    content = {"version": 1, "output": {"scratch": "drop"}, "stages": stages}
    plan = cf.Pipeline.from_dict(content).plan(source, tmp_path / "out", block=(8, 16, 16))
    assert "vesselness" in plan.arrays
    plan.run(on="serial")
    assert [path for path in (tmp_path / "out").rglob("*vesselness*") if path.is_dir() and "arrays" in path.parts] == []


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"radii_um": ()}, "radii_um is.*for example"),
        ({"radii_um": (0.1, -0.2)}, "radii_um is"),
        ({"radii_um": 0.2}, "radii_um is 0.2"),
        ({"radii_um": (0.1,), "c": 3.0}, "sato looks at no c"),
        ({"radii_um": (0.1,), "filter": "frangi", "beta": 0.0}, "beta 0.0 is not positive"),
        ({"radii_um": (0.1,), "filter": "franghi"}, "frangi"),
    ],
)
def test_what_makes_no_sense_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        Vesselness(**parameters)


def test_masks_and_labels_have_no_vesselness() -> None:
    with pytest.raises(ConfigError, match="the input is mask, not an image"):
        run(np.ones((4, 5, 6), np.uint8), [Vesselness(radii_um=(0.1,)), cf.Label()], kind="mask")
