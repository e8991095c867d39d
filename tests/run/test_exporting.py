"""From a result to files of other programs: what they hold is what the result holds, in the units it has."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage
from typer.testing import CliRunner, Result

import chunkflow as cf
from chunkflow import cli
from chunkflow.errors import InputError, InputNotFoundError, UsageError
from chunkflow.geometry.scale import Scale
from chunkflow.run.exporting import To, export
from chunkflow.storage.omezarr import Channel, open_volume, shown_channels
from chunkflow.storage.stores import ObjectPath, place_of
from chunkflow.storage.tiff_image import read_tiff
from chunkflow.storage.tiff_write import write_tiff_planes
from chunkflow.testing import object_store

SHAPE = (13, 40, 45)
SCALE = Scale((0.3, 0.11, 0.1), (1.5, -2.2, 0.25))
NAMES = ("dna", "mito")


def channels() -> np.ndarray:
    """(Z, C, Y, X): noise, and bright blobs."""
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.random(SHAPE), 2)
    blobs = (smooth - smooth.min()) / np.ptp(smooth) * 900
    return np.stack([rng.integers(0, 300, SHAPE), blobs], axis=1).astype(np.uint16)


def chunkflow(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in arguments])


def pipeline() -> cf.Pipeline:
    stages = [cf.Threshold(method="fixed", value=500.0), cf.Label(), cf.Skeleton(), cf.Measure()]
    return cf.Pipeline(stages, input=cf.InputOptions(channel="mito"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TIFF -> OME-Zarr -> run, in a folder with channels.tif, in.ome.zarr and out."""
    folder = tmp_path_factory.mktemp("made")
    data = channels()
    shown = [Channel("dna", (0.0, 300.0), "0000FF"), Channel("mito", (100.0, 800.0), "00FF00")]
    planes = (plane for at_z in data for plane in at_z)
    write_tiff_planes(folder / "channels.tif", planes, shape=SHAPE, dtype=data.dtype, scale=SCALE, channels=shown)
    cf.import_image(folder / "channels.tif", folder / "in.ome.zarr")
    pipeline().plan(folder / "in.ome.zarr", folder / "out").run(on="serial")
    return folder


def truth() -> np.ndarray:
    labels, _ = ndimage.label(channels()[:, 1] > 500, np.ones((3, 3, 3)))
    return labels


def test_voxel_size_origin_and_names_survive_tiff_zarr_run_and_tiff(made: Path) -> None:
    done = export(made / "out", "tiff")
    assert {path.name for path in done.files} == {"image.tif", "objects.tif", "skeleton.tif"}
    image = read_tiff(made / "out" / "export" / "image.tif")
    np.testing.assert_array_equal(image.array, channels()[:, 1])
    assert image.voxel_um == pytest.approx(SCALE.voxel_um, rel=1e-6)
    assert image.translation_um == pytest.approx(SCALE.translation_um)
    assert (image.styles[0].name, image.styles[0].color) == ("mito", "00FF00")
    (shown,) = shown_channels(made / "out" / "image.ome.zarr")
    assert (shown.name, shown.color) == ("mito", "00FF00") and image.styles[0].window == shown.window
    labels = read_tiff(made / "out" / "export" / "objects.tif")
    np.testing.assert_array_equal(labels.array, truth())
    assert labels.dtype == np.uint8 and labels.styles[0].window == (0.0, float(truth().max()))
    assert labels.translation_um == pytest.approx(SCALE.translation_um)
    with tifffile.TiffFile(made / "out" / "export" / "objects.tif") as file:
        assert file.is_imagej and (file.imagej_metadata or {})["unit"] == "micron"


def test_the_other_channels_are_shown_beside_the_labels(made: Path, tmp_path: Path) -> None:
    export(made / "out", "tiff", tmp_path, channels=["all"])
    beside = read_tiff(tmp_path / "channels.tif")
    assert [style.name for style in beside.styles] == ["dna", "mito", "objects"]
    assert [style.color for style in beside.styles] == ["0000FF", "00FF00", "FFFFFF"]
    assert beside.styles[0].window == (0.0, 300.0)
    np.testing.assert_array_equal(beside.array[:2], channels().transpose(1, 0, 2, 3))
    np.testing.assert_array_equal(beside.array[2], truth())
    with pytest.raises(UsageError, match=r"no one channel 'er'. It holds dna, mito; all is all of them"):
        export(made / "out", "tiff", tmp_path / "b", channels=["er"])


