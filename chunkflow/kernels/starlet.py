"""The starlet: an undecimated, isotropic wavelet by B3 splines, to hold back noise scale by scale.

    c_0 = x        c_{j+1} = c_j smoothed by [1 4 6 4 1] / 16 along z, y, x, with 2^j voxels between taps
                   w_j = c_j - c_{j+1}                                  x = c_J + w_0 + ... + w_{J-1}

(Starck & Murtagh, Astronomical Image and Data Analysis, 2006; the a trous algorithm of Holschneider et al.) Decimated
wavelets, such as Haar's, depend on where the array begins; this one moves with its input voxel by voxel, so a tile's
cut does not show. It treats voxels as cubes: scale j holds details of about 2^(j + 1) voxels along every axis.

Soft thresholds need no coefficient stored: what they take away is clip(w_j, -t_j, t_j), so

    shrunk = x - sum over j of clip(w_j, -t_j, t_j)

which costs three images whatever the number of scales, and gives x itself, bit for bit, where all thresholds are 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import Any

import numpy as np

from chunkflow.backend import array_module

# Images that `shrink` holds beside its input, its result included.
IMAGES = 3
# Bytes of the planes that are smoothed at a time: a cache's worth on a CPU, enough to fill a GPU.
SLAB_BYTES = {"cpu": 2**18, "gpu": 2**27}


def reach(scales: int) -> int:
    """Voxels per axis that one voxel of the result looks to either side: 2 + 4 + ... + 2^scales."""
    return 2 * ((1 << scales) - 1)


def noise_gains(scales: int) -> tuple[float, ...]:
    """Standard deviation of w_j where x is white noise of standard deviation 1: 0.956, 0.120, 0.035, ...

    Thresholds in these proportions hold back the noise of every scale alike.
    """
    smooth = np.ones(1)
    gains = []
    for scale in range(scales):
        taps = np.zeros(4 * 2**scale + 1)
        taps[:: 2**scale] = np.array([1, 4, 6, 4, 1]) / 16
        smoother = np.convolve(smooth, taps)
        before = np.pad(smooth, (len(taps) - 1) // 2)
        # |a^3 - b^3|^2 of two separable kernels, from the products of their profiles
        gains.append(sqrt((before @ before) ** 3 - 2 * (before @ smoother) ** 3 + (smoother @ smoother) ** 3))
        smooth = smoother
    return tuple(gains)


def shrink(image: Any, thresholds: Sequence[float], *, wrap: bool = True) -> Any:
    """Soft-threshold the wavelet coefficients of an image: w -> sign(w) max(|w| - t, 0), one t per scale.

    Parameters
    ----------
    image : (Z, Y, X) float32, numpy or cupy; not changed.
    thresholds : one per scale, finest first, >= 0, in the image's unit. The smooth rest c_J is kept.
    wrap : beyond a side stands the opposite side (the array is a torus), else the array's mirror image.

    Returns
    -------
    (Z, Y, X) float32. On a torus, shifting the input shifts the result bit for bit.
    """
    xp = array_module(image)
    image = xp.asarray(image, np.float32)
    result = image.copy()
    smooth = image
    for scale, threshold in enumerate(thresholds):
        coarser = xp.empty_like(image)
        columns = _neighbours(image.shape[0], 2**scale, wrap)
        for planes in _slabs(image):
            # along z the taps are whole planes, fetched from where they lie; x and y stay inside the slab
            slab = smooth[planes] if image.shape[0] == 1 else _along_z(smooth, columns, planes)
            for axis in (1, 2):
                slab = _along(slab, axis, 2**scale, wrap)
            coarser[planes] = slab
            result[planes] -= (smooth[planes] - slab).clip(-float(threshold), float(threshold))
        smooth = coarser
    return result


def _slabs(image: Any) -> Iterator[slice]:
    depth, height, width = image.shape
    step = max(1, SLAB_BYTES["cpu" if array_module(image) is np else "gpu"] // (4 * height * width))
    return (slice(start, min(start + step, depth)) for start in range(0, depth, step))


def _along_z(image: Any, columns: Any, planes: slice) -> Any:
    taps = columns[planes.start : planes.stop + columns.shape[0] - image.shape[0]]
    return _smoothed(image[array_module(image).asarray(taps)], 0, (len(columns) - image.shape[0]) // 4)


def _along(slab: Any, axis: int, hole: int, wrap: bool) -> Any:
    if slab.shape[axis] == 1:
        return slab
    taps = array_module(slab).asarray(_neighbours(slab.shape[axis], hole, wrap))
    return _smoothed(slab.take(taps, axis=axis), axis, hole)


def _neighbours(length: int, hole: int, wrap: bool) -> Any:
    """The voxel that stands at each position -2 hole ... length + 2 hole - 1 of an axis."""
    position = np.arange(-2 * hole, length + 2 * hole)
    if wrap:
        return position % length
    folded = position % (2 * length)
    return np.minimum(folded, 2 * length - 1 - folded)


def _smoothed(grown: Any, axis: int, hole: int) -> Any:
    """[1 4 6 4 1] / 16 along an axis that was grown by 2 holes on either side. One order of sums for every voxel."""
    length = grown.shape[axis] - 4 * hole
    before = (slice(None),) * axis

    def tap(k: int) -> Any:
        return grown[(*before, slice(k * hole, k * hole + length))]

    total = tap(0) + tap(4)
    near = tap(1) + tap(3)
    near *= np.float32(4)
    total += near
    total += tap(2) * np.float32(6)
    total *= np.float32(1 / 16)
    return total
