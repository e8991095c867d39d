"""`plan --probe` and `verify` as a user types them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from chunkflow.cli import app
from chunkflow.geometry.scale import Scale
from chunkflow.storage.volume import open_array
from chunkflow.testing import suites

PIPELINE = """
version: 1
input: {path: in.ome.zarr}
output: {path: out, save: [labels]}
block: [16, 24, 24]
stages:
  - threshold: {method: fixed, value: 50}
  - label: {min_voxels: 5}
  - measure
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(1)
    image = rng.poisson(30, (20, 40, 44)).astype(np.uint16)
    image[5:12, 10:30, 8:38] = 90
    suites.write_volume(tmp_path / "in.ome.zarr", image, (0.2, 0.1, 0.1))
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _call(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@pytest.mark.thorough
def test_a_plan_with_a_probe_says_time_disk_and_requests(folder: Path) -> None:
    said = _call("plan", "pipeline.yaml", "--probe", "--on", "serial")
    assert said.exit_code == 0, said.output
    for word in ("time ", "with 1 worker", "files or requests", "disk "):
        assert word in said.stdout
    plain = json.loads(_call("plan", "pipeline.yaml", "--probe", "--on", "serial", "--json").stdout)
    assert plain["probe"]["seconds"][0] < plain["probe"]["seconds"][2]
    assert plain["disk"]["peak"] >= plain["disk"]["kept"]
    assert not (folder / "out").exists()


def test_a_plan_is_shown_where_the_disk_is_too_small_and_still_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chunkflow.run.admission.RESERVE_BYTES", 2**60)
    said = _call("plan", "pipeline.yaml")
    assert said.exit_code == 4
    assert "provisional" in said.stdout


def test_verify_ends_with_0_where_all_is_equal_and_with_1_and_coordinates_where_not(folder: Path) -> None:
    assert _call("run", "pipeline.yaml", "--on", "serial").exit_code == 0
    said = _call("verify", "out", "--all")
    assert said.exit_code == 0, said.output
    assert "verified: 8 of 8 blocks recomputed on another grid: equal" in said.stdout
    assert "Verified" in (folder / "out" / "report.html").read_text()
    labels = open_array(folder / "out/image.ome.zarr/labels/objects/0", Scale((1.0, 1.0, 1.0)))
    data = labels.read(labels.box)
    data[7, 20, 20] = 0
    labels.write(labels.box, data)
    said = _call("verify", "out", "--all", "--json")
    assert said.exit_code == 1
    assert "(7, 20, 20)" in said.output
    assert json.loads(said.stdout)["difference_count"] > 0
    assert _call("run", "pipeline.yaml", "--on", "serial").exit_code == 0  # the folder is a run's all the same


def test_verify_of_all_and_of_some_is_refused(folder: Path) -> None:
    assert _call("verify", "out", "--all", "--blocks", "2").exit_code == 2
    assert _call("verify", "out").exit_code == 2
