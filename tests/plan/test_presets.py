"""Presets, files that extend them, and the schema that editors check both by."""

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

import chunkflow as cf
from chunkflow.errors import ConfigError
from chunkflow.plan.changes import alternatives, changed
from chunkflow.plan.pipeline import STAGES
from chunkflow.plan.presets import preset_names, preset_text
from chunkflow.plan.schema import pipeline_schema

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.yaml") if "train" not in path.name)
MITOCHONDRIA: dict[str, Any] = {"extends": "mitochondria-confocal"}


def values(pipeline: cf.Pipeline, key: str) -> dict[str, Any]:
    stages = {name: of for stage in pipeline.to_dict()["stages"] for name, of in stage.items()}
    found: dict[str, Any] = stages[key]
    return found


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_a_pipeline_whose_stages_are_all_explained(name: str) -> None:
    pipeline = cf.Pipeline.from_dict({"extends": name})
    assert pipeline == cf.Pipeline.from_dict(yaml.safe_load(preset_text(name)))
    lines = preset_text(name).partition("stages:\n")[2].splitlines()
    for above, line in pairwise(lines):
        if line.startswith("  - ") and "measure: {intensity" not in line and "skeleton: {prune_radii: 1.0}" not in line:
            assert above.lstrip().startswith("#") or above.startswith("      "), line


def test_what_a_file_lists_replaces_the_preset_and_the_rest_of_the_stage_stays() -> None:
    pipeline = cf.Pipeline.from_dict(
        {**MITOCHONDRIA, "stages": [{"threshold": {"method": "otsu"}}, {"deconvolve": {"psf": {"emission_nm": 525}}}]}
    )
    assert [stage.key for stage in pipeline.stages] == [
        "deconvolve", "resample", "threshold", "label", "skeleton", "measure",
    ]  # fmt: skip
    assert values(pipeline, "threshold")["method"] == "otsu"
    assert values(pipeline, "threshold")["smooth_um"] == 0.045
    psf = values(pipeline, "deconvolve")["psf"]
    assert (psf["microscope"], psf["emission_nm"], psf["sample_index"]) == ("confocal", 525, 1.36)
    assert values(pipeline, "deconvolve")["iterations"] == 20


def test_a_psf_of_another_kind_replaces_the_presets() -> None:
    pipeline = cf.Pipeline.from_dict(
        {**MITOCHONDRIA, "stages": [{"deconvolve": {"psf": {"fwhm_um": [0.6, 0.2, 0.2]}}}]}
    )
    psf = values(pipeline, "deconvolve")["psf"]
    assert psf["microscope"] is None
    assert psf["sample_index"] is None


def test_a_stage_that_the_preset_lacks_takes_its_place() -> None:
    pipeline = cf.Pipeline.from_dict({**MITOCHONDRIA, "stages": ["measure", {"correct": {"background_percentile": 5}}]})
    keys = [stage.key for stage in pipeline.stages]
    assert keys == sorted(keys, key=list(STAGES).index)
    assert keys[0] == "correct"


