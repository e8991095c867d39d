import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from chunkflow.errors import InputError, InputNotFoundError, UsageError
from chunkflow.run.batch_inputs import check_single, found_items, is_batch


@pytest.fixture
def folder(tmp_path, write_volume):
    for name in ("b/x.tif", "a/x.tif", "a/t10.tif", "a/t2.tif", "a/.hidden.tif", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    write_volume(tmp_path / "a" / "vol.ome.zarr", np.zeros((2, 3, 4), np.uint8), (1, 1, 1))
    return tmp_path


def names(items):
    return [item.name for item in items]


def test_a_folder_holds_every_image_below_it_once_in_natural_order(folder):
    items = found_items([folder], output=folder / "out")
    assert names(items) == ["a/t2", "a/t10", "a/vol", "a/x", "b/x"]
    assert items[-1].file == "b/x.tif"


def test_a_pattern_names_results_below_its_fixed_part(folder):
    items = found_items([f"{folder}/**/x.tif"], output=folder / "out")
    assert names(items) == ["a/x", "b/x"]
    with pytest.raises(InputNotFoundError, match="no image fits"):
        found_items([f"{folder}/*.czi"], output=folder / "out")


def test_files_of_one_stem_do_not_meet(folder):
    (folder / "a" / "x.ome.tif").write_bytes(b"")
    items = found_items([folder / "a" / "x.tif", folder / "a" / "x.ome.tif"], output=folder / "out")
    assert names(items) == ["x.ome.tif", "x.tif"]


def test_names_that_a_batch_changes_do_not_meet_either(folder):
    for name in ("run.tif", "run_.tif", "x" * 240 + "1.tif", "x" * 240 + "2.tif"):
        (folder / name).write_bytes(b"")
    found = names(found_items([folder], output=folder / "out"))
    assert len(set(found)) == len(found)
    assert {"run.tif_", "run_.tif"} <= set(found)
    long = [name for name in found if name.startswith("xxx")]
    assert len(long) == 2 and all(len(name) <= 160 for name in long)


def test_no_result_lies_inside_another_nor_where_the_batch_writes(folder):
    for name in ("a.tif", "run.tif", "comparison.tif"):
        (folder / name).write_bytes(b"")
    found = names(found_items([folder], output=folder / "out"))
    assert {"a.tif", "a/x", "run_", "comparison_"} <= set(found)
    folders = {str(parent) for name in found for parent in Path(name).parents}
    assert not folders & set(found)


def test_results_are_no_inputs(folder):
    (folder / "out").mkdir()
    (folder / "out" / "y.tif").write_bytes(b"")
    assert "out/y" not in names(found_items([folder], output=folder / "out"))


def test_one_image_is_no_batch_and_a_pattern_a_folder_and_two_files_are(folder):
    assert not is_batch([folder / "a" / "x.tif"])
    assert not is_batch([folder / "a" / "vol.ome.zarr"])
    assert is_batch([f"{folder}/a/x*.tif"])
    assert is_batch([folder / "a"])
    assert is_batch([folder / "a" / "x.tif", folder / "b" / "x.tif"])
    assert is_batch([folder / "a" / "vol.ome.zarr"], time="all")


def test_the_images_of_an_ome_tiff_are_a_batch_under_their_names(folder):
    with tifffile.TiffWriter(folder / "m.ome.tif", ome=True) as writer:
        for name in ("Pos 1/a", "Pos 2", "Pos 2", ""):
            metadata = {"axes": "ZYX", "Name": name}
            writer.write(np.zeros((2, 3, 4), np.uint8), photometric="minisblack", metadata=metadata)
    items = found_items([folder / "m.ome.tif"], output=folder / "out")
    assert names(items) == ["m/Pos_1_a", "m/Pos_2_1", "m/Pos_2_2", "m/image_3"]
    assert [item.dataset for item in items] == ["0", "1", "2", "3"]
    assert is_batch([folder / "m.ome.tif"])
    with pytest.raises(UsageError, match="several images, and a preview looks at one.*--image 0"):
        check_single(folder / "m.ome.tif", "a preview")


def test_what_is_not_there_and_a_folder_of_nothing_are_refused(folder):
    with pytest.raises(InputNotFoundError, match="does not exist"):
        found_items([folder / "nothing.tif"], output=folder / "out")
    (folder / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no image"):
        found_items([folder / "empty"], output=folder / "out")


def test_all_that_is_not_there_is_named_before_any_work(folder):
    here, gone = folder / "a" / "x.tif", [folder / "gone.tif", f"{folder}/b/*.czi", folder / "a" / "t3.tif"]
    with pytest.raises(InputNotFoundError) as raised:
        found_items([gone[0], here, *gone[1:]], output=folder / "out")
    assert raised.value.what.startswith("3 of 4 inputs are not there: ")
    assert all(str(name) in raised.value.what for name in gone) and str(here) not in raised.value.what
    many = [folder / f"g{k:02d}.tif" for k in range(40)]
    with pytest.raises(InputNotFoundError, match=r"40 of 41 .*g19\.tif does not exist; and 20 more"):
        found_items([here, *many], output=folder / "out")
    assert not (folder / "out").exists()


def test_what_only_an_import_reads_is_told_with_its_command(folder):
    (folder / "a.h5").write_bytes(b"")
    (folder / "b.n5").mkdir()
    for refuse in (lambda path: found_items([path], output=folder / "out"), lambda path: check_single(path, "plan")):
        with pytest.raises(InputError, match=r"a.h5:/raw is an image inside .* chunkflow import .*a.h5:/raw IMAGE"):
            refuse(f"{folder}/a.h5:/raw")
        with pytest.raises(InputError, match=r"b.n5 is an N5 container.* chunkflow import .*b.n5 IMAGE.ome.zarr"):
            refuse(folder / "b.n5")


def group(path, **ome):
    path.mkdir(parents=True, exist_ok=True)
    text = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5", **ome}}}
    (path / "zarr.json").write_text(json.dumps(text))


def test_a_plate_is_every_field_of_every_well(tmp_path, write_volume):
    plate = tmp_path / "plate.ome.zarr"
    group(plate, plate={"wells": [{"path": "A/1"}, {"path": "B/2"}]})
    for well, fields in (("A/1", 2), ("B/2", 1)):
        group(plate / well, well={"images": [{"path": str(k)} for k in range(fields)]})
        for k in range(fields):
            write_volume(plate / well / str(k), np.zeros((2, 3, 4), np.uint8), (1, 1, 1))
    assert is_batch([plate])
    assert names(found_items([plate], output=tmp_path / "out")) == ["A/1/0", "A/1/1", "B/2/0"]


def test_a_bioformats2raw_store_is_every_image_of_it(tmp_path, write_volume):
    store = tmp_path / "raw.zarr"
    group(store, **{"bioformats2raw.layout": 3})
    for k in range(2):
        write_volume(store / str(k), np.zeros((2, 3, 4), np.uint8), (1, 1, 1))
    assert names(found_items([store], output=tmp_path / "out")) == ["0", "1"]


def test_every_time_point_is_an_item_of_its_own_and_what_cannot_be_read_stays_one(tmp_path):
    movie = np.zeros((12, 2, 8, 8), np.uint8)
    tifffile.imwrite(tmp_path / "m.tif", movie, imagej=True, metadata={"axes": "TZYX", "spacing": 1, "unit": "um"})
    (tmp_path / "n.tif").write_bytes(b"no tiff")
    items = found_items([tmp_path], output=tmp_path / "out", every_time=True)
    assert names(items) == [*(f"m/t{k:02d}" for k in range(12)), "n"]
    assert [item.time for item in items] == [*range(12), None]


def test_an_output_that_is_the_folder_of_the_inputs_is_refused_for_that(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 4, 4), np.uint16))
    for source in (tmp_path, tmp_path / "a.tif"):
        with pytest.raises(UsageError, match=r"lies in the output .*. Choose another output"):
            found_items([source], output=tmp_path)
