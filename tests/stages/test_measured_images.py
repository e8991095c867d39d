"""Intensities of labels and masks, from an image of their grid: against scikit-image, and the same from any blocks."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from skimage.measure import regionprops_table

from chunkflow.errors import ConfigError, IncompleteError, InputError, InputNotFoundError, UsageError
from chunkflow.geometry.box import Triple
from chunkflow.geometry.scale import Scale
from chunkflow.kernels import resample
from chunkflow.plan.pipeline import InputOptions, OutputOptions, Pipeline
from chunkflow.report.methods import methods_text
from chunkflow.run.batch_inputs import Item
from chunkflow.run.batch_state import key_of
from chunkflow.run.result import Result
from chunkflow.stages.base import Stage
from chunkflow.stages.label import Label
from chunkflow.stages.measure import Measure
from chunkflow.stages.resample import Resample
from chunkflow.stages.threshold import Threshold
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.omezarr import Channel
from chunkflow.storage.omezarr_write import write_image_group
from chunkflow.storage.stores import ObjectPath
from chunkflow.storage.volume import create_array
from chunkflow.testing.suites import differences, random_volume, write_volume

SHAPE = (13, 27, 31)
VOXEL_UM = (0.3, 0.1, 0.1)
NAMES = ("mito", "DAPI 405")
BLOCKS: tuple[Triple, ...] = ((64, 64, 64), (5, 14, 9), (13, 8, 31))


def blobs() -> np.ndarray:
    """Labels that touch, with gaps in their ids."""
    z, y, x = (np.arange(n) // 7 for n in SHAPE)
    ids = 3 * (1 + z[:, None, None] * 25 + y[None, :, None] * 5 + x)
    return np.where(random_volume("mask", SHAPE, np.random.default_rng(2)) > 0, ids, 0).astype(np.uint16)


def two(dtype: Any = np.uint16) -> np.ndarray:
    """Two channels, the second against the first."""
    rng = np.random.default_rng(1)
    first = random_volume("image", SHAPE, rng).astype(np.float64)
    second = np.maximum(0, 700 - 1.2 * first + 30 * rng.standard_normal(SHAPE))
    return (np.stack((first, second)) + (0 if np.issubdtype(dtype, np.integer) else 1 / 3)).astype(dtype)


def write_image(path: Path, images: np.ndarray, names: tuple[str, ...] = NAMES) -> Path:
    """(C, Z, Y, X) voxels as an OME-Zarr image of named channels."""
    scale = Scale(VOXEL_UM)
    shown = [Channel(name, (0.0, 1.0)) for name in names]
    write_image_group(path, name="in", levels={"0": scale}, axes="czyx", channels=shown)
    layout = replace(layout_for_core((8, 16, 16), images.shape[1:], images.dtype), leading=(len(images),))
    volume = create_array(path / "0", layout, scale, axes="czyx")
    for number, image in enumerate(images):
        channel = replace(volume, at=(number,))
        channel.write(channel.box, np.ascontiguousarray(image))
    return path


def run(
    folder: Path,
    measure: Measure,
    *,
    block: Triple = BLOCKS[0],
    front: tuple[Stage, ...] = (Label(),),
    name: str = "out",
    kind: Any = "labels",
    **options: Any,
) -> Result:
    source = folder / "in.ome.zarr"
    if not source.exists():
        write_volume(source, blobs(), VOXEL_UM)
    pipeline = Pipeline(
        [*front, measure], input=InputOptions(kind=kind, **options), output=OutputOptions(save=("labels",))
    )
    return pipeline.plan(source, folder / name, block=block).run(on="serial")


def check_intensity(result: Result, image: np.ndarray) -> None:
    """Compare the columns of the intensity with those of scikit-image."""
    labels = result.labels[:]
    wanted = ("label", "intensity_mean", "intensity_std", "intensity_min", "intensity_max")
    truth = regionprops_table(labels, image.astype(np.float64), properties=wanted)
    objects = result.objects
    assert len(objects) > 5 and objects.object_id.tolist() == truth["label"].tolist()
    np.testing.assert_allclose(objects.intensity_mean, truth["intensity_mean"], rtol=1e-12)
    np.testing.assert_allclose(objects.intensity_sd, truth["intensity_std"], rtol=1e-7, atol=1e-6)
    assert objects.intensity_min.tolist() == truth["intensity_min"].tolist()
    assert objects.intensity_max.tolist() == truth["intensity_max"].tolist()


def check_against(result: Result, image: np.ndarray, other: np.ndarray, name: str, dark: tuple[float, float]) -> None:
    """Compare the columns of another channel, Pearson and Manders included, with numpy's."""
    labels = result.labels[:]
    for _, row in result.objects.iterrows():
        a, b = (values[labels == row.object_id].astype(np.float64) for values in (image, other))
        assert row[f"intensity_{name}_mean"] == pytest.approx(b.mean(), rel=1e-12)
        with np.errstate(invalid="ignore"):
            m1, m2 = a[b > dark[1]].sum() / a.sum(), b[a > dark[0]].sum() / b.sum()
        assert row[f"manders_m1_{name}"] == pytest.approx(m1, rel=1e-9, nan_ok=True)
        assert row[f"manders_m2_{name}"] == pytest.approx(m2, rel=1e-9, nan_ok=True)
        if len(a) > 1 and a.std() and b.std():
            assert row[f"pearson_{name}"] == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-7)


