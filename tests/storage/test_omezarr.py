import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from chunkflow.errors import InputError, InputNotFoundError, UsageError
from chunkflow.geometry.scale import Scale
from chunkflow.storage.hierarchy import zarr_kind
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.omezarr import ZARR_FORMAT, Channel, Format, open_volume
from chunkflow.storage.omezarr_write import write_group, write_image_group, write_labels_group
from chunkflow.storage.volume import create_array

FORMATS: list[Format] = ["0.5", "0.4"]
FINE = Scale((0.2, 0.05, 0.05), (1.0, 2.0, 3.0))
SHAPE = (20, 33, 41)


def voxels(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 900, shape).astype(np.uint16)


def write_levels(folder: Path, format: Format, data: np.ndarray) -> dict[str, Scale]:
    """Two levels of an array, the second every other voxel along y and x; returns their scales."""
    scales = {"0": FINE, "1": FINE.coarsened((1, 2, 2))}
    for (name, scale), part in zip(scales.items(), (data, data[:, ::2, ::2]), strict=True):
        layout = layout_for_core((32, 32, 32), part.shape, part.dtype, ZARR_FORMAT[format])
        volume = create_array(folder / name, layout, scale)
        volume.write(volume.box, np.ascontiguousarray(part))
    return scales


@pytest.fixture(params=FORMATS)
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An image with labels, as a run writes it."""
    folder = tmp_path / "image.ome.zarr"
    format: Format = request.param
    write_image_group(folder, name="image", levels=write_levels(folder, format, voxels()), format=format)
    write_labels_group(folder / "labels", ["objects"], format=format)
    objects = folder / "labels" / "objects"
    labels = (voxels() // 300).astype(np.uint32)
    levels = write_levels(objects, format, labels)
    write_image_group(objects, name="objects", levels=levels, format=format, labels=True)
    return folder


def test_every_level_opens_with_its_voxels_and_scale(image: Path) -> None:
    fine, coarse = open_volume(image), open_volume(image, level=1)
    np.testing.assert_array_equal(fine[...], voxels())
    np.testing.assert_array_equal(coarse[...], voxels()[:, ::2, ::2])
    assert fine.scale == FINE
    assert coarse.scale.voxel_um == pytest.approx((0.2, 0.1, 0.1))
    assert coarse.scale.translation_um == pytest.approx((1.0, 2.025, 3.025))
    assert open_volume(image / "labels" / "objects").dtype == np.uint32


def test_ome_zarr_models_accepts_image_and_labels(image: Path) -> None:
    models = pytest.importorskip("ome_zarr_models")
    for folder, kind in (
        (image, "Image"),
        (image / "labels", "Labels"),
        (image / "labels" / "objects", "ImageLabel"),
    ):
        found = models.open_ome_zarr(zarr.open_group(folder, mode="r"))
        assert type(found).__name__ == kind
        if kind == "Image":
            assert found.labels is not None


def test_napari_shows_the_voxels_at_their_size(image: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from napari_ome_zarr import napari_get_reader
        except ImportError as error:
            pytest.skip(f"napari_ome_zarr cannot be imported: {error}")
        reader = napari_get_reader(str(image))
        assert reader is not None
        layers = reader(str(image))
    kinds = [kind for _, _, kind in layers]
    assert kinds == ["image", "labels"]
    for (levels, options, _), data in zip(layers, (voxels(), voxels() // 300), strict=True):
        np.testing.assert_array_equal(np.asarray(levels[0]), data)
        assert len(levels) == 2
        assert options["scale"] == pytest.approx(list(FINE.voxel_um))


def test_the_same_facts_are_the_same_bytes(image: Path) -> None:
    file = next(image / name for name in ("zarr.json", ".zattrs") if (image / name).exists())
    before = file.read_bytes()
    format: Format = "0.5" if file.name == "zarr.json" else "0.4"
    write_image_group(image, name="image", levels={"0": FINE, "1": FINE.coarsened((1, 2, 2))}, format=format)
    assert file.read_bytes() == before


def test_a_group_without_an_image_is_a_group(tmp_path: Path) -> None:
    for format in FORMATS:
        write_group(tmp_path / format, format=format)
        assert zarr_kind(tmp_path / format) == "group"
        assert dict(zarr.open_group(tmp_path / format, mode="r").attrs) == {}
    with pytest.raises(UsageError, match=r"OME-Zarr '0.3' cannot be written"):
        write_group(tmp_path / "old", format="0.3")  # type: ignore[arg-type]


def write_image(
    folder: Path,
    data: np.ndarray,
    axes: list[dict[str, Any]],
    transformations: list[dict[str, Any]] | None = None,
    **ome: Any,
) -> Path:
    """An image by the letter of the 0.4 standard, with whatever metadata a test needs."""
    group = zarr.open_group(folder, mode="w", zarr_format=2)
    array = group.create_array("0", shape=data.shape, dtype=data.dtype, chunks=(1,) * (data.ndim - 2) + data.shape[-2:])
    array[...] = data
    if transformations is None:
        transformations = [{"type": "scale", "scale": [0.5] * data.ndim}]
    dataset = {"path": "0", "coordinateTransformations": transformations}
    multiscale = {"version": "0.4", "axes": axes, "datasets": [dataset], **ome.pop("multiscale", {})}
    group.attrs.update({"multiscales": [multiscale], **ome})
    return folder


def space(names: str = "zyx", unit: str | None = "micrometer") -> list[dict[str, Any]]:
    return [{"name": name, "type": "space", **({"unit": unit} if unit else {})} for name in names]


MANY_AXES = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, *space()]
OMERO = {"channels": [{"label": "mito"}, {"label": "dna"}]}


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return write_image(tmp_path / "many", voxels((3, 2, 4, 5, 6)), MANY_AXES, omero=OMERO)


def test_a_channel_is_chosen_by_name_or_number(many: Path) -> None:
    for channel in (1, "dna", "1"):
        chosen = open_volume(many, channel=channel, time=2)
        np.testing.assert_array_equal(chosen[...], voxels((3, 2, 4, 5, 6))[2, 1])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"time": 0}, r"holds 2 channels: 0 \(mito\), 1 \(dna\). Choose one with channel: NAME or NUMBER"),
        ({"channel": 0}, r"holds 3 time points: 0 to 2. Choose one with time: NUMBER"),
        ({"channel": "mitto", "time": 0}, "no one channel named 'mitto'. Did you mean 'mito'"),
        ({"channel": 2, "time": 0}, r"has no channel 2. It holds: 0 \(mito\), 1 \(dna\)"),
        ({"channel": -1, "time": 0}, "has no channel -1"),
        ({"channel": 0, "time": 3}, "has no time point 3. It holds 0 to 2"),
        ({"channel": 0, "time": 0, "level": 1}, "has no level 1. It has levels 0 to 0"),
    ],
)
def test_a_choice_that_is_missing_or_wrong_lists_what_there_is(
    many: Path, choice: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        open_volume(many, **choice)


def test_channels_without_names_are_listed_by_number(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a", voxels((2, 4, 5)), [MANY_AXES[1], *space("yx")])
    with pytest.raises(InputError, match=r"holds 2 channels: 0, 1\."):
        open_volume(path)
    with pytest.raises(InputError, match=r"no one channel named 'dna'. Choose by number: 0, 1"):
        open_volume(path, channel="dna")
    assert open_volume(path, channel=1).shape == (1, 4, 5)


@pytest.mark.parametrize(("unit", "um"), [("nanometer", 1e-3), ("millimeter", 1e3), ("meter", 1e6), ("angstrom", 1e-4)])
def test_units_are_converted_to_micrometers(tmp_path: Path, unit: str, um: float) -> None:
    volume = open_volume(write_image(tmp_path / "a", voxels((4, 5, 6)), space(unit=unit)))
    assert volume.scale.voxel_um == pytest.approx((0.5 * um,) * 3)


def test_the_transformations_of_the_image_follow_those_of_the_level(tmp_path: Path) -> None:
    own = [{"type": "scale", "scale": [1.0, 2.0, 3.0]}, {"type": "translation", "translation": [1.0, 1.0, 1.0]}]
    whole = [{"type": "scale", "scale": [2.0, 2.0, 2.0]}, {"type": "translation", "translation": [0.5, 0.0, 0.0]}]
    extra = {"coordinateTransformations": whole}
    path = write_image(tmp_path / "a", voxels((4, 5, 6)), space(), own, multiscale=extra)
    assert open_volume(path).scale == Scale((2.0, 4.0, 6.0), (2.5, 2.0, 2.0))


def test_a_plane_counts_as_one_micrometer_thick(tmp_path: Path) -> None:
    plane = open_volume(write_image(tmp_path / "a", voxels((5, 6)), space("yx")))
    assert plane.shape == (1, 5, 6)
    assert plane.scale.voxel_um == (1.0, 0.5, 0.5)


NOT_SCALED = {"type": "translation", "translation": [1.0, 1.0, 1.0]}


@pytest.mark.parametrize(
    ("axes", "transformations", "message"),
    [
        (space(unit=None), None, 'names no unit for axis z, .* Add "unit": "micrometer"'),
        (space(unit="parsec"), None, "has the unit 'parsec' for axis z, which is not a known length"),
        (space(), [], "states no voxel size for level 0. Add a scale transformation to .zattrs"),
        (space(), [NOT_SCALED], "states no voxel size for level 0"),
        (space(), [{"type": "scale", "scale": [1.0, 0.0, 1.0]}], r"voxel size \(1.0, 0.0, 1.0\) um is not positive"),
        (space(), [{"type": "scale", "scale": [1.0, -1.0, 1.0]}], "is not positive. Correct .zattrs"),
        (space(), [{"type": "scale", "scale": [1.0, 1.0]}], "'scale' transformation that is not 3 numbers"),
        (space(), [{"type": "affine", "affine": []}], "has a 'affine' transformation"),
        (space(), [{"type": "scale", "scale": "big"}], "metadata that cannot be used .*scale"),
        (space("zyq"), None, "has the axes z, y, q; only t, c, z, y, x can be read"),
        (space("zzx"), None, "has the axes z, z, x"),
        (MANY_AXES, [{"type": "scale", "scale": [1.0] * 5}], "has 3 axes and 5 are named"),
        (["z", "y", "x"], None, "metadata that cannot be used .*convert other versions"),
    ],
)
def test_metadata_that_cannot_be_used_says_what_and_how(
    tmp_path: Path, axes: list[Any], transformations: list[dict[str, Any]] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        open_volume(write_image(tmp_path / "a", voxels((4, 5, 6)), axes, transformations))


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a", voxels((4, 5, 6)), space(), multiscale={"version": "0.6"})
    with pytest.raises(InputError, match=r"is OME-Zarr 0.6; 0.4 and 0.5 can be read"):
        open_volume(path)


@pytest.mark.parametrize("outside", ["../a", "/etc", "b/../../c"])
def test_an_array_outside_the_image_is_refused(tmp_path: Path, outside: str) -> None:
    path = write_image(tmp_path / "a", voxels((4, 5, 6)), space())
    attributes = json.loads((path / ".zattrs").read_text())
    attributes["multiscales"][0]["datasets"][0]["path"] = outside
    (path / ".zattrs").write_text(json.dumps(attributes))
    with pytest.raises(InputError, match=r"lies outside it"):
        open_volume(path)


@pytest.mark.parametrize("format", FORMATS)
def test_a_bioformats2raw_folder_opens_its_one_image(tmp_path: Path, format: Format) -> None:
    root = tmp_path / "raw.zarr"
    write_group(root, {"bioformats2raw.layout": 3}, format=format)
    write_group(root / "OME", {"series": ["0"]}, format=format)
    write_image_group(root / "0", name="0", levels=write_levels(root / "0", format, voxels()), format=format)
    np.testing.assert_array_equal(open_volume(root)[...], voxels())
    write_group(root / "OME", {"series": ["0", "1"]}, format=format)
    with pytest.raises(InputError, match=r"holds 2 images, not one. Give one of them: .*raw.zarr/0, .*raw.zarr/1"):
        open_volume(root)


def test_folders_of_images_list_them(image: Path, tmp_path: Path) -> None:
    wells = [{"path": f"A/{i}"} for i in range(1, 13)]
    write_group(tmp_path / "plate", {"plate": {"wells": wells}})
    with pytest.raises(
        InputError, match=r"holds a plate of 12 wells, not one. Give one of them: .*plate/A/1/0, .*\.\.\."
    ):
        open_volume(tmp_path / "plate")
    write_group(tmp_path / "well", {"well": {"images": [{"path": "0"}, {"path": "1"}]}})
    with pytest.raises(InputError, match=r"holds a well of 2 images, not one. Give one of them: .*well/0, .*well/1"):
        open_volume(tmp_path / "well")
    with pytest.raises(InputError, match=r"holds 1 label images, not one. Give one of them: .*labels/objects"):
        open_volume(image / "labels")
    write_group(tmp_path)
    with pytest.raises(InputError, match=r"holds 1 images, not one. Give one of them: .*image.ome.zarr"):
        open_volume(tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_a_group_of_labels_without_an_image_names_them_and_how_to_give_them(tmp_path: Path, format: Format) -> None:
    folder = tmp_path / "image.ome.zarr"
    write_group(folder, format=format)
    write_labels_group(folder / "labels", ["objects", "skeleton"], format=format)
    said = r"image.ome.zarr holds no image, only labels: objects, skeleton. Give them as labels: .*"
    with pytest.raises(InputError, match=said + r"path: .*image.ome.zarr/labels/objects, kind: labels"):
        open_volume(folder)
    write_group(folder / "labels", format=format)  # whose list is lost
    with pytest.raises(InputError, match="holds no image"):
        open_volume(folder)
    levels = write_levels(folder / "labels" / "cells", format, voxels())
    write_image_group(folder / "labels" / "cells", name="cells", levels=levels, format=format)
    with pytest.raises(InputError, match="only labels: cells"):
        open_volume(folder)


def test_what_is_not_an_image_names_the_remedy(image: Path, tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"nothing does not exist. Check the path"):
        open_volume(tmp_path / "nothing")
    (tmp_path / "a.tif").write_bytes(b"II")
    with pytest.raises(
        InputError, match=r"is a file, not the folder of an OME-Zarr image. Import it: chunkflow import"
    ):
        open_volume(tmp_path / "a.tif")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"has neither zarr.json nor .zgroup. Import it: chunkflow import"):
        open_volume(tmp_path / "folder")
    zarr.create_array(tmp_path / "bare", shape=(4, 4, 4), dtype="uint8")
    with pytest.raises(InputError, match=r"is a zarr array without OME metadata.*chunkflow import"):
        open_volume(tmp_path / "bare")
    with pytest.raises(InputError, match=r"0 is one level of an image. Give the folder of the image: .*image.ome.zarr"):
        open_volume(image / "0")
    write_group(tmp_path / "empty")
    with pytest.raises(InputError, match=r"empty holds no image. Give the folder of an image"):
        open_volume(tmp_path / "empty")
    zarr.create_array(tmp_path / "empty" / "raw", shape=(4, 4, 4), dtype="uint8")
    with pytest.raises(
        InputError, match=r"only arrays without a voxel size: raw. Import one: .* --dataset raw --voxel"
    ):
        open_volume(tmp_path / "empty")
    (tmp_path / "empty" / "zarr.json").write_text("{")
    with pytest.raises(InputError, match=r"zarr.json is not valid JSON"):
        open_volume(tmp_path / "empty")


def test_channels_are_shown_with_name_colour_and_window(tmp_path: Path) -> None:
    models = pytest.importorskip("ome_zarr_models")
    for format in FORMATS:
        folder = tmp_path / format
        layout = layout_for_core((32, 32, 32), SHAPE, "uint16", ZARR_FORMAT[format])
        create_array(folder / "0", layout, FINE)
        write_image_group(
            folder, name="a", levels={"0": FINE}, format=format, channels=[Channel("mito", (3, 70), "FF0000")]
        )
        found = models.open_ome_zarr(zarr.open_group(folder, mode="r"))
        attributes = found.attributes if format == "0.4" else found.attributes.ome
        (channel,) = attributes.model_dump()["omero"]["channels"]
        assert (channel["color"], channel["window"]["start"], channel["window"]["end"]) == ("FF0000", 3, 70)
        assert open_volume(folder, channel="mito").shape == SHAPE
