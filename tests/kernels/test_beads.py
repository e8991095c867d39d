"""Beads of known place and width, with noise, neighbours, full pixels and a border in the way."""

from __future__ import annotations

from math import log, sqrt
from typing import Any

import numpy as np
import pytest

from chunkflow.errors import InputError
from chunkflow.kernels import beads, extent

VOXEL_UM = (0.2, 0.1, 0.1)
FWHM_UM = (0.8, 0.35, 0.4)
SIGMA = np.array(FWHM_UM) / np.array(VOXEL_UM) / (2 * sqrt(2 * log(2)))
SHAPE = (41, 140, 150)
PSF_SHAPE = (15, 17, 16)
GOOD = np.array(
    [[20.3, 30.5, 30.1], [18.75, 30.2, 80.4], [21.5, 32.9, 120.6], [19.1, 75.25, 25.5], [22.4, 110.45, 60.8]]
)


def volume(places: np.ndarray, heights: np.ndarray | float = 2000.0, *, seed: int | None = 1) -> np.ndarray:
    """Gaussian beads on a background of 100, counts with Poisson noise unless there is no seed."""
    image = np.full(SHAPE, 100.0)
    z, y, x = (np.arange(n) for n in SHAPE)
    for place, height in zip(places, np.broadcast_to(heights, len(places)), strict=True):
        parts = [np.exp(-((axis - p) ** 2) / (2 * s**2)) for axis, p, s in zip((z, y, x), place, SIGMA, strict=True)]
        image += height * parts[0][:, None, None] * parts[1][:, None] * parts[2]
    return image if seed is None else np.random.default_rng(seed).poisson(image).astype(np.uint16)


def found_in(image: np.ndarray, **options: Any) -> beads.Beads:
    return beads.find_beads(image, VOXEL_UM, expected_fwhm_um=FWHM_UM, **options)


def nearest_error(found: np.ndarray, true: np.ndarray) -> float:
    return max(float(np.abs(found - place).max(axis=1).min()) for place in true)


@pytest.mark.parametrize("expected", [FWHM_UM, (1.2, 0.25, 0.6)])
def test_beads_are_found_to_a_tenth_of_a_voxel_and_nothing_else_is(expected: tuple[float, float, float]) -> None:
    found = beads.find_beads(volume(GOOD), VOXEL_UM, expected_fwhm_um=expected, min_separation_um=(2.4, 1.4, 1.6))
    assert len(found.positions) == found.found == len(GOOD)
    assert nearest_error(found.positions, GOOD) < 0.1
    assert not any(found.rejected.values())


def test_without_noise_positions_are_exact_and_rings_are_no_beads() -> None:
    image = volume(GOOD, seed=None)
    assert nearest_error(found_in(image).positions, GOOD) < 0.01
    ring = GOOD[1] + [0, 8, 0]
    assert found_in(image + volume(ring[None], 100.0, seed=None) - 100).found == len(GOOD)


def test_each_bead_that_cannot_be_used_is_counted_under_its_reason() -> None:
    pair = np.array([[20.0, 110.0, 100.0], [20.0, 117.0, 100.0]])
    border = np.array([[20.0, 3.0, 60.0]])
    double = np.array([[20.0, 75.0, 120.0]])
    faint = np.array([[20.0, 75.0, 70.0]])
    full = np.array([[20.0, 110.0, 25.0]])
    places = np.concatenate([GOOD, pair, border, double, faint, full])
    heights = np.array([2000.0] * 5 + [2000.0, 1500.0, 2000.0, 4400.0, 700.0, 9000.0])
    image = np.minimum(volume(places, heights), 4095)  # a camera of 12 bits
    found = found_in(image)
    assert found.rejected == {"saturated": 1, "border": 1, "overlapping": 2, "brightness": 2}
    assert found.found == len(places)
    assert len(found.positions) == len(GOOD) and nearest_error(found.positions, GOOD) < 0.1
    assert found_in(volume(places, heights), saturation=6000.0).rejected["saturated"] == 1


def test_the_average_has_the_width_of_the_beads_and_its_centre_at_half_its_shape() -> None:
    for shape in (PSF_SHAPE, (14, 15, 18)):
        psf, report = beads.psf_from_beads(volume(GOOD), VOXEL_UM, shape, expected_fwhm_um=FWHM_UM)
        assert psf.shape == shape and psf.dtype == np.float32
        assert psf.min() >= 0 and psf.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
        assert np.unravel_index(psf.argmax(), shape) == tuple(n // 2 for n in shape)
        assert extent.fwhm(psf, VOXEL_UM) == pytest.approx(FWHM_UM, rel=0.03)
        parts = [np.exp(-((np.arange(n) - n // 2) ** 2) / (2 * s**2)) for n, s in zip(shape, SIGMA, strict=True)]
        truth = parts[0][:, None, None] * parts[1][:, None] * parts[2]
        assert np.abs(psf / psf.max() - truth).max() < 0.03
        assert (report.found, report.used) == (5, 5)
        assert report.fwhm_um.shape == (5, 3)
        assert report.fwhm_mean_um == pytest.approx(FWHM_UM, rel=0.03)
        assert (report.fwhm_sd_um < 0.05 * np.array(FWHM_UM)).all()
        assert report.snr == pytest.approx(2000 / sqrt(100), rel=0.25)


def test_a_background_that_differs_from_bead_to_bead_is_taken_off() -> None:
    slope = np.linspace(0, 3000, SHAPE[2])
    image = volume(GOOD, seed=None) + slope
    psf = beads.average_beads(image, GOOD, PSF_SHAPE)
    assert extent.fwhm(psf, VOXEL_UM) == pytest.approx(FWHM_UM, rel=0.03)
    assert psf[:, 0].max() < 0.1 * psf.max()


def test_a_bead_too_near_to_the_border_for_the_psf_is_left_out_and_counted() -> None:
    image = volume(GOOD)
    _, report = beads.psf_from_beads(image, VOXEL_UM, (9, 63, 9), expected_fwhm_um=FWHM_UM)
    assert report.used == 3 and report.rejected["border"] == 2
    with pytest.raises(InputError, match="none of 5 beads is far enough"):
        beads.psf_from_beads(image, VOXEL_UM, (9, 141, 9), expected_fwhm_um=FWHM_UM)


def test_a_volume_without_beads_is_refused() -> None:
    noise = np.random.default_rng(2).poisson(100, SHAPE)
    with pytest.raises(InputError, match="no bead stands out"):
        found_in(noise)
    with pytest.raises(InputError, match="no bead stands out"):
        found_in(np.zeros(SHAPE, np.uint16))


def test_a_volume_whose_beads_cannot_be_used_says_how_many_for_which_reason() -> None:
    close = np.array([[20.0, 60.0, 60.0], [20.0, 66.0, 60.0], [20.0, 4.0, 100.0]])
    with pytest.raises(InputError, match="none of 3 beads can be used: 1 border, 2 overlapping") as refused:
        found_in(volume(close))
    assert "fewer beads" in refused.value.remedy


def test_a_volume_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        found_in(np.zeros((4, 4)))
    with pytest.raises(InputError, match="NaN"):
        found_in(np.full(SHAPE, np.nan))
    with pytest.raises(InputError, match="FWHM"):
        beads.find_beads(volume(GOOD), VOXEL_UM, expected_fwhm_um=(0.0, 1.0, 1.0))