@pytest.mark.parametrize(("dtype", "count"), [(np.uint16, 2), (np.float32, 3)])
def test_labels_are_measured_in_an_image_as_scikit_image_would_whatever_the_blocks(
    tmp_path: Path, dtype: Any, count: int
) -> None:
    images = two(dtype)
    path = str(write_image(tmp_path / "raw.ome.zarr", images))
    measure = Measure(image=path, channels=("DAPI 405", "mito"), background=(250.0, 300.0))
    whole, *others = [run(tmp_path, measure, block=block, name=str(block)) for block in BLOCKS[:count]]
    check_intensity(whole, images[1])
    check_against(whole, images[1], images[0], "mito", (250.0, 300.0))
    assert set(whole.objects.intensity_of) == {"raw.ome.zarr, DAPI 405"}
    assert "intensity_DAPI_405_mean" not in whole.objects
    for other in others:
        assert differences(other, whole) == []


def test_a_mask_is_measured_in_a_tiff_of_several_channels(tmp_path: Path) -> None:
    images = two()
    write_volume(tmp_path / "in.ome.zarr", (images[0] > 560).astype(np.uint8) * 255, VOXEL_UM)
    tifffile.imwrite(tmp_path / "raw.tif", images.swapaxes(0, 1), imagej=True, metadata={"axes": "ZCYX"})
    measure = Measure(image=str(tmp_path / "raw.tif"), channels=(1, 0))
    whole, other = (run(tmp_path, measure, kind="mask", block=block, name=str(block)) for block in BLOCKS[:2])
    check_intensity(whole, images[1])
    check_against(whole, images[1], images[0], "0", (0.0, 0.0))
    assert set(whole.objects.intensity_of) == {"raw.tif, channel 1"}
    assert differences(other, whole) == []


def test_a_tiff_and_a_bare_array_say_what_the_image_says(tmp_path: Path) -> None:
    image = two()[0]
    stored = write_volume(tmp_path / "raw.ome.zarr", image, VOXEL_UM)
    tifffile.imwrite(tmp_path / "raw.tif", image, compression="zlib")
    for number, path in enumerate((tmp_path / "raw.ome.zarr", tmp_path / "raw.tif", Path(stored.path))):
        result = run(tmp_path, Measure(image=str(path)), block=BLOCKS[1], name=str(number))
        check_intensity(result, image)
        assert set(result.objects.intensity_of) == {str(path.relative_to(tmp_path))}