def test_stages_are_removed_and_options_are_overridden() -> None:
    pipeline = cf.Pipeline.from_dict(
        {**MITOCHONDRIA, "remove": ["measure", "skeleton"], "output": {"format": "0.4"}, "input": {"channel": 1}},
        overrides=["label.min_volume_um3=0.5"],
    )
    assert [stage.key for stage in pipeline.stages] == ["deconvolve", "resample", "threshold", "label"]
    assert pipeline.output.save == ("image", "labels", "skeleton")
    assert (pipeline.output.format, pipeline.input.channel) == ("0.4", 1)
    assert values(pipeline, "label")["min_volume_um3"] == 0.5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"extends": "mitochondria"}, "unknown preset 'mitochondria'. Did you mean 'mitochondria-confocal'"),
        ({"extends": 3}, "unknown preset 3"),
        ({"extends": "nuclei", "remove": ["skeleton"]}, "remove names 'skeleton', which the preset does not have"),
        ({"extends": "nuclei", "remove": "measure"}, "remove is 'measure', not a list"),
        ({"version": 1, "remove": ["label"], "stages": ["label"]}, "no preset is extended"),
        ({"extends": "nuclei", "stages": [{"treshold": {}}]}, "unknown stage 'treshold'. Did you mean 'threshold'"),
        ({"extends": "nuclei", "stages": {"threshold": {}}}, "stages is"),
        ({"extends": "nuclei", "stages": [{"threshold": 4}]}, "stage threshold"),
        ({"extends": "nuclei", "stages": ["label"]}, "both number objects"),
        ({"extends": "nuclei", "output": 3}, "output is 3"),
        ({"extends": "nuclei", "stages": [{"threshold": {"metod": "li"}}]}, "unknown key 'metod' in threshold"),
    ],
)
def test_errors_of_files_that_extend_a_preset_name_what_is_wrong(content: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        cf.Pipeline.from_dict(content)


# -- the schema


@cache
def validator() -> Any:
    return pytest.importorskip("jsonschema").Draft202012Validator(pipeline_schema())


def accepts(content: Any) -> bool:
    """As editors see it, for which `on` is a word; for PyYAML it is true."""
    return bool(validator().is_valid(json.loads(json.dumps(content).replace('"true":', '"on":'))))


def test_the_schema_is_one() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(pipeline_schema())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_schema_accepts_every_example(path: Path) -> None:
    assert accepts(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", preset_names())
def test_the_schema_accepts_every_preset_and_all_its_defaults(name: str) -> None:
    assert accepts(yaml.safe_load(preset_text(name)))
    assert accepts({"extends": name})
    assert accepts(cf.Pipeline.from_dict({"extends": name}).to_dict())


@pytest.mark.parametrize(
    "content",
    [
        {"version": 1, "stages": [{"threshold": {"methd": "li"}}]},
        {"version": 1, "stages": [{"treshold": {}}]},
        {"version": 1, "stages": ["lable"]},
        {"version": 1, "stages": [{"threshold": {"method": "oatsu"}}]},
        {"version": 1, "stages": [{"threshold": {"smooth_um": "0.1 um"}}]},
        {"version": 1, "stages": [{"deconvolve": {"psf": {"emision_nm": 525}}}]},
        {"version": 1, "stages": [{"resample": {"voxel_um": [1, 2]}}]},
        {"version": 1, "input": {"chanel": 0}, "stages": ["label"]},
        {"version": 1, "outputs": {}, "stages": ["label"]},
        {"version": 2, "stages": ["label"]},
        {"extends": "mitochondria"},
        {"version": 1},
    ],
)
def test_the_schema_refuses_what_is_misspelt(content: dict[str, Any]) -> None:
    assert not accepts(content)


@pytest.mark.parametrize("key", list(STAGES))
def test_the_schema_has_the_very_keys_of_every_stage(key: str) -> None:
    (of_stage,) = (each for each in pipeline_schema()["properties"]["stages"]["items"]["anyOf"][1:]
                   if each["required"] == [key])  # fmt: skip
    properties = of_stage["properties"][key]["anyOf"][0]["properties"]
    assert not accepts({"version": 1, "stages": [{key: {f"{min(properties)}x": None}}]})
    assert {"from"} <= set(properties) if key == "threshold" else "from_" not in properties


# -- values that are changed


def test_settings_of_one_key_are_alternatives_and_those_of_several_all_meet() -> None:
    texts = ["deconvolve.iterations=5", "threshold.method=li", "deconvolve.iterations=20"]
    assert alternatives(texts, most=8) == [
        ("deconvolve.iterations=5", "threshold.method=li"),
        ("deconvolve.iterations=20", "threshold.method=li"),
    ]
    assert alternatives([], most=8) == [()]


def test_too_many_settings_are_refused_with_their_number() -> None:
    texts = [f"label.min_voxels={n}" for n in range(3)] + [f"skeleton.t0={n}" for n in range(3)]
    with pytest.raises(ConfigError, match=r"3 of label.min_voxels x 3 of skeleton.t0 are 9 settings. Compare 8"):
        alternatives(texts, most=8)


def test_values_of_a_pipeline_are_changed_as_those_of_a_file_are() -> None:
    texts = ["threshold.method=otsu", "deconvolve.psf.emission_nm=488", "input.channel=1", "label.connectivity=6"]
    base = cf.Pipeline.from_dict(MITOCHONDRIA)
    assert changed(base, texts).to_dict() == cf.Pipeline.from_dict(MITOCHONDRIA, overrides=texts).to_dict()
    assert base.to_dict() == cf.Pipeline.from_dict(MITOCHONDRIA).to_dict()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("threshold=3", "is not KEY.key=value"),
        ("treshold.method=li", "Did you mean 'threshold'"),
        ("threshold.metod=li", "Did you mean 'method'"),
        ("threshold.method=lo", "method is 'lo'"),
        ("threshold.method.x=lo", "unknown key 'x'"),
        ("threshold.method={", "not YAML"),
    ],
)
def test_values_that_cannot_be_changed_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        changed(cf.Pipeline.from_dict(MITOCHONDRIA), [text])
