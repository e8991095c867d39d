import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from chunkflow.errors import InputError, InputNotFoundError, OutputInUseError, UsageError
from chunkflow.storage import importing
from chunkflow.storage.importing import import_image
from chunkflow.storage.inventory import missing_chunks
from chunkflow.storage.omezarr import Format, open_volume
from chunkflow.storage.tiff import read_tiff
from chunkflow.storage.tiff_image import ome_image_names

DATA = Path(__file__).parents[2].parent / "shared" / "data"
STACK = (7, 30, 41)


def voxels(shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


def imagej(file: Path, data: np.ndarray, axes: str, y_um: float = 0.1, **metadata: Any) -> Path:
    options: dict[str, Any] = {"axes": axes, "spacing": 0.3, "unit": r"\u00B5m", **metadata}
    options = {key: value for key, value in options.items() if value is not None}
    tifffile.imwrite(file, data, imagej=True, resolution=(1 / 0.05, 1 / y_um), metadata=options)
    return file


def ome(file: Path, data: np.ndarray, axes: str, **metadata: Any) -> Path:
    sizes = {"PhysicalSizeZ": 0.3, "PhysicalSizeY": 100.0, "PhysicalSizeYUnit": "nm", "PhysicalSizeX": 0.05}
    tifffile.imwrite(file, data, ome=True, compression="zlib", metadata={"axes": axes, **sizes, **metadata})
    return file


@pytest.mark.parametrize("unit", [r"\u00B5m", "micron", "microns", "um"])
def test_an_imagej_stack_gives_its_voxels_and_size(tmp_path: Path, unit: str) -> None:
    data = voxels(STACK)
    image = read_tiff(imagej(tmp_path / "a.tif", data, "ZYX", unit=unit))
    assert (image.axes, image.shape, image.dtype) == ("zyx", STACK, np.uint16)
    assert image.voxel_um == pytest.approx((0.3, 0.1, 0.05))
    assert image.voxel_source == "ImageJ spacing and resolution"
    np.testing.assert_array_equal(image.array, data)


@pytest.mark.parametrize(("unit", "factor"), [("nm", 1e-3), ("mm", 1e3), ("cm", 1e4), ("inch", 25400.0)])
def test_imagej_units_are_converted(tmp_path: Path, unit: str, factor: float) -> None:
    data = voxels(STACK)
    file = tmp_path / "a.tif"
    tifffile.imwrite(
        file,
        data,
        imagej=True,
        resolution=(factor / 0.05, factor / 0.1),
        metadata={"axes": "ZYX", "spacing": 0.3 / factor, "unit": unit},
    )
    assert read_tiff(file).voxel_um == pytest.approx((0.3, 0.1, 0.05), rel=1e-4)


def test_a_resolution_unit_stands_in_for_a_missing_unit(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    tifffile.imwrite(
        file,
        voxels(STACK),
        imagej=True,
        resolution=(2e5, 1e5),
        resolutionunit=3,
        metadata={"axes": "ZYX", "spacing": 3e-5},
    )
    assert read_tiff(file).voxel_um == pytest.approx((0.3, 0.1, 0.05))


def test_an_ome_tiff_gives_its_voxels_size_and_channels(tmp_path: Path) -> None:
    data = voxels((2, 7, 3, 30, 41))
    image = read_tiff(ome(tmp_path / "a.ome.tif", data, "TZCYX", Channel={"Name": ["mito", "dna", "er"]}))
    assert (image.axes, image.shape) == ("tczyx", (2, 3, 7, 30, 41))
    assert image.voxel_um == pytest.approx((0.3, 0.1, 0.05))
    assert image.voxel_source == "OME-XML PhysicalSize"
    assert image.channels == ("mito", "dna", "er")
    np.testing.assert_array_equal(image.array, data.transpose(0, 2, 1, 3, 4))


OME_OF_TWO_FILES = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{z}"><Image ID="Image:0">
<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="41" SizeY="30" SizeZ="2" SizeC="1" SizeT="1">
<TiffData FirstZ="0" IFD="0" PlaneCount="1"><UUID FileName="0.ome.tif">urn:uuid:0</UUID></TiffData>
<TiffData FirstZ="1" IFD="0" PlaneCount="1"><UUID FileName="1.ome.tif">urn:uuid:1</UUID></TiffData>
</Pixels></Image></OME>"""


def test_planes_of_an_image_in_several_files_are_found_or_missed(tmp_path: Path) -> None:
    data = voxels((2, 30, 41))
    for z in range(2):
        described = OME_OF_TWO_FILES.format(z=z)
        tifffile.imwrite(tmp_path / f"{z}.ome.tif", data[z], description=described, metadata=None, compression="zlib")
    np.testing.assert_array_equal(read_tiff(tmp_path / "0.ome.tif").array, data)
    (tmp_path / "1.ome.tif").unlink()
    with pytest.raises(InputError):
        np.asarray(read_tiff(tmp_path / "0.ome.tif").array)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", ">u2", "bool"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_plain_stacks_of_every_type_are_read(tmp_path: Path, dtype: str, compression: str | None) -> None:
    data = voxels(STACK, dtype)
    tifffile.imwrite(tmp_path / "a.tif", data, compression=compression, byteorder=">" if ">" in dtype else None)
    image = read_tiff(tmp_path / "a.tif")
    assert image.axes == "zyx"
    assert image.dtype == (np.uint8 if dtype == "bool" else np.dtype(dtype).newbyteorder("="))
    np.testing.assert_array_equal(image.array, data)
    assert image.voxel_um is None


def test_pages_without_any_description_are_planes_along_z(tmp_path: Path) -> None:
    data = voxels(STACK)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in data:
            writer.write(plane, metadata=None, compression="zlib")
    np.testing.assert_array_equal(read_tiff(tmp_path / "a.tif").array, data)


def test_colours_become_channels(tmp_path: Path) -> None:
    for name, shape in (("plane", (30, 41, 3)), ("stack", (7, 30, 41, 3))):
        data = voxels(shape, "uint8")
        tifffile.imwrite(tmp_path / f"{name}.tif", data, photometric="rgb")
        image = read_tiff(tmp_path / f"{name}.tif")
        assert image.axes == "czyx"
        np.testing.assert_array_equal(image.array.reshape(3, -1), data.reshape(-1, 3).T)


def test_an_imagej_hyperstack_keeps_its_axes_apart(tmp_path: Path) -> None:
    data = voxels((2, 7, 3, 30, 41))
    image = read_tiff(imagej(tmp_path / "a.tif", data, "TZCYX"))
    assert image.axes == "tczyx"
    np.testing.assert_array_equal(image.array, data.transpose(0, 2, 1, 3, 4))
    part = np.empty((2, 30, 41), np.uint16)
    image.fill(part, z=3, c=2, t=1)
    np.testing.assert_array_equal(part, data[1, 3:5, 2])


def test_axes_given_win_over_the_file(tmp_path: Path) -> None:
    data = voxels((7, 3, 30, 41))
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack")
    with pytest.raises(
        InputError,
        match=r"shape 7x3x30x41, and QQYX does not name its axes. Name each: chunkflow import .* --axes CZYX,",
    ):
        read_tiff(tmp_path / "a.tif")
    image = read_tiff(tmp_path / "a.tif", axes="ZCYX")
    assert image.axes == "czyx"
    np.testing.assert_array_equal(image.array, data.transpose(1, 0, 2, 3))
    for wrong in ("ZYX", "ZZYX", "ZCYQ", "TZCYX", "TZCX"):
        with pytest.raises(InputError, match=f"{wrong} does not name its axes"):
            read_tiff(tmp_path / "a.tif", axes=wrong)


def test_the_slow_axis_may_be_x(tmp_path: Path) -> None:
    data = voxels(STACK)
    tifffile.imwrite(tmp_path / "a.tif", data)
    np.testing.assert_array_equal(read_tiff(tmp_path / "a.tif", axes="ZXY").array, data.transpose(0, 2, 1))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "the file states no voxel size in a unit of length"),
        ({"resolution": (72, 72), "resolutionunit": 2}, "states no voxel size"),
        (
            {"imagej": True, "resolution": (1, 1), "metadata": {"axes": "ZYX", "spacing": 1.0, "unit": "um"}},
            "1.0 everywhere",
        ),
        (
            {"imagej": True, "resolution": (10, 10), "metadata": {"axes": "ZYX", "spacing": 0.3, "unit": "pixel"}},
            r"in 'pixel' \(ImageJ spacing and resolution\), which is no unit of length",
        ),
        (
            {"imagej": True, "resolution": (10, 10), "metadata": {"axes": "ZYX", "spacing": 0.3, "unit": "furlong"}},
            "voxel size in 'furlong'",
        ),
        (
            {"imagej": True, "resolution": (9, 9), "metadata": {"axes": "ZYX", "unit": "um", "spacing": float("nan")}},
            r"a voxel size of \(nan, .* not three positive numbers.",
        ),
        (
            {"imagej": True, "resolution": (10, 10), "metadata": {"axes": "ZYX", "unit": "um"}},
            "0.1 um for x .* but no z spacing",
        ),
        (
            {"imagej": True, "resolution": (9, 9), "metadata": {"axes": "ZYX", "unit": "um", "spacing": -1.0}},
            "not three positive numbers",
        ),
        ({"ome": True, "metadata": {"axes": "ZYX"}}, "states no voxel size"),
        (
            {
                "ome": True,
                "metadata": {"axes": "ZYX", **dict.fromkeys(("PhysicalSizeX", "PhysicalSizeY", "PhysicalSizeZ"), 1.0)},
            },
            "1.0 every",
        ),
        (
            {
                "ome": True,
                "metadata": {
                    "axes": "ZYX",
                    **dict.fromkeys(("PhysicalSizeX", "PhysicalSizeY", "PhysicalSizeZ"), 0.1),
                    "PhysicalSizeZUnit": "furlong",
                },
            },
            "in 'furlong' .OME-XML PhysicalSize",
        ),
        (
            {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.2}},
            "0.2 um for y .* but no z spacing",
        ),
    ],
)
def test_a_file_that_does_not_know_its_voxel_size_stops_with_the_flag(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", voxels(STACK), **options)
    with pytest.raises(InputError, match=rf"a.tif: .*{reason}.* Add --voxel-um Z Y X, .* differ, set it in Fiji"):
        import_image(tmp_path / "a.tif", tmp_path / "out.zarr")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tif"]
    import_image(tmp_path / "a.tif", tmp_path / "out.zarr", voxel_um=(1, 1, 1))
    assert open_volume(tmp_path / "out.zarr").scale.voxel_um == (1.0, 1.0, 1.0)


def test_sizes_that_tifffile_writes_are_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", voxels(STACK), resolution=(20, 10), metadata={"spacing": 0.3, "unit": "um"})
    assert read_tiff(tmp_path / "a.tif").voxel_um == pytest.approx((0.3, 0.1, 0.05))


def test_a_single_plane_needs_no_spacing(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", voxels((30, 41)), resolution=(2e5, 1e5), resolutionunit=3)
    image = read_tiff(tmp_path / "a.tif")
    assert image.shape == (1, 30, 41)
    assert image.voxel_um == pytest.approx((1.0, 0.1, 0.05))
    assert image.voxel_source == "TIFF resolution tags; a single plane counts as 1 um thick"


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["imagej", "ome", "plain", "pages"])
def test_a_torn_file_is_never_read_as_a_shorter_one(tmp_path: Path, kind: str, kept: float) -> None:
    file, data = tmp_path / "a.tif", voxels(STACK)
    match kind:
        case "imagej":
            imagej(file, data, "ZYX")
        case "ome":
            ome(file, data, "ZYX")
        case "plain":
            tifffile.imwrite(file, data)
        case "pages":
            tifffile.imwrite(file, data, metadata=None, compression="zlib")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    handlers = list(logging.getLogger("tifffile").handlers)
    with pytest.raises(InputError, match=r"a.tif (cannot be read as a TIFF|is a damaged TIFF)"):
        import_image(file, tmp_path / "out.zarr", voxel_um=(1, 1, 1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tif"]
    assert logging.getLogger("tifffile").handlers == handlers


@pytest.mark.parametrize("content", [b"", b"II*\0", b"hello" * 100])
def test_what_is_not_a_tiff_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InputError, match=r"a.tif cannot be read as a TIFF \(.*\). Check the file"):
        read_tiff(tmp_path / "a.tif")
    with pytest.raises(InputNotFoundError, match=r"is not a file"):
        read_tiff(tmp_path / "b.tif")


def test_a_file_of_several_images_lists_them(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(voxels(STACK))
        writer.write(voxels((9, 9)))
    with pytest.raises(
        InputError, match=r"holds 2 images: 0 \(7x30x41\), 1 \(9x9\). Choose one: chunkflow import .* --image"
    ):
        read_tiff(tmp_path / "a.tif")
    assert read_tiff(tmp_path / "a.tif", image="1").shape == (1, 9, 9)
    assert ome_image_names(tmp_path / "a.tif") == [""]  # a thumbnail of somebody's, as likely as an image


def test_the_images_of_an_ome_tiff_are_chosen_by_name_or_number_with_their_own_voxel_size(tmp_path: Path) -> None:
    data = [voxels(STACK), voxels((5, 31, 40)), voxels(STACK) + 1]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        for k, (name, image) in enumerate(zip(("left", "right", "right"), data, strict=True)):
            size = {f"PhysicalSize{axis}": 0.1 * (k + 1) for axis in "ZYX"}
            units = {f"PhysicalSize{axis}Unit": "\u00b5m" for axis in "ZYX"}
            writer.write(image, metadata={"axes": "ZYX", "Name": name, **size, **units})
    path = tmp_path / "a.ome.tif"
    assert ome_image_names(path) == ["left", "right", "right"]
    for image, k in (("left", 0), ("0", 0), ("1", 1), ("2", 2)):
        found = read_tiff(path, image=image)
        assert np.array_equal(found.array, data[k])
        assert found.voxel_um == pytest.approx((0.1 * (k + 1),) * 3)
    with pytest.raises(InputError, match=r"1 right \(5x31x40\), 2 right .* no one image 'right'"):
        read_tiff(path, image="right")
    with pytest.raises(InputError, match="no one image '3'"):
        read_tiff(path, image="3")


def test_waves_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones(STACK, np.complex64))
    with pytest.raises(InputError, match=r"holds values of type complex64"):
        read_tiff(tmp_path / "a.tif")


@pytest.mark.parametrize("format", ["0.5", "0.4"])
def test_an_import_writes_every_voxel_chunk_channel_and_time(tmp_path: Path, format: Format) -> None:
    data = voxels((2, 130, 2, 30, 141))
    data[:, :, 0] = 0  # an empty channel is written too
    file = ome(tmp_path / "a.ome.tif", data, "TZCYX", Channel={"Name": ["mito", ""]})
    seen: list[tuple[int, int]] = []
    report = import_image(
        file, tmp_path / "out.ome.zarr", format=format, on_plane=lambda done, planes: seen.append((done, planes))
    )
    assert (report.axes, report.shape, report.dtype) == ("tczyx", (2, 2, 130, 30, 141), "uint16")
    assert (report.channels, report.voxel_source, report.files) == (("mito", "channel_1"), "OME-XML PhysicalSize", 1)
    assert seen[-1] == (520, 520)
    for t, c in np.ndindex(2, 2):
        volume = open_volume(report.destination, time=t, channel=c)
        np.testing.assert_array_equal(volume[...], data[t, :, c])
        assert missing_chunks(volume) == 0
        assert volume.scale.voxel_um == pytest.approx((0.3, 0.1, 0.05))
        assert volume.layout.chunk == (64, 32, 64)
        assert volume.layout.shard == ((128, 32, 128) if format == "0.5" else None)
    assert open_volume(report.destination, time=0, channel="mito").at == (0, 0)
    models = pytest.importorskip("ome_zarr_models")
    assert type(models.open_ome_zarr(zarr.open_group(report.destination, mode="r"))).__name__ == "Image"


def test_a_slab_that_is_too_large_for_memory_lies_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "_LARGEST_SLAB", 1000)
    data = voxels(STACK)
    import_image(imagej(tmp_path / "a.tif", data, "ZYX"), tmp_path / "out.zarr")
    np.testing.assert_array_equal(open_volume(tmp_path / "out.zarr")[...], data)
    assert sorted(entry.name for entry in (tmp_path / "out.zarr").iterdir()) == ["0", "zarr.json"]


def test_two_imports_of_one_file_are_the_same_bytes(tmp_path: Path) -> None:
    file = imagej(tmp_path / "a.tif", voxels(STACK), "ZYX")
    trees = []
    for parent in ("one", "two"):
        folder = import_image(file, tmp_path / parent / "out.zarr").destination
        files = sorted(entry for entry in folder.rglob("*") if entry.is_file())
        trees.append([(entry.relative_to(folder), entry.read_bytes()) for entry in files])
    assert trees[0] == trees[1]


def test_single_planes_are_stacked_in_natural_order(tmp_path: Path) -> None:
    data = voxels((12, 30, 41))
    folder = tmp_path / "planes"
    folder.mkdir()
    for z, plane in enumerate(data):
        tifffile.imwrite(folder / f"plane_{z}.tif", plane)
    (folder / "notes.txt").write_text("not a plane")
    report = import_image(folder, tmp_path / "out.zarr", voxel_um=(0.3, 0.1, 0.1))
    assert report.files == 12
    np.testing.assert_array_equal(open_volume(report.destination)[...], data)
    files = [folder / f"plane_{z}.tif" for z in (2, 10, 1)]
    import_image(files, tmp_path / "three.zarr", voxel_um=(0.3, 0.1, 0.1), axes="ZYX")
    np.testing.assert_array_equal(open_volume(tmp_path / "three.zarr")[...], data[[1, 2, 10]])
    with pytest.raises(InputError, match=r"single planes state no z spacing. Add --voxel-um"):
        import_image(folder, tmp_path / "other.zarr")


def test_files_that_are_no_stack_are_refused(tmp_path: Path) -> None:
    stack, plane, wide = (tmp_path / f"{name}.tif" for name in ("stack", "plane", "wide"))
    tifffile.imwrite(stack, voxels(STACK))
    tifffile.imwrite(plane, voxels((30, 41)))
    tifffile.imwrite(wide, voxels((30, 42)))
    with pytest.raises(InputError, match=r"stack.tif holds 7 planes, and 2 files were given"):
        import_image([plane, stack], tmp_path / "out.zarr", voxel_um=(1, 1, 1))
    with pytest.raises(
        InputError, match=r"wide.tif has shape \(1, 30, 42\) .* Import the files of one stack at a time"
    ):
        import_image([plane, wide], tmp_path / "out.zarr", voxel_um=(1, 1, 1))
    with pytest.raises(UsageError, match=r"no file to import"):
        import_image([], tmp_path / "out.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"is a folder without .tif or .tiff files"):
        import_image(tmp_path / "empty", tmp_path / "out.zarr")
    with pytest.raises(InputNotFoundError, match=r"gone.tif does not exist"):
        import_image(tmp_path / "gone.tif", tmp_path / "out.zarr")


def test_a_bare_zarr_array_is_imported(tmp_path: Path) -> None:
    data = voxels((7, 2, 30, 41), ">u2")
    zarr.create_array(tmp_path / "bare", data=data)
    with pytest.raises(InputError, match=r"states no voxel size. Add --voxel-um"):
        import_image(tmp_path / "bare", tmp_path / "out.zarr", axes="ZCYX")
    with pytest.raises(InputError, match=r"has 4 axes and none are named. Name each: chunkflow import .* --axes CZYX"):
        import_image(tmp_path / "bare", tmp_path / "out.zarr", voxel_um=(1, 1, 1))
    import_image(tmp_path / "bare", tmp_path / "out.zarr", axes="ZCYX", voxel_um=(0.3, 0.1, 0.1), channels=["a", "b"])
    np.testing.assert_array_equal(open_volume(tmp_path / "out.zarr", channel="b")[...], data[:, 1])
    again = import_image(tmp_path / "out.zarr", tmp_path / "again.zarr")  # an OME-Zarr image keeps what it says
    assert again.channels == ("a", "b") and again.voxel_um == pytest.approx((0.3, 0.1, 0.1))


def test_channel_names_must_fit(tmp_path: Path) -> None:
    file = imagej(tmp_path / "a.tif", voxels(STACK), "ZYX")
    with pytest.raises(UsageError, match=r"2 channel names for the 1 channels"):
        import_image(file, tmp_path / "out.zarr", channels=["a", "b"])


@pytest.mark.parametrize("voxel_um", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0)])
def test_an_impossible_voxel_size_is_refused(tmp_path: Path, voxel_um: tuple[float, ...]) -> None:
    file = imagej(tmp_path / "a.tif", voxels(STACK), "ZYX")
    with pytest.raises(InputError, match=r"voxel size"):
        import_image(file, tmp_path / "out.zarr", voxel_um=voxel_um)
    assert not (tmp_path / "out.zarr").exists()


def test_a_full_destination_is_kept_unless_it_is_an_image_to_overwrite(tmp_path: Path) -> None:
    file, out = imagej(tmp_path / "a.tif", voxels(STACK), "ZYX"), tmp_path / "out.zarr"
    out.mkdir()
    import_image(file, out)
    with pytest.raises(UsageError, match=r"exists and is not empty. Choose another destination, or add --overwrite"):
        import_image(file, out)
    import_image(imagej(tmp_path / "b.tif", voxels(STACK) + 1, "ZYX"), out, overwrite=True)
    np.testing.assert_array_equal(open_volume(out)[...], voxels(STACK) + 1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tif", "b.tif", "out.zarr"]
    with pytest.raises(UsageError, match=r"holds something that is not a zarr image"):
        import_image(file, tmp_path, overwrite=True)
    assert file.exists()


def test_two_imports_to_one_destination_do_not_meet(tmp_path: Path) -> None:
    file, out = imagej(tmp_path / "a.tif", voxels(STACK), "ZYX"), tmp_path / "out.zarr"

    def import_again(done: int, planes: int) -> None:
        with pytest.raises(OutputInUseError, match=r"is being written by another import"):
            import_image(file, out)

    import_image(file, out, on_plane=import_again)
    np.testing.assert_array_equal(open_volume(out)[...], voxels(STACK))


KILLED = """
import sys
from pathlib import Path
from chunkflow.storage.importing import import_image

def pause(done, planes):
    Path(sys.argv[3]).touch()
    input()

import_image(sys.argv[1], sys.argv[2], voxel_um=(1, 1, 1), on_plane=pause)
"""


@pytest.mark.thorough
def test_a_killed_import_leaves_nothing_half_and_can_be_repeated(tmp_path: Path) -> None:
    file, out, ready = tmp_path / "a.tif", tmp_path / "out.zarr", tmp_path / "ready"
    tifffile.imwrite(file, voxels(STACK))
    command = [sys.executable, "-c", KILLED, str(file), str(out), str(ready)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        while not ready.exists() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert ready.exists()
    assert not out.exists()
    import_image(file, out, voxel_um=(1, 1, 1))
    np.testing.assert_array_equal(open_volume(out)[...], voxels(STACK))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tif", "out.zarr", "ready"]


def test_a_constant_image_has_a_window_that_viewers_accept(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full(STACK, np.nan, np.float32))
    import_image(tmp_path / "a.tif", tmp_path / "out.zarr", voxel_um=(1, 1, 1))
    (channel,) = zarr.open_group(tmp_path / "out.zarr").attrs["ome"]["omero"]["channels"]
    assert channel["window"] == {"min": 0, "max": 1, "start": 0, "end": 1}


def test_a_real_volume_comes_in_voxel_for_voxel(tmp_path: Path) -> None:
    file = DATA / "yeast_mito_01.tif"
    if not file.exists():
        pytest.skip(f"{file} is missing")
    report = import_image(file, tmp_path / "yeast.ome.zarr", voxel_um=(0.2, 0.056, 0.056))
    np.testing.assert_array_equal(open_volume(report.destination)[...], tifffile.imread(file))


def test_axes_that_planes_do_not_have_are_named_with_an_example(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", voxels(STACK), photometric="minisblack")
    with pytest.raises(InputError, match=r"stores planes that XYZ does not fit.* --axes ZYX, .*slowest first"):
        read_tiff(tmp_path / "a.tif", axes="XYZ")
