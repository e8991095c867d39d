"""What the README shows works, and what it links to is there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml

import chunkflow as cf
from chunkflow.cli import app
from chunkflow.stages.restoration import ALGORITHMS
from chunkflow.synth import optics, phantoms

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippet(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


GUIDE = (ROOT / "docs" / "deconvolution.md").read_text(encoding="utf-8")


def test_the_stages_of_the_guide_are_read(tmp_path: Path) -> None:
    for name in ("dark.tif", "flat.tif"):
        tifffile.imwrite(tmp_path / name, np.ones((8, 8), np.uint16))
    snippets = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert len(snippets) >= 5
    for text in snippets:
        assert cf.Pipeline.from_dict({"version": 1, "stages": yaml.safe_load(text)}, folder=tmp_path).stages


def test_links_of_the_guide_lead_to_files() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", GUIDE)
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []


def test_the_guide_names_every_algorithm() -> None:
    assert [name for name in ALGORITHMS if f"`{name}`" not in GUIDE] == []


def test_links_lead_to_files() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_commands_exist() -> None:
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    shown = set(re.findall(r"^    chunkflow (\w+)", README, re.MULTILINE))
    assert shown
    assert shown <= known


def test_the_pipeline_and_the_python_example_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_volume: object
) -> None:
    shape, voxel_um = (28, 64, 64), (0.2, 0.08, 0.08)
    phantom = phantoms.mitochondria(shape, voxel_um, seed=1)
    assert callable(write_volume)
    write_volume(tmp_path / "in.ome.zarr", optics.acquire(phantom.labels, voxel_um=voxel_um, seed=1), voxel_um)
    (tmp_path / "pipeline.yaml").write_text(snippet("yaml"), encoding="utf-8")
    assert cf.Pipeline.from_dict(yaml.safe_load(snippet("yaml"))).stages
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(snippet("python"), "README.md", "exec"), names)
    result = names["result"]
    assert isinstance(result, cf.Result)
    assert len(result.objects) == phantom.objects
