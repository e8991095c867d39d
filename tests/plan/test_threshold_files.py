"""Several volumes share one threshold: from a result, from a file, or from a value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import chunkflow as cf
from chunkflow.errors import ConfigError, InputNotFoundError
from chunkflow.plan.threshold_files import read_threshold
from chunkflow.testing.suites import random_volume


@pytest.fixture
def volumes(tmp_path: Path, write_volume: Any) -> list[Any]:
    images = [random_volume("image", (8, 20, 22), np.random.default_rng(seed)) for seed in (0, 1)]
    return [write_volume(tmp_path / f"{n}.ome.zarr", image * np.uint16(n + 1)) for n, image in enumerate(images)]


def run(volume: Any, out: Path, **threshold: Any) -> cf.Result:
    """A pipeline file beside `out` that holds this threshold, run."""
    content = {"version": 1, "stages": [{"threshold": threshold}, "label"], "output": {"save": ["mask"]}}
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(content))
    return cf.Pipeline.from_yaml(file).plan(volume, out).run(on="serial")


def mask(result: cf.Result) -> np.ndarray:
    assert result.mask is not None
    return np.asarray(result.mask[:])


def test_another_volume_takes_the_threshold_of_a_result(volumes: list[Any], tmp_path: Path) -> None:
    first = run(volumes[0], tmp_path / "first", method="multi-otsu", above=1)
    value = float(first.pass_values("threshold")["threshold"][0])
    second = run(volumes[1], tmp_path / "second", **{"from": "first"})
    assert np.array_equal(mask(second), volumes[1].read(volumes[1].box) > value)
    third = run(volumes[0], tmp_path / "third", **{"from": str(tmp_path / "second")})
    assert np.array_equal(mask(third), mask(first))


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.txt", "431.5\n"), ("t.json", "431.5"), ("t.json", '{"threshold": 431.5}'), ("t.json", '{"value": 431.5}')],
)
def test_a_file_with_a_number_is_a_threshold(name: str, content: str, volumes: list[Any], tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert read_threshold(tmp_path / name) == 431.5
    found = run(volumes[0], tmp_path / "out", **{"from": name})
    assert np.array_equal(mask(found), volumes[0].read(volumes[0].box) > 431.5)


def test_a_value_stands_in_the_place_of_a_file(volumes: list[Any], tmp_path: Path) -> None:
    found = run(volumes[0], tmp_path / "out", **{"from": 431.5})
    assert np.array_equal(mask(found), volumes[0].read(volumes[0].box) > 431.5)


def test_a_pipeline_with_a_shared_threshold_is_written_and_read_again(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("12.5")
    content = {"version": 1, "stages": [{"threshold": {"from": "t.txt", "smooth_um": 0.1}}]}
    pipeline = cf.Pipeline.from_dict(content, folder=tmp_path)
    stored = json.loads(json.dumps(pipeline.to_dict()))
    values = stored["stages"][0]["threshold"]
    assert (values["from"], values["value"], values["method"]) == (str(tmp_path / "t.txt"), 12.5, "fixed")
    assert cf.Pipeline.from_dict(stored) == pipeline
    (tmp_path / "t.txt").write_text("13")
    with pytest.raises(ConfigError, match=r"value 12.5 is not 13.0, which from .*t.txt holds"):
        cf.Pipeline.from_dict(stored)


def test_overrides_name_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("12.5")
    content = {"version": 1, "stages": ["threshold"]}
    pipeline = cf.Pipeline.from_dict(content, folder=tmp_path, overrides=["threshold.from=t.txt"])
    assert pipeline.stages[0].value == 12.5  # type: ignore[attr-defined]


def test_what_holds_no_threshold_is_refused_and_says_why(volumes: list[Any], tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="does not exist"):
        read_threshold(tmp_path / "nowhere")
    for name, content in (("a.txt", "about 7"), ("b.json", '{"cut": 3}'), ("c.txt", "NaN"), ("d.json", "true")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ConfigError, match=rf"{name} has no threshold"):
            read_threshold(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="it holds no run"):
        read_threshold(tmp_path / "empty")
    run(volumes[0], tmp_path / "local", method="sauvola", window_um=9)
    with pytest.raises(ConfigError, match="no stage of its run took one threshold"):
        read_threshold(tmp_path / "local")


def test_a_run_that_did_not_come_to_its_threshold_has_none(volumes: list[Any], tmp_path: Path) -> None:
    run(volumes[0], tmp_path / "out", method="otsu")
    for record in (tmp_path / "out" / "run" / "records").glob("threshold-*/*"):
        record.unlink()
    with pytest.raises(ConfigError, match="has not come that far"):
        read_threshold(tmp_path / "out")


def test_a_key_of_python_is_not_one_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'from_' in threshold.*from"):
        cf.Pipeline.from_dict({"version": 1, "stages": [{"threshold": {"from_": 3}}]})
