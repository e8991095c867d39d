"""The correct stage: against the formula on the whole volume, known light on known scenes, and blocks of any size."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from scipy import ndimage

import chunkflow as cf
from chunkflow.errors import ConfigError, InputError, InputNotFoundError, UsageError
from chunkflow.testing import suites

SHAPE = (9, 34, 40)
VOXEL_UM = (0.3, 0.1, 0.1)
WHOLE = (4096, 4096, 4096)


def scene(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """Grey values of 150 and more: blurred noise with noise of its own."""
    rng = np.random.default_rng(seed)
    blurred = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    return np.maximum(500 + 150 * blurred / blurred.std() + 5 * rng.standard_normal(shape), 150)


def vignette(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """(1, Y, X) light: 1 in a place off the centre, about 0.4 in the corners."""
    y, x = np.indices(shape[1:])
    far = ((y - 0.45 * shape[1]) / shape[1]) ** 2 + ((x - 0.6 * shape[2]) / shape[2]) ** 2
    return np.exp(-1.6 * far)[None]


def camera(shape: tuple[int, ...] = SHAPE, seed: int = 1) -> np.ndarray:
    """(1, Y, X) what a camera shows in the dark: 100 and a pattern."""
    return 100 + np.random.default_rng(seed).integers(-4, 5, (1, *shape[1:]))


def run(
    folder: Path, image: np.ndarray, *stages: Any, block: tuple[int, int, int] = (5, 17, 24), **options: Any
) -> cf.Result:
    source = suites.write_volume(folder / "in.ome.zarr", image, VOXEL_UM)
    made = {"image", "labels"} if any(stage.key == "label" for stage in stages) else {"image"}
    pipeline = cf.Pipeline(
        list(stages),
        input=cf.InputOptions(**options),
        output=cf.OutputOptions(save=tuple(sorted(made)), pyramid="none"),
    )
    return pipeline.plan(source, folder / "out", block=block).run(on="serial")


def voxels(result: cf.Result) -> np.ndarray:
    assert result.image is not None
    return np.asarray(result.image[:])


def as_uint16(image: np.ndarray) -> np.ndarray:
    return np.round(image).clip(0, 65535).astype(np.uint16)


def test_dark_flat_percentile_and_gain_are_the_formula_on_the_whole_volume(tmp_path: Path) -> None:
    image, dark = as_uint16(scene()), camera().astype(np.float32)
    light = 20_000 * vignette() + dark
    result = run(
        tmp_path,
        image,
        cf.Correct(dark_image=dark, flat_image=light, background_percentile=5, gain="slice", gain_percentile=60),
    )
    lit = (light - dark) / (light - dark).mean()
    even = (image - dark) / lit
    levels = result.pass_values("correct-levels")
    width = 65535 / lit.min() / 65536
    assert levels["background"][0] == pytest.approx(np.percentile(even, 5), abs=width)
    of_planes = np.percentile(even, 60, axis=(1, 2)) - levels["background"][0]
    assert np.allclose(levels["level"], of_planes, atol=2 * width)
    assert levels["reference"][0] == pytest.approx(np.percentile(even, 60) - levels["background"][0], abs=2 * width)
    assert np.array_equal(levels["gain"], levels["reference"] / levels["level"])
    expected = np.maximum((even - levels["background"]) * levels["gain"][:, None, None], 0)
    got = voxels(result)
    assert got.dtype == np.float32
    assert np.allclose(got, expected, rtol=1e-5, atol=1e-3)


def test_small_integers_have_exact_percentiles_and_grouped_medians(tmp_path: Path) -> None:
    image = as_uint16(np.random.default_rng(3).poisson(6, SHAPE) + 100.0)
    result = run(tmp_path, image, cf.Correct(dark=90.5, background_percentile=10, gain="slice"))
    background = float(np.percentile(image, 10, method="inverted_cdf")) - 90.5
    levels = result.pass_values("correct-levels")
    assert levels["background"][0] == background
    medians = [statistics.median_grouped(plane.ravel().tolist()) - 90.5 - background for plane in image]
    assert np.allclose(levels["level"], medians, rtol=1e-12)
    volume = statistics.median_grouped(image.ravel().tolist()) - 90.5 - background
    assert levels["reference"][0] == pytest.approx(volume, rel=1e-12)


@pytest.mark.parametrize(("radius", "size"), [(0.4, (3, 9, 9)), ((0.0, 0.3, 0.5), (1, 7, 11))])
def test_the_tophat_is_that_of_scipy_on_the_corrected_volume(radius: Any, size: Any, tmp_path: Path) -> None:
    image = as_uint16(scene())
    result = run(tmp_path, image, cf.Correct(dark=100, background_tophat_um=radius))
    assert np.array_equal(voxels(result), ndimage.white_tophat(image.astype(np.float32) - 100, size=size))


def test_the_tophat_comes_after_the_gain(tmp_path: Path) -> None:
    image = as_uint16(scene() * np.linspace(1, 0.4, SHAPE[0])[:, None, None])
    result = run(tmp_path, image, cf.Correct(background_tophat_um=0.4, gain="slice"))
    gain = result.pass_values("correct-levels")["gain"].astype(np.float32)[:, None, None]
    assert np.array_equal(voxels(result), ndimage.white_tophat(image.astype(np.float32) * gain, size=(3, 9, 9)))


def test_a_vignetted_scene_is_flattened_to_within_its_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    shape = (16, 60, 70)
    truth, light, dark = scene(shape), vignette(shape), camera(shape).astype(np.float64)
    image = as_uint16(rng.poisson(truth * light) + dark)
    flat = rng.poisson(40_000 * light, (50, 1, *shape[1:])).mean(axis=0) + dark
    got = voxels(run(tmp_path, image, cf.Correct(dark_image=dark, flat_image=flat))) / light.mean()
    noise = np.sqrt(truth / light)
    residual = (got - truth) / noise
    assert residual.std() == pytest.approx(1, abs=0.02)
    # Noise alone: no ring of equal light is brighter or darker than its number of voxels lets it be.
    rings = np.digitize(light, np.quantile(light, np.linspace(0, 1, 11)[1:-1]))
    of_ring = [residual[:, rings[0] == ring] for ring in range(10)]
    assert max(abs(values.mean()) * np.sqrt(values.size) for values in of_ring) < 4
    untouched = (image - dark - truth) / noise
    assert max(abs(untouched[:, rings[0] == ring].mean()) for ring in range(10)) > 3


def bleached(shape: tuple[int, ...] = (14, 70, 76)) -> tuple[np.ndarray, np.ndarray]:
    """Planes that fade to a third, hot pixels and a few bright cells among them; and how bright each plane is."""
    rng = np.random.default_rng(6)
    light = np.exp(-np.arange(shape[0]) / (shape[0] - 1) * np.log(3))
    truth = rng.normal(400, 30, shape) + 3000 * (rng.random(shape) > 0.97)
    return rng.poisson(truth * light[:, None, None]) + 100.0, light


def test_planes_that_bleach_are_brought_back_to_within_one_per_cent(tmp_path: Path) -> None:
    image, light = bleached()
    result = run(tmp_path, as_uint16(image), cf.Correct(dark=100, gain="slice"), block=(5, 40, 76))
    gain = result.pass_values("correct-levels")["gain"]
    assert np.allclose(gain * light / (gain * light).mean(), 1, atol=0.01)
    medians = np.median(voxels(result), axis=(1, 2))
    assert np.allclose(medians / medians.mean(), 1, atol=0.01)
    assert result.pass_values("correct-levels")["unscaled"][0] == 0


@pytest.mark.parametrize("gain", ["slice", "volume"])
def test_a_reference_makes_time_points_alike(gain: Any, tmp_path: Path) -> None:
    first = bleached()[0]
    times = [as_uint16(100 + (first - 100) * share) for share in (1.0, 0.8, 0.5)]
    stage = cf.Correct(dark=100, gain=gain, gain_reference=350)
    results = [run(tmp_path / str(t), image, stage, block=(5, 40, 76)) for t, image in enumerate(times)]
    medians = [float(np.median(voxels(result))) for result in results]
    assert np.allclose(medians, 350, rtol=0.01)
    if gain == "volume":
        gains = np.array([result.pass_values("correct-levels")["gain"] for result in results])
        assert (gains == gains[:, :1]).all()
        assert np.allclose(gains[:, 0] * (1, 0.8, 0.5) / gains[0, 0], 1, rtol=0.01)


def test_planes_without_light_keep_their_values_and_are_counted(tmp_path: Path) -> None:
    image = as_uint16(scene())
    image[2] = 3
    result = run(tmp_path, image, cf.Correct(dark=3, gain="slice"))
    levels = result.pass_values("correct-levels")
    # Grouped: all voxels of the plane are spread evenly about the dark, so half lie below it.
    assert (levels["level"][2], levels["gain"][2], levels["unscaled"][0]) == (0, 1, 1)
    assert not voxels(result)[2].any()


def test_negative_values_become_zero_and_are_counted(tmp_path: Path) -> None:
    image = as_uint16(scene())
    image[0, :3] = 0
    result = run(tmp_path, image, cf.Correct(dark=500), nodata=0)
    below = (image < 500) & (image > 0)
    assert result.pass_values("correct-range")["clipped"][0] == below.sum() > 100
    assert np.array_equal(voxels(result), np.maximum(image.astype(np.float32) - 500, 0))
    assert result.pass_values("correct-range")["low"][0] == 0
    assert result.pass_values("correct-range")["high"][0] == image.max() - 500


@pytest.mark.parametrize(
    "stage",
    [
        cf.Correct(dark=100, background_percentile=20, gain="slice"),
        cf.Correct(dark=100, background_tophat_um=0.35, gain="slice"),
    ],
)
def test_a_volume_amid_nodata_is_corrected_as_if_it_were_alone(stage: cf.Correct, tmp_path: Path) -> None:
    inner = (slice(2, 8), slice(6, 30), slice(3, 33))
    image = np.full(SHAPE, 65535, np.uint16)
    image[inner] = as_uint16(scene())[inner]
    among = run(tmp_path / "among", image, stage, nodata=65535)
    alone = run(tmp_path / "alone", image[inner], stage)
    levels = among.pass_values("correct-levels")
    assert np.isnan(levels["level"][[0, 1, 8]]).all()
    assert (levels["gain"][[0, 1, 8]] == 1).all()
    assert np.array_equal(levels["gain"][2:8], alone.pass_values("correct-levels")["gain"])
    expected = np.zeros(SHAPE, np.float32)
    expected[inner] = voxels(alone)
    assert np.array_equal(voxels(among), expected)


def test_what_the_mask_leaves_out_is_corrected_but_not_counted(tmp_path: Path) -> None:
    image, inside = as_uint16(scene()), np.zeros(SHAPE, np.uint8)
    inside[1:, :20] = 1
    image[:, 20:] += 5000
    suites.write_volume(tmp_path / "mask.ome.zarr", inside, VOXEL_UM)
    stage = cf.Correct(background_percentile=5, gain="slice")
    result = run(tmp_path, image, stage, mask=str(tmp_path / "mask.ome.zarr"))
    levels = result.pass_values("correct-levels")
    alone = run(tmp_path / "alone", image[1:, :20], stage).pass_values("correct-levels")
    assert levels["background"] == alone["background"]
    assert np.array_equal(levels["gain"], [1.0, *alone["gain"]])
    shifted = image.astype(np.float32) - np.float32(levels["background"][0])
    assert np.array_equal(voxels(result), np.maximum(shifted * levels["gain"][:, None, None].astype(np.float32), 0))


def with_hole(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Random grey values with a corner that holds no data, marked by 0."""
    image = suites.random_volume("image", shape, rng)
    image[: shape[0] // 3, shape[1] // 2 :, : shape[2] // 4] = 0
    return image


@pytest.mark.parametrize(
    ("stages", "nodata"),
    [
        ([cf.Correct(dark=37.3, background_percentile=5, gain="slice")], None),
        ([cf.Correct(dark=37.3, background_percentile=5, gain="slice")], 0),
        ([cf.Correct(background_tophat_um=(0.6, 0.3, 0.5), gain="slice"), cf.Threshold(), cf.Label()], None),
        ([cf.Correct(background_tophat_um=0.3), cf.Resample(), cf.Threshold(smooth_um=0.1), cf.Label()], 0),
    ],
)
def test_blocks_leave_what_the_whole_volume_leaves(stages: list[Any], nodata: int | None, tmp_path: Path) -> None:
    options = {} if nodata is None else {"nodata": nodata}
    make = None if nodata is None else with_hole
    suites.check_stage(
        stages,
        folder=tmp_path,
        make=make,
        options=options,
        cases=1,
        largest=(12, 24, 24),
        voxel_um=(0.15, 0.1, 0.1),
        seed=len(stages),
    )


def test_blocks_with_dark_and_flat_images_leave_what_the_whole_volume_leaves(tmp_path: Path) -> None:
    image, light = as_uint16(scene()), 3000 * vignette() + camera()
    stack = np.random.default_rng(7).integers(90, 110, SHAPE)
    stage = cf.Correct(dark_image=stack, flat_image=light, background_percentile=3, gain="slice")
    whole = run(tmp_path / "whole", image, stage, block=WHOLE)
    for number, block in enumerate([(9, 11, 40), (4, 34, 13), (2, 17, 20)]):
        parts = run(tmp_path / str(number), image, stage, block=block)
        assert suites.differences(parts, whole) == []
        found, expected = parts.pass_values("correct-levels"), whole.pass_values("correct-levels")
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        assert parts.pass_values("correct-range")["clipped"] == whole.pass_values("correct-range")["clipped"]


def test_a_threshold_sees_the_corrected_image_and_raw_intensities_stay_raw(tmp_path: Path) -> None:
    image = as_uint16(100 + 2000 * (scene() > 650) * vignette())
    light = 3000 * vignette()
    stages = [cf.Correct(dark=100, flat_image=light + 100), cf.Threshold(), cf.Label(min_voxels=5), cf.Measure()]
    result = run(tmp_path, image, *stages)
    labels = np.asarray(result.labels[:])
    found = ndimage.label(scene() > 650, np.ones((3, 3, 3)))[0]
    kept = np.isin(found, np.flatnonzero(np.bincount(found.ravel()) >= 5)) & (found > 0)
    assert np.array_equal(labels > 0, kept)
    assert len(result.objects) == len(np.unique(found[kept]))
    means = ndimage.mean(image, labels, result.objects.object_id)
    assert np.allclose(result.objects.intensity_mean, means)


def test_only_what_is_asked_for_costs_a_pass(tmp_path: Path) -> None:
    source = suites.write_volume(tmp_path / "in.ome.zarr", as_uint16(scene()), VOXEL_UM)

    def passes(stage: cf.Correct, *more: Any) -> list[str]:
        output = cf.OutputOptions(save=("image",), pyramid="none")
        plan = cf.Pipeline([stage, *more], output=output).plan(source, tmp_path / "out")
        return [p.name for p in plan.passes]

    assert passes(cf.Correct(dark=3)) == ["scan", "range", "correct", "correct-range"]
    measured = ["scan", "range", "correct-histogram", "correct-levels", "correct", "correct-range"]
    assert passes(cf.Correct(gain="slice")) == passes(cf.Correct(background_percentile=1)) == measured


@pytest.mark.parametrize("later", [cf.Deconvolve(psf=cf.Psf(fwhm_um=(0.6, 0.3, 0.3))), cf.Resample()])
def test_later_stages_read_the_corrected_image(later: Any, tmp_path: Path) -> None:
    source = suites.write_volume(tmp_path / "in.ome.zarr", as_uint16(scene()), VOXEL_UM)
    plan = cf.Pipeline([cf.Correct(dark=3), later]).plan(source, tmp_path / "out")
    assert plan.pass_named(later.key).reads == ("corrected",)
    assert not plan.arrays["corrected"].kept


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({}, "nothing is to be corrected"),
    ({"background_percentile": 101}, "background_percentile 101.0 is not in 0..100"),
    ({"background_percentile": -1}, "background_percentile -1.0 is not in 0..100"),
    ({"gain": "slice", "gain_percentile": 100.5}, "gain_percentile 100.5 is not in 0..100"),
    ({"gain": "slice", "background_percentile": 60}, "gain_percentile 50.0 is under background_percentile 60"),
    ({"background_percentile": 5, "background_tophat_um": 2}, "both given"),
    ({"background_tophat_um": 0}, "background_tophat_um 0.0 is not positive"),
    ({"background_tophat_um": -2.0}, "background_tophat_um -2.0 is not positive"),
    ({"background_tophat_um": (0.0, 0.0, 0.0)}, "not positive"),
    ({"gain": "slcie"}, "gain is 'slcie'.*Did you mean 'slice'"),
    ({"gain": "volume"}, "nothing to scale to"),
    ({"dark": 3, "gain_reference": 100}, "gain_reference 100.0 without a gain"),
    ({"gain": "slice", "gain_reference": 0}, "gain_reference 0.0 is not positive"),
    ({"dark": 3, "dark_image": np.zeros((2, 2))}, "dark is 3.0 and an image"),
    ({"dark": float("nan")}, "dark is nan"),
]