def test_a_region_is_a_part_in_its_place(made: Path, tmp_path: Path) -> None:
    export(made / "out", "tiff", tmp_path, region="2:9,:,0.6-2.2um", channels=["dna"])
    columns = slice(4, 20)  # centres from 0.65 to 2.15 um
    labels = read_tiff(tmp_path / "objects.tif")
    np.testing.assert_array_equal(labels.array, truth()[2:9, :, columns])
    assert labels.translation_um == pytest.approx((1.5 + 2 * 0.3, -2.2, 0.25 + 4 * 0.1))
    beside = read_tiff(tmp_path / "channels.tif")
    np.testing.assert_array_equal(beside.array[0], channels()[2:9, 0, :, columns])


def test_a_run_of_a_region_or_of_an_expanded_sample_finds_the_channels_where_it_lies(
    made: Path, tmp_path: Path
) -> None:
    options = cf.InputOptions(channel="mito", expansion=4.0, region="2:9,:,4:20")
    cf.Pipeline([cf.Threshold(method="fixed", value=500.0), cf.Label()], input=options).plan(
        made / "in.ome.zarr", tmp_path / "out"
    ).run(on="serial")
    export(tmp_path / "out", "tiff", channels=["all"])
    beside = read_tiff(tmp_path / "out" / "export" / "channels.tif")
    np.testing.assert_array_equal(beside.array[:2], channels()[2:9, :, :, 4:20].transpose(1, 0, 2, 3))
    assert beside.voxel_um == pytest.approx([size / 4 for size in SCALE.voxel_um], rel=1e-6)
    stages = [cf.Resample(voxel_um=(0.2, 0.2, 0.2)), cf.Threshold(method="fixed", value=500.0), cf.Label()]
    other = cf.Pipeline(stages, input=cf.InputOptions(channel="mito"))
    other.plan(made / "in.ome.zarr", tmp_path / "resampled").run(on="serial")
    with pytest.raises(UsageError, match="A resampled result has no voxel of the input"):
        export(tmp_path / "resampled", "tiff", channels=["dna"])


def test_an_input_that_has_moved_is_named(made: Path, tmp_path: Path) -> None:
    (made / "in.ome.zarr").rename(tmp_path / "moved.ome.zarr")
    try:
        with pytest.raises(InputNotFoundError, match=r"is not there any more. Name it with --input IN"):
            export(made / "out", "tiff", tmp_path / "a", channels=["all"])
        export(made / "out", "tiff", tmp_path / "a", channels=["dna"], source=tmp_path / "moved.ome.zarr")
        np.testing.assert_array_equal(read_tiff(tmp_path / "a" / "channels.tif").array[0], channels()[:, 0])
    finally:
        (tmp_path / "moved.ome.zarr").rename(made / "in.ome.zarr")


def test_tables_hold_what_the_result_holds_with_units(made: Path, tmp_path: Path) -> None:
    result = cf.open_result(made / "out")
    export(made / "out", "csv", tmp_path)
    export(made / "out", "xlsx", tmp_path)
    written = {path.stem for path in tmp_path.glob("*.csv")}
    assert written == {"objects", "branches", "nodes", "networks", "contacts"}
    sheets = pd.read_excel(tmp_path / "tables.xlsx", sheet_name=None)
    assert set(sheets) == written | {"columns"}
    for table in ("objects", "branches", "nodes", "networks"):
        own = getattr(result, table)
        for found in (pd.read_csv(tmp_path / f"{table}.csv"), sheets[table]):
            assert len(found) == len(own)
            for column, head in zip(own, found, strict=True):
                if own[column].dtype.kind == "f":
                    np.testing.assert_allclose(found[head], own[column], rtol=1e-14)
                if column.endswith("_um"):
                    assert head == f"{column.removesuffix('_um')} (um)"
    meanings = sheets["columns"].set_index("name for programs").meaning
    missing = {name for name in meanings.index if not isinstance(meanings.loc[[name]].iloc[0], str)}
    assert missing <= {"branches", "nodes", "components", "faces_z", "faces_y", "faces_x"} | {
        name for name in meanings.index if name.startswith(("junctions_", "degree_", "branch_length", "length_share"))
    } | {"object_a", "object_b", "radius_min_um", "radius_max_um", "radius_sd_um"}


