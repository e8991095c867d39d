"""One small result of every kind of table, for the tests of reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.run.driver import run_plan
from chunkflow.run.result import Result
from chunkflow.testing import suites

VOXEL_UM = (0.3, 0.1, 0.1)


def rings() -> Any:
    """Two flat rings and a rod of 100 on 0 to 20, in 13 x 41 x 67 voxels."""
    image = np.random.default_rng(5).integers(0, 20, (13, 41, 67)).astype(np.float32)
    y, x = np.mgrid[:41, :67]
    for cy, cx in ((14, 16), (24, 48)):
        radius = np.hypot(y - cy, x - cx)
        image[5:8, (radius > 7) & (radius < 11)] = 100
    image[9:12, 33:36, 5:60] = 100
    return image


def run_rings(folder: Path, name: str = "out", *, image: Any = None, value: float = 50.0, **options: Any) -> Result:
    """Segment and measure the rings; `options` are those of a run."""
    source = folder / f"{name}.in.ome.zarr"
    suites.write_volume(source, rings() if image is None else image, VOXEL_UM)
    stages = [cf.Threshold(method="fixed", value=value), cf.Label(), cf.Skeleton(), cf.Measure()]
    pipeline = cf.Pipeline(stages, output=cf.OutputOptions(save=("image", "labels")))
    return run_plan(pipeline.plan(source, folder / name, block=(32, 32, 64)), on="serial", device="cpu", **options)


@pytest.fixture(scope="session")
def rings_result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Not to be changed: copy what a test spoils."""
    return run_rings(tmp_path_factory.mktemp("rings"), report=False)
