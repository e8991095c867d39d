"""What commands print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

import chunkflow as cf
from chunkflow.cli.show import PLAIN, new_console, print_summary
from chunkflow.run.driver import run_plan
from chunkflow.run.progress import progress
from chunkflow.testing import suites


def test_boxes_of_voxels_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    core = "0:48,0:100,0:100"
    console = new_console()
    console.print(f"at {core}: it failed", **PLAIN)
    table = Table("block")
    table.add_row(f"{core}: in a table")
    console.print(table)
    with progress(console) as listener:
        listener({"event": "failed", "pass": "label", "unit": 3, "core": core, "error": "too bright"})
        listener({"event": "report", "path": "out/report.html"})
    said = capsys.readouterr().out
    assert said.count(f"{core}: ") == 3
    assert "report: out/report.html" in said


@pytest.mark.parametrize(
    ("stages", "save", "table"),
    [
        ((cf.Skeleton(),), ("skeleton",), "branches"),
        ((cf.Skeleton(), cf.Measure()), ("labels",), "objects"),
        ((cf.Skeleton(),), (), "branches"),
    ],
)
def test_lines_to_copy_open_what_a_run_of_labels_left(
    stages: tuple[cf.Skeleton | cf.Measure, ...],
    save: tuple[str, ...],
    table: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without an image, and where nothing measured, without objects."""
    labels = np.zeros((5, 9, 33), np.uint16)
    labels[2, 4, 3:30], labels[1:4, 7, 3:12] = 3, 8
    suites.write_volume(tmp_path / "labels.ome.zarr", labels)
    options = {"input": cf.InputOptions(kind="labels"), "output": cf.OutputOptions(save=save)}
    plan = cf.Pipeline(stages, **options).plan(tmp_path / "labels.ome.zarr", tmp_path / "out")
    result = run_plan(plan, on="serial", device="cpu")
    print_summary(new_console(), result, result.path / "report.html")
    lines = dict(re.findall(r"^(\w+) +(.*)$", capsys.readouterr().out, re.MULTILINE))
    assert len(eval(lines["pandas"].partition("; ")[2], {"chunkflow": cf})) == 2
    assert lines["pandas"].endswith(f".{table}")
    in_report = f"napari --plugin napari-ome-zarr {result.path}" in (result.path / "report.html").read_text()
    assert ("napari" in lines) == in_report == bool(save)
    if not save:
        return
    reader = pytest.importorskip("napari_ome_zarr", reason="needs napari-ome-zarr").napari_get_reader
    path = shlex.split(lines["napari"])[-1]
    assert [kind for _, _, kind in reader(path)(path)] == ["labels"]
