"""The threshold stage: every method is the same for any blocks, and what it says of its parameters is so."""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from scipy import ndimage
from skimage import filters

import chunkflow as cf
from chunkflow.errors import ConfigError
from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import threshold_rules
from chunkflow.stages.base import Region, View
from chunkflow.stages.local_threshold import LocalAbove, LocalMethod
from chunkflow.stages.threshold import Method
from chunkflow.stages.vesselness import Vesselness
from chunkflow.testing.memory import run_in_memory
from chunkflow.testing.suites import check_stage, random_volume

WHOLE = (4096, 4096, 4096)
VOXEL_UM = (0.3, 0.1, 0.1)
LOCAL = get_args(LocalMethod)
GLOBAL = [
    *({"method": name} for name in threshold_rules.RULES),
    {"method": "multi-otsu", "classes": 4, "above": 2},
    {"method": "kmeans", "classes": 3},
]


def image_of(shape: Triple, seed: int = 0) -> NDArray[np.uint16]:
    return np.asarray(random_volume("image", shape, np.random.default_rng(seed)))


def mask_of(image: NDArray[Any], block: Triple = WHOLE, *, usable: Any = None, **parameters: Any) -> NDArray[Any]:
    """The foreground that the stage finds."""
    options = {name: parameters.pop(name) for name in ("nodata",) if name in parameters}
    stages = [cf.Threshold(**parameters), cf.Label()]
    found = run_in_memory(
        stages, image, block=block, voxel_um=VOXEL_UM, mask=usable, save=("mask", "labels"), **options
    )
    return found.arrays["mask"]


@pytest.mark.parametrize("parameters", GLOBAL, ids=lambda p: p["method"])
def test_thresholds_of_the_volume_do_not_depend_on_blocks(parameters: dict[str, Any], tmp_path: Path) -> None:
    stages = [cf.Threshold(**parameters, smooth_um=0.1), cf.Label()]
    check_stage(stages, folder=tmp_path, cases=1, grids=1, seed=1, largest=(8, 14, 14), options={"nodata": 420})


@pytest.mark.parametrize("method", LOCAL)
def test_local_thresholds_do_not_depend_on_blocks(method: str, tmp_path: Path) -> None:
    stages = [cf.Threshold(method=method, window_um=0.7), cf.Label()]
    check_stage(stages, folder=tmp_path, cases=1, grids=1, seed=2, largest=(8, 18, 18), options={"nodata": 420})


@pytest.mark.parametrize("method", LOCAL)
@pytest.mark.parametrize(("dtype", "smooth_um"), [(np.uint16, 0.0), (np.uint16, 0.12), (np.float32, 0.0)])
def test_local_thresholds_under_a_mask_do_not_depend_on_blocks(method: str, dtype: Any, smooth_um: float) -> None:
    shape = (9, 21, 26)
    image = image_of(shape).astype(dtype) * dtype(1.5)
    usable = (ndimage.gaussian_filter(np.random.default_rng(5).standard_normal(shape), 2) > -0.03).astype(np.uint8)
    parameters = {"method": method, "window_um": 0.95, "smooth_um": smooth_um, "usable": usable}
    parameters["nodata"] = float(image[3, 4, 5])
    whole = mask_of(image, **parameters)
    assert 0.1 < whole.mean() < 0.6
    assert not whole[usable == 0].any()
    for block in ((4, 7, 9), (3, 40, 5), (9, 5, 26)):
        assert np.array_equal(mask_of(image, block, **parameters), whole)


def test_voxels_outside_the_mask_do_not_move_a_local_threshold() -> None:
    image = image_of((8, 20, 22))
    usable = np.ones(image.shape, np.uint8)
    usable[:, 8:14] = 0
    changed = np.where(usable, image, 60_000).astype(np.uint16)
    parameters = {"method": "sauvola", "window_um": 1.1, "spread": 200.0, "usable": usable}
    assert np.array_equal(mask_of(image, **parameters), mask_of(changed, **parameters))


def test_local_methods_are_those_of_scikit_image_inside() -> None:
    image = image_of((12, 40, 44))
    inside = (slice(1, -1), slice(12, -12), slice(12, -12))
    window, half = (3, 9, 9), float(image.max() - image.min()) / 2
    grey = image.astype(np.float64)
    expected = {
        "sauvola": filters.threshold_sauvola(grey, window, k=-0.2, r=half),
        "niblack": filters.threshold_niblack(grey, window, k=-0.2),
        "adaptive-mean": filters.threshold_local(grey, window, method="mean"),
        "adaptive-gaussian": ndimage.gaussian_filter(grey, (0.5, 1.5, 1.5), truncate=4.0, mode="constant"),
    }
    for method, thresholds in expected.items():
        found = mask_of(image, method=method, window_um=0.9)
        unlike = (found != (image > thresholds))[inside].mean()
        assert unlike <= 1e-3, method  # voxels that lie on their threshold


def step_of(method: str, dtype: str) -> LocalAbove:
    """A step with a window of 3 x 9 x 9 voxels."""
    return LocalAbove(
        array="image",
        valid="valid",
        limits="range",
        dtype=dtype,
        method=method,
        radius=(1, 4, 4),
        sigma_vox=(0.5, 1.5, 1.5),
        k=-0.2,
        spread=None,
        offset=0.0,
        floor=None,
    )


def test_windows_are_read_whole() -> None:
    out = Box((10, 10, 10), (14, 15, 16))
    assert step_of("sauvola", "uint16").reads(out)["image"] == Box((9, 6, 6), (15, 19, 20))
    assert step_of("adaptive-gaussian", "uint16").reads(out)["valid"] == Box((8, 4, 4), (16, 21, 22))


