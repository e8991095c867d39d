"""A measured point-spread function: beads found in a volume, aligned to a fraction of a voxel, and averaged.

    volume -> band-pass at the expected width -> maxima -> saturated, at the border, too near to another, of unusual
    brightness: out -> cut, local background off, shifted by the fraction of a voxel, summed -> PSF

A bead is found where the volume, smoothed to the width of a bead less the same smoothed three times as wide, has a
maximum that noise does not make. Its position is the top of a parabola through the logarithm of three voxels per axis:
exact for a Gaussian, within 0.1 voxel for beads of 20 times the noise. An asymmetric PSF is centred on the top of its
smoothed self. Shifting is by quintic splines: half a voxel widens a bead of 3 voxels FWHM
by 0.2 %, of 2.5 by 1 %, of 2 (hardly sampled) by 6 %.

The PSF contains the bead itself: a sphere of diameter d adds about d^2 / 3.6 to the square of every width, 1 % for a
bead of a quarter of the width. Four float32 copies of the volume are held; it must fit in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.errors import InputError
from chunkflow.geometry.box import Triple
from chunkflow.kernels.extent import fwhm

TripleUm = tuple[float, float, float]
Values = NDArray[np.float64]
Image = NDArray[Any]

FWHM_PER_SIGMA = 2.3548200450309493
SIGMA_PER_MAD = 1.4826
NOISE_SIGMAS = 8.0
"""A maximum this far above the band-passed median is not noise, in 10^12 voxels."""
FAINT = 0.01
"""Nothing below this part of the brightest maximum is a bead, however little noise there is."""
GHOST = 0.1
"""A maximum this much fainter than a neighbour is the neighbour's diffraction ring."""
TYPICAL = 1.8
"""A bead this many times brighter or fainter than the median one is two, or a fragment."""
REASONS = ("saturated", "border", "overlapping", "brightness")


@dataclass(frozen=True, slots=True, kw_only=True)
class Beads:
    """positions : (N, 3) float64 of the beads to use, voxels, z y x; found : maxima above the threshold, rings aside;
    rejected : how many of them for each of `REASONS`, every one counted for the first that holds.
    """

    positions: Values
    found: int
    rejected: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BeadReport:
    """Quality of a measured PSF.

    found, used : beads
    rejected : how many for each reason
    fwhm_um : (N, 3) full widths of every bead used, z y x; infinite where a bead does not fall to half
    snr : (N,) height over the standard deviation of the background
    """

    found: int
    used: int
    rejected: Mapping[str, int]
    fwhm_um: Values
    snr: Values

    @property
    def fwhm_mean_um(self) -> Values:
        """(3,) z y x."""
        return np.asarray(self.fwhm_um.mean(axis=0))

    @property
    def fwhm_sd_um(self) -> Values:
        """(3,) z y x, of the beads; 0 for one bead, NaN where one does not fall to half."""
        if not np.isfinite(self.fwhm_um).all():
            return np.where(np.isfinite(self.fwhm_um).all(axis=0), 0.0, np.nan)
        return np.asarray(self.fwhm_um.std(axis=0, ddof=1 if len(self.fwhm_um) > 1 else 0))


def psf_from_beads(
    image: Image,
    voxel_um: TripleUm,
    shape: Triple,
    *,
    expected_fwhm_um: TripleUm,
    min_separation_um: TripleUm | None = None,
    threshold: float | None = None,
    saturation: float | None = None,
) -> tuple[NDArray[np.float32], BeadReport]:
    """Find the beads of a volume, average them, and say how good they are.

    Parameters, returns and raises as `find_beads`, `average_beads` and `measure_beads`; beads that lie nearer to the
    border than the PSF's half shape count as "border".
    """
    beads = find_beads(
        image,
        voxel_um,
        expected_fwhm_um=expected_fwhm_um,
        min_separation_um=min_separation_um,
        threshold=threshold,
        saturation=saturation,
    )
    psf = average_beads(image, beads.positions, shape)
    return psf, measure_beads(image, voxel_um, beads, shape)


