"""`chunkflow init`: a file that runs, from what the image says; what nothing says is asked for and never guessed."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from typer.testing import CliRunner

import chunkflow as cf
from chunkflow.cli import app
from chunkflow.errors import ConfigError, InputError, UsageError
from chunkflow.plan.presets import preset_names
from chunkflow.plan.schema import NAME, pipeline_schema
from chunkflow.run.init import Missing, started, write_started
from chunkflow.storage.tiff_image import write_tiff
from chunkflow.testing import suites

OPTICS = {"na": 1.4, "emission_nm": 600.0, "magnification": 100.0, "mode": "spinning-disk", "immersion": "oil"}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "cells.ome.zarr"
    suites.write_volume(path, np.zeros((8, 30, 31), np.uint16), (0.2, 0.08, 0.08))
    return path


@pytest.fixture
def knowing(image: Path) -> Path:
    """The image with optics in its metadata."""
    metadata = image / "zarr.json"
    content = json.loads(metadata.read_text())
    content["attributes"]["chunkflow"] = {"optics": [OPTICS]}
    metadata.write_text(json.dumps(content))
    return image


@pytest.mark.parametrize("preset", preset_names())
def test_what_is_written_is_the_preset_and_keeps_its_comments(preset: str, image: Path, tmp_path: Path) -> None:
    given = ["deconvolve.psf.objective=63x/1.4 oil", "deconvolve.psf.emission_nm=525"]
    sets = given if preset == "mitochondria-confocal" else []
    found = started(preset, image, tmp_path / "pipeline.yaml", sets=sets)
    written = yaml.safe_load(found.text)
    assert not found.missing
    assert written["input"]["path"] == "cells.ome.zarr"
    base = cf.Pipeline.from_dict({"extends": preset}, overrides=[s for s in sets]).to_dict()
    assert cf.Pipeline.from_dict(written).to_dict()["stages"] == base["stages"]
    assert found.text.startswith(f"# yaml-language-server: $schema={NAME}\n")
    assert found.text.count("\n  # ") >= 2
    assert max(map(len, found.text.splitlines())) <= 120


def test_optics_come_from_the_image_and_are_marked(knowing: Path, tmp_path: Path) -> None:
    found = started("mitochondria-confocal", knowing, tmp_path / "pipeline.yaml")
    assert not found.missing
    assert "emission_nm: 600.0  # from the image" in found.text
    assert "microscope: spinning-disk  # from the image" in found.text
    psf = yaml.safe_load(found.text)["stages"][0]["deconvolve"]["psf"]
    assert (psf["na"], psf["sample_index"]) == (1.4, 1.36)


def test_what_is_given_wins_over_the_image(knowing: Path, tmp_path: Path) -> None:
    sets = ["deconvolve.psf.emission_nm=488", "deconvolve.psf.microscope=confocal"]
    found = started("mitochondria-confocal", knowing, tmp_path / "p.yaml", sets=sets)
    assert "emission_nm: 488\n" in found.text
    assert "microscope: confocal\n" in found.text


def test_what_nothing_says_stands_as_a_comment_and_the_command_ends_with_two(image: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "pipeline.yaml"
    ended = CliRunner().invoke(app, ["init", "mitochondria-confocal", str(image), "-o", str(target)])
    assert ended.exit_code == 2
    for key, example in (("objective", "63x/1.4 oil"), ("emission_nm", "525")):
        assert f"# {key}: {example}  # MISSING" in target.read_text()
        assert f"--set {shlex.quote(f'deconvolve.psf.{key}={example}')}" in ended.output
    assert json.loads((target.parent / NAME).read_text()) == pipeline_schema()
    with pytest.raises(ConfigError, match="needs na"):
        cf.Pipeline.from_yaml(target).plan(output=tmp_path / "out")


def test_on_a_terminal_what_is_missing_is_asked_for(image: Path, tmp_path: Path) -> None:
    answers = {"deconvolve.psf.objective": "63x/1.4 oil", "deconvolve.psf.emission_nm": "525"}

    def ask(missing: Missing) -> str:
        return answers.pop(missing.key)

    found = started("mitochondria-confocal", image, tmp_path / "p.yaml", ask=ask)
    assert not answers
    assert not found.missing
    assert "objective: 63x/1.4 oil" in found.text


def test_the_channel_of_an_image_with_several_is_asked_for_by_name(tmp_path: Path) -> None:
    suites.write_volume(tmp_path / "two.ome.zarr", np.zeros((8, 20, 20), np.uint16), (0.5, 0.2, 0.2))
    facts = tmp_path / "two.ome.zarr"
    _with_channels(facts, ("dapi", "gfp"))
    found = started("nuclei", facts, tmp_path / "p.yaml")
    assert [(m.key, m.example) for m in found.missing] == [("input.channel", "dapi")]
    assert "dapi, gfp" in found.missing[0].what
    assert not started("nuclei", facts, tmp_path / "p.yaml", sets=["input.channel=gfp"]).missing


def test_what_the_image_says_of_a_channel_counts_once_the_channel_is_known(tmp_path: Path) -> None:
    image = tmp_path / "two.ome.zarr"
    suites.write_volume(image, np.zeros((8, 20, 20), np.uint16), (0.5, 0.2, 0.2))
    _with_channels(image, ("dapi", "gfp"))
    content = json.loads((image / "zarr.json").read_text())
    content["attributes"]["chunkflow"] = {"optics": [OPTICS | {"emission_nm": nm} for nm in (461.0, 520.0)]}
    (image / "zarr.json").write_text(json.dumps(content))
    found = started("mitochondria-confocal", image, tmp_path / "p.yaml", sets=["input.channel=gfp"])
    assert not found.missing
    assert "emission_nm: 520" in found.text
    asked = started("mitochondria-confocal", image, tmp_path / "p.yaml", ask=lambda value: "dapi")
    assert "emission_nm: 461" in asked.text


def _with_channels(path: Path, names: tuple[str, ...]) -> None:
    """The image again, with a channel axis."""
    import shutil

    import zarr

    shutil.rmtree(path)
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", shape=(len(names), 8, 20, 20), chunks=(1, 8, 20, 20), dtype="uint16")
    axes: list[dict[str, Any]] = [{"name": "c", "type": "channel"}]
    axes += [{"name": letter, "type": "space", "unit": "micrometer"} for letter in "zyx"]
    scale = [{"type": "scale", "scale": [1.0, 0.5, 0.2, 0.2]}]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}],
        "omero": {"channels": [{"label": name, "color": "FFFFFF", "window": _WINDOW} for name in names]},
    }


_WINDOW = {"min": 0, "max": 1, "start": 0, "end": 1}


@pytest.mark.parametrize(
    ("preset", "sets", "kind", "said"),
    [
        ("nucleus", (), ConfigError, "Did you mean 'nuclei'"),
        ("nuclei", ("label.min_voxels=3",), ConfigError, "KEY being one of input, output, threshold"),
        ("nuclei", ("threshold.method=otso",), ConfigError, "otso"),
        ("nuclei", ("threshold",), ConfigError, "KEY.key=value"),
    ],
)
def test_presets_and_values_that_there_are_not_are_refused(
    preset: str, sets: tuple[str, ...], kind: type[Exception], said: str, image: Path, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=said):
        started(preset, image, tmp_path / "p.yaml", sets=sets)


def test_a_tiff_starts_a_pipeline_as_its_import_would(tmp_path: Path) -> None:
    tiff, voxels = tmp_path / "a.tif", np.ones((4, 8, 8), np.uint16)
    tifffile.imwrite(tiff, voxels, photometric="minisblack")
    (missing,) = started("nuclei", tiff, tmp_path / "p.yaml").missing
    assert missing.key == "input.voxel_um"
    found = started("nuclei", tiff, tmp_path / "p.yaml", sets=["input.voxel_um=[0.3, 0.1, 0.1]"])
    assert not found.missing
    assert yaml.safe_load(found.text)["input"] == {"voxel_um": [0.3, 0.1, 0.1], "path": "a.tif"}
    write_tiff(tiff, voxels, (0.2, 0.08, 0.08))
    found = started("nuclei", tiff, tmp_path / "p.yaml")
    assert not found.missing
    assert "4 x 8 x 8 voxels of 0.2 x 0.08 x 0.08 um" in found.text
    tiff.write_bytes(b"II*\0")
    with pytest.raises(InputError, match="a.tif"):
        started("nuclei", tiff, tmp_path / "p.yaml")


def test_a_folder_of_images_is_answered_with_one_of_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_tiff(tmp_path / "data" / "a.tif", np.ones((4, 8, 8), np.uint16), (0.2, 0.08, 0.08))
    with pytest.raises(UsageError, match="Name one of them, such as .*a.tif"):
        started("nuclei", tmp_path / "data", tmp_path / "p.yaml")


def test_a_file_that_is_there_is_kept(image: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        started("nuclei", tmp_path / "nowhere", tmp_path / "p.yaml")
    found = started("nuclei", image, tmp_path / "p.yaml")
    write_started(found, tmp_path / "p.yaml", overwrite=False)
    with pytest.raises(UsageError, match="is there already"):
        write_started(found, tmp_path / "p.yaml", overwrite=False)


def test_the_key_on_is_written_as_a_word(image: Path, tmp_path: Path) -> None:
    """A bare on is true in YAML 1.1, and true is no key that people, or editors with the schema, know."""
    found = started("nuclei", image, tmp_path / "pipeline.yaml")
    (line,) = [line for line in found.text.splitlines() if line.startswith("  - instances:")]
    assert line.startswith("  - instances: {'on': distance, ")
    assert "true" not in line


def test_a_channel_that_the_image_does_not_have_is_refused(image: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cells.ome.zarr has no channel 'mito'"):
        started("nuclei", image, tmp_path / "pipeline.yaml", sets=["input.channel=mito"])