def test_a_region_keeps_the_objects_whose_centroid_it_holds(made: Path, tmp_path: Path) -> None:
    objects = cf.open_result(made / "out").objects
    export(made / "out", "csv", tmp_path, region=":,0:20,:")
    lower = objects[objects.centroid_y_um < -2.2 + 19.5 * 0.11].object_id.tolist()
    assert 0 < len(lower) < len(objects)
    assert pd.read_csv(tmp_path / "objects.csv").object_id.tolist() == lower
    assert set(pd.read_csv(tmp_path / "branches.csv").object_id) <= set(lower)
    upper = int(objects.object_id[~objects.object_id.isin(lower)].iloc[0])
    export(made / "out", "csv", tmp_path, region=":,0:20,:", objects=[lower[0], upper], overwrite=True)
    assert pd.read_csv(tmp_path / "objects.csv").object_id.tolist() == lower[:1]


def samples(path: Path) -> np.ndarray:
    return np.loadtxt(path, ndmin=2)


def test_swc_are_those_of_the_run_or_the_part_of_them_in_a_region(made: Path, tmp_path: Path) -> None:
    export(made / "out", "swc", tmp_path)
    run = {path.name: path.read_bytes() for path in (made / "out" / "graph" / "swc").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "swc").iterdir()} == run
    export(made / "out", "swc", tmp_path / "half", region=":,0:20,:")
    nodes = cf.open_result(made / "out").nodes
    inside = nodes[nodes.y_um <= -2.2 + 19.5 * 0.11]
    assert {int(path.stem) for path in (tmp_path / "half" / "swc").iterdir()} == set(inside.object_id)
    for path in (tmp_path / "half" / "swc").iterdir():
        table = samples(path)
        own = inside[inside.object_id == int(path.stem)]
        places = {tuple(place) for place in table[:, 4:1:-1].round(4)}
        assert {tuple(row) for row in own[["z_um", "y_um", "x_um"]].to_numpy().round(4)} <= places
        assert (table[:, 6] < table[:, 0]).all()
    export(made / "out", "swc", tmp_path / "one", objects=[int(inside.object_id.iloc[0])])
    (one,) = (tmp_path / "one" / "swc").iterdir()
    np.testing.assert_array_equal(samples(one), samples(made / "out" / "graph" / "swc" / one.name))


