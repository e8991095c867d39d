"""The PSF of an aberrated pupil is that of diffraction, and light goes through it as through any convolution."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage, special

from chunkflow.synth import stray
from chunkflow.synth.crowds import VOXEL_UM
from chunkflow.synth.mitochondria import HARDER, _blurred, mitochondria_stack
from chunkflow.synth.stray import stray_psf, through


def test_it_sums_to_one_and_differs_from_draw_to_draw() -> None:
    first, again, other = (stray_psf(np.random.default_rng(seed), VOXEL_UM) for seed in (1, 1, 2))
    assert first.shape == (81, 65, 65)
    assert first.min() >= 0
    assert first.sum() == pytest.approx(1, abs=1e-4)
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_without_aberrations_the_plane_in_focus_is_airys(monkeypatch: pytest.MonkeyPatch) -> None:
    """(2 J1(v) / v)^2, v = 2 pi r NA / wavelength: Born & Wolf 1999, section 8.5.2, equation 14."""
    monkeypatch.setattr(stray, "SPHERICAL_WAVES", 0.0)
    monkeypatch.setattr(stray, "OTHER_WAVES", 0.0)
    monkeypatch.setattr(stray, "PINHOLE", (1.0, 1.0))
    monkeypatch.setattr(stray, "SPOT_UM", 0.0)
    monkeypatch.setattr(stray, "APERTURE", (1.4, 1.4))
    monkeypatch.setattr(stray, "WAVELENGTH_UM", (0.52, 0.52))
    focus = stray_psf(np.random.default_rng(0), VOXEL_UM)[40]
    v = 2 * np.pi * np.arange(1, 9) * VOXEL_UM * 1.4 / 0.52
    assert focus[32, 33:41] / focus[32, 32] == pytest.approx((2 * special.j1(v) / v) ** 2, abs=0.02)


def test_a_wide_field_has_the_same_light_in_every_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stray, "PINHOLE", (1.0, 1.0))
    planes = stray_psf(np.random.default_rng(3), VOXEL_UM).sum(axis=(1, 2))
    assert planes == pytest.approx(1 / 81, rel=1e-3)


def test_the_brightest_voxel_is_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stray, "SPHERICAL_WAVES", 0.06)  # a single focus
    for seed in range(5):
        psf = stray_psf(np.random.default_rng(seed), VOXEL_UM)
        assert np.unravel_index(int(psf.argmax()), psf.shape) == (40, 32, 32)


def test_zernike_polynomials_are_orthonormal_over_the_pupil() -> None:
    y, x = np.mgrid[-1:1:401j, -1:1:401j]
    rho, angle = np.hypot(y, x), np.arctan2(y, x)
    values = stray._zernike(rho, angle)[:, rho <= 1]
    assert values @ values.T / values.shape[1] == pytest.approx(np.eye(5), abs=0.02)


def test_light_goes_through_as_by_a_sum_over_voxels() -> None:
    rng = np.random.default_rng(0)
    light, psf = rng.random((19, 24, 31)).astype(np.float32), rng.random((7, 5, 9)).astype(np.float32)
    assert through(psf, light) == pytest.approx(ndimage.convolve(light, psf, mode="nearest"), rel=1e-5)


def test_stray_light_changes_the_image_and_not_the_truth() -> None:
    shape = (40, 61, 57)
    clean, stained = (mitochondria_stack(4, replace(HARDER, stray_probability=p), shape) for p in (0.0, 1.0))
    assert np.array_equal(clean.distance, stained.distance)
    assert not np.array_equal(clean.image, stained.image)


def test_stray_light_alone_is_seen_through_the_aberrated_psf_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a share of 1 nothing of the Gaussian core is left: a PSF that is nothing shows nothing."""
    monkeypatch.setattr("chunkflow.synth.mitochondria.through", lambda psf, light: np.zeros_like(light))
    light = np.ones((16, 16, 16), np.float32)
    ranges = replace(HARDER, stray_probability=1.0, stray=(1.0, 1.0), tail=(0.2, 0.2), halo=(0.1, 0.1))
    seen, _ = _blurred(light, np.random.default_rng(0), ranges)
    assert np.abs(seen).max() == 0
