"""Sums that no order of terms changes: integers of any size in limbs, intensities in fixed point.

Floating-point sums depend on the order of their terms, and blocks change the order; integer sums do not. An integer
image is summed as it is. A float image is summed as q = round(v * 2^s), with one s for the whole volume, chosen so that
|q| < 2^62: float32 values down to 2^-38 of the largest are represented exactly, all others to 2^-63 of it.

Sums of squares need up to 190 bits, so a sum is a row of limbs, sum = limb[0] + limb[1] * 2^32 + limb[2] * 2^64 ...,
each int64. Limbs add without carrying, up to 2^31 of them; `carry` leaves every limb but the last in [0, 2^32) and
makes the representation unique.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import DTypeLike, NDArray

from chunkflow.kernels.runs import Runs, spans

LIMB = 32
LIMB_MASK = (1 << LIMB) - 1
LARGEST_POWER = 1023  # of 2 that is a float64
SUM_LIMBS, SQUARE_LIMBS = 3, 5  # 127 and 191 bits: what the q and q^2 of 2^63 voxels can add up to


def intensity_power(maximum: float, dtype: DTypeLike) -> int:
    """The power s of the fixed-point intensities round(v * 2^s), one for a whole volume.

    Parameters
    ----------
    maximum : largest absolute intensity of the whole volume, finite.
    dtype : of the image; integers are summed as they are, with s = 0.
    """
    if not np.issubdtype(np.dtype(dtype), np.floating) or maximum == 0:
        return 0
    _, exponent = np.frexp(np.float64(maximum))  # maximum < 2^exponent
    power = int(min(62 - int(exponent), LARGEST_POWER))
    return power or 1  # 0 is for integers; |q| < 2^63 does as well


def resolved(
    lowest: NDArray[np.float64], highest: NDArray[np.float64], power: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the fixed point of a volume tells the values of each object well enough for a mean, and for a spread.

    A step of 2^-power is to be at most 2^-24 of the object's largest value, which float32 does not tell better, and
    2^-20 of its range. One voxel of 1e30 anywhere in the volume makes steps of 1e11.

    Parameters
    ----------
    lowest, highest : (K,) of the intensities on each object, not scaled.
    power : `intensity_power` of the volume; integers, of power 0, are always told.
    """
    step = np.ldexp(1.0, -power)
    size = np.maximum(np.abs(lowest), np.abs(highest))
    with np.errstate(over="ignore", invalid="ignore"):
        spread = highest - lowest
    is_exact = power in (0, LARGEST_POWER)  # or steps below which float64 has next to no digits itself
    return (
        np.asarray(is_exact | (size == 0) | (step <= np.ldexp(size, -24))),
        np.asarray(is_exact | (spread == 0) | (step <= np.ldexp(spread, -20))),
    )