def find_beads(
    image: Image,
    voxel_um: TripleUm,
    *,
    expected_fwhm_um: TripleUm,
    min_separation_um: TripleUm | None = None,
    threshold: float | None = None,
    saturation: float | None = None,
) -> Beads:
    """Beads that can be averaged, to a fraction of a voxel.

    Parameters
    ----------
    image : (Z, Y, X) any numeric type
    expected_fwhm_um : widths of a bead's image in z, y, x, within a factor of 2
    min_separation_um : half axes of the ellipsoid around a bead that holds no other, and half of which lies inside the
        volume; None is four expected widths
    threshold : least height after the band-pass, in grey values; None is 8 robust standard deviations above the median,
        1 % of the highest at least
    saturation : the grey value of a full pixel; None is the largest of an integer type, and the image's own maximum
        where three voxels of one bead reach it (12 bits stored in 16)

    Returns
    -------
    Beads, in raster order of their brightest voxels.

    Raises
    ------
    InputError : not a finite volume, no positive width, or no bead left; the message counts what was rejected.
    """
    if image.ndim != 3 or not np.isfinite(image).all():
        raise InputError(f"a bead image of shape {image.shape}, or with NaN", "Give a finite volume with axes z, y, x")
    if not (min(expected_fwhm_um) > 0 and min(voxel_um) > 0):
        raise InputError(f"beads of FWHM {tuple(expected_fwhm_um)} um", "Give three widths in um (z, y, x), above 0")
    width = np.asarray(expected_fwhm_um) / np.asarray(voxel_um)
    apart = 4 * width if min_separation_um is None else np.asarray(min_separation_um) / np.asarray(voxel_um)
    response = _band_passed(image, width)
    index = _without_ghosts(_maxima(response, width, threshold), response, apart)
    if not len(index):
        raise InputError(
            f"no bead stands out of the noise (expected width {_shown(expected_fwhm_um)} um)",
            "Check voxel size, channel and expected_fwhm_um, or give a lower threshold",
        )
    positions = _refined(response, index)
    reasons = _reasons(image, response, index, positions, width, apart, saturation)
    rejected = {reason: int((reasons == k + 1).sum()) for k, reason in enumerate(REASONS)}
    if not (reasons == 0).any():
        counts = ", ".join(f"{count} {reason}" for reason, count in rejected.items() if count)
        raise InputError(
            f"none of {len(index)} beads can be used: {counts}",
            "Use a sample with fewer beads, a lower exposure or a larger field; or lower min_separation_um",
        )
    return Beads(positions=positions[reasons == 0], found=len(index), rejected=rejected)


def average_beads(image: Image, positions: Values, shape: Triple) -> NDArray[np.float32]:
    """Sum of beads, each with its local background off and its position moved to `shape // 2`.

    Bright beads count for more: the sum has the best ratio of signal to noise. The background of a bead is the median
    of the outermost voxels of its cut. What is negative after the sum is set to 0.

    Parameters
    ----------
    image : (Z, Y, X); positions : (N, 3) voxels, z y x; shape : of the PSF, odd or even

    Returns
    -------
    (Pz, Py, Px) float32, sums to 1, centre at shape // 2.

    Raises
    ------
    InputError : no bead is far enough from the border, or the sum is empty.
    """
    total = np.zeros(shape)
    used = [position for position in positions if _fits(position, shape, image.shape)]
    if not used:
        raise InputError(
            f"none of {len(positions)} beads is far enough from the border for a PSF of {tuple(shape)} voxels",
            "Ask for a smaller PSF, or use a larger volume",
        )
    for position in used:
        total += _aligned(image, position, shape)[0]
    np.maximum(total, 0.0, out=total)
    if not total.any():
        raise InputError(f"the sum of {len(used)} beads is empty", "Check the positions: voxels, in z, y, x")
    return np.asarray(total / total.sum(), np.float32)


def measure_beads(image: Image, voxel_um: TripleUm, beads: Beads, shape: Triple) -> BeadReport:
    """Widths and signal to noise of every bead that `average_beads` uses for a PSF of that shape."""
    used = [position for position in beads.positions if _fits(position, shape, image.shape)]
    widths, ratios = np.empty((len(used), 3)), np.empty(len(used))
    for k, position in enumerate(used):
        bead, noise = _aligned(image, position, shape)
        widths[k] = fwhm(bead, voxel_um)
        ratios[k] = bead.max() / noise if noise > 0 else np.inf
    rejected = dict(beads.rejected)
    rejected["border"] += len(beads.positions) - len(used)
    return BeadReport(found=beads.found, used=len(used), rejected=rejected, fwhm_um=widths, snr=ratios)


def _band_passed(image: Image, width: Values) -> NDArray[np.float32]:
    values = image.astype(np.float32)
    sigma = width / FWHM_PER_SIGMA
    narrow = ndimage.gaussian_filter(values, sigma)
    return np.asarray(narrow - ndimage.gaussian_filter(values, 3 * sigma))


def _maxima(response: NDArray[np.float32], width: Values, threshold: float | None) -> NDArray[np.int64]:
    """(N, 3) voxels that are the greatest within half a width, above the threshold."""
    if threshold is None:
        middle = float(np.median(response))
        noise = SIGMA_PER_MAD * float(np.median(np.abs(response - middle)))
        threshold = max(middle + NOISE_SIGMAS * noise, FAINT * float(response.max()))
    reach = np.maximum(1, np.round(width / 2)).astype(int)
    highest = ndimage.maximum_filter(response, tuple(2 * reach + 1))
    index = np.argwhere((response == highest) & (response > threshold)).astype(np.int64)
    # two equal voxels of one bead, its centre half way between them: the first stands for both
    twin = [(np.abs(index[:k] - at) <= reach).all(axis=1).any() for k, at in enumerate(index)]
    return index[~np.array(twin, np.bool_)]