@pytest.mark.parametrize("method", ["sauvola", "adaptive-gaussian"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("side", [32, 90])
def test_memory_of_local_thresholds_stays_below_what_is_said(method: str, dtype: str, side: int) -> None:
    volume, out = (side, side + 8, side + 12), Box((2, 6, 6), (side - 2, side + 2, side + 6))
    data = {"image": image_of(volume).astype(dtype), "valid": np.full(volume, 3, np.uint8)}
    step = step_of(method, dtype)
    boxes = step.reads(out)
    view = View(
        block=0,
        core=out,
        grid=Grid(volume, volume),
        regions={name: Region(box, np.ascontiguousarray(data[name][box.slices])) for name, box in boxes.items()},
        values={"range": {"low": np.array([1.0]), "high": np.array([1000.0])}},
        records={},
    )
    step.run(view, out)
    tracemalloc.start()
    step.run(view, out)
    peak = tracemalloc.get_traced_memory()[1] - out.size
    tracemalloc.stop()
    assert 0.4 * step.working_bytes(out.shape) < peak <= step.working_bytes(out.shape)


def test_a_floor_keeps_noise_out_and_an_offset_moves_thresholds() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(100, 5, (9, 30, 30))
    image[4, 14:17, 5:25] += 200
    image = image.astype(np.uint16)
    loose = mask_of(image, method="adaptive-mean", window_um=0.9)
    assert loose[0].mean() > 0.3
    assert mask_of(image, method="adaptive-mean", window_um=0.9, floor=150)[0].sum() == 0
    assert mask_of(image, method="adaptive-mean", window_um=0.9, offset=-50)[0].sum() == 0
    assert mask_of(image, method="adaptive-mean", window_um=0.9, floor=150)[4, 15, 6:24].all()


def test_foreground_is_above_the_threshold_that_is_asked_for() -> None:
    image = image_of((10, 24, 24))
    found = [mask_of(image, method="multi-otsu", classes=4, above=k).sum() for k in (1, 2, 3)]
    assert found[0] > found[1] > found[2] > 0
    assert mask_of(image, method="multi-otsu", classes=4).sum() == found[2]
    expected = filters.threshold_multiotsu(image, classes=3)
    assert np.array_equal(mask_of(image, method="multi-otsu"), image > expected[-1])


def test_a_value_is_the_same_as_a_fixed_threshold() -> None:
    image = image_of((8, 20, 20))
    assert np.array_equal(mask_of(image, from_=420), mask_of(image, method="fixed", value=420.0))
    assert cf.Threshold(from_=420).value == 420.0


def test_a_run_keeps_all_thresholds_of_several_classes(tmp_path: Path, write_volume: Any) -> None:
    source = write_volume(tmp_path / "in.ome.zarr", image_of((10, 24, 24)), VOXEL_UM)
    pipeline = cf.Pipeline([cf.Threshold(method="multi-otsu", classes=4, above=2), cf.Label()])
    left = pipeline.plan(source, tmp_path / "out").run(on="serial").pass_values("threshold")
    assert len(left["thresholds"]) == 3
    assert left["threshold"] == left["thresholds"][1]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "fixed"}, "method fixed with no value"),
        ({"method": "otsu", "value": 3.0}, "value 3.0 beside method otsu"),
        ({"method": "otsu", "classes": 3}, "classes 3 beside method otsu"),
        ({"method": "li", "window_um": 3}, "window_um 3.0 beside method li.*sauvola or niblack"),
        ({"method": "multi-otsu", "classes": 6}, "6 classes.*2 to 5"),
        ({"method": "multi-otsu", "classes": 3, "above": 3}, "above 3 of 2 thresholds.*1 to 2"),
        ({"method": "sauvola"}, "sauvola with no window_um.*several objects"),
        ({"method": "adaptive-mean", "window_um": -1}, "window_um -1"),
        ({"method": "adaptive-mean", "window_um": 1, "k": 0.2}, "k 0.2 beside"),
        ({"method": "sauvola", "window_um": 1, "spread": 0}, "spread 0.0 is not positive"),
        ({"method": "li", "from_": 3.0}, "from stands beside method li"),
        ({"from_": 3.0, "value": 4.0}, "value 4.0 and from 3.0 differ"),
        ({"method": "saulova", "window_um": 1}, "sauvola"),
        ({"smooth_um": -1.0}, "smooth_um -1.0 is negative"),
    ],
)
def test_what_makes_no_sense_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        cf.Threshold(**parameters)


def test_a_file_that_was_not_read_is_no_threshold() -> None:
    with pytest.raises(ConfigError, match="from out was not read"):
        mask_of(image_of((4, 6, 6)), from_="out")


GUIDE = Path(__file__).parents[2] / "docs" / "thresholds.md"


def test_the_pipelines_of_the_guide_are_read(tmp_path: Path) -> None:
    (tmp_path / "threshold.json").write_text("431.5")
    snippets = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) == 4
    for text in snippets:
        assert cf.Pipeline.from_dict(yaml.safe_load(text), folder=tmp_path).stages


def test_the_guide_names_every_method_and_parameter() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    names = [
        *get_args(Method),
        *(f.name.removesuffix("_") for stage in (cf.Threshold, Vesselness) for f in fields(stage)),
    ]
    assert [name for name in names if name not in ("method", "value") and f"`{name}" not in text] == []
