"""Change of voxel size on a lattice that blocks cannot shift.

    source voxel i sits at i * s_in,  output voxel j at j * s_out     (both from the first voxel's centre, per axis)

    i = floor(j * s_out / s_in),  weight of i + 1 = the rest,  n_out = floor((n - 1) * s_in / s_out) + 1

The voxel sizes are taken as the decimals they are written as, so index and weight are exact rationals in coordinates
of the whole volume: every output voxel is the same few roundings of the same source voxels, whatever its box.
Linear interpolation does not smooth first: making voxels much larger aliases, so deconvolve or smooth before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import array_module
from chunkflow.errors import UsageError
from chunkflow.geometry.box import Triple, triple

VoxelSize = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class _Taps:
    """Where the output voxels of one axis read: `low` and `high` source indices, `weight` of the high one.

    Where the weight is exactly 0, high is low: a voxel that does not count is not read.
    """

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    weight: NDArray[np.float32]

    @property
    def is_copy(self) -> bool:
        return bool((self.low == self.high).all())


def output_shape(shape: Triple, voxel_in: VoxelSize, voxel_out: VoxelSize) -> Triple:
    """Shape of the resampled volume: output voxels reach up to the last source voxel, never beyond it."""
    return triple(tuple(int((n - 1) / _ratio(a, b)) + 1 for n, a, b in zip(shape, voxel_in, voxel_out, strict=True)))


def source_box(
    start: Triple, stop: Triple, shape_in: Triple, voxel_in: VoxelSize, voxel_out: VoxelSize
) -> tuple[Triple, Triple]:
    """The source voxels [start, stop) that output voxels [start, stop) read with `linear`, `nearest` or `valid`.

    Raises
    ------
    UsageError : the output range is empty or does not lie in the resampled volume.
    """
    taps = _all_taps(start, stop, shape_in, voxel_in, voxel_out)
    return triple(tuple(int(t.low[0]) for t in taps)), triple(tuple(int(t.high[-1]) + 1 for t in taps))


def linear(
    source: Any,
    source_start: Triple,
    out_start: Triple,
    out_stop: Triple,
    shape_in: Triple,
    voxel_in: VoxelSize,
    voxel_out: VoxelSize,
) -> Any:
    """Linear interpolation of an image, along z, then y, then x.

    Parameters
    ----------
    source : (Z, Y, X) real, numpy or cupy; the voxels from `source_start` on, at least those of `source_box`.
    source_start : coordinates of its first voxel in the source volume.
    out_start, out_stop : the box wanted, in coordinates of the resampled volume.
    shape_in : shape of the whole source volume.
    voxel_in, voxel_out : voxel sizes, z y x, same unit.

    Returns
    -------
    float32 of shape out_stop - out_start. Bit-identical for a voxel whatever the boxes; exact (the source value) at
    source voxels; between the neighbouring source values up to float32 rounding. Integers above 2^24 are rounded.
    """
    array = source.astype(np.float32)
    taps = _all_taps(out_start, out_stop, shape_in, voxel_in, voxel_out)
    for axis, (axis_taps, first) in enumerate(zip(taps, source_start, strict=True)):
        array = _combine(array, axis_taps, axis, first, _lerp)
    return array


def valid(
    source: Any,
    source_start: Triple,
    out_start: Triple,
    out_stop: Triple,
    shape_in: Triple,
    voxel_in: VoxelSize,
    voxel_out: VoxelSize,
) -> Any:
    """Which voxels of `linear` rest on valid voxels alone: bool, same arguments, `source` bool (True is valid).

    Exact: a source voxel of weight 0 does not matter, one of any other weight does.
    """
    array = source
    taps = _all_taps(out_start, out_stop, shape_in, voxel_in, voxel_out)
    for axis, (axis_taps, first) in enumerate(zip(taps, source_start, strict=True)):
        array = _combine(array, axis_taps, axis, first, _both)
    return array


def nearest(
    source: Any,
    source_start: Triple,
    out_start: Triple,
    out_stop: Triple,
    shape_in: Triple,
    voxel_in: VoxelSize,
    voxel_out: VoxelSize,
) -> Any:
    """The value of the nearest source voxel (labels, masks): dtype kept, halfway goes to the smaller index.

    Arguments as for `linear`. Exact.
    """
    xp = array_module(source)
    array = source
    axes = zip(source_start, out_start, out_stop, shape_in, voxel_in, voxel_out, strict=True)
    for axis, (first, start, stop, n_in, size_in, size_out) in enumerate(axes):
        index = _nearest_index(start, stop, n_in, size_in, size_out) - first
        array = xp.take(array, xp.asarray(index), axis=axis)
    return array


def _ratio(size_in: float, size_out: float) -> Fraction:
    """Source voxels per output voxel, from the shortest decimals that stand for the two floats."""
    return Fraction(repr(float(size_out))) / Fraction(repr(float(size_in)))


def _all_taps(start: Triple, stop: Triple, shape_in: Triple, voxel_in: VoxelSize, voxel_out: VoxelSize) -> list[_Taps]:
    return [_taps(*axis) for axis in zip(start, stop, shape_in, voxel_in, voxel_out, strict=True)]


def _taps(start: int, stop: int, n_in: int, size_in: float, size_out: float) -> _Taps:
    ratio = _ratio(size_in, size_out)
    _check_range(start, stop, n_in, ratio)
    places = [divmod(j * ratio.numerator, ratio.denominator) for j in range(start, stop)]
    low = np.array([index for index, _ in places], np.intp)
    rest = np.array([remainder > 0 for _, remainder in places])
    # one rounding to float64 and one to float32: int / int is correctly rounded for integers of any size
    weight = np.array([remainder / ratio.denominator for _, remainder in places], np.float64).astype(np.float32)
    return _Taps(low, low + rest, weight)


def _nearest_index(start: int, stop: int, n_in: int, size_in: float, size_out: float) -> NDArray[np.intp]:
    ratio = _ratio(size_in, size_out)
    _check_range(start, stop, n_in, ratio)
    p, q = ratio.numerator, ratio.denominator
    return np.array([-((q - 2 * j * p) // (2 * q)) for j in range(start, stop)], np.intp)  # ceil(j * p / q - 1/2)


def _check_range(start: int, stop: int, n_in: int, ratio: Fraction) -> None:
    n_out = int((n_in - 1) / ratio) + 1
    if not 0 <= start < stop <= n_out:
        raise UsageError(f"voxels {start} to {stop} of a resampled axis of {n_out}", "Ask for voxels that it has")


def _combine(array: Any, taps: _Taps, axis: int, first: int, rule: Callable[[Any, Any, Any], Any]) -> Any:
    """`rule(low, high, weight)` of the two neighbours along one axis."""
    xp = array_module(array)
    low = xp.take(array, xp.asarray(taps.low - first), axis=axis)
    if taps.is_copy:
        return low
    high = xp.take(array, xp.asarray(taps.high - first), axis=axis)
    along = [1, 1, 1]
    along[axis] = -1
    return rule(low, high, xp.asarray(taps.weight).reshape(along))


def _lerp(low: Any, high: Any, weight: Any) -> Any:
    # one operation at a time, so that no compiler fuses two into one rounding here and not there;
    # with weight 0 it gives `low` itself, as does the shortcut for boxes where all weights are 0
    low *= 1 - weight
    high *= weight
    low += high
    return low


def _both(low: Any, high: Any, weight: Any) -> Any:
    return low & high