def test_another_image_stands_for_the_input_where_that_is_an_image(tmp_path: Path) -> None:
    image, other = two()
    write_volume(tmp_path / "in.ome.zarr", image, VOXEL_UM)
    write_volume(tmp_path / "restored.ome.zarr", other.astype(np.float32) / 3, VOXEL_UM)
    front = (Threshold(method="fixed", value=560.0), Label())
    path = str(tmp_path / "restored.ome.zarr")
    instead = run(tmp_path, Measure(image=path), kind="image", front=front, name="instead")
    check_intensity(instead, other.astype(np.float32) / 3)
    assert set(instead.objects.intensity_of) == {"restored.ome.zarr"}
    beside = run(tmp_path, Measure(intensity="image", image=path), kind="image", front=front, name="beside")
    check_intensity(beside, image)
    check_against(beside, image, other.astype(np.float32) / 3, "restored", (0.0, 0.0))
    alone = run(tmp_path, Measure(intensity="none", image=path), kind="image", front=front, name="alone")
    assert alone.objects.intensity_restored_mean.tolist() == instead.objects.intensity_mean.tolist()
    assert alone.objects.intensity_mean.isna().all()


def test_the_image_is_resampled_with_the_input(tmp_path: Path) -> None:
    image, other = two()
    write_volume(tmp_path / "in.ome.zarr", image, VOXEL_UM)
    write_volume(tmp_path / "raw.ome.zarr", other, VOXEL_UM)
    front = (Resample(voxel_um=(0.2, 0.15, 0.1)), Threshold(method="fixed", value=560.0), Label())
    measure = Measure(image=str(tmp_path / "raw.ome.zarr"))
    whole, blocked = (
        run(tmp_path, measure, kind="image", front=front, block=block, name=str(block)) for block in BLOCKS[:2]
    )
    assert differences(blocked, whole) == []
    zero = (0, 0, 0)
    check_intensity(
        whole, resample.linear(other, zero, zero, whole.labels.shape, SHAPE, VOXEL_UM, whole.labels.voxel_um)
    )


@pytest.mark.parametrize("name", ["raw.ome.zarr", "raw.tif"])
def test_a_part_of_the_input_is_measured_in_the_same_part_of_the_image(tmp_path: Path, name: str) -> None:
    image = two()[0]
    if name.endswith(".tif"):
        tifffile.imwrite(tmp_path / name, image)
    else:
        write_volume(tmp_path / name, image, VOXEL_UM)
    result = run(tmp_path, Measure(image=str(tmp_path / name)), region="2:11,5:27,3:30", block=(4, 9, 11))
    check_intensity(result, image[2:11, 5:27, 3:30])


def refused(folder: Path, error: type[Exception], match: str, measure: Measure, **how: Any) -> None:
    with pytest.raises(error, match=match):
        run(folder, measure, **how)
    assert not (folder / "out").exists()


def test_images_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    image = two()[0]
    write_volume(tmp_path / "small.ome.zarr", image[:-1], VOXEL_UM)
    small = Measure(image=str(tmp_path / "small.ome.zarr"))
    shapes = r"measure: the image .*small.ome.zarr: shape \(12, 27, 31\), the input \(13, 27, 31\).*on the input's grid"
    refused(tmp_path, InputError, shapes, small)
    write_volume(tmp_path / "coarse.ome.zarr", image, (0.6, 0.2, 0.2))
    coarse = Measure(image=str(tmp_path / "coarse.ome.zarr"))
    refused(tmp_path, InputError, r"voxels of \(0.6, 0.2, 0.2\) um, the input of \(0.3, 0.1, 0.1\)", coarse)
    refused(tmp_path, InputNotFoundError, "no such file or folder", Measure(image=str(tmp_path / "none.zarr")))
    tifffile.imwrite(tmp_path / "waves.tif", image.astype(np.complex64))
    refused(
        tmp_path, InputError, "waves.tif holds values of type complex64", Measure(image=str(tmp_path / "waves.tif"))
    )
    (tmp_path / "raw.csv").write_text("1")
    refused(tmp_path, InputError, "no format that can be read.*OME-Zarr", Measure(image=str(tmp_path / "raw.csv")))


