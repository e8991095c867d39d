"""A microscope for phantoms: labels go in, a blurred and noisy 16-bit image comes out.

    labels --brightness of the object--> light of each voxel --Gaussian PSF--> photons --Poisson, read noise--> counts

A voxel shines evenly over its box, so the taps along an axis are the PSF integrated over voxels rather than sampled,
which matters where the PSF is hardly wider than a voxel. Nothing shines outside the volume. One float32 copy of the
volume is held beside the result; noise is drawn plane by plane, each z with a seed of its own, so that it depends on
nothing but the seed and the coordinates. Ends where labels and one float32 copy no longer fit in memory.
"""

from __future__ import annotations

from math import ceil, erf, inf, log, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.errors import UsageError

TripleUm = tuple[float, float, float]

CONFOCAL_FWHM_UM: TripleUm = (0.6, 0.25, 0.25)
"""A confocal microscope with a good oil objective."""
TRUNCATE_SIGMA = 4.0
"""Half length of the taps in standard deviations: the rest is 6e-5 of the light."""


def acquire(
    labels: NDArray[np.unsignedinteger] | NDArray[np.bool_],
    *,
    voxel_um: TripleUm,
    seed: int,
    fwhm_um: TripleUm = CONFOCAL_FWHM_UM,
    photons: float = 400.0,
    background: float = 10.0,
    read_noise: float = 2.0,
    brightness_range: float = 0.2,
) -> NDArray[np.uint16]:
    """Image a phantom.

    Parameters
    ----------
    labels : (Z, Y, X) unsigned object ids with 0 outside, or a bool mask.
    voxel_um : size of a voxel along z, y, x.
    seed : the same seed, labels and parameters give the same image.
    fwhm_um : full width at half maximum of the Gaussian PSF along z, y, x; 0 for no blur along an axis.
    photons : expected count of a voxel deep inside a large object of brightness 1.
    background : expected photons of a voxel without signal.
    read_noise : standard deviation of the Gaussian read noise, in counts.
    brightness_range : objects are between 1 - this and 1 + this times as bright, drawn evenly.

    Returns
    -------
    (Z, Y, X) uint16 counts, one per photon, rounded and clipped to what 16 bits hold.

    Raises
    ------
    UsageError : a parameter without a sense.
    """
    _check(voxel_um, seed, fwhm_um, photons, background, read_noise, brightness_range)
    light = _light(labels, photons, brightness_range, seed)
    for axis, (fwhm, voxel) in enumerate(zip(fwhm_um, voxel_um, strict=True)):
        if fwhm > 0:
            ndimage.correlate1d(light, psf_taps(fwhm / voxel), axis, output=light, mode="constant")
    return _detected(light, background, read_noise, seed)


def psf_taps(fwhm_vox: float) -> NDArray[np.float64]:
    """(2 n + 1,) float64, sums to 1: a Gaussian of that width integrated over each voxel."""
    sigma = fwhm_vox / sqrt(8 * log(2))
    half = ceil(TRUNCATE_SIGMA * sigma)
    edges = [erf((k - 0.5) / (sigma * sqrt(2))) for k in range(-half, half + 2)]
    taps = np.diff(edges)
    return np.asarray(taps / taps.sum())


def _light(
    labels: NDArray[np.unsignedinteger] | NDArray[np.bool_], photons: float, brightness_range: float, seed: int
) -> NDArray[np.float32]:
    """(Z, Y, X) float32 expected photons before the optics."""
    last = int(labels.max()) if labels.size else 0
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    brightness = np.zeros(last + 1, np.float32)
    brightness[1:] = photons * rng.uniform(1 - brightness_range, 1 + brightness_range, last)
    return brightness[labels.astype(np.uint8) if labels.dtype == np.bool_ else labels]


def _detected(light: NDArray[np.float32], background: float, read_noise: float, seed: int) -> NDArray[np.uint16]:
    image = np.empty(light.shape, np.uint16)
    for z, plane in enumerate(light):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, z)))
        counts = rng.poisson(plane + background).astype(np.float32)
        counts += read_noise * rng.standard_normal(plane.shape, np.float32)
        image[z] = np.clip(np.rint(counts), 0, np.iinfo(np.uint16).max)
    return image


def _check(
    voxel_um: TripleUm,
    seed: int,
    fwhm_um: TripleUm,
    photons: float,
    background: float,
    read_noise: float,
    brightness_range: float,
) -> None:
    if len(voxel_um) != 3 or not all(0 < v < inf for v in voxel_um):
        raise UsageError(f"voxel size {voxel_um} is not three positive numbers", "Give um along z, y, x")
    if len(fwhm_um) != 3 or not all(0 <= f < inf for f in fwhm_um):
        raise UsageError(f"PSF width {fwhm_um} is not three numbers of at least 0", "Give um along z, y, x")
    if seed < 0:
        raise UsageError(f"seed {seed} is negative", "Give 0 or more")
    for name, value in (("photons", photons), ("background", background), ("read_noise", read_noise)):
        if not 0 <= value < inf:
            raise UsageError(f"{name} is {value}", "Give a finite number of at least 0")
    if not 0 <= brightness_range < 1:
        raise UsageError(f"brightness_range is {brightness_range}", "Give a number from 0 up to, not including, 1")