def intensity_sums(
    runs: Runs, rank: NDArray[np.uint32], rows: int, intensity: NDArray[Any] | None, scale_power: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Limbs of the sums of q and q^2 by rank, not carried, and (rows, 2) smallest and largest intensity.

    Parameters
    ----------
    runs, rank : the labels, as `components.ranked_runs` gives them; rank 0 is left out.
    rows : one more than the largest rank.
    intensity : (Z, Y, X) bool, integer or float, finite; None: sums of 0 and limits NaN.
    """
    sums, squares = np.zeros((rows, SUM_LIMBS), np.int64), np.zeros((rows, SQUARE_LIMBS), np.int64)
    limits = np.full((rows, 2), np.nan)
    if intensity is None:
        return sums, squares, limits
    limits[:] = np.inf, -np.inf
    values = np.ascontiguousarray(_computable(intensity)).ravel()
    given = spans(runs, rank)
    if np.issubdtype(values.dtype, np.integer) and values.dtype.itemsize <= 2:
        _add_narrow(*given, values, sums, squares, limits)
        return sums, squares, limits
    is_float = np.issubdtype(values.dtype, np.floating)
    _add_wide(*given, _fixed_point(values, 2.0**scale_power) if is_float else values, sums, squares)
    _add_limits(*given, values, limits)
    return sums, squares, limits


def as_integers(intensity: NDArray[Any], scale_power: int) -> NDArray[Any]:
    """q of each voxel: uint64 where the image is, else int64."""
    intensity = _computable(intensity)
    if np.issubdtype(intensity.dtype, np.floating):
        return np.asarray(_fixed_point(intensity, 2.0**scale_power))
    return intensity if intensity.dtype == np.uint64 else intensity.astype(np.int64)


def _computable(intensity: NDArray[Any]) -> NDArray[Any]:
    """The same values in a type that numba computes with: it knows neither half floats nor sums of booleans."""
    kinds: dict[Any, Any] = {np.dtype(np.float16): np.float32, np.dtype(np.bool_): np.uint8}
    return intensity.astype(kinds.get(intensity.dtype, intensity.dtype), copy=False)


def carry(limbs: NDArray[np.int64]) -> NDArray[np.int64]:
    """(..., L) limbs as the same integers with every limb but the last in [0, 2^32)."""
    carried = np.array(limbs, dtype=np.int64)
    for k in range(carried.shape[-1] - 1):
        carried[..., k + 1] += carried[..., k] >> LIMB  # an arithmetic shift: floor, also below zero
        carried[..., k] &= LIMB_MASK
    return carried


def integers(limbs: NDArray[np.int64]) -> NDArray[np.object_]:
    """(K, L) limbs as (K,) Python integers."""
    total = limbs[:, -1].astype(object)
    for k in range(limbs.shape[1] - 2, -1, -1):
        total = (total << LIMB) + limbs[:, k].astype(object)
    return total


@njit(cache=True, nogil=True)
def _fixed_point(values: NDArray[np.floating], scale: float) -> NDArray[np.int64]:
    """round(v * scale), half to even; the product is exact because scale is a power of two."""
    fixed = np.empty(values.shape, np.int64)
    flat, source = fixed.ravel(), values.ravel()
    for i in range(flat.size):
        flat[i] = np.int64(np.rint(np.float64(source[i]) * scale))
    return fixed


@njit(cache=True, nogil=True)
def _add_narrow(
    rank: NDArray[np.uint32],
    begin: NDArray[np.uint32],
    stop: NDArray[np.uint32],
    values: NDArray[np.integer],
    sums: NDArray[np.int64],
    squares: NDArray[np.int64],
    limits: NDArray[np.float64],
) -> None:
    """Both others for |q| <= 2^16, where each voxel adds at most 2^32 to the first limb and the others stay 0."""
    for i in range(rank.size):
        label = rank[i]
        total, of_squares = np.int64(0), np.int64(0)
        lowest = highest = values[begin[i]]
        for value in values[begin[i] : stop[i]]:
            total += np.int64(value)
            of_squares += np.int64(value) * np.int64(value)
            lowest = min(lowest, value)
            highest = max(highest, value)
        sums[label, 0] += total
        squares[label, 0] += of_squares
        limits[label, 0] = min(limits[label, 0], np.float64(lowest))
        limits[label, 1] = max(limits[label, 1], np.float64(highest))


@njit(cache=True, nogil=True)
def _add_wide(
    rank: NDArray[np.uint32],
    begin: NDArray[np.uint32],
    stop: NDArray[np.uint32],
    values: NDArray[np.integer],
    sums: NDArray[np.int64],
    squares: NDArray[np.int64],
) -> None:
    """Add q and q^2 of every run to the limbs, without carrying: each voxel adds less than 2^34 to a limb."""
    mask, shift = np.uint64(LIMB_MASK), np.uint64(LIMB)
    for i in range(rank.size):
        label = rank[i]
        for value in values[begin[i] : stop[i]]:
            sign = -1 if value < 0 else 1
            magnitude = np.uint64(-np.int64(value)) if value < 0 else np.uint64(value)
            low, high = magnitude & mask, magnitude >> shift
            sums[label, 0] += sign * np.int64(low)
            sums[label, 1] += sign * np.int64(high)
            square = low * low
            squares[label, 0] += np.int64(square & mask)
            squares[label, 1] += np.int64(square >> shift)
            if high != 0:
                cross, square = low * high, high * high
                squares[label, 1] += 2 * np.int64(cross & mask)
                squares[label, 2] += 2 * np.int64(cross >> shift) + np.int64(square & mask)
                squares[label, 3] += np.int64(square >> shift)


@njit(cache=True, nogil=True)
def _add_limits(
    rank: NDArray[np.uint32],
    begin: NDArray[np.uint32],
    stop: NDArray[np.uint32],
    values: NDArray[Any],
    limits: NDArray[np.float64],
) -> None:
    for i in range(rank.size):
        lowest = highest = values[begin[i]]
        for value in values[begin[i] : stop[i]]:
            lowest = min(lowest, value)
            highest = max(highest, value)
        limits[rank[i], 0] = min(limits[rank[i], 0], np.float64(lowest))
        limits[rank[i], 1] = max(limits[rank[i], 1], np.float64(highest))
