"""Other channels of the input per object: against numpy on the whole volume, and the same from any blocks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from chunkflow.errors import ConfigError, IncompleteError, InputError, UsageError
from chunkflow.geometry.box import Triple
from chunkflow.geometry.scale import Scale
from chunkflow.kernels import resample
from chunkflow.plan.pipeline import InputOptions, OutputOptions, Pipeline
from chunkflow.run.result import Result
from chunkflow.stages.base import Stage
from chunkflow.stages.label import Label
from chunkflow.stages.measure import Measure
from chunkflow.stages.resample import Resample
from chunkflow.stages.threshold import Threshold
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.omezarr import Channel
from chunkflow.storage.omezarr_write import write_image_group
from chunkflow.storage.volume import create_array
from chunkflow.testing.suites import differences, random_volume

SHAPE = (13, 27, 31)
VOXEL_UM = (0.3, 0.1, 0.1)
BRIGHT = Threshold(method="fixed", value=560.0)
NAMES = ("mito", "DAPI 405", "alpha-actin")


def write_channels(path: Path, images: np.ndarray, names: tuple[str, ...] = NAMES) -> None:
    """(C, Z, Y, X) voxels as an OME-Zarr image of named channels."""
    scale = Scale(VOXEL_UM)
    shown = [Channel(name, (0.0, 1.0)) for name in names]
    write_image_group(path, name="in", levels={"0": scale}, axes="czyx", channels=shown)
    layout = replace(layout_for_core((64, 64, 64), SHAPE, images.dtype), leading=(len(images),))
    volume = create_array(path / "0", layout, scale, axes="czyx")
    for number, image in enumerate(images):
        channel = replace(volume, at=(number,))
        channel.write(channel.box, np.ascontiguousarray(image))


def three(dtype: Any = np.uint16) -> np.ndarray:
    """Three channels; the second goes with the first, the third against it, and is dark in places."""
    rng = np.random.default_rng(1)
    first = random_volume("image", SHAPE, rng).astype(np.float64)
    second = 0.5 * first + 40 * ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1) + 60
    third = np.maximum(0, 700 - 1.2 * first + 30 * rng.standard_normal(SHAPE))
    fraction = 0 if np.issubdtype(dtype, np.integer) else 1 / 3
    return (np.stack((first, second, third)) + fraction).astype(dtype)


def run(
    folder: Path,
    measure: Measure,
    *,
    block: Triple = (64, 64, 64),
    front: tuple[Stage, ...] = (BRIGHT, Label()),
    name: str = "out",
    **options: Any,
) -> Result:
    pipeline = Pipeline(
        [*front, measure],
        input=InputOptions(**{"channel": "mito", **options}),
        output=OutputOptions(save=("image", "labels")),
    )
    return pipeline.plan(folder / "in.ome.zarr", folder / name, block=block).run(on="serial")


def check(result: Result, measured: np.ndarray, channels: dict[str, np.ndarray], backgrounds: dict[str, float]) -> None:
    """Compare every column of every channel with numpy's."""
    labels = result.labels[:]
    assert len(result.objects) > 5
    for _, row in result.objects.iterrows():
        own = labels == row.object_id
        a = measured[own].astype(np.float64)
        assert row.intensity_mean == pytest.approx(a.mean(), rel=1e-12)
        for name, image in channels.items():
            b = image[own].astype(np.float64)
            assert row[f"intensity_{name}_mean"] == pytest.approx(b.mean(), rel=1e-12)
            assert row[f"intensity_{name}_sd"] == pytest.approx(b.std(), rel=1e-7, abs=1e-6)
            assert (row[f"intensity_{name}_min"], row[f"intensity_{name}_max"]) == (b.min(), b.max())
            dark_a, dark_b = backgrounds[""], backgrounds[name]
            assert row[f"manders_m1_{name}"] == pytest.approx(a[b > dark_b].sum() / a.sum(), rel=1e-9)
            assert row[f"manders_m2_{name}"] == pytest.approx(b[a > dark_a].sum() / b.sum(), rel=1e-9, nan_ok=True)
            if len(a) > 1 and a.std() and b.std():
                assert row[f"pearson_{name}"] == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-7)
            else:
                assert np.isnan(row[f"pearson_{name}"])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_channels_are_measured_as_numpy_would_whatever_the_blocks(tmp_path: Path, dtype: Any) -> None:
    images = three(dtype)
    write_channels(tmp_path / "in.ome.zarr", images)
    measure = Measure(channels=("DAPI 405", "alpha-actin"), background=(300.0, 250.0, 100.0))
    whole = run(tmp_path, measure, name="whole")
    check(
        whole,
        images[0],
        {"DAPI_405": images[1], "alpha_actin": images[2]},
        {"": 300.0, "DAPI_405": 250.0, "alpha_actin": 100.0},
    )
    assert set(whole.objects.intensity_of) == {"raw"}
    assert whole.objects.pearson_DAPI_405.median() > 0.3 > -0.3 > whole.objects.pearson_alpha_actin.median()
    for number, block in enumerate(((5, 14, 9), (13, 8, 31))):
        assert differences(run(tmp_path, measure, block=block, name=f"blocks{number}"), whole) == []


