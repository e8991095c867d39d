"""Sentences about what merges found, against counts made from the voxels themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.run.findings import Findings, counts_negative_as_zero, planes, saturated
from chunkflow.testing import suites

SHAPE = (24, 40, 40)
PSF = cf.Psf(fwhm_um=(0.8, 0.3, 0.3))
TILES: dict[str, Any] = {"tile": (24, 24, 24), "halo": (6, 6, 6), "tolerance": 0.02, "iterations": 2}


def spotted(dtype: str = "int16") -> Any:
    """Bright spots on a noisy ground around 0, so with negative voxels; 32 voxels are at the type's largest value."""
    rng = np.random.default_rng(3)
    image = rng.normal(20, 15, SHAPE)
    image[4:20, 8:32:6, 8:32:6] += 900
    image[10:12, 18:22, 18:22] = 32767
    return image.round().astype(dtype)


def said(image: Any, folder: Path, *stages: Any, **options: Any) -> tuple[list[str], cf.Result]:
    """Warnings of a run."""
    source = suites.write_volume(folder / "in.ome.zarr", image, (0.2, 0.1, 0.1))
    pipeline = cf.Pipeline(stages, input=cf.InputOptions(**options), output=cf.OutputOptions(save=("image",)))
    events: list[Any] = []
    result = pipeline.plan(source, folder / "out", block=(24, 24, 40)).run(
        on="serial", device="cpu", on_event=events.append
    )
    return [event["text"] for event in events if event["event"] == "warning"], result


def test_negative_and_saturated_voxels_are_counted_before_the_deconvolution(tmp_path: Path) -> None:
    image = spotted()
    warnings, result = said(image, tmp_path, cf.Deconvolve(psf=PSF, **TILES))
    negative = int((image < 0).sum())
    assert 1000 < negative < 10000
    assert warnings == [
        f"{negative:,} voxels ({100 * negative / image.size:.3g} %) are negative and count as 0 in the deconvolution",
        f"32 voxels ({100 * 32 / image.size:.3g} %) have the largest value 32767: probably saturated; deconvolution "
        "makes bright rims around them. Expose less, and measure no intensities there",
    ]
    again: list[Any] = []
    pipeline = cf.Pipeline((cf.Deconvolve(psf=PSF, **TILES),), output=cf.OutputOptions(save=("image",)))
    plan = pipeline.plan(str(tmp_path / "in.ome.zarr"), result.path, block=(24, 24, 40))
    plan.run(on="serial", device="cpu", on_event=again.append)
    assert not [event for event in again if event["event"] == "unit"]
    assert [event["text"] for event in again if event["event"] == "warning"] == warnings


def test_voxels_outside_the_mask_or_without_data_are_not_counted(tmp_path: Path) -> None:
    image = spotted()
    image[:, :8] = -7
    warnings, _ = said(image, tmp_path, cf.Deconvolve(psf=PSF, **TILES), nodata=-7)
    usable = image != -7
    negative = int((image[usable] < 0).sum())
    assert warnings[0].startswith(f"{negative:,} voxels ({100 * negative / usable.sum():.3g} %) are negative")


def test_without_a_deconvolution_nothing_is_said_of_them(tmp_path: Path) -> None:
    assert said(spotted(), tmp_path, cf.Resample())[0] == []


def test_clipped_voxels_of_an_integer_image_are_told_with_a_scale_that_clips_fewer(tmp_path: Path) -> None:
    image = spotted().clip(0, 1200)
    stage = cf.Deconvolve(psf=PSF, dtype="uint16", scale=100.0, **TILES)
    warnings, result = said(image, tmp_path, stage)
    (told,) = [text for text in warnings if "clipped" in text]
    count = int(result.pass_values("deconvolve-range")["clipped"][0])
    assert 0 < count <= int((result.image[:] == 65535).sum())
    assert told.startswith(f"deconvolve: {count:,} voxel")
    assert told.endswith("The scale is 100; set deconvolve: {scale: 50}, or dtype: float32")


def test_negative_results_are_no_matter_of_scale(tmp_path: Path) -> None:
    image = spotted().clip(0, 1200)
    stage = cf.Deconvolve(psf=PSF, algorithm="wiener", dtype="uint16", tile=SHAPE, tolerance=0.05, halo=(6, 6, 6))
    warnings, _ = said(image, tmp_path, stage)
    (told,) = [text for text in warnings if "clipped" in text]
    assert told.endswith("all of them negative. Set dtype: float32, which holds them")