def test_of_several_channels_those_to_measure_are_named(tmp_path: Path) -> None:
    path = str(write_image(tmp_path / "raw.ome.zarr", two()))
    refused(
        tmp_path, ConfigError, r"holds 2 channels: 0 \(mito\), 1 \(DAPI 405\).*channels: \[0, 1\]", Measure(image=path)
    )
    refused(tmp_path, InputError, "no one channel named 'dapi'", Measure(image=path, channels=("dapi",)))
    refused(tmp_path, InputError, "no channel 2", Measure(image=path, channels=(2,)))
    refused(tmp_path, ConfigError, "stands twice", Measure(image=path, channels=("mito", 0)))
    tifffile.imwrite(tmp_path / "raw.tif", two().swapaxes(0, 1), imagej=True, metadata={"axes": "ZCYX"})
    tiff = str(tmp_path / "raw.tif")
    refused(tmp_path, ConfigError, "holds 2 channels: 0, 1", Measure(image=tiff))
    refused(tmp_path, InputError, "no channel 2.*0 to 1", Measure(image=tiff, channels=(2,)))


def test_what_an_image_does_not_go_with_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "raw.ome.zarr", two()[0], VOXEL_UM)
    path = str(tmp_path / "raw.ome.zarr")
    said = "intensity image is what the segmentation saw, and the input is labels.*Leave intensity out"
    refused(tmp_path, ConfigError, said, Measure(image=path, intensity="image"))
    refused(tmp_path, ConfigError, r"input is labels.*measure: \{image: PATH\}", Measure(channels=(1,)))
    with pytest.raises(ConfigError, match="2 values for the intensity and 0 channels"):
        Measure(image=path, background=(1.0, 2.0))
    Measure(image=path, channels=(0, 1), background=(1.0, 2.0))


def test_voxels_that_are_not_finite_are_named(tmp_path: Path) -> None:
    image = two(np.float32)[0]
    image[7, 8, 9] = np.nan
    write_volume(tmp_path / "raw.ome.zarr", image, VOXEL_UM)
    measure = Measure(image=str(tmp_path / "raw.ome.zarr"))
    with pytest.raises(IncompleteError, match=r"channel 0 of the image that measure looks at holds NaN.*\(7, 8, 9\)"):
        run(tmp_path, measure)
    check_intensity(run(tmp_path, measure, nan="zero", name="zero"), np.nan_to_num(image))


def test_chunks_that_the_image_lacks_are_zeros_or_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "raw.ome.zarr", two())
    lost = next(file for file in sorted((path / "0" / "c" / "1").rglob("*")) if file.is_file())
    lost.unlink()
    measure = Measure(image=str(path), channels=("DAPI 405",))
    result = run(tmp_path, measure)
    stored = json.loads((result.path / "run" / "plan.json").read_text())
    assert any("1 chunks of channel 1" in text for text in stored["plan"]["warnings"])
    with pytest.raises(UsageError, match="1 chunks of channel 1 .* missing"):
        run(tmp_path, measure, missing="fail", name="fail")


def test_a_changed_image_computes_the_measures_and_nothing_else_again(tmp_path: Path) -> None:
    image, other = two()
    write_volume(tmp_path / "in.ome.zarr", blobs(), VOXEL_UM)
    pipeline = Pipeline(
        [Label(), Measure(image=str(tmp_path / "raw.tif"))],
        input=InputOptions(kind="labels"),
        output=OutputOptions(save=("labels",)),
    )
    for number, (values, at) in enumerate(((image, 10), (other, 20), (other, 20))):
        tifffile.imwrite(tmp_path / "raw.tif", values)
        os.utime(tmp_path / "raw.tif", (at, at))  # a clock may tick less often than tests write
        events: list[dict[str, Any]] = []
        plan = pipeline.plan(tmp_path / "in.ome.zarr", tmp_path / "out", block=BLOCKS[1])
        result = plan.run(on="serial", on_event=events.append)
        computed = {event["pass"] for event in events if event["event"] == "unit"}
        assert computed >= {"label", "measure"} if number == 0 else True
        if number:
            assert computed == ({"measure", "objects", "contacts"} if number == 1 else set())
        check_intensity(result, values)


