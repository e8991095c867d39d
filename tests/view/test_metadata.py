"""What viewers take from the metadata: contrast, default plane, pyramids that align, and those that Viv can open."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

import chunkflow as cf
from chunkflow.geometry.scale import Scale
from chunkflow.run.contrast import BOX, PERCENTILES, contrast_window
from chunkflow.storage.omezarr import open_volume
from chunkflow.storage.volume import open_array
from chunkflow.testing import suites

VIV_TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")
"""As hms-dbmi/viv, packages/loaders/src/zarr/pixel-source.ts: no bool and no 64-bit integers."""


@pytest.fixture(scope="module", params=["0.4", "0.5"])
def result(request: pytest.FixtureRequest, results: dict[str, cf.Result]) -> cf.Result:
    return results[request.param]


def ome(folder: Path) -> dict:
    if (folder / ".zattrs").is_file():
        return json.loads((folder / ".zattrs").read_text())
    return json.loads((folder / "zarr.json").read_text())["attributes"]["ome"]


def test_omero_names_channel_colour_contrast_and_the_plane_to_show(result: cf.Result) -> None:
    omero = ome(result.path / "image.ome.zarr")["omero"]
    (channel,) = omero["channels"]
    image = result.image[...]
    assert channel["label"]
    assert len(bytes.fromhex(channel["color"])) == 3
    assert channel["active"] is True
    window = channel["window"]
    assert (window["min"], window["max"]) == (image.min(), image.max())
    coarse = open_volume(result.path / "image.ome.zarr", level=1)[...]
    assert [window["start"], window["end"]] == np.percentile(coarse, PERCENTILES, method="nearest").tolist()
    assert omero["rdefs"]["defaultZ"] == image.shape[0] // 2
    assert omero["rdefs"]["model"] in ("greyscale", "color")


def test_the_contrast_does_not_depend_on_the_blocks(results: dict[str, cf.Result], tmp_path: Path) -> None:
    result = results["0.5"]
    stored = json.loads((result.path / "run" / "plan.json").read_text())
    source = next(folder for folder in Path(stored["plan"]["input"]["path"]).parents if folder.suffix == ".zarr")
    pipeline = cf.Pipeline([cf.Threshold(), cf.Label()], output=cf.OutputOptions(save=("image",), pyramid="xy"))
    other = pipeline.plan(source, tmp_path / "other", block=(8, 64, 64)).run(on="serial", device="cpu")
    windows = [ome(r.path / "image.ome.zarr")["omero"]["channels"][0]["window"] for r in (result, other)]
    assert windows[0] == windows[1]


def test_a_window_of_one_value_is_the_range_and_nan_does_not_count(tmp_path: Path) -> None:
    flat = np.zeros((4, 40, 40), np.float32)
    flat[0, 0, 0], flat[0, 0, 1] = 7, np.nan
    volume = suites.write_volume(tmp_path / "flat.ome.zarr", flat)
    assert contrast_window(volume, (0.0, 7.0)) == (0.0, 7.0)
    flat[:2] = np.nan
    flat[2:] = np.linspace(0, 1, 3200).reshape(2, 40, 40)
    volume = suites.write_volume(tmp_path / "half.ome.zarr", flat)
    assert contrast_window(volume, (0.0, 1.0)) == pytest.approx((0.001, 0.999), abs=1e-3)


def test_a_large_level_is_sampled_near_its_percentiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkflow.run.contrast.BOXES", 12)
    values = np.random.default_rng(0).normal(1000, 50, (3, 5 * BOX + 3, 5 * BOX)).astype(np.uint16)
    low, high = contrast_window(suites.write_volume(tmp_path / "large.ome.zarr", values), (0.0, 2000.0))
    assert (low, high) == pytest.approx(tuple(np.percentile(values, PERCENTILES)), abs=10)


def centre_um(values: np.ndarray, scale: Scale) -> np.ndarray:
    weights = values.astype(float)
    where = [np.arange(n) for n in values.shape]
    index = [(weights.sum(axis=tuple({0, 1, 2} - {a})) @ where[a]) / weights.sum() for a in range(3)]
    return np.array(index) * scale.voxel_um + scale.translation_um


@pytest.mark.parametrize("pyramid", ["auto", "xy"])
def test_labels_and_image_lie_in_the_same_place_on_every_level(tmp_path: Path, pyramid: str) -> None:
    """An ellipsoid off the middle of an odd volume: as image and as label its centre stays, in um, on all levels."""
    shape, voxel, origin = (70, 1021, 61), (0.1, 0.1, 0.1), (5.0, -2.0, 1.0)
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    inside = ((z - 33.3) / 21) ** 2 + ((y - 511.7) / 391) ** 2 + ((x - 29.2) / 23) ** 2 <= 1
    suites.write_volume(tmp_path / "in.ome.zarr", inside * np.uint16(1000), voxel, translation_um=origin)
    output = cf.OutputOptions(save=("image", "labels", "mask"), pyramid=pyramid)
    pipeline = cf.Pipeline([cf.Threshold(method="fixed", value=500), cf.Label()], output=output)
    result = pipeline.plan(tmp_path / "in.ome.zarr", tmp_path / "out", block=(64, 256, 64)).run(
        on="serial", device="cpu"
    )
    image = result.path / "image.ome.zarr"
    groups = {"image": image, "objects": image / "labels" / "objects", "mask": image / "labels" / "mask"}
    datasets = {name: ome(folder)["multiscales"][0]["datasets"] for name, folder in groups.items()}
    assert datasets["objects"] == datasets["image"] == datasets["mask"]
    assert len(datasets["image"]) == 3
    truth = centre_um(inside, Scale(voxel, origin))
    for level in range(3):
        volumes = {name: open_volume(folder, level=level) for name, folder in groups.items()}
        assert len({volume.shape for volume in volumes.values()}) == 1
        for name, volume in volumes.items():
            off = np.abs(centre_um(volume[...], volume.scale) - truth) / voxel
            # Striding would shift a level by half of what its voxels grew: 0.5 and 1.5 voxels of the finest.
            assert off.max() < 0.1, (name, level, off)


def test_a_pyramid_in_the_plane_is_one_that_viv_opens(result: cf.Result) -> None:
    """What loaders of Viv (vizarr, Avivator) take for granted of every level."""
    models = pytest.importorskip("ome_zarr_models", reason="ome-zarr-models is not installed")
    for name in ("", "labels/objects", "labels/skeleton"):
        folder = result.path / "image.ome.zarr" / name
        models.open_ome_zarr(zarr.open_group(folder, mode="r"))
        multiscale = ome(folder)["multiscales"][0]
        axes = "".join(axis["name"] for axis in multiscale["axes"])
        assert axes in ("tczyx", "czyx", "zyx", "yx")
        arrays = [open_array(folder / level["path"], Scale((1, 1, 1))).array for level in multiscale["datasets"]]
        assert len(arrays) == 2
        for array in arrays:
            assert array.dtype.name in VIV_TYPES
            assert array.shape[-1] not in (3, 4)  # taken for RGB
            chunk = min(array.chunks[-2:])
            assert chunk >= 32  # the tiles, as the largest power of two in it
        for k, array in enumerate(arrays):
            first = arrays[0].shape
            assert array.shape[:-2] == first[:-2]  # planes are found by their number on every level
            assert array.shape[-2:] == tuple(-(-n // 2**k) for n in first[-2:])  # exactly half, the odd end kept
            scale = multiscale["datasets"][k]["coordinateTransformations"][0]["scale"]
            finest = multiscale["datasets"][0]["coordinateTransformations"][0]["scale"]
            assert scale == pytest.approx([finest[0], finest[1] * 2**k, finest[2] * 2**k])
    omero = ome(result.path / "image.ome.zarr")["omero"]
    assert all({"start", "end"} <= set(channel["window"]) for channel in omero["channels"])
    assert {"defaultT", "defaultZ", "model"} <= set(omero["rdefs"])
    if ome(result.path / "image.ome.zarr")["multiscales"][0].get("version") == "0.4":
        arrays = (result.path / "image.ome.zarr").glob("*/.zarray")
        assert all(json.loads(path.read_text())["dimension_separator"] == "/" for path in arrays)
