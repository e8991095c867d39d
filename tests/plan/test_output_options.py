"""What `output` says of how arrays are stored."""

import json
from pathlib import Path

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
