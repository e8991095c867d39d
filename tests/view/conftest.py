"""One run in both formats, for all that looks at results."""

from __future__ import annotations

import pytest

import chunkflow as cf
from chunkflow.synth import optics, phantoms
from chunkflow.testing import suites

SHAPE, VOXEL_UM, ORIGIN_UM = (24, 230, 262), (0.2, 0.08, 0.08), (3.0, 0.0, 0.0)


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, cf.Result]:
    """By format: image and objects with two levels halved in the plane; 0.5 in shards of several chunks."""
    folder = tmp_path_factory.mktemp("seen")
    phantom = phantoms.mitochondria(SHAPE, VOXEL_UM, seed=3)
    image = optics.acquire(phantom.labels, voxel_um=VOXEL_UM, seed=3) * 37
    suites.write_volume(folder / "in.ome.zarr", image, VOXEL_UM, translation_um=ORIGIN_UM)
    stages = [cf.Threshold(smooth_um=0.06), cf.Label(min_voxels=20), cf.Skeleton(), cf.Measure()]

    def run(format: str) -> cf.Result:
        output = cf.OutputOptions(save=("image", "labels", "skeleton"), format=format, pyramid="xy")
        plan = cf.Pipeline(stages, output=output).plan(folder / "in.ome.zarr", folder / format)
        return plan.run(on="serial", device="cpu")

    return {format: run(format) for format in ("0.4", "0.5")}
