"""Light that a pinhole should have kept away: a PSF whose pupil is aberrated, rings and lopsided cones included.

    pupil: amplitude 1 inside NA / wavelength, phase of Zernike polynomials
    plane at z:  | Fourier transform of pupil * exp(2 pi i z sqrt((n / wavelength)^2 - f^2)) |^2

A Gaussian blurs, but never draws a second line beside a first. Diffraction does: the first ring of an Airy pattern, the
hollow cone of a defocused point, which spherical aberration puts on one side of the focus and coma beside the axis.
Spinning disks let such light pass, since pinholes see that of their neighbours. The scalar model of Hanser et al. 2004
(doi:10.1111/j.0022-2720.2004.01393.x) is enough for that; Zernike polynomials are Noll's (1976,
doi:10.1364/JOSA.66.000207), numbers 5 to 8 and 11. A PSF takes some ten milliseconds.
"""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Float = NDArray[np.float32]

IMMERSION = 1.515
"""Refractive index of the oil."""
APERTURE = (1.2, 1.45)
WAVELENGTH_UM = (0.50, 0.62)
"""Of GFP to red dyes."""
SPHERICAL_WAVES, OTHER_WAVES = 0.12, 0.07
"""Standard deviations, in waves over the pupil: an oil objective some um deep in water is off by so much and more."""
PINHOLE = (1.0, 1.6)
"""The PSF's power: 1 is a wide field, 2 a pinhole that is a point."""
SPOT_UM = 0.05
"""Of a Gaussian across: pixel and pinhole, which have a size."""
HALF = (40, 32)
"""Voxels from the middle to an end, axial and lateral."""
SHIFT = 12
"""Voxels along z within which the brightest point is sought: strong aberrations have several foci."""


def stray_psf(rng: np.random.Generator, voxel_um: float) -> Float:
    """(81, 65, 65) float32 that sums to 1: a PSF drawn at random, on cubic voxels."""
    aperture, wavelength = rng.uniform(*APERTURE), rng.uniform(*WAVELENGTH_UM)
    waves = rng.standard_normal(5) * (SPHERICAL_WAVES, *[OTHER_WAVES] * 4)
    power = rng.uniform(*PINHOLE)
    axial, lateral = HALF
    side = 2 * lateral + 1
    f = fft.fftfreq(side, voxel_um)
    radius = np.hypot(*np.meshgrid(f, f, indexing="ij"))
    angle = np.arctan2(*np.meshgrid(f, f, indexing="ij"))
    rho = np.minimum(radius / (aperture / wavelength), 1.0)
    phase = 2 * pi * np.tensordot(waves, _zernike(rho, angle), 1)
    pupil = (radius <= aperture / wavelength) * np.exp(1j * phase)
    along = np.sqrt(np.maximum((IMMERSION / wavelength) ** 2 - radius**2, 0.0))
    z = np.arange(-axial - SHIFT, axial + SHIFT + 1)[:, None, None] * voxel_um
    psf = np.abs(fft.ifft2(pupil * np.exp(2j * pi * z * along))) ** (2 * power)
    spot = np.exp(-2 * (pi * SPOT_UM * radius) ** 2)
    psf = fft.fftshift(np.maximum(fft.ifft2(fft.fft2(psf) * spot).real, 0.0), axes=(1, 2))
    psf = _centred(psf)
    return np.asarray(psf / psf.sum(), np.float32)


def _centred(psf: NDArray[np.float64]) -> NDArray[np.float64]:
    """With the brightest voxel in the middle, and `SHIFT` planes fewer at both ends: an object is where it shines."""
    near = psf[HALF[0] : HALF[0] + 2 * SHIFT + 1]
    z, y, x = np.unravel_index(int(near.argmax()), near.shape)
    return np.roll(psf, (HALF[1] - int(y), HALF[1] - int(x)), (1, 2))[int(z) : int(z) + 2 * HALF[0] + 1]


def _zernike(rho: NDArray[np.float64], angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """(5, Y, X) spherical aberration, astigmatism and coma, each of variance 1 over the pupil."""
    coma = sqrt(8) * (3 * rho**3 - 2 * rho)
    astigmatism = sqrt(6) * rho**2
    return np.stack(
        [
            sqrt(5) * (6 * rho**4 - 6 * rho**2 + 1),
            astigmatism * np.sin(2 * angle),
            astigmatism * np.cos(2 * angle),
            coma * np.sin(angle),
            coma * np.cos(angle),
        ]
    )


def through(psf: Float, light: Float) -> Float:
    """(Z, Y, X) float32: light seen through a PSF, as if its last voxels went on beyond the faces."""
    half = [p // 2 for p in psf.shape]
    shape = [fft.next_fast_len(n + 2 * h, real=True) for n, h in zip(light.shape, half, strict=True)]
    around = [(h, s - n - h) for h, s, n in zip(half, shape, light.shape, strict=True)]
    wide = np.pad(light, around, "edge")
    seen = fft.irfftn(fft.rfftn(wide) * fft.rfftn(psf, shape), shape)
    inside = tuple(slice(2 * h, 2 * h + n) for h, n in zip(half, light.shape, strict=True))
    return np.asarray(seen[inside], np.float32)