@pytest.mark.thorough
def test_an_image_in_a_store_is_measured_and_a_tiff_there_is_refused(bucket: ObjectPath, tmp_path: Path) -> None:
    image = two()[0]
    write_volume(tmp_path / "raw.ome.zarr", image, VOXEL_UM)
    tifffile.imwrite(tmp_path / "raw.tif", image)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            (bucket / "data" / path.relative_to(tmp_path).as_posix()).upload(path)
    result = run(tmp_path, Measure(image=str(bucket / "data/raw.ome.zarr")), block=BLOCKS[1])
    check_intensity(result, image)
    assert set(result.objects.intensity_of) == {"raw.ome.zarr"}
    tiff = Measure(image=str(bucket / "data/raw.tif"))
    with pytest.raises(InputError, match="raw.tif is a TIFF in an object store.*Import it"):
        run(tmp_path, tiff, name="tiff")
    with pytest.raises(InputNotFoundError, match="no such file or folder"):
        run(tmp_path, Measure(image=str(bucket / "data/none.ome.zarr")), name="none")


def test_a_batch_computes_again_what_was_measured_in_another_image(tmp_path: Path) -> None:
    write_volume(tmp_path / "in.ome.zarr", blobs(), VOXEL_UM)
    pipeline = Pipeline([Label(), Measure(image=str(tmp_path / "raw.tif"))], input=InputOptions(kind="labels"))
    item = Item(name="in", path=str(tmp_path / "in.ome.zarr"), file="in.ome.zarr")
    keys = []
    for image, at in zip((*two(), two()[1]), (10, 20, 20), strict=True):
        tifffile.imwrite(tmp_path / "raw.tif", image)
        os.utime(tmp_path / "raw.tif", (at, at))
        keys.append(key_of(pipeline, item))
    assert keys[0] != keys[1] == keys[2]


def test_a_report_says_which_image_was_measured(tmp_path: Path) -> None:
    path = str(write_image(tmp_path / "raw.ome.zarr", two()))
    result = run(tmp_path, Measure(image=path, channels=("DAPI 405", "mito")))
    text = methods_text(json.loads((result.path / "run" / "plan.json").read_text()))
    assert "intensities are those of the image raw.ome.zarr (channel DAPI 405); channel mito was measured" in text


def test_paths_in_a_pipeline_are_relative_to_it(tmp_path: Path) -> None:
    content = {"version": 1, "stages": ["label", {"measure": {"image": "a/b.zarr"}}]}
    assert Pipeline.from_dict(content, folder=tmp_path).stages[-1] == Measure(image=str(tmp_path / "a" / "b.zarr"))


@pytest.mark.parametrize("extreme", [1e30, -3.4028235e38])
def test_a_value_that_leaves_no_digits_for_the_others_costs_their_mean_and_is_told(
    tmp_path: Path, extreme: float
) -> None:
    image = two(np.float32)
    free = tuple(np.argwhere(blobs() == 0)[0])
    image[1][free] = extreme
    path = str(write_image(tmp_path / "raw.ome.zarr", image))
    said: list[dict[str, Any]] = []
    for channels, lost in ((("DAPI 405", "mito"), "intensity"), (("mito", "DAPI 405"), "intensity_DAPI_405")):
        source = tmp_path / "in.ome.zarr"
        write_volume(source, blobs(), VOXEL_UM)
        pipeline = Pipeline([Label(), Measure(image=path, channels=channels)], input=InputOptions(kind="labels"))
        result = pipeline.plan(source, tmp_path / lost).run(on="serial", on_event=lambda e: said.append(dict(e)))
        objects = result.objects
        kept = "intensity_mito" if lost == "intensity" else "intensity"
        assert objects[[f"{lost}_mean", f"{lost}_sd"]].isna().all(axis=None)
        assert objects.filter(like="pearson").isna().all(axis=None)
        assert objects[f"{lost}_min"].min() > -1e4 and objects[f"{lost}_max"].max() < 1e4
        truth = regionprops_table(blobs(), image[0].astype(np.float64), properties=("intensity_mean", "intensity_std"))
        np.testing.assert_allclose(objects[f"{kept}_mean"], truth["intensity_mean"], rtol=1e-12)
        np.testing.assert_allclose(objects[f"{kept}_sd"], truth["intensity_std"], rtol=1e-7, atol=1e-6)
        warned = [event["text"] for event in said if event["event"] == "warning" and "too few digits" in event["text"]]
        assert len(warned) == 1 and f"{len(objects):,} objects have no mean" in warned[0]
        said.clear()
