"""Uneven light taken out of an image: dark and flat-field images, background, planes that fade.

    flat = (image - dark) / flat field     what the camera adds, what the lamp and the lens take away
    even = (flat - background) * gain[z]   background and gains from counts of the whole volume
    top  = even - opening(even)            what is narrower than a box, on ground of any height

Everything that looks at more than a voxel is either a choice among values (the opening, so each voxel has the same
bits in every block that holds `tophat_halo` around it) or a sum of integers (counts of blocks are the counts of the
volume). A dark or flat image is held whole: one plane costs nothing, a stack as large as the volume is for volumes that
fit in memory. The time of the opening does not depend on its radius on a CPU; the halo, twice the radius, does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from chunkflow.backend import array_module, scipy_module
from chunkflow.geometry.box import Triple, triple
from chunkflow.kernels.threshold import Bins, Counts

Range = tuple[float, float]
"""The smallest and the largest of some values."""


def normalised_flat(light: NDArray[Any]) -> NDArray[np.float32]:
    """A flat-field image, its dark subtracted and all of it positive, divided by its mean: float32 around 1."""
    values = np.asarray(light, np.float64)
    return np.asarray(values / values.mean(), np.float32)


def flatten(image: Any, dark: Any, flat: Any) -> Any:
    """Subtract the dark image and divide by the flat-field image.

    Parameters
    ----------
    image : (Z, Y, X) real, numpy or cupy.
    dark, flat : float32, each axis as long as the image's or 1; `flat` is positive with mean 1 (`normalised_flat`).

    Returns
    -------
    (Z, Y, X) float32, a new array. Voxel by voxel: two roundings of float32, and one of `image` above 2^24.
    """
    even = image.astype(np.float32)
    even -= dark
    even /= flat
    return even


def flattened_bins(low: float, high: float, dtype: DTypeLike, *, dark: Range, flat: Range) -> Bins:
    """Bins that hold every value `flatten` can give, known before any voxel is corrected.

    One per value where the image is of integers of up to 16 bits, one number is subtracted and nothing divided; else
    65,536 equal ones from the darkest voxel in the brightest place to the brightest in the darkest. They are as wide as
    the flat's darkest pixel makes them: at a hundredth of its mean, a hundred times wider than without it.

    Parameters
    ----------
    low, high : minimum and maximum of the image, whose type is `dtype`.
    dark, flat : range of the images that `flatten` gets; (0, 0) and (1, 1) where there are none.
    """
    if dark[0] == dark[1] and flat == (1.0, 1.0):
        raw = Bins.of_range(low, high, dtype, smoothed=False)
        return Bins(raw.first - dark[0], raw.width, raw.count)
    darkest, brightest = low - dark[1], high - dark[0]
    return Bins.of_range(
        darkest / (flat[0] if darkest < 0 else flat[1]),
        brightest / (flat[1] if brightest < 0 else flat[0]),
        np.float32,
        smoothed=False,
    )


def grouped_percentile(counts: Counts, bins: Bins, q: float) -> float:
    """The value below which q per cent of the voxels lie, each bin's voxels spread evenly over it (q in 0..100).

    The median of grouped data, as `statistics.median_grouped` has it for q = 50. Where a plane holds few grey values, a
    percentile that is one of them moves in steps of several per cent; this one does not. NaN where nothing is counted.
    """
    cumulative = np.cumsum(counts)
    if cumulative[-1] == 0:
        return float("nan")
    target = int(cumulative[-1]) * (q / 100)
    beyond = np.flatnonzero(cumulative > target)
    found = int(beyond[0]) if len(beyond) else int(np.flatnonzero(counts)[-1])
    here = int(counts[found])
    return bins.first + bins.width * (found + (target - (int(cumulative[found]) - here)) / here)


def plane_gains(levels: NDArray[np.float64], reference: float) -> NDArray[np.float64]:
    """What brings each level to the reference; 1 where there is no level (NaN) or it is not above the background.

    levels : (Z,) float64, a percentile of each plane less the background; reference : what it shall be, > 0.
    """
    has_light = levels > 0
    return np.where(has_light, reference / np.where(has_light, levels, 1.0), 1.0)


def tophat_halo(radius_vox: Triple) -> Triple:
    """Voxels on each side that one voxel of the top-hat looks at: 2 radii, one for each half of the opening."""
    return triple(tuple(2 * r for r in radius_vox))


def tophat(image: Any, valid: Any | None, radius_vox: Triple) -> Any:
    """White top-hat with a flat box: the image less its opening, the largest minimum over any box that holds a voxel.

    What fits no box, being narrower along one axis at least, keeps its height above the ground around it; the rest
    goes. Boxes end where the volume does, and hold and are centred on valid voxels alone, so a volume that ends and one
    that goes on with voxels that are not valid give the same bits. Without such voxels it equals
    `scipy.ndimage.white_tophat`.

    Parameters
    ----------
    image : (Z, Y, X) float32, numpy or cupy; what invalid voxels hold (NaN too) is not looked at.
    valid : (Z, Y, X) bool, or None where every voxel is valid.
    radius_vox : half sides r of the box in z, y, x: 2 r + 1 voxels; 0 leaves that axis alone.

    Returns
    -------
    (Z, Y, X) float32, >= 0; 0 where not valid. One subtraction of float32 from exact.
    """
    xp = array_module(image)
    low, high = xp.float32(-np.inf), xp.float32(np.inf)
    ground = _box_filter(image if valid is None else xp.where(valid, image, high), radius_vox, "minimum")
    ground = _box_filter(ground if valid is None else xp.where(valid, ground, low), radius_vox, "maximum")
    return image - ground if valid is None else xp.where(valid, image, 0) - xp.where(valid, ground, 0)


def _box_filter(array: Any, radius_vox: Triple, name: str) -> Any:
    """Minimum or maximum over a box, an axis at a time: of the part of the box inside the array."""
    run = getattr(scipy_module(array, "ndimage"), f"{name}_filter1d")
    beyond = np.inf if name == "minimum" else -np.inf
    for axis, radius in enumerate(radius_vox):
        if radius > 0:
            array = run(array, 2 * radius + 1, axis=axis, mode="constant", cval=beyond)
    return array
