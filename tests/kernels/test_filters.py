"""Smoothing: against scipy where nothing is missing, and bitwise where blocks, borders and nodata meet."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from chunkflow.kernels.filters import gaussian_smooth, smooth_halo

SIGMA = (0.6, 1.3, 1.0)


def random_image(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32) * 900


def test_the_halo_is_four_sigma_rounded_up() -> None:
    assert smooth_halo((0.0, 0.5, 1.01)) == (0, 2, 5)


def test_far_from_the_border_it_is_the_gaussian_filter_of_scipy() -> None:
    image = random_image((21, 30, 27))
    expected = gaussian_filter(image.astype(np.float64), SIGMA, radius=smooth_halo(SIGMA))
    z, y, x = smooth_halo(SIGMA)
    inner = (slice(z, -z), slice(y, -y), slice(x, -x))
    assert np.allclose(gaussian_smooth(image, None, SIGMA)[inner], expected[inner], rtol=1e-5)


def test_each_voxel_is_the_weighted_mean_of_the_valid_voxels_in_reach() -> None:
    image, valid = random_image((7, 9, 8)), np.random.default_rng(1).random((7, 9, 8)) > 0.4
    got = gaussian_smooth(image, valid, SIGMA)
    weights = np.ones(())
    for sigma, radius in zip(SIGMA, smooth_halo(SIGMA), strict=True):
        profile = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        weights = np.multiply.outer(weights, profile)
    radii = smooth_halo(SIGMA)
    pad = [(r, r) for r in radii]
    values, there = np.pad(np.where(valid, image, 0).astype(np.float64), pad), np.pad(valid, pad)
    for p in np.ndindex(*image.shape):
        window = tuple(slice(a, a + 2 * r + 1) for a, r in zip(p, radii, strict=True))
        assert got[p] == pytest.approx((weights * values[window]).sum() / (weights * there[window]).sum(), rel=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_blocks_with_their_halo_give_the_bits_of_the_whole_volume(dtype: type) -> None:
    image = (random_image((19, 33, 26)) / 4).astype(dtype)
    valid = np.random.default_rng(2).random(image.shape) > 0.2
    whole = gaussian_smooth(image, valid, SIGMA)
    assert whole.dtype == np.float32
    rng = np.random.default_rng(3)
    for _ in range(30):
        start = [int(rng.integers(0, n)) for n in image.shape]
        stop = [int(rng.integers(a + 1, n + 1)) for a, n in zip(start, image.shape, strict=True)]
        low = [max(a - h, 0) for a, h in zip(start, smooth_halo(SIGMA), strict=True)]
        high = [min(b + h, n) for b, h, n in zip(stop, smooth_halo(SIGMA), image.shape, strict=True)]
        read = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        core = tuple(slice(a - c, b - c) for a, b, c in zip(start, stop, low, strict=True))
        wanted = whole[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        assert np.array_equal(gaussian_smooth(image[read], valid[read], SIGMA)[core], wanted)


@pytest.mark.parametrize("filling", [0.0, 1e30, np.nan, np.inf])
def test_a_volume_that_ends_equals_one_that_goes_on_with_invalid_voxels(filling: float) -> None:
    image = random_image((8, 12, 10))
    padded = np.full((15, 30, 24), filling, np.float32)
    valid = np.zeros(padded.shape, bool)
    inside = (slice(0, 8), slice(7, 19), slice(3, 13))
    padded[inside], valid[inside] = image, True
    assert np.array_equal(gaussian_smooth(padded, valid, SIGMA)[inside], gaussian_smooth(image, None, SIGMA))


def test_no_mask_is_a_mask_of_valid_voxels() -> None:
    image = random_image((6, 11, 9))
    got = gaussian_smooth(image, None, SIGMA)
    assert np.array_equal(got, gaussian_smooth(image, np.ones(image.shape, bool), SIGMA))


def test_a_constant_stays_constant_up_to_the_border() -> None:
    assert np.allclose(gaussian_smooth(np.full((5, 14, 12), 7.0, np.float32), None, SIGMA), 7.0, rtol=3e-7)


def test_it_stays_between_the_extremes_up_to_rounding() -> None:
    image = random_image((9, 20, 20), seed=4)
    got = gaussian_smooth(image, None, (1.0, 1.0, 1.0))
    assert image.min() * (1 - 1e-6) <= got.min()
    assert got.max() <= image.max() * (1 + 1e-6)


def test_sigma_zero_leaves_an_axis_alone() -> None:
    image = random_image((5, 9, 8))
    assert np.array_equal(gaussian_smooth(image, None, (0.0, 0.0, 0.0)), image)
    planes = [gaussian_smooth(image[z : z + 1], None, (0.0, 1.2, 0.7)) for z in range(5)]
    assert np.array_equal(gaussian_smooth(image, None, (0.0, 1.2, 0.7)), np.concatenate(planes))


def test_out_of_reach_of_valid_voxels_it_is_zero() -> None:
    valid = np.zeros((1, 40, 40), bool)
    valid[0, 3, 3] = True
    got = gaussian_smooth(np.full(valid.shape, 5.0, np.float32), valid, (0.0, 1.0, 1.0))
    assert got[0, 5, 5] == pytest.approx(5.0)
    assert not got[0, 9:, 9:].any()


@pytest.mark.parametrize("shape", [(20, 24, 30), (9, 8, 7), (5, 40, 3), (1, 50, 60), (1, 1, 1)])
@pytest.mark.parametrize("sigma", [(0.6, 0.6, 0.6), (1.7, 0.5, 0.0), (3.0, 2.0, 1.0)])
def test_all_valid_gives_the_bits_of_nothing_said(
    shape: tuple[int, int, int], sigma: tuple[float, float, float]
) -> None:
    image = np.random.default_rng(1).random(shape, np.float32)
    marked = gaussian_smooth(image, np.ones(shape, bool), sigma)
    np.testing.assert_array_equal(gaussian_smooth(image, None, sigma), marked)