def _without_ghosts(index: NDArray[np.int64], response: NDArray[np.float32], apart: Values) -> NDArray[np.int64]:
    height = response[tuple(index.T)]
    ghost = [(_near(index - at, apart) & (height * GHOST > own)).any() for at, own in zip(index, height, strict=True)]
    return index[~np.array(ghost, np.bool_)]


def _near(offsets: NDArray[np.int64] | Values, apart: Values) -> NDArray[np.bool_]:
    return np.asarray(((offsets / apart) ** 2).sum(axis=1) < 1)


def _refined(response: NDArray[np.float32], index: NDArray[np.int64]) -> Values:
    """Top of the parabola through the logarithms of a maximum and its neighbours, per axis."""
    positions = index.astype(np.float64)
    tiny = float(np.finfo(np.float32).tiny)
    for axis, n in enumerate(response.shape):
        inside = (index[:, axis] > 0) & (index[:, axis] < n - 1)
        at = index[inside]
        step = np.eye(3, dtype=np.int64)[axis]
        low, mid, high = (
            np.log(np.maximum(response[tuple((at + k * step).T)].astype(np.float64), tiny)) for k in (-1, 0, 1)
        )
        curvature = low - 2 * mid + high
        offset = np.divide(low - high, 2 * curvature, out=np.zeros_like(mid), where=curvature < 0)
        positions[inside, axis] += np.clip(offset, -0.5, 0.5)
    return positions


def _reasons(
    image: Image,
    response: NDArray[np.float32],
    index: NDArray[np.int64],
    positions: Values,
    width: Values,
    apart: Values,
    saturation: float | None,
) -> NDArray[np.int64]:
    """(N,) 0 for a bead to use, else 1 + the place of the first reason in `REASONS`."""
    border = ((positions < apart / 2) | (positions > np.array(image.shape) - 1 - apart / 2)).any(axis=1)
    overlapping = np.array([_near(positions - at, apart).sum() > 1 for at in positions])
    saturated = _saturated(image, index, width, saturation)
    height = response[tuple(index.T)]
    good = ~(saturated | border | overlapping)
    typical = np.median(height[good]) if good.any() else 1.0
    unusual = (height > typical * TYPICAL) | (height < typical / TYPICAL)
    return np.asarray(np.select([saturated, border, overlapping, unusual], [1, 2, 3, 4], 0), np.int64)


def _saturated(image: Image, index: NDArray[np.int64], width: Values, saturation: float | None) -> NDArray[np.bool_]:
    full = saturation
    if full is None and np.issubdtype(image.dtype, np.integer):
        full = float(np.iinfo(image.dtype).max)
    brightest = image.max()
    reach = np.maximum(1, np.round(width / 2)).astype(int)
    flags = np.zeros(len(index), bool)
    for k, at in enumerate(index):
        cut = image[tuple(slice(max(p - r, 0), p + r + 1) for p, r in zip(at, reach, strict=True))]
        flat = saturation is None and int((cut == brightest).sum()) >= 3
        flags[k] = flat or (full is not None and bool((cut >= full).any()))
    return flags


MARGIN = 4
"""Voxels around a cut that the spline reads; what lies beyond weighs less than 1e-3 in a quintic spline."""


def _aligned(image: Image, position: Values, shape: Triple) -> tuple[Values, float]:
    """A bead at shape // 2, its background off, and the standard deviation of that background."""
    whole = [floor(p + 0.5) for p in position]
    start = [w - n // 2 for w, n in zip(whole, shape, strict=True)]
    low = [max(s - MARGIN, 0) for s in start]
    high = [s + n + MARGIN for s, n in zip(start, shape, strict=True)]
    cut = image[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float64)
    shift = [(s - a) + (p - w) for s, a, p, w in zip(start, low, position, whole, strict=True)]
    moved = ndimage.affine_transform(cut, np.ones(3), offset=shift, output_shape=shape, order=5, mode="mirror")
    border = np.ones(shape, bool)
    border[tuple(slice(1, -1) if n > 2 else slice(None) for n in shape)] = False
    around = image[tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))][border].astype(np.float64)
    middle = float(np.median(around)) if len(around) else 0.0
    noise = SIGMA_PER_MAD * float(np.median(np.abs(around - middle))) if len(around) else 0.0
    return moved - middle, noise


def _fits(position: Values, shape: Triple, volume: tuple[int, ...]) -> bool:
    start = [floor(p + 0.5) - n // 2 for p, n in zip(position, shape, strict=True)]
    return all(s >= 0 and s + n <= v for s, n, v in zip(start, shape, volume, strict=True))


def _shown(widths: TripleUm) -> str:
    return " x ".join(f"{width:g}" for width in widths)