def test_meshes_come_with_a_table_of_their_volumes(made: Path, tmp_path: Path) -> None:
    export(made / "out", "mesh", tmp_path)
    objects = cf.open_result(made / "out").objects.set_index("object_id")
    with (tmp_path / "meshes" / "meshes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["object_id"]) for row in rows] == objects.index.tolist()
    assert [float(row["volume_um3"]) for row in rows] == pytest.approx(objects.volume_um3.tolist(), rel=1e-4)
    assert all((tmp_path / "meshes" / f"{row['object_id']}.ply").is_file() for row in rows)


def test_an_image_that_no_run_made_is_exported_too(made: Path, tmp_path: Path) -> None:
    export(made / "in.ome.zarr", "tiff", tmp_path)
    image = read_tiff(tmp_path / "in.tif")
    original = read_tiff(made / "channels.tif")
    np.testing.assert_array_equal(image.array, original.array)
    assert image.styles == original.styles and image.translation_um == pytest.approx(original.translation_um)
    assert image.voxel_um == pytest.approx(original.voxel_um)
    export(made / "out" / "image.ome.zarr" / "labels" / "objects", "mesh", tmp_path, objects=[1])
    assert (tmp_path / "meshes" / "1.ply").is_file()
    with pytest.raises(UsageError, match="is an image, which has no csv"):
        export(made / "in.ome.zarr", "csv", tmp_path)


def test_what_cannot_be_exported_is_refused_before_anything_is_written(made: Path, tmp_path: Path) -> None:
    out = made / "out"
    for arguments, words in (
        ({"to": "pdf"}, "Choose one of tiff, csv, xlsx, swc, mesh"),
        ({"to": "csv", "channels": ["all"]}, "--channels says nothing for csv"),
        ({"to": "tiff", "objects": [1]}, "--objects says nothing for tiff"),
        ({"to": "tiff", "region": "0:99,:,:"}, "reaches outside"),
        ({"to": "mesh", "mesh_format": "obj"}, "Choose one of ply, stl, precomputed"),
        ({"to": "mesh", "mesh_surface": "smooth"}, "Choose one of volume, halfway"),
    ):
        with pytest.raises(UsageError, match=words):
            export(out, output=tmp_path, **arguments)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Add -o FOLDER"):
        export(made / "in.ome.zarr", "tiff")
    with pytest.raises(InputError):
        export(made / "nothing", "tiff", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_there_are_not_replaced_unasked(made: Path, tmp_path: Path) -> None:
    for to in ("tiff", "csv", "mesh"):
        first = chunkflow("export", made / "out", "--to", to, "-o", tmp_path)
        assert first.exit_code == 0, first.output
        again = chunkflow("export", made / "out", "--to", to, "-o", tmp_path)
        assert again.exit_code == 2 and "--overwrite" in again.output
        assert chunkflow("export", made / "out", "--to", to, "-o", tmp_path, "--overwrite").exit_code == 0
    assert chunkflow("export", made / "out", "--to", "mesh", "--objects", "1;2").exit_code == 2


def test_import_takes_its_destination_by_position_or_by_option(made: Path, tmp_path: Path) -> None:
    for arguments in ((tmp_path / "a.ome.zarr",), ("-o", tmp_path / "b.ome.zarr", "--channels", "x, y")):
        done = chunkflow("import", made / "channels.tif", *arguments)
        assert done.exit_code == 0, done.output
        assert "voxel 0 at 1.5 -2.2 0.25 um (z y x)" in done.stdout
    assert open_volume(tmp_path / "b.ome.zarr", channel="y").channel == "y"
    assert "channels: x, y" in done.stdout
    assert chunkflow("import", made / "channels.tif").exit_code == 2


@pytest.mark.thorough
def test_a_result_in_an_object_store_gives_the_files_of_a_local_one(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("moto", reason="moto[server] is not installed")
    with object_store.s3_server() as address:
        for name, value in {**object_store.ENVIRONMENT, "AWS_ENDPOINT_URL": address}.items():
            monkeypatch.setenv(name, value)
        object_store.make_bucket(address, "exports")
        place = place_of("s3://exports")
        assert isinstance(place, ObjectPath)
        for path in (made / "in.ome.zarr").rglob("*"):
            if path.is_file():
                (place / path.relative_to(made).as_posix()).upload(path)
        pipeline().plan("s3://exports/in.ome.zarr", "s3://exports/out").run(on="serial")
        with pytest.raises(UsageError, match="Add -o FOLDER"):
            export("s3://exports/out", "csv")
        for to in ("csv", "swc", "mesh"):
            export(made / "out", to, tmp_path / "local")
            export("s3://exports/out", to, tmp_path / "store")
        export("s3://exports/out", "tiff", tmp_path / "store", channels=["all"])
        export(made / "out", "tiff", tmp_path / "local", channels=["all"])
    local = {path.relative_to(tmp_path / "local"): path for path in (tmp_path / "local").rglob("*.*")}
    assert {path.relative_to(tmp_path / "store") for path in (tmp_path / "store").rglob("*.*")} == set(local)
    assert len(local) > 10
    for name, path in local.items():
        assert (tmp_path / "store" / name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("to", ["csv", "xlsx", "mesh"])
def test_objects_that_are_not_there_are_refused(made: Path, tmp_path: Path, to: To) -> None:
    with pytest.raises(UsageError, match="has no object 1000000"):
        export(made / "out", to, tmp_path, objects=[1, 10**6])
    with pytest.raises(UsageError, match="--objects -3 is no id of an object"):
        export(made / "out", to, tmp_path, objects=[-3, 1])


def test_a_path_that_does_not_exist_is_told_as_that(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="nowhere does not exist"):
        export(tmp_path / "nowhere", "tiff")


def test_meshes_of_an_image_that_is_not_said_to_be_labels_come_with_a_word_on_it(made: Path, tmp_path: Path) -> None:
    of_labels = export(made / "out" / "image.ome.zarr" / "labels" / "objects", "mesh", tmp_path / "a")
    assert not any("labels" in note for note in of_labels.notes)
    of_image = export(made / "out" / "image.ome.zarr", "mesh", tmp_path / "b", region="0:2,0:3,0:3")
    assert "does not say that it holds labels" in of_image.notes[-1]