@pytest.mark.parametrize(("values", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_a_parameter_that_makes_no_sense_is_one_clear_sentence(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        cf.Correct(**values)
    assert caught.value.remedy


UNLIT = np.full((1, 34, 40), 500.0)
UNLIT[0, 3, 4:9] = 100
UNLIT[0, 5, 5] = 40

MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"dark": "dark.tif"}, "dark image dark.tif was not read"),
    ({"flat": "flat.tif"}, "flat image flat.tif was not read"),
    ({"flat_image": np.ones((34, 41))}, r"flat image has shape \(34, 41\), the input \(9, 34, 40\)"),
    ({"flat_image": np.ones((8, 34, 40))}, r"flat image has shape \(8, 34, 40\)"),
    ({"dark_image": np.ones(40)}, r"dark image has shape \(40,\)"),
    ({"dark_image": np.full((34, 40), np.nan)}, "1360 of 1360 pixels of the dark image are no numbers"),
    ({"dark": 100, "flat_image": UNLIT}, "6 of 1360 pixels of the flat image are 0 or less"),
    ({"flat_image": np.where(UNLIT > 400, np.inf, 1)}, "1354 of 1360 pixels of the flat image are 0 or less"),
    ({"background_tophat_um": 0.2}, "background_tophat_um 0.2 is under a voxel along z, which is 0.3 um"),
    ({"background_tophat_um": (0.3, 0.05, 0.2)}, "background_tophat_um 0.05 is under a voxel along y"),
]


