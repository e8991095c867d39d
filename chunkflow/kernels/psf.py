"""Point-spread functions: making one, cleaning a measured one, and how far a block must look because of it.

A PSF here is a small (Pz, Py, Px) float32 array that sums to 1, with its centre at `shape // 2`, at the voxel size
of the image it blurs. It lives on the host; the kernels copy it to the device they run on.

The halo rule at the end is an empirical fit of Richardson-Lucy on few scenes: treat it as +-30 % and measure on real
tiles. It has not been tried on PSFs of more than 63 voxels or more than 60 iterations.
"""

from __future__ import annotations

from math import ceil, log, log10, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from scipy.special import erf, erfcinv

from chunkflow.errors import InputError
from chunkflow.geometry.box import Triple, triple

FWHM_PER_SIGMA = 2.0 * sqrt(2.0 * log(2.0))


def gaussian(
    fwhm_um: tuple[float, float, float], voxel_um: tuple[float, float, float], *, lost: float = 1e-5
) -> NDArray[np.float32]:
    """A Gaussian PSF, integrated over each voxel (not sampled at its centre, which is wrong below 2 voxels FWHM).

    Parameters
    ----------
    fwhm_um : full widths at half maximum in z, y, x, um; 0 is no blur along that axis.
    voxel_um : voxel size in z, y, x, um.
    lost : the part of the integral that truncation may cut off (before the sum is made 1 again).

    Returns
    -------
    (Pz, Py, Px) float32, every P odd, sums to 1, centre at shape // 2, symmetric.

    Raises
    ------
    InputError : a width is negative or not a number.
    """
    if not all(np.isfinite(width) and width >= 0 for width in fwhm_um):
        raise InputError(f"a PSF of FWHM {tuple(fwhm_um)} um", "Give three widths in um (z, y, x), none negative")
    z, y, x = (
        _gaussian_profile(width / voxel / FWHM_PER_SIGMA, lost / 3)
        for width, voxel in zip(fwhm_um, voxel_um, strict=True)
    )
    return _sum_to_one(z[:, None, None] * y[:, None] * x)


def _gaussian_profile(sigma_vox: float, lost: float) -> NDArray[np.float64]:
    if sigma_vox == 0:
        return np.ones(1)
    # voxel k covers [k - 1/2, k + 1/2]; the radius is the first whose voxels leave less than `lost` outside
    radius = max(0, ceil(float(erfcinv(lost)) * sqrt(2.0) * sigma_vox - 0.5))
    edges = np.arange(-radius, radius + 2) - 0.5
    profile = np.diff(erf(edges / (sqrt(2.0) * sigma_vox)))
    return np.asarray(profile + profile[::-1])  # exactly symmetric, whatever erf rounds


def normalise(psf: NDArray[Any], *, background: float | None = None) -> NDArray[np.float32]:
    """A measured or computed PSF, made ready: background off, negative values clipped, centred, sum 1.

    The centre is the brightest voxel within one voxel of the peak of the PSF smoothed by (1, 2, 1) along each axis, so
    that a hot pixel elsewhere does not take it; among equals (a PSF whose centre lies between voxels) the one nearest
    `shape // 2`. Centring is by whole voxels: planes of zeros are added on the short side, outer planes of zeros are
    dropped, nothing else is cut. A PSF one voxel off its centre shifts all it deconvolves by one voxel.

    Parameters
    ----------
    psf : (Pz, Py, Px), any numeric type, odd or even, at the voxel size of the image.
    background : what to subtract first; None takes the median of the outermost voxels (axes of three voxels or
        more), which is the camera's offset in a bead image and next to nothing in a computed PSF.

    Returns
    -------
    (Qz, Qy, Qx) float32, every Q odd, >= 0, sums to 1, centre at shape // 2.

    Raises
    ------
    InputError : not three axes, empty, NaN or infinite, or nothing above the background.
    """
    if psf.ndim != 3 or psf.size == 0:
        raise InputError(f"a PSF of shape {psf.shape}", "A PSF is a stack with axes z, y, x")
    values = psf.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"a PSF with {int((~np.isfinite(values)).sum())} values that are NaN or infinite", "Clean it")
    if values.sum() <= 0:
        raise InputError(f"a PSF whose values sum to {values.sum():g}", "A PSF is light: its values are positive")
    values -= _border_median(values) if background is None else background
    np.maximum(values, 0.0, out=values)
    if not values.any():
        raise InputError("a PSF with nothing above its background", "Check the file, or give the background")
    return _sum_to_one(_centred(values))


