"""Commands on many files, as they are typed."""

import csv
import json

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from chunkflow.cli import app

PIPELINE = "version: 1\nstages: [threshold, {label: {min_voxels: 4}}, measure]\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli")
    (root / "p.yaml").write_text(PIPELINE)
    random = np.random.default_rng(0)
    for condition, count in (("ctrl", 2), ("drug", 4)):
        for day in range(2):
            image = random.poisson(10, (6, 24, 24)).astype(np.uint16)
            for k in range(count + day):
                y, x = (8 * v + 2 for v in divmod(k, 3))
                image[2:4, y : y + 3, x : x + 3] += 200
            path = root / "data" / condition / f"{day}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, image)
    return root


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


VOXEL = ("--voxel-um", 0.2, 0.1, 0.1)


@pytest.fixture(scope="module")
def batch(folder):
    conditions = ("--conditions", "{condition}/*.tif")
    done = call("run", folder / "p.yaml", f"{folder}/data/**/*.tif", "-o", folder / "out", *VOXEL, *conditions)
    assert done.exit_code == 0, done.output
    return done


def test_a_pattern_becomes_a_table_and_a_contact_sheet(folder, batch):
    found = {row["file"]: int(row["objects"]) for row in rows(folder / "out" / "summary.csv")}
    assert found == {"ctrl/0.tif": 2, "ctrl/1.tif": 3, "drug/0.tif": 4, "drug/1.tif": 5}
    assert (folder / "out" / "index.html").is_file()
    assert "4 images, 0 failed" in batch.output
    assert "chunkflow compare" in batch.output


def test_compare_prints_effects_and_writes_them(folder, batch):
    done = call("compare", folder / "out", "--test", "permutation", "--measure", "objects")
    assert done.exit_code == 0, done.output
    assert "drug - ctrl" in done.output
    (row,) = rows(folder / "out" / "comparison" / "comparison.csv")
    assert float(row["difference"]) == 2
    assert {"comparison.html", "tidy.csv", "methods.txt", "objects.svg"} <= {
        path.name for path in (folder / "out" / "comparison").iterdir()
    }
    found = json.loads(call("compare", folder / "out", "--json").stdout)
    assert found["effects"][0]["measure"] == "objects"


def test_a_bad_file_ends_with_three_and_the_others_are_there(folder):
    (folder / "bad").mkdir(exist_ok=True)
    (folder / "bad" / "torn.tif").write_bytes(b"II*\x00")
    sources = (folder / "bad" / "torn.tif", folder / "data" / "ctrl" / "0.tif")
    done = call("run", folder / "p.yaml", *sources, "-o", folder / "some", *VOXEL)
    assert done.exit_code == 3
    assert "1 of 2 images failed" in done.output
    assert [row["status"] for row in rows(folder / "some" / "summary.csv")] == ["failed", "done"]


def test_events_of_a_batch_are_lines_of_json(folder, batch):
    done = call("run", folder / "p.yaml", folder / "data", "-o", folder / "out", *VOXEL, "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1] | {"time": 0} == {
        "time": 0,
        "event": "end",
        "code": 0,
        "output": str(folder / "out"),
        "images": 4,
        "failed": 0,
        "incomplete": 0,
    }


def test_a_single_tiff_is_a_run_and_leaves_no_copy(folder):
    source = folder / "data" / "drug" / "1.tif"
    for _ in range(2):  # a second time, the import is the same input
        done = call("run", folder / "p.yaml", source, "-o", folder / "single", *VOXEL)
        assert done.exit_code == 0, done.output
    assert "5 objects" in done.output
    assert (folder / "single" / "report.html").is_file()
    assert "1.tif" in (folder / "single" / "report.html").read_text()
    assert not list(folder.glob(".single*"))


@pytest.mark.thorough
def test_reports_of_every_image_are_written_where_asked(folder):
    done = call("run", folder / "p.yaml", folder / "data" / "ctrl", "-o", folder / "told", *VOXEL, "--reports")
    assert done.exit_code == 0, done.output
    assert (folder / "told" / "0" / "report.html").is_file()
    assert "href='0/report.html'" in (folder / "told" / "index.html").read_text()


def test_import_of_each_makes_an_image_of_every_file(folder):
    (folder / "bad").mkdir(exist_ok=True)
    (folder / "bad" / "torn.tif").write_bytes(b"II*\x00")
    done = call("import", f"{folder}/data/*/0.tif", folder / "bad" / "torn.tif", folder / "images", "--each", *VOXEL)
    assert done.exit_code == 3
    assert (folder / "images" / "data" / "ctrl" / "0.ome.zarr" / "zarr.json").is_file()
    assert (folder / "images" / "data" / "drug" / "0.ome.zarr" / "zarr.json").is_file()
    assert "torn" in done.output


def test_two_ways_to_name_an_input_are_refused(folder):
    done = call("run", folder / "p.yaml", folder / "data", "--input", folder / "data", "-o", folder / "x")
    assert done.exit_code == 2
    assert "two inputs" in done.output


def test_a_batch_says_of_planes_what_a_single_run_says(folder, tmp_path):
    plane = np.random.default_rng(1).poisson(10, (24, 24)).astype(np.uint16)
    plane[4:9, 4:9] += 200
    (tmp_path / "in").mkdir()
    first = tmp_path / "in" / "a.tif"
    for path in (first, tmp_path / "in" / "b.tif"):
        tifffile.imwrite(path, plane, imagej=True, resolution=(10, 10), metadata={"unit": "um"})
    said = "the image is a single plane, which counts as 1 um thick: volumes are areas times that"
    assert said in call("run", folder / "p.yaml", first, "-o", tmp_path / "single").output.replace("\n", " ")
    done = call("run", folder / "p.yaml", tmp_path / "in", "-o", tmp_path / "out", "--on", "serial")
    assert f"warning: of 2 of 2 images: {said}" in done.output
    found = rows(tmp_path / "out" / "summary.csv")
    assert [said in row["warnings"] for row in found] == [True, True]
    assert f"of 2 of 2 images: {said}" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    thick = call("plan", folder / "p.yaml", first, "-o", tmp_path / "p", "--voxel-um", 0.5, 0.1, 0.1)
    assert "counts as 0.5 um thick" in thick.output
