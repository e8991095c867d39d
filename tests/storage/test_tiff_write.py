"""TIFFs that we write, read by tifffile, by our own reader, and by the rules of ImageJ."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from chunkflow.errors import UsageError
from chunkflow.geometry.scale import Scale
from chunkflow.storage import tiff_write
from chunkflow.storage.omezarr import Channel
from chunkflow.storage.tiff_image import read_tiff
from chunkflow.storage.tiff_write import stored_type, tiff_kind, write_tiff_planes

SCALE = Scale((0.3, 0.11, 0.1), (1.5, -2.2, 0.25))
CHANNELS = (Channel("mito", (3.0, 99.0), "FF00FF"), Channel("dna", (1.0, 55.0), "00FF80"))


def write(path: Path, dtype: str, channels: int = 2) -> np.ndarray:
    """Planes of (z, c, y, x)."""
    data = (np.random.default_rng(0).random((5, channels, 12, 17)) * 200).astype(dtype)
    write_tiff_planes(
        path,
        (plane for planes in data for plane in planes),
        shape=(5, 12, 17),
        dtype=data.dtype,
        scale=SCALE,
        channels=CHANNELS[:channels],
    )
    return data


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int16", "uint32", "float64"])
def test_voxels_size_origin_names_and_colours_come_back(tmp_path: Path, dtype: str, channels: int) -> None:
    data = write(tmp_path / "a.tif", dtype, channels)
    image = read_tiff(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array, data[:, 0] if channels == 1 else data.transpose(1, 0, 2, 3))
    assert image.dtype == dtype
    assert image.voxel_um == pytest.approx(SCALE.voxel_um, rel=1e-6)
    assert image.translation_um == pytest.approx(SCALE.translation_um)
    assert [(style.name, style.color) for style in image.styles] == [("mito", "FF00FF"), ("dna", "00FF80")][:channels]
    if dtype in ("uint8", "uint16", "float32"):  # OME-XML has no word for contrast
        assert [style.window for style in image.styles] == [(3.0, 99.0), (1.0, 55.0)][:channels]


def test_imagej_reads_it_as_a_calibrated_composite(tmp_path: Path) -> None:
    """By the rules of ij.io.TiffDecoder and ij.plugin.frame: description, resolution tags, then its own tags."""
    data = write(tmp_path / "a.tif", "uint16")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages.first
        described = dict(line.split("=", 1) for line in page.description.splitlines() if "=" in line)
        assert re.match(r"1\.\d+", described["ImageJ"])
        assert (described["images"], described["channels"], described["slices"]) == ("10", "2", "5")
        assert described["mode"] == "composite" and described["hyperstack"] == "true"
        assert described["unit"] == "micron" and float(described["spacing"]) == 0.3
        count, per = page.tags["XResolution"].value
        assert per / count == pytest.approx(0.1, rel=1e-6)
        assert -float(described["zorigin"]) * 0.3 == pytest.approx(1.5)
        assert page.tags["ResolutionUnit"].value == 1  # none: the unit is the description's
        metadata = file.imagej_metadata or {}
        assert tuple(metadata["Ranges"]) == (3.0, 99.0, 1.0, 55.0)
        assert metadata["Labels"] == ["mito", "dna"] * 5
        np.testing.assert_array_equal(metadata["LUTs"][0][:, -1], [255, 0, 255])
        assert not file.is_bigtiff and page.dataoffsets[0] > 0
    # ImageJ reads the planes one behind the other from the first one's offset
    raw = np.fromfile(
        tmp_path / "a.tif", page.dtype.newbyteorder(file.byteorder), data.size, offset=page.dataoffsets[0]
    )
    np.testing.assert_array_equal(raw.reshape(data.shape), data)


def test_what_imagej_cannot_hold_is_an_ome_tiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiff_kind(np.dtype(np.uint32), (5, 12, 17)) == "ome"
    assert tiff_kind(np.dtype(np.uint16), (2000, 1, 1024, 1024)) == "imagej"
    assert tiff_kind(np.dtype(np.uint16), (2100, 1, 1024, 1024)) == "ome"
    monkeypatch.setattr(tiff_write, "IMAGEJ_BYTES", 1000)
    data = write(tmp_path / "a.tif", "uint16")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff and file.is_ome and file.series[0].axes == "ZCYX"
        np.testing.assert_array_equal(file.asarray(), data)
        assert file.pages.first.tags["ResolutionUnit"].value == 3


def test_ome_xml_is_valid_and_says_where_each_plane_lies(tmp_path: Path) -> None:
    import ome_types

    write(tmp_path / "a.tif", "int16")
    (image,) = ome_types.from_tiff(tmp_path / "a.tif").images
    pixels = image.pixels
    assert (pixels.physical_size_z, pixels.physical_size_y, pixels.physical_size_x) == (0.3, 0.11, 0.1)
    assert {size.value for size in (pixels.physical_size_z_unit, pixels.physical_size_x_unit)} == {"\u00b5m"}
    assert [channel.name for channel in pixels.channels] == ["mito", "dna"]
    assert pixels.channels[1].color.as_rgb_tuple()[:3] == (0, 255, 128)
    assert [plane.position_z for plane in pixels.planes] == pytest.approx([1.5 + 0.3 * (k // 2) for k in range(10)])


@pytest.mark.parametrize(
    ("dtypes", "largest", "expected"),
    [
        (["uint16"], None, "uint16"),
        (["float16"], None, "float32"),
        (["uint32"], 255, "uint8"),
        (["uint32"], 256, "uint16"),
        (["uint64"], 70_000, "uint32"),
        (["uint8", "uint16", "uint32"], 300, "uint16"),
        (["uint16", "float32", "uint32"], 65_535, "float32"),
        (["uint16", "float32", "uint32"], 2**24, "float32"),
        (["float32", "uint32"], 2**24 + 1, "float64"),
        (["int16"], None, "int16"),
        (["int16", "uint32"], 7, "int16"),
        (["uint16", "uint16"], None, "uint16"),
        (["int16", "uint16"], None, "float32"),
    ],
)
def test_one_type_holds_all_channels_without_loss(dtypes: list[str], largest: int | None, expected: str) -> None:
    assert stored_type([np.dtype(name) for name in dtypes], largest) == np.dtype(expected)


def test_a_type_that_no_reader_knows_is_refused() -> None:
    with pytest.raises(UsageError, match="no TIFF reader knows voxels of uint64"):
        stored_type([np.dtype(np.uint64)])
    with pytest.raises(UsageError, match="no TIFF reader knows voxels of uint64"):
        stored_type([np.dtype(np.uint64)], 2**32)
