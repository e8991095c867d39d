"""What `output` says of how arrays are stored."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.errors import ConfigError


@pytest.mark.parametrize("format", ["0.4", "0.5"])
def test_the_level_of_compression_reaches_every_array(format: str, demo_volume: Path, tmp_path: Path) -> None:
    sizes, values = {}, {}
    for level in (1, 19):
        output = cf.OutputOptions(save=("labels",), compression=level, format=format)
        pipeline = cf.Pipeline([cf.Threshold(), cf.Label()], output=output)
        result = pipeline.plan(demo_volume, tmp_path / f"{level}", block=(32, 100, 120)).run(on="serial")
        folder = tmp_path / f"{level}" / "image.ome.zarr" / "labels" / "objects" / "0"
        metadata = json.loads((folder / (".zarray" if format == "0.4" else "zarr.json")).read_text())
        assert f'"level": {level}' in json.dumps(metadata)
        sizes[level] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert result.labels is not None
        values[level] = result.labels[:]
    assert sizes[19] < sizes[1]
    np.testing.assert_array_equal(values[1], values[19])


@pytest.mark.parametrize("level", [0, 23])
def test_a_level_that_zstd_does_not_have_is_refused(level: int) -> None:
    with pytest.raises(ConfigError, match=f"compression {level} is no level"):
        cf.OutputOptions(compression=level)


def deconvolving(*after: cf.Resample, dtype: str | None = None, own: str = "float32", **options: Any) -> cf.Pipeline:
    psf = cf.Psf(fwhm_um=(0.6, 0.25, 0.25))
    stage = cf.Deconvolve(psf=psf, iterations=2, background=10.0, tile=(32, 64, 64), halo=(4, 6, 6), dtype=own)
    stages = [stage, *after, cf.Threshold(), cf.Label()]
    return cf.Pipeline(stages, output=cf.OutputOptions(dtype=dtype, **options))


def test_the_type_of_the_output_is_that_of_the_image_and_deconvolve_s_is_its_own_form(
    tiny_volume: Path, tmp_path: Path
) -> None:
    written = {}
    for name, pipeline in (("output", deconvolving(dtype="uint16")), ("stage", deconvolving(own="uint16"))):
        result = pipeline.plan(tiny_volume, tmp_path / name).run(on="serial", device="cpu")
        assert result.image is not None and result.image.dtype == np.uint16
        written[name] = result.image[:]
    np.testing.assert_array_equal(written["output"], written["stage"])
    assert written["output"].any()


def test_the_type_survives_being_written_out_and_set_from_outside() -> None:
    said = deconvolving(dtype="uint16").to_dict()
    assert said["output"]["dtype"] == said["stages"][0]["deconvolve"]["dtype"] == "uint16"
    assert cf.Pipeline.from_dict(said).to_dict() == said
    plain = deconvolving().to_dict()
    assert cf.Pipeline.from_dict(plain, overrides=["output.dtype=uint16"]).to_dict() == said


def test_a_type_that_makes_no_sense_is_refused_with_the_stage(demo_volume: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resample makes the image, which has fractions"):
        deconvolving(cf.Resample(), dtype="uint16")
    with pytest.raises(ConfigError, match="dtype float32, and deconvolve: dtype uint16"):
        deconvolving(dtype="float32", own="uint16")
    with pytest.raises(ConfigError, match="which save leaves out"):
        deconvolving(dtype="uint16", save=("labels",))
    with pytest.raises(ConfigError, match="dtype is"):
        deconvolving(dtype="uint8")
    copied = cf.Pipeline([cf.Threshold(), cf.Label()], output=cf.OutputOptions(dtype="float32"))
    with pytest.raises(ConfigError, match="a copy of the input, which is uint16"):
        copied.plan(demo_volume, tmp_path / "out")
    deconvolving(cf.Resample(), dtype="float32")
