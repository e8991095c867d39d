"""Thresholds that follow the image: one for every voxel, from a window around it.

    values, 2 z-neighbours on each side            columns of the window        window
    plane z - 2 ... plane z + 2      -- + and - -->  sums along z   -- y, x -->  count, sum, sum of squares

Only voxels that are valid count, so outside the volume and nodata are the same thing, and the mean is over what there
is. Sums are of integers, and so the same whatever they were made of: integers of up to 16 bits as they are, all else
rounded to equal steps of the range of the whole volume, 2^24 of them or as many as let the squares of a window add up
in 62 bits. They cost the same for any window, and a few planes of memory.

scikit-image's signs: a positive `k` or `offset` lowers the threshold, for objects darker than what is around them; for
bright ones both are negative. Foreground is `value > threshold` in either case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor, log2, prod
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from chunkflow.geometry.box import Triple, triple

Rule = Literal["sauvola", "niblack", "mean"]

Whole = NDArray[np.int64]
Floats = NDArray[np.float64]

FINEST_BITS = 24
"""What float32 tells apart."""
SUM_BITS = 62


@dataclass(frozen=True, slots=True)
class Steps:
    """Values as whole numbers of steps from the lowest.

    low : value of 0
    width : of a step
    most : whole number of the highest value
    """

    low: float
    width: float
    most: int

    @classmethod
    def of_range(cls, low: float, high: float, dtype: DTypeLike, voxels: int) -> Steps:
        """Steps for the values `low` to `high` of a volume, so that squares of `voxels` of them add up in an int64."""
        kind = np.dtype(dtype)
        if kind.kind == "b" or (kind.kind in "iu" and kind.itemsize <= 2):
            return cls(low, 1.0, int(high) - int(low))
        if high <= low:
            return cls(low, 1.0, 0)
        bits = min(FINEST_BITS, int((SUM_BITS - ceil(log2(voxels))) // 2))
        return cls(low, (high - low) / 2**bits, 2**bits)

    def whole(self, values: NDArray[Any]) -> Whole:
        """int64 of the values; any of another range become the nearest end."""
        position = (values.astype(np.float64) - self.low) / self.width
        return np.asarray(np.clip(np.rint(position), 0, self.most).astype(np.int64))

    def value(self, whole: NDArray[Any]) -> Floats:
        """float64 image values at numbers of steps."""
        return np.asarray(self.low + self.width * whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRule:
    """How a threshold follows from the mean m and the standard deviation s in the window.

    rule : "sauvola": m (1 + k (s / spread - 1)) (Sauvola & Pietikainen, Pattern Recognition 33, 225, 2000, eq. 5);
        "niblack": m - k s (Niblack, An Introduction to Digital Image Processing, 1986, p. 115, where k is -0.2);
        "mean": m
    k : see the module for its sign
    spread : the largest standard deviation there is, for sauvola (R in the paper)
    offset : taken off the threshold, in image values
    """

    rule: Rule
    k: float = 0.0
    spread: float = 1.0
    offset: float = 0.0

    def of(self, mean: Any, deviation: Any) -> Any:
        """The threshold; `deviation` is not looked at for "mean"."""
        if self.rule == "sauvola":
            return mean * (1 + self.k * (deviation / self.spread - 1)) - self.offset
        if self.rule == "niblack":
            return mean - self.k * deviation - self.offset
        return mean - self.offset


def window_radius(window_um: float, voxel_um: tuple[float, float, float]) -> Triple:
    """Voxels on each side of the middle of a window that is at most `window_um` wide, z y x."""
    return triple(tuple(max(0, floor(window_um / v / 2 - 0.5 + 1e-6)) for v in voxel_um))


def threshold_planes(
    image: NDArray[Any],
    valid: NDArray[np.bool_] | None,
    *,
    planes: range,
    radius: Triple,
    rule: LocalRule,
    limits: tuple[float, float],
    dtype: DTypeLike,
) -> Iterator[tuple[Floats, Floats]]:
    """Values and thresholds, plane after plane.

    Parameters
    ----------
    image : (Z, Y, X) real; what invalid voxels hold is not looked at.
    valid : (Z, Y, X) bool, or None where every voxel of the array is valid.
    planes : which of the Z, in steps of one.
    radius : of the window, see `window_radius`.
    limits : lowest and highest valid value of the whole volume.
    dtype : of the volume that `image` is cut from, or of a smoothed copy.

    Returns
    -------
    For every plane two (Y, X) float64 in image values: the voxels, rounded as the sums are, and the thresholds,
    infinite where the window has no valid voxel. The same bits in every block that covers the windows or ends where the
    volume ends.
    """
    steps = Steps.of_range(*limits, dtype, prod(2 * r + 1 for r in radius))
    for whole, count, total, squares in _windows(image, valid, steps, planes, radius):
        some = np.maximum(count, 1)
        mean = total / some
        # In float64 the difference of two nearly equal terms may fall below 0 by rounding.
        deviation = np.sqrt(np.maximum(squares / some - mean * mean, 0)) * steps.width
        threshold = rule.of(steps.value(mean), deviation)
        yield steps.value(whole), np.where(count > 0, threshold, np.inf)


def _windows(
    image: NDArray[Any], valid: NDArray[np.bool_] | None, steps: Steps, planes: range, radius: Triple
) -> Iterator[tuple[Whole, ...]]:
    """Whole numbers of a plane; of the windows around its voxels count, sum and sum of squares (int64)."""
    depth = image.shape[0]
    columns = np.zeros((3, *image.shape[1:]), np.int64)

    def whole(plane: int) -> Whole:
        return steps.whole(image[plane] if valid is None else np.where(valid[plane], image[plane], steps.low))

    def add(plane: int, sign: int) -> None:
        values = whole(plane)
        inside = np.ones(values.shape, np.int64) if valid is None else valid[plane].astype(np.int64)
        values *= inside
        for column, term in zip(columns, (inside, values, values * values), strict=True):
            column += sign * term

    for plane in range(max(0, planes.start - radius[0]), min(depth, planes.start + radius[0])):
        add(plane, 1)
    for plane in planes:
        if plane + radius[0] < depth:
            add(plane + radius[0], 1)
        if plane > planes.start and plane - radius[0] - 1 >= 0:
            add(plane - radius[0] - 1, -1)
        sums = (_sum_along(_sum_along(column, 0, radius[1]), 1, radius[2]) for column in columns)
        yield whole(plane), *sums


def _sum_along(plane: Whole, axis: int, radius: int) -> Whole:
    """Sums of `radius` voxels on each side and the one between, fewer at the ends. Differences of running sums."""
    length = plane.shape[axis]
    at = np.arange(length)
    running = np.cumsum(plane, axis=axis)
    running = np.concatenate([np.zeros_like(np.take(running, [0], axis)), running], axis=axis)
    upper, lower = np.minimum(at + radius + 1, length), np.maximum(at - radius, 0)
    return np.asarray(np.take(running, upper, axis) - np.take(running, lower, axis))