def test_planes_with_large_gains_are_named_and_so_is_what_went_below_zero(tmp_path: Path) -> None:
    image = np.random.default_rng(4).poisson(100, SHAPE).astype(np.uint16)
    image[20:23] //= 5
    image[7] *= 4
    image[::2, :5] = 30
    warnings, result = said(image, tmp_path, cf.Correct(dark=35.0, gain="slice"))
    gain = result.pass_values("correct-levels")["gain"]
    assert (gain[20:23] == 1).all()  # darker than the dark: no gain
    assert warnings[0].startswith("correct: plane 7 is multiplied by 0.") and "gain_percentile" in warnings[0]
    below = int((image < 35).sum())
    assert warnings[1].startswith(f"correct: {below:,} voxels ({100 * below / image.size:.3g} %) were below dark and")
    assert len(warnings) == 2


def ran(stage: dict[str, Any], **merges: dict[str, Any]) -> Findings:
    """Findings of invented merges."""
    values = {
        name.replace("_", "-"): {k: np.atleast_1d(v) for k, v in content.items()} for name, content in merges.items()
    }
    pipeline = {"stages": [stage], "input": {"nodata": None}}
    return Findings(pipeline, {"input": {"shape": [10, 10, 10], "dtype": "uint8"}, "passes": []}, values.__getitem__)


def test_gains_are_told_by_side_and_by_range() -> None:
    gain = np.ones(30)
    gain[[2, 3, 4, 9]] = 4.0, 5.5, 3.2, 3.3
    found = ran({"correct": {"gain": "slice"}}, correct_levels={"gain": gain}).after("correct-levels")
    assert found == [
        "correct: planes 2-4 and 9 are multiplied by 3.2 to 5.5: their noise grows as much. Crop them, or raise "
        "gain_percentile"
    ]
    settings = {"correct": {"gain": "volume", "gain_reference": 10.0}}
    (text,) = ran(settings, correct_levels={"gain": np.full(3, 0.2)}).after("correct-levels")
    assert text == "correct: the volume is multiplied by 0.2: is gain_reference 10 meant?"
    assert ran({"correct": {"gain": "none"}}, correct_levels={"gain": gain}).after("correct-levels") == []


@pytest.mark.parametrize(("clipped", "percentile", "is_said"), [(10, None, False), (11, None, True), (55, 5.0, False)])
def test_what_a_percentile_takes_below_zero_is_no_surprise(clipped: int, percentile: float, is_said: bool) -> None:
    limits = {"clipped": clipped, "count": 1000}
    settings = {"correct": {"gain": "none", "background_percentile": percentile}}
    assert bool(ran(settings, correct_range=limits).after("correct-range")) == is_said


@pytest.mark.parametrize(
    ("dtype", "high", "at_high", "count", "expected"),
    [
        ("uint16", 4095, 10, 1000, 10),  # a camera of 12 bits
        ("uint16", 4095, 9, 1000, 0),
        ("uint16", 4095, 99, 10**7, 0),  # chance, in so many
        ("uint16", 4095, 100, 10**7, 100),
        ("uint16", 65535, 1, 10**7, 1),
        ("int16", 32767, 1, 1000, 1),
        ("float32", 1.0, 500, 1000, 0),
        ("uint8", 0, 1000, 1000, 0),  # one value is no image
    ],
)
def test_saturation_is_the_types_largest_value_or_many_voxels_at_one(
    dtype: str, high: float, at_high: int, count: int, expected: int
) -> None:
    limits = {"low": np.array([0.0]), "high": np.array([float(high)])}
    assert saturated({**limits, "at_high": np.array([at_high]), "count": np.array([count])}, dtype) == expected


def test_a_limit_that_cut_the_iterations_off_is_told() -> None:
    check = {"iterations": 40, "at_end": True}
    (text,) = ran({"deconvolve": {}}, deconvolve_check=check).after("deconvolve-check")
    assert text.startswith("deconvolve: of 40 iterations tried the last was best") and "iterations: 80" in text
    for other in ({"iterations": 40, "at_end": False}, {"iterations": 40}):
        assert ran({"deconvolve": {}}, deconvolve_check=other).after("deconvolve-check") == []


def test_planes_are_named_by_ranges() -> None:
    assert planes([4]) == "plane 4"
    assert planes([0, 1, 2, 7, 9, 10]) == "planes 0-2, 7 and 9-10"
    assert planes(list(range(0, 40, 2))) == "planes 0, 2, 4, 6, 8, 10, 12, 14 and 12 more"


def test_algorithms_that_multiply_are_those_that_cannot_see_negative_voxels() -> None:
    names = ("richardson-lucy", "masked-wiener", "wiener", "landweber", "ista")
    assert [counts_negative_as_zero(name) for name in names] == [True, True, False, False, False]
