"""Shading: against scipy, the standard library and closed forms, and bitwise where blocks, borders and nodata meet."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from scipy import ndimage

from chunkflow.kernels import shading, threshold

RADIUS = (1, 3, 2)


def random_image(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) * 900 - 50).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 9, 8), (5, 9, 8)])
def test_flattening_subtracts_the_dark_and_divides_by_the_flat(dtype: type, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 200, (5, 9, 8)).astype(dtype)
    dark, flat = rng.random(shape).astype(np.float32) * 20, 0.5 + rng.random(shape).astype(np.float32)
    got = shading.flatten(image, dark, flat)
    assert got.dtype == np.float32
    assert np.allclose(got, (image.astype(np.float64) - dark) / flat, rtol=1e-6, atol=1e-5)


def test_flattening_leaves_what_it_was_given_alone() -> None:
    image = random_image((3, 4, 5))
    before = image.copy()
    shading.flatten(image, np.float32(3) * np.ones((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32))
    assert np.array_equal(image, before)


def test_a_flat_is_normalised_to_a_mean_of_one() -> None:
    light = np.random.default_rng(2).integers(20_000, 60_000, (1, 33, 41)).astype(np.uint16)
    flat = shading.normalised_flat(light)
    assert flat.dtype == np.float32
    assert flat.mean(dtype=np.float64) == pytest.approx(1, abs=1e-7)
    assert np.allclose(flat / flat[0, 0, 0], light / float(light[0, 0, 0]))


def test_small_integers_less_one_number_keep_one_bin_per_value() -> None:
    bins = shading.flattened_bins(90, 300, np.uint16, dark=(100.25, 100.25), flat=(1.0, 1.0))
    assert np.array_equal(bins.centres, np.arange(90, 301) - 100.25)


@pytest.mark.parametrize("dark", [(0.0, 0.0), (50.0, 180.0), (950.0, 990.0)])
@pytest.mark.parametrize("low", [10, 400])
def test_bins_reach_from_the_darkest_to_the_brightest_value_there_can_be(dark: shading.Range, low: int) -> None:
    low, high, flat = float(low), 900.0, (0.25, 1.5)
    bins = shading.flattened_bins(low, high, np.uint16, dark=dark, flat=flat)
    values = [(v - d) / f for v in (low, high) for d in dark for f in flat]
    assert bins.count == 65_536
    assert (bins.edges[0], bins.edges[-1]) == pytest.approx((min(values), max(values)))


@pytest.mark.parametrize("size", [1, 2, 7, 100, 1001])
def test_the_grouped_median_is_that_of_the_standard_library(size: int) -> None:
    for seed in range(20):
        values = np.random.default_rng(seed).integers(3, 3 + 2 * size, size)
        bins = threshold.Bins.of_range(int(values.min()), int(values.max()), np.uint16, smoothed=False)
        got = shading.grouped_percentile(threshold.histogram(values, bins), bins, 50)
        assert got == pytest.approx(statistics.median_grouped(values.tolist()), abs=1e-9)


@pytest.mark.parametrize("q", [0, 0.1, 5, 50, 99, 100])
def test_a_grouped_percentile_of_floats_is_within_a_bin_of_the_exact_one(q: float) -> None:
    values = np.random.default_rng(3).normal(100, 30, 50_001).astype(np.float32)
    bins = threshold.Bins.of_range(float(values.min()), float(values.max()), values.dtype, smoothed=False)
    got = shading.grouped_percentile(threshold.histogram(values, bins), bins, q)
    neighbours = np.percentile(values, q, method="lower"), np.percentile(values, q, method="higher")
    assert neighbours[0] - bins.width <= got <= neighbours[1] + bins.width


def test_a_grouped_percentile_grows_between_the_grey_values() -> None:
    bins = threshold.Bins.of_range(4, 6, np.uint8, smoothed=False)
    counts = np.array([10, 80, 10])
    found = [shading.grouped_percentile(counts, bins, q) for q in (0, 10, 30, 50, 90, 100)]
    assert found == pytest.approx([3.5, 4.5, 4.75, 5.0, 5.5, 6.5])
    assert np.isnan(shading.grouped_percentile(np.zeros(3, np.int64), bins, 50))


def test_gains_bring_levels_to_the_reference_and_leave_planes_without_light_alone() -> None:
    gains = shading.plane_gains(np.array([50.0, 200.0, np.nan, 0.0, -3.0]), 100.0)
    assert gains.tolist() == [2.0, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("radius", [RADIUS, (0, 2, 2), (2, 0, 1), (4, 9, 30), (0, 0, 0)])
@pytest.mark.parametrize("shape", [(7, 23, 18), (1, 13, 11), (5, 2, 3)])
def test_the_tophat_is_that_of_scipy(radius: tuple[int, int, int], shape: tuple[int, int, int]) -> None:
    image = random_image(shape)
    expected = ndimage.white_tophat(image, size=tuple(2 * r + 1 for r in radius))
    assert np.array_equal(shading.tophat(image, None, radius), expected)
    assert np.array_equal(shading.tophat(image, np.ones(shape, bool), radius), expected)


def test_boxes_hold_and_are_centred_on_valid_voxels_alone() -> None:
    image, valid = random_image((4, 9, 8)), np.random.default_rng(1).random((4, 9, 8)) > 0.3
    image[~valid] = np.nan
    least = np.full(image.shape, -np.inf)
    for p in zip(*np.nonzero(valid), strict=True):
        box = window(p)
        least[p] = image[box][valid[box]].min()
    got = shading.tophat(image, valid, RADIUS)
    for p in np.ndindex(*image.shape):
        assert got[p] == (image[p] - np.float32(least[window(p)].max()) if valid[p] else 0)


def window(p: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(max(a - r, 0), a + r + 1) for a, r in zip(p, RADIUS, strict=True))


def test_a_volume_that_ends_and_one_that_goes_on_with_nodata_have_one_tophat() -> None:
    inner = (slice(2, 7), slice(4, 17), slice(3, 15))
    image, valid = random_image((9, 20, 19)), np.zeros((9, 20, 19), bool)
    valid[inner] = True
    assert np.array_equal(shading.tophat(image, valid, RADIUS)[inner], shading.tophat(image[inner], None, RADIUS))


def tophat_of_box(
    image: np.ndarray, valid: np.ndarray, start: list[int], stop: list[int], halo: tuple[int, ...]
) -> np.ndarray:
    low = [max(a - h, 0) for a, h in zip(start, halo, strict=True)]
    high = [min(b + h, n) for b, h, n in zip(stop, halo, image.shape, strict=True)]
    read = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    core = tuple(slice(a - c, b - c) for a, b, c in zip(start, stop, low, strict=True))
    return shading.tophat(image[read], valid[read], RADIUS)[core]


def test_blocks_with_their_halo_have_the_tophat_of_the_volume_and_with_one_voxel_less_they_do_not() -> None:
    image, rng = random_image((11, 33, 26)), np.random.default_rng(5)
    valid = rng.random(image.shape) > 0.2
    whole = shading.tophat(image, valid, RADIUS)
    halo = shading.tophat_halo(RADIUS)
    assert halo == (2, 6, 4)
    wrong = 0
    for _ in range(30):
        start = [int(rng.integers(0, n)) for n in image.shape]
        stop = [int(rng.integers(a + 1, n + 1)) for a, n in zip(start, image.shape, strict=True)]
        wanted = whole[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        assert np.array_equal(tophat_of_box(image, valid, start, stop, halo), wanted)
        shorter = tuple(h - 1 for h in halo)
        wrong += not np.array_equal(tophat_of_box(image, valid, start, stop, shorter), wanted)
    assert wrong > 5


def test_what_is_narrower_than_the_box_stays_and_a_slope_of_ground_goes() -> None:
    z, y, x = np.indices((9, 40, 40))
    ground = 1000 + 20 * ((y - 20.0) / 20) ** 2
    bead = 300 * ((np.abs(z - 4) <= 1) & (np.abs(y - 20) <= 1) & (np.abs(x - 15) <= 1))
    got = shading.tophat((ground + bead).astype(np.float32), None, (2, 4, 4))
    assert got[4, 20, 15] == pytest.approx(300, abs=1)
    assert got[bead == 0].max() < 10
