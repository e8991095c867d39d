"""What a user writes in YAML: every mistake is named before anything is opened."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml

import chunkflow as cf
from chunkflow.errors import ConfigError, InputNotFoundError

FULL: dict[str, Any] = {
    "version": 1,
    "input": {"path": "in.ome.zarr", "kind": "image", "channel": "mito", "nodata": 0, "mask": "mask.ome.zarr"},
    "output": {"path": "out", "save": ["image", "labels"], "format": "0.5", "shard": [64, 64, 64], "pyramid": "none"},
    "block": [64, 128, 128],
    "stages": [
        {"deconvolve": {"psf": {"model": "gaussian", "fwhm_um": [0.6, 0.25, 0.25]}, "iterations": 10, "tile": "auto"}},
        {"resample": {"voxel_um": "isotropic"}},
        {"threshold": {"method": "otsu", "smooth_um": 0.06}},
        {"label": {"connectivity": 26, "min_voxels": 64}},
        {"skeleton": {"prune_radii": 1.0, "max_halo": 64}},
        {"measure": {"intensity": "raw"}},
    ],
}


def _file(folder: Path, content: Any) -> Path:
    path = folder / "pipeline.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def _with(stage: str, **values: Any) -> dict[str, Any]:
    """One stage alone."""
    return {"version": 1, "stages": [{stage: values}]}


def test_a_file_is_read_into_stages_options_and_block(tmp_path: Path) -> None:
    pipeline = cf.Pipeline.from_yaml(_file(tmp_path, FULL))
    assert [stage.key for stage in pipeline.stages] == [next(iter(entry)) for entry in FULL["stages"]]
    deconvolve, resample, threshold, label, skeleton, measure = pipeline.stages
    assert deconvolve == cf.Deconvolve(psf=cf.Psf(fwhm_um=(0.6, 0.25, 0.25)), iterations=10)
    assert (resample, threshold) == (cf.Resample(), cf.Threshold(smooth_um=0.06))
    assert (label, skeleton, measure) == (cf.Label(min_voxels=64), cf.Skeleton(), cf.Measure())
    assert pipeline.block == (64, 128, 128)
    assert pipeline.input.channel == "mito"
    assert pipeline.input.nodata == 0
    assert pipeline.output.save == ("image", "labels")
    assert pipeline.output.shard == (64, 64, 64)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    pipeline = cf.Pipeline.from_yaml(_file(tmp_path, FULL))
    assert pipeline.input.path == str(tmp_path / "in.ome.zarr")
    assert pipeline.input.mask == str(tmp_path / "mask.ome.zarr")
    assert pipeline.output.path == str(tmp_path / "out")


def test_a_measured_psf_is_read_from_its_file(tmp_path: Path) -> None:
    psf = np.random.default_rng(0).random((5, 7, 7)).astype(np.float32)
    tifffile.imwrite(tmp_path / "psf.tif", psf)
    pipeline = cf.Pipeline.from_yaml(_file(tmp_path, _with("deconvolve", psf={"path": "psf.tif"})))
    stage = pipeline.stages[0]
    assert isinstance(stage, cf.Deconvolve)
    np.testing.assert_array_equal(stage.psf.measured, psf)
    assert stage.psf.on_grid((1.0, 1.0, 1.0), (9, 9, 9)).kernels.sum() == pytest.approx(1, abs=1e-6)


def test_a_bare_stage_name_takes_the_defaults() -> None:
    pipeline = cf.Pipeline.from_dict({"version": 1, "stages": ["threshold", {"label": None}, {"measure": {}}]})
    assert tuple(pipeline.stages) == (cf.Threshold(), cf.Label(), cf.Measure())
    assert pipeline.block == "auto"


def test_what_is_written_out_is_read_back_as_the_same() -> None:
    pipeline = cf.Pipeline.from_dict(FULL)
    plain = pipeline.to_dict()
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain
    assert cf.Pipeline.from_dict(plain) == pipeline


def test_overrides_win_over_the_file() -> None:
    overrides = ["threshold.method=li", "deconvolve.psf.fwhm_um=[1, 2, 3]", "output.save=[labels]", "input.channel=2"]
    pipeline = cf.Pipeline.from_dict(FULL, overrides=[*overrides, "label.min_voxels=5"])
    deconvolve, _, threshold, label, *_ = pipeline.stages
    assert isinstance(deconvolve, cf.Deconvolve)
    assert deconvolve.psf.fwhm_um == (1.0, 2.0, 3.0)
    assert deconvolve.iterations == 10
    assert threshold == cf.Threshold(method="li", smooth_um=0.06)
    assert label == cf.Label(min_voxels=5)
    assert pipeline.output.save == ("labels",)
    assert pipeline.input.channel == 2


MISTAKES: list[tuple[Any, str]] = [
    ({"stages": ["label"]}, "version: 1"),
    ({"version": 2, "stages": ["label"]}, "version 2"),
    ({"version": 1}, "not a list"),
    ({"version": 1, "stages": []}, "no stages"),
    ({"version": 1, "stages": ["label"], "outptu": {}}, "'outptu'.*Did you mean 'output'"),
    ({"version": 1, "stages": ["tresholt"]}, "unknown stage 'tresholt'.*Did you mean 'threshold'"),
    ({"version": 1, "stages": [{"label": {}, "measure": {}}]}, "not one stage"),
    ({"version": 1, "stages": [{"label": 3}]}, "stage label has 3"),
    ({"version": 1, "stages": ["label", "label"]}, "stands twice"),
    ({"version": 1, "stages": ["label", "threshold"]}, "threshold stands behind label.*order"),
    ({"version": 1, "stages": ["label"], "block": [1, 2]}, r"block is \[1, 2\]"),
    ({"version": 1, "stages": ["label"], "block": [8, 0, 8]}, r"block \[8, 0, 8\]"),
    ({"version": 1, "stages": ["label"], "block": "big"}, "block is 'big'"),
    ({"version": 1, "stages": ["label"], "input": {"chanel": 1}}, "'chanel' in input.*Did you mean 'channel'"),
    ({"version": 1, "stages": ["label"], "input": {"kind": "film"}}, "input: kind is 'film'"),
    ({"version": 1, "stages": ["label"], "output": {"save": ["image", "lables"]}}, "'lables'.*Did you mean 'labels'"),
    ({"version": 1, "stages": ["label"], "output": {"shard": [8, 8, -8]}}, "shard"),
    ({"version": 1, "stages": ["label"], "output": {"shard": [8, 8, 8], "format": "0.4"}}, "0.4 has no shards"),
    ({"version": 1, "stages": ["label"], "output": {"format": "0.6"}}, "format"),
    (_with("threshold", method="otzu"), "threshold: method is 'otzu'. Did you mean 'otsu'"),
    ({"version": 1, "stages": ["label"], "input": {"kind": "lables"}}, "kind is 'lables'.*Did you mean 'labels'"),
    (_with("label", conectivity=6), "'conectivity' in label.*Did you mean 'connectivity'"),
    (_with("label", connectivity=8), "connectivity"),
    (_with("label", min_voxels="many"), "min_voxels is 'many'"),
    (_with("label", min_voxels=-1), "negative"),
    (_with("label", min_voxels=3, min_volume_um3=1.0), "both given"),
    (_with("threshold", method="fixed"), "fixed with no value"),
    (_with("threshold", method="otsu", value=3), "value 3"),
    (_with("threshold", method="ottsu"), "method is 'ottsu'"),
    (_with("threshold", smooth_um=-1), "negative"),
    (_with("skeleton", prune_radii=-1), "negative"),
    (_with("skeleton", max_halo=0), "max_halo"),
    (_with("resample", voxel_um=[1, 0, 1]), "not positive"),
    (_with("resample", voxel_um="cubic"), "voxel_um"),
    (_with("deconvolve"), "psf"),
    (_with("deconvolve", psf={"model": "gaussian"}), "does not say which"),
    (_with("deconvolve", psf={"fwhm_um": [1, -1, 1]}), "not positive"),
    (_with("deconvolve", psf={"fwhm": [1, 1, 1]}), "'fwhm' in deconvolve: psf.*Did you mean 'fwhm_um'"),
    (_with("deconvolve", psf={"fwhm_um": [1, 1, 1]}, algorithm="richardson"), "Did you mean 'richardson-lucy'"),
    (_with("deconvolve", psf={"fwhm_um": [1, 1, 1]}, iterations=0), "0 iterations"),
    (_with("deconvolve", psf={"fwhm_um": [1, 1, 1]}, tolerance=2.0), "tolerance"),
    (_with("predict", path="m", patch=[0, 8, 8]), "patch"),
    (_with("predict", path="m", normalization={"percentiles": [99, 1]}), "percentiles .* not in order"),
    (_with("predict", path="m", normalization={"kind": "percentile"}), "Did you mean 'percentiles'"),
    ({"version": 1, "stages": [{"predict": {"path": "m", "threshold": 0.5}}, "threshold"]}, "threshold stage follows"),
    (_with("measure", intensity="red"), "intensity is 'red'"),
]


@pytest.mark.parametrize(("content", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_a_mistake_is_one_clear_sentence(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        cf.Pipeline.from_yaml(_file(tmp_path, content))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("threshold", "not KEY.key=value"),
        ("threshold.method", "not KEY.key=value"),
        ("tresholt.method=li", "Did you mean 'threshold'"),
        ("threshold.metod=li", "Did you mean 'method'"),
        ("predict.path=model", "'predict', which the pipeline does not have"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cf.Pipeline.from_dict(FULL, overrides=[override])


def test_a_file_that_is_missing_or_not_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="nowhere.yaml"):
        cf.Pipeline.from_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="not YAML"):
        cf.Pipeline.from_yaml(_file(tmp_path, "stages: [label"))
    with pytest.raises(ConfigError, match="holds no pipeline"):
        cf.Pipeline.from_yaml(_file(tmp_path, "just words"))


def test_a_missing_psf_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="psf.tif"):
        cf.Pipeline.from_yaml(_file(tmp_path, _with("deconvolve", psf={"path": "psf.tif"})))
