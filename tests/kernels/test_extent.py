"""Widths, enclosed energy and the shape worth keeping, on PSFs of known form."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import pytest

from chunkflow.errors import InputError
from chunkflow.kernels import extent, optics

WIDEFIELD = optics.gibson_lanni(
    (65, 81, 80),
    (0.25, 0.1, 0.1),
    optics.Optics(na=1.2, emission_um=0.525, immersion_index=1.33, sample_index=1.33),
)


def gaussian(shape: tuple[int, int, int], fwhm_vox: tuple[float, float, float], at: tuple[float, ...]) -> np.ndarray:
    parts = [np.exp(-4 * log(2) * ((np.arange(n) - c) / w) ** 2) for n, w, c in zip(shape, fwhm_vox, at, strict=True)]
    return parts[0][:, None, None] * parts[1][:, None] * parts[2]


@pytest.mark.parametrize("at", [(7.0, 9.0, 10.0), (6.6, 9.5, 4.2)])
@pytest.mark.parametrize("width", [(2.5, 3.1, 4.0), (5.0, 2.7, 6.3)])
def test_widths_are_right_to_a_hundredth_wherever_the_centre_lies(
    width: tuple[float, float, float], at: tuple[float, float, float]
) -> None:
    psf = gaussian((15, 20, 21), width, at)
    voxel = (0.3, 0.1, 0.2)
    expected = [w * v for w, v in zip(width, voxel, strict=True)]
    assert extent.fwhm(psf, voxel) == pytest.approx(expected, rel=0.01)


def test_a_width_ends_at_the_crossing_next_to_the_peak_and_is_infinite_without_one() -> None:
    line = np.zeros(41)
    line[[19, 20, 21]] = 0.6, 1.0, 0.6
    line[30] = 0.9
    psf = np.broadcast_to(line, (1, 9, 41))
    z, y, x = extent.fwhm(psf, (1.0, 1.0, 1.0))
    assert np.isinf(z) and np.isinf(y) and 2 < x < 3


@pytest.mark.parametrize("energy", [0.9, 0.99, 0.9999, 1.0])
@pytest.mark.parametrize("n", [41, 42])
def test_energy_alone_keeps_what_it_says_and_one_voxel_less_would_not(energy: float, n: int) -> None:
    psf = gaussian((n, n, n), (5.0, 3.0, 7.0), (n // 2,) * 3)
    kept = extent.support(psf, energy, floor=0.0)
    assert all(size % 2 for size in kept.shape)
    assert kept.energy >= energy - 1e-9
    for axis, size in enumerate(kept.shape):
        if energy < 1:
            narrower = np.take(psf, range(n // 2 - size // 2 + 1, n // 2 + size // 2), axis)
            assert narrower.sum() / psf.sum() < 1 - (1 - energy) / 3


def test_the_floor_ends_a_widefield_psf_that_energy_cannot() -> None:
    whole = extent.support(WIDEFIELD, 0.999, floor=0.0)
    assert whole.shape[0] == 65
    kept = extent.support(WIDEFIELD, 0.999, floor=1e-2)
    assert kept.shape[0] < 45 and kept.energy < 0.9
    outside = WIDEFIELD.copy()
    centre = WIDEFIELD.shape[0] // 2
    outside[centre - kept.shape[0] // 2 : centre + kept.shape[0] // 2 + 1] = 0
    assert outside.max() < 1e-2 * WIDEFIELD.max()
    nearest = WIDEFIELD[[centre - kept.shape[0] // 2, centre + kept.shape[0] // 2]]
    assert nearest.max() >= 1e-2 * WIDEFIELD.max()


def test_a_trimmed_psf_is_centred_sums_to_one_and_fits_the_largest_box() -> None:
    psf = extent.trimmed(WIDEFIELD, 1.0, largest=(20, 31, 7))
    assert psf.shape == (19, 31, 7) and psf.dtype == np.float32
    assert psf.sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    assert np.unravel_index(psf.argmax(), psf.shape) == (9, 15, 3)
    inside = WIDEFIELD[32 - 9 : 32 + 10, 40 - 15 : 40 + 16, 40 - 3 : 40 + 4]
    assert np.allclose(psf, inside / inside.sum(), rtol=1e-5)
    kept = extent.support(WIDEFIELD, 1.0, largest=(20, 31, 7))
    assert kept.energy == pytest.approx(inside.sum() / WIDEFIELD.sum(), rel=1e-5)


@pytest.mark.parametrize("options", [{"energy": 0.0}, {"energy": 1.1}, {"floor": 1.0}, {"largest": (0, 3, 3)}])
def test_parts_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        extent.support(WIDEFIELD, **options)