@pytest.mark.parametrize(("values", "message"), MISFITS, ids=[message for _, message in MISFITS])
def test_what_does_not_fit_the_volume_is_said_before_any_work(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = suites.write_volume(tmp_path / "in.ome.zarr", as_uint16(scene()), VOXEL_UM)
    with pytest.raises(UsageError, match=message) as caught:
        cf.Pipeline([cf.Correct(**values)]).plan(source, tmp_path / "out")
    assert caught.value.exit_code == 2
    assert caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_masks_and_labels_have_no_light_to_correct(tmp_path: Path) -> None:
    source = suites.write_volume(tmp_path / "in.ome.zarr", np.ones(SHAPE, np.uint8), VOXEL_UM)
    pipeline = cf.Pipeline([cf.Correct(dark=3), cf.Label()], input=cf.InputOptions(kind="mask"))
    with pytest.raises(ConfigError, match="the input is mask, not an image"):
        pipeline.plan(source, tmp_path / "out")


def test_a_volume_without_light_above_its_background_is_named(tmp_path: Path) -> None:
    image = np.full(SHAPE, 100, np.uint16)
    image[:, :5] = 900
    with pytest.raises(InputError, match="percentile 50 of the volume is -?0.* above the background of 0"):
        run(tmp_path, image, cf.Correct(dark=101, gain="slice", background_percentile=None))


def test_images_are_read_from_the_files_a_pipeline_names(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "dark.tif", camera()[0].astype(np.uint16))
    flat = (3000 * vignette() + camera()).astype(np.uint16)
    tifffile.imwrite(tmp_path / "flat.tif", flat.repeat(SHAPE[0], axis=0), photometric="minisblack")
    content = {"version": 1, "stages": [{"correct": {"dark": "dark.tif", "flat": "flat.tif"}}]}
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(content))
    pipeline = cf.Pipeline.from_yaml(tmp_path / "pipeline.yaml")
    stage = pipeline.stages[0]
    assert isinstance(stage, cf.Correct)
    assert (stage.dark, stage.flat) == (str(tmp_path / "dark.tif"), str(tmp_path / "flat.tif"))
    plain = pipeline.to_dict()
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain
    assert cf.Pipeline.from_dict(plain).to_dict() == plain
    image = as_uint16(scene())
    source = suites.write_volume(tmp_path / "in.ome.zarr", image, VOXEL_UM)
    got = voxels(pipeline.plan(source, tmp_path / "out", block=(5, 17, 24)).run(on="serial"))
    light = flat.astype(np.float64) - camera()
    assert np.allclose(got, (image - camera()).clip(0) / (light / light.mean()), rtol=1e-5)


@pytest.mark.parametrize("name", ["dark", "flat"])
def test_an_image_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(InputNotFoundError, match="nowhere.tif"):
        cf.Pipeline.from_dict({"version": 1, "stages": [{"correct": {name: "nowhere.tif"}}]})


def test_a_number_in_the_file_is_one_dark_value() -> None:
    pipeline = cf.Pipeline.from_dict({"version": 1, "stages": [{"correct": {"dark": 100}}]})
    assert tuple(pipeline.stages) == (cf.Correct(dark=100.0),)


def test_another_flat_is_another_result(tmp_path: Path) -> None:
    source = suites.write_volume(tmp_path / "in.ome.zarr", as_uint16(scene()), VOXEL_UM)

    def known_by(**values: Any) -> str:
        plan = cf.Pipeline([cf.Correct(**values)]).plan(source, tmp_path / "out", block=(32, 32, 32))
        return plan.fingerprints("cpu")["correct"]

    light = 3000 * vignette()
    assert known_by(flat_image=light) == known_by(flat_image=light.copy())
    other = light.copy()
    other[0, 3, 3] += 1
    assert len({known_by(flat_image=light), known_by(flat_image=other), known_by(flat_image=light, dark=2)}) == 3
