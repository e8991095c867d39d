"""Point-spread functions: closed forms for the Gaussian, recentring, and the halo rule."""

from __future__ import annotations

from math import ceil, erf, log, sqrt

import numpy as np
import pytest

from chunkflow.errors import InputError
from chunkflow.kernels import psf


def sigma_of(fwhm: float) -> float:
    return fwhm / (2 * sqrt(2 * log(2)))


def test_a_gaussian_is_odd_symmetric_float32_and_sums_to_one() -> None:
    made = psf.gaussian((0.6, 0.25, 0.31), (0.2, 0.056, 0.1))
    assert made.dtype == np.float32
    assert all(n % 2 == 1 for n in made.shape)
    assert made.sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    for axis in range(3):
        assert np.array_equal(made, np.flip(made, axis))
    assert np.unravel_index(made.argmax(), made.shape) == tuple(n // 2 for n in made.shape)


def test_a_gaussian_is_the_integral_over_each_voxel() -> None:
    made = psf.gaussian((0.0, 0.0, 1.0), (1.0, 1.0, 0.5))
    assert made.shape[:2] == (1, 1)
    sigma, radius = sigma_of(2.0), made.shape[2] // 2
    for k in range(-radius, radius + 1):
        integral = (erf((k + 0.5) / sigma / sqrt(2)) - erf((k - 0.5) / sigma / sqrt(2))) / 2
        assert made[0, 0, k + radius] == pytest.approx(integral, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("lost", [1e-4, 1e-6])
def test_truncation_loses_less_than_it_may_and_a_smaller_psf_would_lose_more(lost: float) -> None:
    radius = psf.gaussian((0.0, 0.0, 5.0), (1.0, 1.0, 1.0), lost=lost).shape[2] // 2

    def outside(reach: int) -> float:
        return 1 - erf((reach + 0.5) / sigma_of(5.0) / sqrt(2))

    assert outside(radius) <= lost / 3 < outside(radius - 1)


@pytest.mark.parametrize("width", [-0.1, float("nan"), float("inf")])
def test_a_width_that_is_none_is_refused(width: float) -> None:
    with pytest.raises(InputError, match="FWHM"):
        psf.gaussian((0.5, width, 0.5), (0.1, 0.1, 0.1))


@pytest.mark.parametrize("shape", [(9, 11, 13), (8, 10, 12), (9, 10, 13)])
def test_a_shifted_psf_is_brought_back_to_its_centre(shape: tuple[int, int, int]) -> None:
    small = psf.gaussian((2.0, 1.5, 1.0), (1.0, 1.0, 1.0), lost=1e-2)
    for start in ((0, 0, 0), tuple(n - s for n, s in zip(shape, small.shape, strict=True)), (1, 2, 3)):
        stack = np.zeros(shape)
        stack[tuple(slice(a, a + s) for a, s in zip(start, small.shape, strict=True))] = small * 700
        assert np.allclose(psf.normalise(stack, background=0.0), small, atol=1e-7)


def test_a_skewed_psf_is_centred_on_its_peak_without_losing_a_voxel() -> None:
    stack = np.random.default_rng(1).random((6, 7, 4)) * 0.1
    stack[4, 1, 2] = 5.0
    ready = psf.normalise(stack, background=0.0)
    assert ready.shape == (9, 11, 5)
    assert np.unravel_index(ready.argmax(), ready.shape) == (4, 5, 2)
    assert np.count_nonzero(ready) == np.count_nonzero(stack)
    assert ready.sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)


def test_a_psf_centred_between_voxels_of_an_even_grid_is_centred_at_half_its_shape() -> None:
    offset = np.arange(8) - 3.5
    stack = np.exp(-(offset[:, None, None] ** 2 + offset[:, None] ** 2 + offset**2) / 4)
    ready = psf.normalise(stack, background=0.0)
    assert ready.shape == (9, 9, 9)
    assert np.array_equal(ready[:8, :8, :8] > 0, np.ones((8, 8, 8), bool))


def test_one_hot_pixel_does_not_move_the_centre() -> None:
    bead = psf.gaussian((4, 4, 4), (1, 1, 1))
    stack = np.pad(bead, 2) * 1000
    peak = stack.max()
    stack[1, 2, 3] = 1.5 * peak
    ready = psf.normalise(stack, background=0.0)
    assert ready[tuple(n // 2 for n in ready.shape)] == pytest.approx(peak / stack.sum(), rel=1e-4)


def test_the_camera_offset_is_taken_off() -> None:
    bead = np.pad(psf.gaussian((2, 2, 2), (1, 1, 1)), 3)
    noise = np.random.default_rng(2).normal(0, 1e-3, bead.shape)
    ready = psf.normalise(bead * 1e4 + 100 + noise)
    bare = psf.normalise(bead * 1e4)
    centre = tuple(n // 2 for n in ready.shape)
    assert ready[centre] == pytest.approx(bare[tuple(n // 2 for n in bare.shape)], rel=1e-3)


@pytest.mark.parametrize(
    ("stack", "said"),
    [
        (np.ones((3, 3)), "shape"),
        (np.ones((0, 3, 3)), "shape"),
        (np.full((3, 3, 3), np.nan), "NaN"),
        (np.zeros((3, 3, 3)), "nothing above|values sum to"),
        (-np.ones((3, 3, 3)), "nothing above|values sum to"),
        (np.full((5, 5, 5), 100), "nothing above|values sum to"),
    ],
)
def test_a_stack_that_is_no_psf_is_refused(stack: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        psf.normalise(stack)


def test_the_width_of_a_gaussian_is_its_sigma_and_a_voxel_wherever_it_lies() -> None:
    made = psf.gaussian((12.0, 7.0, 0.0), (2.0, 1.0, 1.0), lost=1e-9)
    expected = [sqrt(sigma_of(6.0) ** 2 + 1 / 12), sqrt(sigma_of(7.0) ** 2 + 1 / 12), 0.0]
    assert psf.rms_width(made) == pytest.approx(expected, rel=1e-4)
    assert psf.rms_width(np.pad(made, ((3, 0), (0, 4), (1, 0)))) == pytest.approx(expected, rel=1e-4)


def test_the_halo_follows_the_rule_and_never_exceeds_the_exact_reach() -> None:
    made = psf.gaussian((6.0, 3.0, 0.0), (1.0, 1.0, 1.0))
    z, y, _ = psf.rms_width(made)
    assert psf.halo(made, iterations=10, tolerance=1e-3) == (ceil(5.2 * 10**0.18 * z), ceil(5.2 * 10**0.18 * y), 0)
    assert psf.halo(made, iterations=10, tolerance=1e-4)[0] == ceil(7.0 * 10**0.18 * z)
    small = psf.gaussian((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), lost=0.2)
    assert small.shape == (3, 3, 3)
    assert psf.halo(small, iterations=1, tolerance=1e-9) == (1, 1, 1)


def test_a_loose_tolerance_still_gives_a_halo() -> None:
    made = psf.gaussian((6.0, 6.0, 6.0), (1.0, 1.0, 1.0))
    assert min(psf.halo(made, iterations=10, tolerance=0.5)) > 2
