"""`chunkflow train-pixels`, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

import chunkflow as cf
from chunkflow.cli.commands import app
from chunkflow.testing.suites import write_volume

pytest.importorskip("sklearn.ensemble", reason="scikit-learn is not installed")


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.standard_normal((8, 30, 30)), 2)
    is_bright = noise > 0.5 * noise.std()
    image = np.where(is_bright, 900, 100) + 20 * rng.standard_normal(noise.shape)
    marks = np.zeros(noise.shape, np.uint8)
    marks[4, ::3] = 1 + is_bright[4, ::3]
    write_volume(tmp_path / "image.ome.zarr", image.astype(np.float32), (0.2, 0.1, 0.1))
    write_volume(tmp_path / "marks.ome.zarr", marks, (0.2, 0.1, 0.1))
    return [str(tmp_path / name) for name in ("image.ome.zarr", "marks.ome.zarr")]


def typed(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output


def test_training_says_how_well_it_went_and_what_mattered(paths: list[str], tmp_path: Path) -> None:
    out = str(tmp_path / "forest.npz")
    words = ["train-pixels", *paths, "-o", out, "--scales-um", "0.1,0.2", "--trees", "10"]
    code, output = typed(*words, "--names", "background, mitochondria")
    assert code == 0, output
    for part in ("mitochondria", "out of bag", "20 features at 0.1 0.2 um", "smooth 0.1 um", f"path: {out}"):
        assert part in output
    code, output = typed("check", out)
    assert code == 0
    assert "2 mitochondria (" in output
    code, output = typed(*words)
    assert code == 2
    assert "exists. Choose another name, or add --overwrite" in output
    code, output = typed(*words, "--overwrite", "--json")
    assert code == 0
    facts = json.loads(output)
    assert [c["name"] for c in facts["classes"]] == ["class 1", "class 2"]
    assert facts["out_of_bag"] > 0.9
    pipeline = cf.Pipeline([cf.PixelClassifier(path=out), cf.Label()])
    assert pipeline.plan(paths[0], tmp_path / "out").run(on="serial").labels is not None


def test_scales_that_are_no_numbers_are_refused(paths: list[str], tmp_path: Path) -> None:
    code, output = typed("train-pixels", *paths, "-o", str(tmp_path / "f.npz"), "--scales-um", "0.1;0.2")
    assert code == 2
    assert "--scales-um '0.1;0.2' is not a list of numbers. Write 0.1,0.2,0.4" in output
