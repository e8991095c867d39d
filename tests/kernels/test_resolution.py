"""Fourier shell correlation against spectra of known signal and noise; divergence and residual against definitions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import kl_div

from chunkflow.errors import InputError
from chunkflow.kernels import resolution
from chunkflow.kernels.resolution import Curve, fourier_shell_correlation

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]

SHAPE, VOXEL_UM = (40, 73, 66), (0.3, 0.1, 0.1)


def frequencies(shape: Triple, voxel_um: Spacing) -> list[NDArray[np.float64]]:
    return list(np.ix_(*(np.fft.fftfreq(n, v) for n, v in zip(shape, voxel_um, strict=True))))


def pattern(shape: Triple, voxel_um: Spacing, cutoff: Spacing, peak: float, seed: int) -> NDArray[np.float64]:
    """A random field of power peak * exp(-sum (k / cutoff)^2) per frequency, in units of white noise of variance 1."""
    k2 = sum((k / c) ** 2 for k, c in zip(frequencies(shape, voxel_um), cutoff, strict=True))
    white = np.fft.fftn(np.random.default_rng(seed).normal(size=shape))
    return np.fft.ifftn(white * np.sqrt(peak * np.exp(-k2))).real


def noisy(truth: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    return truth + np.random.default_rng(1000 + seed).normal(size=truth.shape)


@pytest.mark.parametrize("direction", ["all", "lateral", "axial"])
@pytest.mark.parametrize("window", [True, False])
def test_an_image_correlates_with_itself_and_not_with_other_noise(direction: str, window: bool) -> None:
    a, b = noisy(np.zeros(SHAPE), 0), noisy(np.zeros(SHAPE), 1)
    same = fourier_shell_correlation(a, 3 * a + 40, VOXEL_UM, direction=direction, window=window)
    assert np.allclose(same.correlation, 1, atol=1e-5)
    other = fourier_shell_correlation(a, b, VOXEL_UM, direction=direction, window=window)
    scatter = other.correlation * np.sqrt(other.counts)
    assert abs(scatter).max() < 4.5
    assert 0.4 < scatter.std() < 1.4
    assert resolution.resolution(other, "half-bit").um > 0.3 / other.frequencies[0]
    opposite = fourier_shell_correlation(a, -a, VOXEL_UM, direction=direction, window=window)
    assert np.allclose(opposite.correlation, -1, atol=1e-5)


@pytest.mark.parametrize("direction", ["all", "lateral", "axial"])
def test_the_correlation_is_signal_over_signal_and_noise(direction: str) -> None:
    cutoff, peak = (0.5, 1.6, 1.6), 40.0
    truth = pattern(SHAPE, VOXEL_UM, cutoff, peak, 2)
    got = fourier_shell_correlation(noisy(truth, 0), noisy(truth, 1), VOXEL_UM, direction=direction, window=False)
    z, y, x = frequencies(SHAPE, VOXEL_UM)
    radius = np.sqrt(z**2 + y**2 + x**2)
    lean = np.degrees(np.arctan2(abs(z), np.hypot(y, x)))
    section = {"all": radius > -1, "lateral": lean <= 15, "axial": lean >= 60}[direction]
    power = peak * np.exp(-((z / cutoff[0]) ** 2) - (y / cutoff[1]) ** 2 - (x / cutoff[2]) ** 2)
    width = got.frequencies[0]
    for k, correlation, count in zip(*got, strict=True):
        shell = section & (abs(radius - k) < width / 2)
        assert count == np.count_nonzero(shell)
        signal = power[shell].sum()
        assert correlation == pytest.approx(signal / (signal + count), abs=6 / np.sqrt(count))


def test_the_resolution_is_where_signal_falls_to_a_sixth_of_the_noise() -> None:
    shape, voxel_um, cutoff, peak = (48, 96, 90), (0.15, 0.1, 0.1), (1.2, 1.2, 1.2), 60.0
    truth = pattern(shape, voxel_um, cutoff, peak, 3)
    crossing = cutoff[0] * np.sqrt(np.log(6 * peak))  # S / (S + N) = 1 / 7
    for direction in ("all", "lateral", "axial"):
        for window in (True, False):
            curve = fourier_shell_correlation(
                noisy(truth, 0), noisy(truth, 1), voxel_um, direction=direction, window=window
            )
            found = resolution.resolution(curve)
            assert not found.is_bound
            assert 1 / found.um == pytest.approx(crossing, rel=0.08 if window else 0.03)
            # its limit is 0.17 for shells of endless counts and higher for all others
            assert resolution.resolution(curve, "half-bit").um > found.um


def test_a_blur_along_z_shows_in_the_axial_section_alone() -> None:
    cutoff, found = (0.4, 1.6, 1.6), {}
    for direction in ("lateral", "axial"):
        limits = []
        for seed in range(4):  # a volume this small has few axial frequencies: one limit scatters by a tenth
            truth = pattern(SHAPE, VOXEL_UM, cutoff, 60.0, seed)
            a, b = noisy(truth, 2 * seed), noisy(truth, 2 * seed + 1)
            curve = fourier_shell_correlation(a, b, VOXEL_UM, direction=direction)
            limits.append(1 / resolution.resolution(curve).um)
        found[direction] = np.mean(limits) / np.sqrt(np.log(360.0))
    assert found["lateral"] == pytest.approx(1.6, rel=0.1)
    assert found["axial"] == pytest.approx(0.4, rel=0.1)


def test_an_image_of_one_plane_has_a_lateral_resolution_only() -> None:
    shape, voxel_um = (1, 120, 131), (1.0, 0.1, 0.1)
    truth = pattern(shape, voxel_um, (1, 1.2, 1.2), 60.0, 5)
    curve = fourier_shell_correlation(noisy(truth, 0), noisy(truth, 1), voxel_um, direction="lateral")
    assert 1 / resolution.resolution(curve).um == pytest.approx(1.2 * np.sqrt(np.log(360.0)), rel=0.05)
    with pytest.raises(InputError, match="no axial resolution"):
        fourier_shell_correlation(truth, truth, voxel_um, direction="axial")


def test_thresholds_are_crossed_between_shells() -> None:
    k, many = np.arange(1.0, 8.0), np.full(7, 1e12)
    line = Curve(k, 1.1 - 0.2 * k, many)
    assert resolution.resolution(line).um == pytest.approx(1 / ((1.1 - 1 / 7) / 0.2))
    assert resolution.resolution(line, "half-bit").um == pytest.approx(1 / ((1.1 - 0.2071 / 1.2071) / 0.2), rel=1e-5)
    assert not resolution.resolution(line).is_bound
    assert resolution.resolution(line._replace(correlation=np.full(7, 0.5))) == (pytest.approx(1 / 7), True)
    assert resolution.resolution(line._replace(correlation=np.full(7, 0.1))) == (np.inf, False)
    dip = line._replace(correlation=np.array([1.0, 1.0, 0.12, 1.0, 1.0, 0.0, 0.0]))
    assert resolution.resolution(dip).um < 1 / 5
    few = line._replace(counts=np.full(7, 16.0))
    assert resolution.resolution(few, "half-bit").um > 1.3 * resolution.resolution(line, "half-bit").um


def test_divergence_and_residual_equal_their_definitions() -> None:
    rng = np.random.default_rng(7)
    y, model = rng.poisson(2, (5, 9, 8)).astype(np.float32), rng.uniform(0.5, 4, (5, 9, 8)).astype(np.float32)
    assert (y == 0).any()
    assert resolution.i_divergence(y, model) == pytest.approx(kl_div(y.astype(float), model.astype(float)).sum())
    assert resolution.i_divergence(model, model) == 0
    assert resolution.i_divergence(np.zeros(3), np.array([0.0, 1.0, 2.0])) == 3
    assert resolution.i_divergence(np.array([-5.0]), np.array([2.0])) == 2
    wanted = np.sqrt(((y - model).astype(float) ** 2).sum() / (y.astype(float) ** 2).sum())
    assert resolution.residual(y, model) == pytest.approx(wanted, rel=1e-6)
    assert resolution.residual(y.astype(np.uint16), y) == 0