def cropped(psf: NDArray[Any], shape: Triple) -> NDArray[np.float32]:
    """The middle of a PSF, a shape of odd sides no longer than its own: sums to 1, centre kept at shape // 2."""
    start = [n // 2 - k // 2 for n, k in zip(psf.shape, shape, strict=True)]
    return _sum_to_one(psf[tuple(slice(a, a + k) for a, k in zip(start, shape, strict=True))].astype(np.float64))


def _border_median(values: NDArray[np.float64]) -> float:
    inner = tuple(slice(1, -1) if n > 2 else slice(None) for n in values.shape)
    border = np.ones(values.shape, bool)
    border[inner] = False
    return float(np.median(values[border])) if border.any() else 0.0


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    peak = _peak(values)
    placed = values
    for axis, centre in enumerate(peak):
        used = np.flatnonzero(values.any(axis=tuple(a for a in range(3) if a != axis)))
        radius = max(centre - int(used[0]), int(used[-1]) - centre, 0)
        placed = _window(placed, axis, centre - radius, centre + radius + 1)
    return placed


def _peak(values: NDArray[np.float64]) -> Triple:
    smooth = values
    for axis in range(3):
        smooth = correlate1d(smooth, np.array([1.0, 2.0, 1.0]), axis=axis, mode="constant")
    coarse = _brightest(smooth)
    around = np.zeros_like(values)
    near = tuple(slice(max(p - 1, 0), p + 2) for p in coarse)
    around[near] = values[near]
    return _brightest(around)


def _brightest(values: NDArray[np.float64]) -> Triple:
    # equal up to rounding counts as equal: a symmetric PSF on an even grid must not be centred by its last bits
    candidates = np.argwhere(values >= values.max() * (1 - 1e-6))
    distance = ((candidates - np.array(values.shape) // 2) ** 2).sum(axis=1)
    return triple(tuple(int(p) for p in candidates[distance.argmin()]))


def _window(values: NDArray[np.float64], axis: int, start: int, stop: int) -> NDArray[np.float64]:
    """Indices [start, stop) of an axis; zeros where there are none."""
    n = values.shape[axis]
    kept = np.take(values, range(max(start, 0), min(stop, n)), axis=axis)
    width = [(0, 0)] * values.ndim
    width[axis] = (max(-start, 0), max(stop - n, 0))
    return np.pad(kept, width)


def _sum_to_one(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(values / values.sum(), np.float32)


def rms_width(psf: NDArray[Any]) -> NDArray[np.float64]:
    """Second-moment widths about the centroid: (3,) float64, voxels, z y x. The PSF sums to 1 and is not negative."""
    widths = np.empty(3)
    for axis in range(3):
        profile = psf.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)
        position = np.arange(len(profile))
        mean = (profile * position).sum() / profile.sum()
        widths[axis] = sqrt((profile * (position - mean) ** 2).sum() / profile.sum())
    return widths


def halo(psf: NDArray[Any], *, iterations: int, tolerance: float, reach: float = 1.0, beside: int = 0) -> Triple:
    """Voxels a tile must read around its core so that Richardson-Lucy agrees with a whole-volume run.

    Per axis `min(ceil(a * iterations ** 0.18 * rms), (2 * iterations - 1) * R)` with `a = 5.2 + 1.8 log10(1e-3 /
    tolerance)` and R the reach of the PSF from its centre. The second term is exact: nothing beyond it can matter
    after a flat start. The first is a fit for extended-domain edges and plain iteration: with it every core of 24 to 80
    voxels kept a tolerance of 1e-3, of rods on a bright ground and of beads on a dark one, under Gaussian, confocal and
    widefield PSFs, at 10 and 30 iterations. On the sparsest of these a constant of 4.0 left 2e-3 in the worst core.

    Parameters
    ----------
    psf : (Pz, Py, Px), sums to 1, centre at shape // 2.
    tolerance : relative L2 difference allowed over the image; fitted for 1e-4 to 1e-2, and 1e-2 is the loosest used.
    reach : how much further another algorithm looks than plain Richardson-Lucy.
    beside : voxels that a regulariser looks to either side in each iteration.

    Returns the halo in voxels, z y x.
    """
    a = 5.2 + 1.8 * log10(1e-3 / min(tolerance, 1e-2))
    wanted = [ceil(reach * a * iterations**0.18 * width) for width in rms_width(psf)]
    exact = [(2 * iterations - 1) * (n // 2) + iterations * beside * (n > 1) for n in psf.shape]
    return triple(tuple(min(w, e) for w, e in zip(wanted, exact, strict=True)))
