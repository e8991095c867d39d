"""A first day, as it is typed: thirty TIFFs of two conditions, from `init` to a comparison and files for Excel.

Runs the installed command in an empty folder. The table of steps and seconds is printed (`pytest -s`) and not judged:
machines differ. What is judged: exit codes, that every stumble is an error that names its remedy, and the numbers.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import tifffile
from PIL import Image

from tests.first_day import COUNTS, DAYS, EFFECT, TRUNCATED, TUBE_UM, UNSIZED, VOXEL_UM, Terminal, write_first_day

pytestmark = pytest.mark.thorough

FIRST = "data/ctrl/day1/field1.tif"
OPTICS = ("--set", "deconvolve.psf.objective=63x/1.4 oil", "--set", "deconvolve.psf.emission_nm=525")
CONDITIONS = ("--conditions", "{condition}/{replicate}/*.tif")
RESULT = "out/drug/day3/field1"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory):
    """The commands of the day, in order, typed into one terminal; how each ended, by its step."""
    folder = tmp_path_factory.mktemp("day")
    truth = write_first_day(folder / "data")
    typed = Terminal(folder)
    done = {
        step: typed(step, *words)
        for step, words in {
            "init of a folder": ("init", "mitochondria-confocal", "data"),
            "init of a file without a size": ("init", "mitochondria-confocal", f"data/{UNSIZED}", "-o", "unsized.yaml"),
            "init of a file cut short": ("init", "mitochondria-confocal", f"data/{TRUNCATED}", "-o", "torn.yaml"),
            "init": ("init", "mitochondria-confocal", FIRST),
            "init again": ("init", "mitochondria-confocal", FIRST, "--set", "input.channel=channel_1", *OPTICS),
            "init over it": (
                *("init", "mitochondria-confocal", FIRST, "--set", "input.channel=channel_1", *OPTICS),
                "--overwrite",
            ),
            "preview of three settings": (
                *("preview", "pipeline.yaml", "-o", "preview.png"),
                *(f"--set=threshold.method={method}" for method in ("li", "otsu", "triangle")),
            ),
            "preview of a folder": ("preview", "pipeline.yaml", "data"),
            "plan": ("plan", "pipeline.yaml", "-o", "one"),
            "batch": ("run", "pipeline.yaml", "data", "-o", "out", *CONDITIONS),
            "status": ("status", "out"),
            "batch again": ("run", "pipeline.yaml", "data", "-o", "out", *CONDITIONS),
            "compare": (
                *("compare", "out", "--measure", "objects", "--measure", "length_um"),
                *("--measure", "object_intensity_mean_median"),
            ),
            "export of the batch": ("export", "out", "--to", "csv"),
            **{f"export to {to}": ("export", RESULT, "--to", to) for to in ("tiff", "csv", "xlsx", "mesh")},
        }.items()
    }
    print(f"\n{typed.table()}")
    return folder, truth, done


def test_the_pipeline_lists_what_nothing_says_and_how_to_give_it(day) -> None:
    _, _, done = day
    assert done["init"].code == 2
    assert "input.channel" in done["init"].text and "channel_0, channel_1" in done["init"].text
    assert "--set 'deconvolve.psf.objective=63x/1.4 oil'" in done["init"].text
    assert done["init again"].code == 2 and "--overwrite" in done["init again"].text
    assert done["init over it"].code == 0, done["init over it"].text
    assert "chunkflow preview pipeline.yaml" in done["init over it"].text


def test_a_folder_a_torn_file_and_a_missing_voxel_size_are_named_with_what_to_do(day) -> None:
    _, _, done = day
    assert done["init of a folder"].code == 2
    assert "Name one of them" in done["init of a folder"].text and "field1.tif" in done["init of a folder"].text
    assert "input.voxel_um" in done["init of a file without a size"].text
    assert "--set 'input.voxel_um=[" in done["init of a file without a size"].text
    assert "damaged TIFF" in done["init of a file cut short"].text
    assert "Export it again" in done["init of a file cut short"].text
    assert done["preview of a folder"].code == 2 and "Name one of them" in done["preview of a folder"].text


def test_the_preview_shows_three_settings(day) -> None:
    folder, _, done = day
    assert done["preview of three settings"].code == 0, done["preview of three settings"].text
    assert done["preview of three settings"].text.count("4 objects") == 3
    with Image.open(folder / "preview.png") as picture:
        assert picture.height > 1.5 * 600 and picture.width > 800


def test_the_plan_names_the_file_of_the_user(day) -> None:
    folder, _, done = day
    assert done["plan"].code == 0, done["plan"].text
    assert "field1.tif" in done["plan"].text and "projected peak" in done["plan"].text
    assert not (folder / "one").exists() and not list(folder.glob(".one*"))


def test_the_batch_counts_every_file_that_can_be_read(day) -> None:
    folder, truth, done = day
    assert done["batch"].code == 3, done["batch"].text
    table = {row["file"]: row for row in rows(folder / "out" / "summary.csv")}
    assert set(table) == set(truth)
    good = {file: row for file, row in table.items() if row["status"] == "done"}
    assert set(truth) - set(good) == {TRUNCATED, UNSIZED}
    assert {file: int(float(row["objects"])) for file, row in good.items()} == {file: truth[file] for file in good}
    for row in good.values():  # whatever the unit in the file
        assert [float(row[f"voxel_{axis}_um"]) for axis in "zyx"] == pytest.approx(VOXEL_UM, rel=1e-4)
        assert 0.6 * TUBE_UM < float(row["branch_length_median_um"]) < TUBE_UM
    assert (folder / "out" / "index.html").stat().st_size > 10_000


def test_failed_files_say_what_to_do_and_the_same_command_leaves_the_others_alone(day) -> None:
    folder, _, done = day
    table = {row["file"]: row for row in rows(folder / "out" / "summary.csv")}
    assert "Export it again" in table[TRUNCATED]["error"] and str(folder) not in table[TRUNCATED]["error"]
    assert "--voxel-um Z Y X" in table[UNSIZED]["error"] and "counts for all" in table[UNSIZED]["error"]
    status = done["status"]
    assert status.code == 0
    assert "30 images, 28 done, 2 failed" in status.text
    assert "--voxel-um" in status.text and "chunkflow run pipeline.yaml data -o out" in status.text
    assert done["batch again"].code == 3
    assert "28 done before" in done["batch again"].text


def test_the_effect_is_found_with_its_interval_and_none_where_there_is_none(day) -> None:
    folder, _, done = day
    assert done["compare"].code == 0, done["compare"].text
    found = {row["measure"]: row for row in rows(folder / "out" / "comparison" / "comparison.csv")}
    objects, light = found["objects"], found["object_intensity_mean_median"]
    assert float(objects["difference"]) == pytest.approx(EFFECT)
    assert 0 < float(objects["low"]) < EFFECT < float(objects["high"])
    assert float(objects["mean_control"]) == pytest.approx(COUNTS["ctrl"] + 1)
    assert int(objects["n_condition"]) == int(objects["n_control"]) == len(DAYS)
    assert float(found["length_um"]["low"]) > 0
    assert float(light["low"]) < 0 < float(light["high"])
    assert abs(float(light["hedges_g"])) < 0.5
    said = " ".join(done["compare"].text.split())
    assert TRUNCATED in said and UNSIZED in said


def test_results_leave_as_files_of_other_programs(day) -> None:
    folder, truth, done = day
    assert done["export of the batch"].code == 2
    assert "Name the result of one, such as" in done["export of the batch"].text
    for to in ("tiff", "csv", "xlsx", "mesh"):
        assert done[f"export to {to}"].code == 0, done[f"export to {to}"].text
    out = folder / RESULT / "export"
    with tifffile.TiffFile(out / "objects.tif") as file:
        assert file.imagej_metadata is not None
        assert file.imagej_metadata["spacing"] == pytest.approx(VOXEL_UM[2])
        assert file.asarray().max() == truth["drug/day3/field1.tif"]
    assert len(rows(out / "objects.csv")) == truth["drug/day3/field1.tif"]
    assert (out / "tables.xlsx").is_file()
    assert len(list((out / "meshes").glob("*.ply"))) == truth["drug/day3/field1.tif"]


def test_a_batch_says_as_json_what_is_done(day) -> None:
    folder, _, _ = day
    (found,) = json.loads(Terminal(folder)("status as JSON", "status", "out", "--json").text)
    assert (found["images"], found["done"], found["left"], found["state"]) == (30, 28, 0, "failed")
