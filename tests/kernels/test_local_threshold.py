"""Local thresholds: against scikit-image and against windows summed voxel by voxel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from skimage import filters

from chunkflow.kernels import local_threshold as local
from chunkflow.kernels.local_threshold import LocalRule, Steps

SAUVOLA = LocalRule(rule="sauvola", k=0.2, spread=300.0)
RULES = (SAUVOLA, LocalRule(rule="niblack", k=-0.4, offset=3.0), LocalRule(rule="mean", offset=-5.0))


def image_of(dtype: Any, shape: tuple[int, int, int] = (11, 23, 29), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    grey = 400 + 150 * ndimage.gaussian_filter(rng.standard_normal(shape), 1) / 0.2 + 5 * rng.standard_normal(shape)
    return np.clip(grey, 1, 60_000).astype(dtype)


def thresholds(image: np.ndarray, rule: LocalRule, radius: tuple[int, int, int], valid: Any = None) -> np.ndarray:
    inside = image if valid is None else image[valid]
    limits = float(inside.min()), float(inside.max())
    return whole_volume(image, valid, radius=radius, rule=rule, limits=limits, dtype=image.dtype)


def whole_volume(image: np.ndarray, valid: Any, **parameters: Any) -> np.ndarray:
    planes = local.threshold_planes(image, valid, planes=range(len(image)), **parameters)
    return np.stack([threshold for _, threshold in planes])


def by_windows(image: np.ndarray, rule: LocalRule, radius: tuple[int, int, int], valid: np.ndarray) -> np.ndarray:
    """Of every voxel, from the valid voxels in its window, cut at the sides of the volume."""
    expected = np.full(image.shape, np.inf)
    for at in np.ndindex(image.shape):
        window = tuple(slice(max(0, p - r), p + r + 1) for p, r in zip(at, radius, strict=True))
        voxels = image[window][valid[window]].astype(np.float64)
        if voxels.size:
            expected[at] = rule.of(voxels.mean(), voxels.std())
    return expected


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.uint32])
@pytest.mark.parametrize("rule", RULES)
def test_thresholds_are_those_of_the_valid_voxels_in_the_window(dtype: Any, rule: LocalRule) -> None:
    image = image_of(dtype, (7, 9, 11)) if dtype is not np.int16 else image_of(dtype, (7, 9, 11)) - np.int16(300)
    valid = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal(image.shape), 2) > -0.05
    for usable in (None, valid):
        expected = by_windows(image, rule, (2, 1, 3), np.ones(image.shape, bool) if usable is None else usable)
        assert np.allclose(thresholds(image, rule, (2, 1, 3), usable), expected, rtol=1e-6)


def test_sauvola_and_niblack_are_those_of_scikit_image_inside() -> None:
    image = image_of(np.uint16)
    inside = (slice(2, -2), slice(3, -3), slice(4, -4))
    window = (5, 7, 9)
    found = thresholds(image, SAUVOLA, (2, 3, 4))
    assert np.allclose(found[inside], filters.threshold_sauvola(image, window, k=0.2, r=300)[inside], rtol=1e-9)
    found = thresholds(image, LocalRule(rule="niblack", k=0.3), (2, 3, 4))
    assert np.allclose(found[inside], filters.threshold_niblack(image, window, k=0.3)[inside], rtol=1e-9)


def test_the_mean_rule_is_the_local_threshold_of_scikit_image_inside() -> None:
    image = image_of(np.float32)
    inside = (slice(2, -2), slice(3, -3), slice(4, -4))
    expected = filters.threshold_local(image.astype(np.float64), (5, 7, 9), method="mean", offset=10)
    found = thresholds(image, LocalRule(rule="mean", offset=10), (2, 3, 4))
    assert np.allclose(found[inside], expected[inside], rtol=1e-6)


def test_invalid_voxels_may_hold_anything() -> None:
    image = image_of(np.float32)
    valid = np.random.default_rng(1).random(image.shape) > 0.3
    expected = thresholds(image, SAUVOLA, (1, 2, 2), valid)
    assert np.array_equal(thresholds(np.where(valid, image, np.nan), SAUVOLA, (1, 2, 2), valid), expected)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_planes_of_a_part_are_those_of_the_whole_bit_for_bit(dtype: Any) -> None:
    image = image_of(dtype) * dtype(1.37)
    limits = float(image.min()), float(image.max())
    radius = (2, 3, 4)
    whole = whole_volume(image, None, radius=radius, rule=SAUVOLA, limits=limits, dtype=dtype)
    part = image[3:10, 4:, 5:20]
    found = list(
        local.threshold_planes(part, None, planes=range(2, 5), radius=radius, rule=SAUVOLA, limits=limits, dtype=dtype)
    )
    assert np.array_equal(np.stack([t for _, t in found])[:, 3:, 4:-4], whole[5:8, 7:, 9:16])


def test_a_flat_image_lies_at_its_mean_exactly() -> None:
    image = np.full((5, 6, 7), 0.1, np.float32)
    image[0, 0, 0] = 0.37
    rule = LocalRule(rule="mean")
    planes = local.threshold_planes(
        image, None, planes=range(3, 5), radius=(1, 1, 1), rule=rule, limits=(0.05, 0.37), dtype=np.float32
    )
    assert all(np.array_equal(values, found) for values, found in planes)


@pytest.mark.parametrize("voxels", [27, 1000, 10**6, 2**28])
def test_sums_of_squares_fit_an_int64_however_large_the_window(voxels: int) -> None:
    steps = Steps.of_range(-3, 1000, np.float32, voxels)
    assert steps.most**2 * voxels < 2**63
    assert steps.value(steps.whole(np.array([-3.0, 1000.0, 2000.0]))) == pytest.approx([-3, 1000, 1000], rel=1e-6)


@pytest.mark.parametrize(
    ("window", "voxel", "radius"), [(0.5, 0.1, 2), (0.59, 0.1, 2), (0.7, 0.1, 3), (0.05, 0.1, 0), (0.9, 0.3, 1)]
)
def test_windows_are_odd_and_no_wider_than_asked(window: float, voxel: float, radius: int) -> None:
    assert local.window_radius(window, (voxel,) * 3) == (radius,) * 3
