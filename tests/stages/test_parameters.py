"""What users hand to stages is checked alike from Python and from YAML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import chunkflow as cf
from chunkflow.errors import ConfigError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cf.Threshold(method="Otsu"), "threshold: method is 'Otsu'. Did you mean 'otsu'"),  # type: ignore[arg-type]
        (lambda: cf.Measure(intensity="nothing"), "measure: intensity is 'nothing'"),  # type: ignore[arg-type]
        (lambda: cf.OutputOptions(pyramid="non"), "output: pyramid is 'non'. Did you mean 'none'"),  # type: ignore[arg-type]
        (lambda: cf.InputOptions(kind="lables"), "input: kind is 'lables'. Did you mean 'labels'"),  # type: ignore[arg-type]
        (lambda: cf.Resample(voxel_um=0.2), "resample: voxel_um is 0.2. Give 3 values"),  # type: ignore[arg-type]
        (lambda: cf.Threshold(smooth_um=float("nan")), "threshold: smooth_um is nan. Give a finite number"),
        (lambda: cf.Skeleton(prune_radii=float("inf")), "skeleton: prune_radii is inf"),
        (lambda: cf.Deconvolve(psf={"fwhm_um": [1, 1, 1]}), "deconvolve: psf is"),  # type: ignore[arg-type]
        (lambda: cf.Label(min_voxels=True), "label: min_voxels is True. Give a whole number"),
        (lambda: cf.Pipeline([cf.Label()], block="8"), "pipeline: block is '8'"),  # type: ignore[arg-type]
        (lambda: cf.Pipeline(["label"]), "'label' is no stage"),  # type: ignore[list-item]
    ],
)
def test_a_value_that_does_not_fit_is_named_with_what_would(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)


def test_lists_stand_for_tuples_and_whole_numbers_for_floats() -> None:
    assert cf.Resample(voxel_um=[1, 2, 3]) == cf.Resample(voxel_um=(1, 2, 3))  # type: ignore[arg-type]
    assert cf.OutputOptions(save=["labels"]).save == ("labels",)  # type: ignore[arg-type]
