"""Projections against the largest values of the volume."""

from __future__ import annotations

import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chunkflow.report import projections as module
from chunkflow.report.facts import RunFacts
from chunkflow.report.projections import largest_along_axes, projections
from chunkflow.run.result import Result
from chunkflow.testing import suites


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_largest_values_are_those_of_the_whole_volume(tmp_path: Path, dtype: str) -> None:
    data = np.random.default_rng(1).integers(-90, -1, (13, 150, 141)).astype(dtype)
    volume = suites.write_volume(tmp_path / "in.ome.zarr", data, (0.3, 0.1, 0.1))
    for normal, found in enumerate(largest_along_axes(volume, foreground=False)):
        assert np.array_equal(found, data.max(axis=normal)) and found.dtype == data.dtype
    for normal, found in enumerate(largest_along_axes(volume, foreground=True)):
        assert np.array_equal(found, (data > 0).any(axis=normal))


def picture(html: str, name: str) -> Any:
    (found,) = re.findall(f"src='data:image/png;base64,([^']*)' alt='{name}'", html)
    with Image.open(BytesIO(b64decode(found))) as image:
        return np.asarray(image)


def test_pictures_show_everything_from_the_side(rings_result: Result) -> None:
    html = projections(RunFacts(rings_result))
    for name, axis in (("xy", 0), ("xz", 1), ("zy", 2)):
        shown = picture(html, f"{name} projection: gray")
        flat = rings_result.image[...].max(axis=axis)
        flat = flat.T if name == "zy" else flat
        rows, columns = (
            ((np.arange(n) + 0.5) * size / n).astype(int) for n, size in zip(flat.shape, shown.shape, strict=True)
        )
        assert np.array_equal(shown[np.ix_(rows, columns)] > 128, flat > 50)
    assert "show-projected" in html and picture(html, "xy projection: curves")[..., 3].any()


def test_where_no_level_is_small_there_is_none(rings_result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VOXELS", 1000)
    assert projections(RunFacts(rings_result)) == ""
