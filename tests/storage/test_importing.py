"""Images of every format become OME-Zarr with their voxels, size, origin, names and colours; or a remedy is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from chunkflow.errors import InputError, InputNotFoundError, UsageError
from chunkflow.geometry.scale import Scale
from chunkflow.storage import bioio_source
from chunkflow.storage.importing import import_image, open_source
from chunkflow.storage.omezarr import Channel, open_volume, shown_channels
from chunkflow.storage.tiff_write import write_tiff_planes

SHAPE = (7, 30, 41)


def voxels(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return (np.random.default_rng(sum(shape)).random(shape) * 250).astype(dtype)


def test_a_tiff_keeps_origin_names_colours_and_contrast(tmp_path: Path) -> None:
    data = voxels(5, 2, 12, 17)
    scale = Scale((0.3, 0.11, 0.1), (1.5, -2.2, 0.25))
    channels = [Channel("mito", (3.0, 99.0), "FF00FF"), Channel("dna", (1.0, 55.0), "00FF80")]
    planes = (plane for at_z in data for plane in at_z)
    write_tiff_planes(tmp_path / "a.tif", planes, shape=(5, 12, 17), dtype=data.dtype, scale=scale, channels=channels)
    report = import_image(tmp_path / "a.tif", tmp_path / "a.ome.zarr")
    assert report.translation_um == pytest.approx(scale.translation_um)
    volume = open_volume(tmp_path / "a.ome.zarr", channel="dna")
    np.testing.assert_array_equal(volume[...], data[:, 1])
    assert volume.scale.voxel_um == pytest.approx(scale.voxel_um, rel=1e-6)
    assert volume.scale.translation_um == pytest.approx(scale.translation_um)
    shown = shown_channels(tmp_path / "a.ome.zarr")
    assert [(known.name, known.color, known.window) for known in shown] == [
        ("mito", "FF00FF", (3.0, 99.0)),
        ("dna", "00FF80", (1.0, 55.0)),
    ]
    assert shown[0].limits == (float(data[:, 0].min()), float(data[:, 0].max()))


def test_a_pattern_is_the_planes_that_fit_it(tmp_path: Path) -> None:
    data = voxels(*SHAPE)
    for z, plane in enumerate(data):
        tifffile.imwrite(tmp_path / f"z{z}.tif", plane)
        tifffile.imwrite(tmp_path / f"other{z}.tif", plane + 1)
    report = import_image(str(tmp_path / "z*.tif"), tmp_path / "a.ome.zarr", voxel_um=(1, 0.5, 0.5))
    assert report.files == 7
    np.testing.assert_array_equal(open_volume(tmp_path / "a.ome.zarr")[...], data)
    with pytest.raises(InputNotFoundError, match="no file fits"):
        open_source(str(tmp_path / "y*.tif"))


def test_an_option_that_says_nothing_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", voxels(*SHAPE))
    (tmp_path / "a.nd2").write_bytes(b"x")
    with pytest.raises(InputError, match=r"holds one image, and none that is called 'raw'. Leave --image out"):
        open_source(tmp_path / "a.tif", dataset="raw")
    with pytest.raises(UsageError, match=r"a folder of planes, which has no dataset 'raw'. Leave --dataset out"):
        open_source(tmp_path, dataset="raw")
    with pytest.raises(UsageError, match="Leave --axes out"):
        open_source(tmp_path / "a.nd2", axes="ZYX")


class TestHdf5:
    def written(self, path: Path, data: np.ndarray, name: str = "raw", **attributes: Any) -> Path:
        h5py = pytest.importorskip("h5py", reason="h5py is not installed")
        with h5py.File(path, "a") as file:
            made = file.create_dataset(name, data=data, chunks=True, compression="gzip")
            for key, value in attributes.items():
                made.attrs[key] = value
        return path

    def test_the_one_dataset_and_its_size_are_found(self, tmp_path: Path) -> None:
        data = voxels(*SHAPE)
        file = self.written(tmp_path / "a.h5", data, "volumes/raw", element_size_um=[0.3, 0.1, 0.09])
        report = import_image(file, tmp_path / "a.ome.zarr")
        assert report.voxel_source == "element_size_um" and report.dtype == "uint16"
        volume = open_volume(tmp_path / "a.ome.zarr")
        np.testing.assert_array_equal(volume[...], data)
        assert volume.scale.voxel_um == pytest.approx((0.3, 0.1, 0.09))

    def test_axes_of_ilastik_are_read(self, tmp_path: Path) -> None:
        data = voxels(1, *SHAPE, 2)
        tags = json.dumps({"axes": [{"key": key, "typeFlags": 2} for key in "tzyxc"]})
        file = self.written(tmp_path / "a.h5", data, "exported_data", axistags=tags, element_size_um=[0.3, 0.1, 0.1])
        assert import_image(file, tmp_path / "a.ome.zarr").axes == "tczyx"
        np.testing.assert_array_equal(open_volume(tmp_path / "a.ome.zarr", channel=1)[...], data[0, ..., 1])

    @pytest.mark.parametrize("given", ["{file}:/second", "{file}:second", "{file}/second"])
    def test_a_dataset_is_named_in_the_path(self, tmp_path: Path, given: str) -> None:
        file = self.written(tmp_path / "a.h5", voxels(*SHAPE), "first")
        self.written(file, voxels(*SHAPE) + 1, "second")
        with pytest.raises(InputError, match=r"2 images: first, second. Name one: chunkflow import .*a.h5:/first DEST"):
            open_source(file)
        import_image(given.format(file=file), tmp_path / "a.ome.zarr", voxel_um=(1, 0.5, 0.5))
        np.testing.assert_array_equal(open_volume(tmp_path / "a.ome.zarr")[...], voxels(*SHAPE) + 1)

    def test_what_cannot_be_is_refused_with_a_remedy(self, tmp_path: Path) -> None:
        file = self.written(tmp_path / "a.h5", voxels(*SHAPE))
        told = r"no attribute element_size_um.*Add --voxel-um Z Y X, .* write the attribute element_size_um"
        with pytest.raises(InputError, match=told):
            import_image(file, tmp_path / "b.zarr")
        sizes = [np.nan, 0.1, 0.1]
        with pytest.raises(InputError, match=r"c.h5:/raw: element_size_um is \[nan, 0.1, 0.1\], not a positive size"):
            import_image(self.written(tmp_path / "c.h5", voxels(*SHAPE), element_size_um=sizes), tmp_path / "b.zarr")
        with pytest.raises(InputError, match=r"has no image 'raws'. It holds raw"):
            open_source(file, dataset="raws")
        with pytest.raises(InputError, match="does not name its axes"):
            open_source(file, axes="CZYX")
        with pytest.raises(InputError, match="1.0 everywhere"):
            import_image(
                self.written(tmp_path / "b.h5", voxels(*SHAPE), element_size_um=[1.0] * 3), tmp_path / "b.zarr"
            )
        (tmp_path / "text.h5").write_text("hello")
        with pytest.raises(InputError, match="cannot be read as HDF5"):
            open_source(tmp_path / "text.h5")
        assert not (tmp_path / "b.zarr").exists()

    def test_without_h5py_the_extra_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = self.written(tmp_path / "a.h5", voxels(*SHAPE))
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(UsageError, match=r"pip install 'chunkflow-engine\[hdf5\]'"):
            open_source(file)


class TestN5:
    def written(self, folder: Path, data: np.ndarray, **attributes: Any) -> Path:
        """`data` (z, y, x), which N5 calls x, y, z."""
        tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is not installed")
        spec = {
            "driver": "n5",
            "kvstore": {"driver": "file", "path": f"{folder}/"},
            "metadata": {
                "compression": {"type": "gzip"},
                "dataType": data.dtype.name,
                "dimensions": list(data.T.shape),
                "blockSize": [16] * data.ndim,
            },
        }
        tensorstore.open(spec, create=True).result().write(data.T).result()
        metadata = json.loads((folder / "attributes.json").read_text())
        (folder / "attributes.json").write_text(json.dumps(metadata | attributes))
        return folder

    @pytest.mark.parametrize(
        "attributes",
        [
            {"pixelResolution": {"unit": "nm", "dimensions": [90, 100, 300]}},
            {"pixelResolution": {"unit": "um", "dimensions": [0.045, 0.05, 0.3]}, "downsamplingFactors": [2, 2, 1]},
            {"resolution": [0.09, 0.1, 0.3], "units": ["um", "um", "um"]},
            {
                "transform": {
                    "axes": ["z", "y", "x"],
                    "scale": [300, 100, 90],
                    "translate": [0, 0, 0],
                    "units": ["nm"] * 3,
                }
            },
        ],
    )
    def test_the_finest_level_and_its_size_are_found(self, tmp_path: Path, attributes: dict[str, Any]) -> None:
        data = voxels(*SHAPE)
        self.written(tmp_path / "a.n5" / "setup0" / "s0", data, **attributes)
        self.written(tmp_path / "a.n5" / "setup0" / "s1", data[::2, ::2, ::2])
        import_image(tmp_path / "a.n5", tmp_path / "a.ome.zarr")
        volume = open_volume(tmp_path / "a.ome.zarr")
        np.testing.assert_array_equal(volume[...], data)
        assert volume.scale.voxel_um == pytest.approx((0.3, 0.1, 0.09))

    def test_an_origin_and_the_axes_of_fiji_are_kept(self, tmp_path: Path) -> None:
        transform = {"axes": ["z", "y", "x"], "scale": [8, 4, 4], "translate": [80, 0, -40], "units": ["nm"] * 3}
        self.written(tmp_path / "a.n5", voxels(*SHAPE), transform=transform)
        source, _ = open_source(tmp_path / "a.n5")
        assert source.translation_um == pytest.approx((0.08, 0, -0.04))
        data = voxels(*SHAPE[:1], 2, *SHAPE[1:])
        self.written(tmp_path / "b.n5", data, axes=["x", "y", "c", "z"])
        source, _ = open_source(tmp_path / "b.n5")
        out = np.empty(SHAPE, np.uint16)
        source.fill(out, c=1)
        np.testing.assert_array_equal(out, data[:, 1])

    @pytest.mark.parametrize(
        ("resolution", "told"),
        [
            ({"unit": "furlong", "dimensions": [1, 2, 3]}, r"in 'furlong' \(pixelResolution\), which is no unit of"),
            ({"unit": "um", "dimensions": [0.1, -0.1, -0.3]}, "-0.3, -0.1, 0.1 um .* which cannot be meant"),
            ({"unit": "um", "dimensions": [0.1, 0.1, float("nan")]}, "is not valid JSON .NaN is no number"),
        ],
    )
    def test_sizes_that_cannot_be_are_told_as_they_stand(
        self, tmp_path: Path, resolution: dict[str, Any], told: str
    ) -> None:
        self.written(tmp_path / "a.n5", voxels(*SHAPE), pixelResolution=resolution)
        with pytest.raises(InputError, match=told):
            import_image(tmp_path / "a.n5", tmp_path / "b.zarr")

    def test_several_datasets_are_listed_and_one_is_named(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            self.written(tmp_path / "c.n5" / name, voxels(*SHAPE))
        with pytest.raises(InputError, match=r"2 N5 datasets: a, b. Name one: chunkflow import .*c.n5:/a DESTINATION"):
            open_source(tmp_path / "c.n5")
        with pytest.raises(
            InputError, match=r"no voxel size in a unit.*differ, write pixelResolution to its attributes"
        ):
            import_image(f"{tmp_path / 'c.n5'}:/b", tmp_path / "b.zarr")
        source, _ = open_source(f"{tmp_path / 'c.n5'}:/b")
        assert source.voxel_um is None and source.shape == SHAPE
        with pytest.raises(InputError, match="lies outside"):
            open_source(tmp_path / "c.n5", dataset="../d.n5")


def test_a_plain_array_of_a_group_is_named(tmp_path: Path) -> None:
    for version in (2, 3):
        group = zarr.open_group(tmp_path / str(version), mode="w", zarr_format=version)
        group.create_array("raw", data=voxels(*SHAPE, dtype="uint8"), chunks=(4, 16, 16))
        import_image(tmp_path / str(version), tmp_path / f"{version}.ome.zarr", dataset="raw", voxel_um=(2, 1, 1))
        np.testing.assert_array_equal(open_volume(tmp_path / f"{version}.ome.zarr")[...], voxels(*SHAPE, dtype="uint8"))


def test_ome_zarr_of_another_version_keeps_what_it_says(tmp_path: Path) -> None:
    data = voxels(2, *SHAPE)
    tiff = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        tiff, data, ome=True,
        metadata={"axes": "CZYX", "PhysicalSizeZ": 0.3, "PhysicalSizeY": 0.1, "PhysicalSizeX": 0.1,
                  "Channel": {"Name": ["mito", "dna"], "Color": [-16776961, 16711935]}},
    )  # fmt: skip
    import_image(tiff, tmp_path / "four", format="0.4")
    import_image(tmp_path / "four", tmp_path / "five")
    for name in ("four", "five"):
        assert [(known.name, known.color) for known in shown_channels(tmp_path / name)] == [
            ("mito", "FF0000"),
            ("dna", "00FF00"),
        ]
        volume = open_volume(tmp_path / name, channel="dna")
        np.testing.assert_array_equal(volume[...], data[1])
        assert volume.scale.voxel_um == pytest.approx((0.3, 0.1, 0.1))
    assert (tmp_path / "five" / "zarr.json").is_file()


@pytest.mark.parametrize(("version", "axes"), [("0.1", None), ("0.3", ["t", "c", "z", "y", "x"])])
def test_old_ome_zarr_needs_its_voxel_size(tmp_path: Path, version: str, axes: list[str] | None) -> None:
    data = voxels(1, 2, *SHAPE)
    group = zarr.open_group(tmp_path / "old", mode="w", zarr_format=2)
    group.create_array("0", data=data, chunks=(1, 1, 4, 16, 16))
    entry: dict[str, Any] = {"version": version, "datasets": [{"path": "0"}]}
    group.attrs["multiscales"] = [entry | ({} if axes is None else {"axes": axes})]
    with pytest.raises(InputError, match=rf"OME-Zarr {version} states no voxel size in a unit. Add --voxel-um"):
        import_image(tmp_path / "old", tmp_path / "new")
    import_image(tmp_path / "old", tmp_path / "new", voxel_um=(0.3, 0.1, 0.1))
    np.testing.assert_array_equal(open_volume(tmp_path / "new", channel=1)[...], data[0, 1])


class FakeImage:
    """What bioio gives for a file: the few names of its BioImage that are used."""

    scenes = ("first", "second")

    def __init__(self, path: Path) -> None:
        if path.stat().st_size == 0:
            raise type("UnsupportedFileFormatError", (Exception,), {})("no reader")
        self.set_scene(0)
        self.channel_names = ["mito", "dna"]
        self.physical_pixel_sizes = SimpleNamespace(Z=0.3, Y=0.1, X=0.1)
        self.dims = SimpleNamespace(order="TCZYX")

    def set_scene(self, number: int) -> None:
        import dask.array

        self.data = voxels(1, 2, *SHAPE) + number
        self.dask_data = dask.array.from_array(self.data, chunks=(1, 1, 2, 30, 41))
        self.shape, self.dtype = self.data.shape, self.data.dtype


class TestBioio:
    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        library = ModuleType("bioio")
        library.BioImage = FakeImage  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "bioio", library)
        (tmp_path / "a.nd2").write_bytes(b"x")
        return tmp_path / "a.nd2"

    def test_a_scene_is_read_with_its_size_and_names(self, file: Path, tmp_path: Path) -> None:
        report = import_image(file, tmp_path / "a.ome.zarr", dataset="second")
        assert report.channels == ("mito", "dna") and report.voxel_source == "metadata of the microscope"
        volume = open_volume(tmp_path / "a.ome.zarr", channel="dna")
        np.testing.assert_array_equal(volume[...], voxels(1, 2, *SHAPE)[0, 1] + 1)
        assert volume.scale.voxel_um == (0.3, 0.1, 0.1)

    def test_scenes_are_listed_and_one_that_is_not_there_is_refused(self, file: Path) -> None:
        with pytest.raises(
            InputError,
            match=r"holds 2 scenes: first, second. Choose one: chunkflow import SOURCE DESTINATION --dataset NAME",
        ):
            open_source(file)
        with pytest.raises(InputError, match=r"has no one scene '7'. It holds first, second"):
            open_source(file, dataset="7")
        assert open_source(file, dataset="1")[0].shape == (2, *SHAPE)

    def test_a_size_that_is_not_stated_is_asked_for(
        self, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FakeImage, "scenes", ("only",))
        original = FakeImage.__init__

        def without_z(self: FakeImage, path: Path) -> None:
            original(self, path)
            self.physical_pixel_sizes = SimpleNamespace(Z=None, Y=0.1, X=0.1)

        monkeypatch.setattr(FakeImage, "__init__", without_z)
        with pytest.raises(InputError, match=r"gives z None, y 0.1, x 0.1 um.*Add --voxel-um"):
            import_image(file, tmp_path / "a.ome.zarr")

    def test_a_reader_that_is_missing_is_named(
        self, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "b.czi").write_bytes(b"")
        with pytest.raises(UsageError, match=r"no reader that is installed can read .*pip install bioio bioio-czi"):
            open_source(tmp_path / "b.czi")
        monkeypatch.setitem(sys.modules, "bioio", None)
        with pytest.raises(UsageError, match=r"needs bioio and bioio-nd2.*pip install bioio bioio-nd2"):
            open_source(file)
        assert set(bioio_source.READERS) == {".czi", ".lif", ".nd2"}


def test_a_czi_file_is_read_through_its_reader(tmp_path: Path) -> None:
    pytest.importorskip("bioio_czi", reason="bioio-czi is not installed")
    czi = pytest.importorskip("pylibCZIrw.czi", reason="pylibCZIrw, which writes CZI, is not installed")
    data = voxels(2, 4, 40, 52)
    with czi.create_czi(str(tmp_path / "a.czi")) as file:
        for c, stack in enumerate(data):
            for z, plane in enumerate(stack):
                file.write(data=plane[..., None], plane={"C": c, "Z": z, "T": 0})
        file.write_metadata(
            document_name="a", channel_names={0: "mito", 1: "dna"}, scale_x=1e-7, scale_y=1e-7, scale_z=3e-7
        )
    report = import_image(tmp_path / "a.czi", tmp_path / "a.ome.zarr")
    assert report.channels == ("mito", "dna") and report.voxel_um == pytest.approx((0.3, 0.1, 0.1))
    np.testing.assert_array_equal(open_volume(tmp_path / "a.ome.zarr", channel="dna")[...], data[1])
