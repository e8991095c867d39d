"""Gaussian smoothing that neither leaks what is not there nor darkens towards it.

    smoothed = sum(kernel * image over valid voxels) / sum(kernel over valid voxels)

Outside the volume and nodata are the same thing, "not valid": a volume that ends and one that goes on with nodata
give the same bits. Both sums run through the same three one-dimensional filters with zeros where nothing is valid, so
a voxel is the same bit for bit in every block that covers its kernel (`smooth_halo`) or ends where the volume ends.
Cost grows with sigma (8 sigma + 1 taps per axis); above some tens of voxels resample first.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import array_module, scipy_module
from chunkflow.geometry.box import Triple, triple

TRUNCATE = 4.0  # radii of the kernel in sigma; leaves 6e-5 of the Gaussian out


def smooth_halo(sigma_vox: tuple[float, float, float]) -> Triple:
    """Voxels on each side that one smoothed voxel looks at: ceil(4 sigma), z y x."""
    return triple(tuple(ceil(TRUNCATE * sigma) for sigma in sigma_vox))


def gaussian_smooth(image: Any, valid: Any | None, sigma_vox: tuple[float, float, float]) -> Any:
    """Smooth by a Gaussian, each voxel divided by the kernel weight that falls on valid voxels.

    Parameters
    ----------
    image : (Z, Y, X) real, numpy or cupy; what invalid voxels hold (NaN too) is not looked at.
    valid : (Z, Y, X) bool, or None where every voxel of the array is valid.
    sigma_vox : standard deviations in z, y, x, voxels; 0 leaves that axis alone.

    Returns
    -------
    (Z, Y, X) float32, 0 where no valid voxel is in reach. A weighted mean of valid voxels, so between their minimum and
    maximum up to float32 rounding: clip where that matters. Not exact, but the same bits in every block (see above).
    """
    xp = array_module(image)
    if valid is None:
        total = _correlate(image.astype(np.float32, copy=False), sigma_vox)
        return total / _border_weight(xp, image.shape, sigma_vox)
    values = xp.where(valid, image, xp.zeros((), image.dtype)).astype(np.float32, copy=False)
    total = _correlate(values, sigma_vox)
    weight = _correlate(valid.astype(np.float32), sigma_vox)
    reached = weight > 0
    return xp.where(reached, total / xp.where(reached, weight, 1), xp.float32(0))


def _border_weight(xp: Any, shape: Triple, sigma_vox: tuple[float, float, float]) -> Any:
    """Kernel weight inside a box whose every voxel is valid.

    It depends on the distance to the faces alone, up to the kernel's radius: filtered on a box of a kernel's width and
    stretched by repeating its middle, which gives the bits of filtering ones of that shape, at a fifth of the cost.
    """
    halo = smooth_halo(sigma_vox)
    small = triple(tuple(min(n, 2 * h + 1) for n, h in zip(shape, halo, strict=True)))
    weight = _correlate(xp.ones(small, np.float32), sigma_vox)
    index = (
        np.where(p < h, p, np.where(p >= n - h, p - (n - s), min(h, s - 1))) if s < n else p
        for p, n, h, s in zip(map(np.arange, shape), shape, halo, small, strict=True)
    )
    return weight[xp.ix_(*(xp.asarray(i) for i in index))]


def _correlate(array: Any, sigma_vox: tuple[float, float, float]) -> Any:
    xp, ndimage = array_module(array), scipy_module(array, "ndimage")
    for axis, (sigma, radius) in enumerate(zip(sigma_vox, smooth_halo(sigma_vox), strict=True)):
        if sigma > 0:
            kernel = xp.asarray(_kernel(sigma, radius))
            array = ndimage.correlate1d(array, kernel, axis=axis, mode="constant", cval=0.0)
    return array


def _kernel(sigma: float, radius: int) -> NDArray[np.float64]:
    offset = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offset / sigma) ** 2)
    return np.asarray(kernel / kernel.sum())
