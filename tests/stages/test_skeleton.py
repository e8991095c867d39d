"""The stage skeleton: what its plan says before anything runs."""

from pathlib import Path

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.testing import suites

STAGES = (cf.Threshold(method="fixed", value=50.0), cf.Label(), cf.Skeleton(), cf.Measure())


def rod(tmp_path: Path, depth_um: float) -> Path:
    """A rod 1.8 um wide and 18 um long along z, in planes of that depth."""
    z, y, x = np.indices((round(21 / depth_um), 41, 41))
    inside = ((y - 20) ** 2 + (x - 20) ** 2 < 81) & (abs(z * depth_um - 10) < 9)
    path = tmp_path / "in.ome.zarr"
    suites.write_volume(path, (100 * inside).astype(np.uint8), (depth_um, 0.1, 0.1))
    return path


@pytest.mark.parametrize(("depth_um", "is_told"), [(0.1, False), (0.3, False), (1.0, True)])
def test_long_voxels_are_told_since_skeletons_along_them_are_too_short(
    tmp_path: Path, depth_um: float, is_told: bool
) -> None:
    path = rod(tmp_path, depth_um)
    told = [text for text in cf.Pipeline(STAGES).plan(path, tmp_path / "out").warnings if "too short" in text]
    assert told == ([told[0]] if is_told else [])
    if is_told:
        assert "voxels are 10 times as long along z as they are wide" in told[0]
    cubes = cf.Pipeline((cf.Resample(voxel_um="isotropic"), *STAGES)).plan(path, tmp_path / "cubes").warnings
    assert not any("too short" in text for text in cubes)