def test_channels_are_resampled_with_the_image(tmp_path: Path) -> None:
    images = three()
    write_channels(tmp_path / "in.ome.zarr", images)
    front = (Resample(voxel_um=(0.2, 0.15, 0.1)), BRIGHT, Label())
    results = [
        run(tmp_path, Measure(channels=(1,)), front=front, block=block, name=str(block))
        for block in ((64, 64, 64), (7, 9, 13))
    ]
    assert differences(results[1], results[0]) == []
    whole = results[0].labels
    first, second = (
        resample.linear(image, (0, 0, 0), (0, 0, 0), whole.shape, SHAPE, VOXEL_UM, whole.voxel_um)
        for image in images[:2]
    )
    check(results[0], first, {"DAPI_405": second}, {"": 0.0, "DAPI_405": 0.0})


def test_a_raw_channel_is_compared_with_the_restored_image(tmp_path: Path) -> None:
    images = three()
    write_channels(tmp_path / "in.ome.zarr", images)
    result = run(tmp_path, Measure(intensity="image", channels=("mito",)))
    check(result, images[0], {"mito": images[0]}, {"": 0.0, "mito": 0.0})
    assert set(result.objects.pearson_mito.dropna()) == {1.0} and set(result.objects.intensity_of) == {"image"}


def test_without_an_intensity_channels_are_measured_alone(tmp_path: Path) -> None:
    write_channels(tmp_path / "in.ome.zarr", three())
    result = run(tmp_path, Measure(intensity="none", channels=("alpha-actin",)))
    assert result.objects.intensity_mean.isna().all() and result.objects.intensity_alpha_actin_mean.notna().all()
    assert not [name for name in result.objects if name.startswith(("pearson", "manders"))]


def test_channels_without_a_name_go_by_number_and_names_alike_stay_apart(tmp_path: Path) -> None:
    for names, expected in (
        (("", "", ""), ["1", "2"]),
        (("mito", "GFP", "gfp"), ["GFP_1", "gfp_2"]),
        (("mito", "size um", "±"), ["1", "2"]),
    ):
        path = tmp_path / "".join(expected) / "in.ome.zarr"
        write_channels(path, three(), names)
        pipeline = Pipeline([BRIGHT, Label(), Measure(channels=(1, 2))], input=InputOptions(channel=0))
        plan = pipeline.plan(path, tmp_path / "out")
        assert [channel.name for channel in plan.beside.channels] == expected


def test_unknown_channels_are_refused_with_those_there_are(tmp_path: Path) -> None:
    write_channels(tmp_path / "in.ome.zarr", three())
    with pytest.raises(InputError, match=r"no one channel named 'dapi'.*Known: DAPI 405, alpha-actin, mito"):
        run(tmp_path, Measure(channels=("dapi",)))
    with pytest.raises(InputError, match=r"no channel 3.*0 \(mito\), 1 \(DAPI 405\), 2 \(alpha-actin\)"):
        run(tmp_path, Measure(channels=(3,)))
    with pytest.raises(ConfigError, match="stands twice"):
        run(tmp_path, Measure(channels=("DAPI 405", 1)))
    with pytest.raises(ConfigError, match="3 values for the intensity and 1 channels"):
        Measure(channels=("DAPI 405",), background=(1.0, 2.0, 3.0))
    assert not (tmp_path / "out").exists()


def test_labels_have_no_channels(tmp_path: Path) -> None:
    write_channels(tmp_path / "in.ome.zarr", three())
    with pytest.raises(ConfigError, match="channels are those of an image, and the input is labels"):
        run(tmp_path, Measure(channels=("DAPI 405",)), front=(Label(),), kind="labels")


def test_a_channel_that_is_not_finite_is_named(tmp_path: Path) -> None:
    images = three(np.float32)
    images[1, 7, 8, 9] = np.nan
    write_channels(tmp_path / "in.ome.zarr", images)
    with pytest.raises(IncompleteError, match=r"channel 1 of the input holds NaN or infinity at z, y, x = \(7, 8, 9\)"):
        run(tmp_path, Measure(channels=("DAPI 405",)))
    images[1, 7, 8, 9] = 0
    read_as_zero = run(tmp_path, Measure(channels=("DAPI 405",)), nan="zero", name="zero")
    assert read_as_zero.objects.intensity_DAPI_405_mean.notna().all()


def test_chunks_that_a_channel_lacks_are_zeros_or_refused(tmp_path: Path) -> None:
    write_channels(tmp_path / "in.ome.zarr", three())
    (lost,) = (path for path in (tmp_path / "in.ome.zarr" / "0" / "c" / "1").rglob("*") if path.is_file())
    lost.unlink()
    result = run(tmp_path, Measure(channels=(1,)))
    assert not result.objects.intensity_DAPI_405_max.any()
    assert any("1 chunks of channel 1" in text for text in json.loads(plan_of(result))["plan"]["warnings"])
    with pytest.raises(UsageError, match="1 chunks of channel 1 .* missing"):
        run(tmp_path, Measure(channels=(1,)), missing="fail", name="fail")


def plan_of(result: Result) -> str:
    return (result.path / "run" / "plan.json").read_text()


def test_another_channel_computes_the_measures_and_nothing_else_again(tmp_path: Path) -> None:
    write_channels(tmp_path / "in.ome.zarr", three())
    pipelines = [
        Pipeline([BRIGHT, Label(), Measure(channels=(channel,))], input=InputOptions(channel="mito"))
        for channel in (1, 2)
    ]
    one, two = (p.plan(tmp_path / "in.ome.zarr", tmp_path / "out").fingerprints("cpu") for p in pipelines)
    assert {name for name in two if one.get(name) != two[name]} == {"input:2", "measure", "objects", "contacts"}
