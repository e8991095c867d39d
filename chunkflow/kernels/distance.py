"""Exact squared distances of labelled voxels, in integers, one axis at a time.

The square of the distance separates into axes, so one pass per axis is exact (Meijster, Roerdink & Hesselink
2000): a scan along x finds the nearest end of the voxel's own run, then along y and along z every run of one label
takes the lower envelope of the parabolas of its voxels. Each run ends in two sites of height 0, the voxels of
another label on both sides, so all labels are done in one go. Everything is an integer: spacings enter as squared
integer ratios, no value is ever rounded, and equal inputs give equal bits on every machine.

    labels   | 1 1 1 2 0 3 3 3 |     behind closed ends of a line all is background,
    D2       | 1 4 1 1 0 1 4 1 |     behind open ends nothing is: the last row would end in 1 4 9

Each pass needs whole lines and nothing beside them, so a volume is measured in pencils. Values must stay below
2^31 - 1 (a radius of 46,340 voxels at weights of 1); above that they are UNKNOWN, never wrong.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.errors import PlanError

Labels = NDArray[np.unsignedinteger[Any]]

UNKNOWN = -1
"""Squared distance that int32 cannot hold, or that has no background to end at."""

FAR = 2**31 - 1
"""No site in sight; also every squared distance that int32 cannot hold."""

TILE = 16
"""Columns gathered at once in the sweeps along y and z: 16 int32 are one cache line."""

SHORT_RUN = 48
"""Runs up to which looking at each voxel's surroundings takes less time than an envelope with its divisions."""

RATIO_ERROR = 1e-3
"""Relative error that integer spacing ratios may have."""


def integer_weights(voxel_um: tuple[float, float, float], *, largest_ratio: int = 64) -> tuple[int, int, int]:
    """Squares of the smallest integers that are to each other as the voxel's sides, to within 0.1 %.

    Parameters
    ----------
    voxel_um : sides of a voxel along z, y, x in um, > 0
    largest_ratio : largest integer allowed for a side

    Returns (weight_z, weight_y, weight_x): multiply squared voxel offsets by them. A distance in um is
    sqrt(D2) * voxel_um[a] / sqrt(weights[a]), with any axis a.

    Raises
    ------
    PlanError : if no such integers up to `largest_ratio` exist, or a side is not a positive number.
    """
    if not all(isfinite(side) and side > 0 for side in voxel_um):
        raise PlanError(f"A voxel of {voxel_um} um has no size", "Give three positive numbers for z, y, x")
    smallest = min(voxel_um)
    for base in range(1, largest_ratio + 1):
        sides = [round(base * side / smallest) for side in voxel_um]
        if max(sides) > largest_ratio:
            break
        scales = [n / side for n, side in zip(sides, voxel_um, strict=True)]
        if max(scales) <= min(scales) * (1 + RATIO_ERROR):
            return sides[0] ** 2, sides[1] ** 2, sides[2] ** 2
    raise PlanError(
        f"The sides of a voxel of {voxel_um} um are not to each other as integers up to {largest_ratio}",
        "Add a resample stage before, to voxels with equal sides or simple ratios",
    )


def squared_distance(
    labels: Labels | NDArray[np.bool_], *, weights: tuple[int, int, int], open_ends: bool = False
) -> NDArray[np.int32]:
    """Squared distance of every labelled voxel to the nearest voxel that does not carry its label.

    Parameters
    ----------
    labels : (Z, Y, X) bool or any unsigned integer, 0 is background
    weights : squared integer spacings along z, y, x, >= 1 (see `integer_weights`)
    open_ends : what lies behind the sides of the volume counts as nothing; else as background

    Returns (Z, Y, X) int32 in units of squared spacing, 0 on background; UNKNOWN where int32 cannot hold it.
    """
    labels = as_labels(labels)
    found, occupied = _along_x(labels, weights[2], open_ends)
    for axis in (1, 0):
        _along(axis, labels, found, occupied, weights[axis], open_ends)
    return found


def squared_distance_along(
    axis: int,
    labels: Labels | NDArray[np.bool_],
    distance2: NDArray[np.int32] | None,
    *,
    weight: int,
    open_ends: bool = False,
) -> NDArray[np.int32]:
    """One axis of `squared_distance`, on a part of the volume that holds whole lines along it.

    Parameters
    ----------
    axis : 2 first, then 1, then 0
    labels : (Z, Y, X) bool or any unsigned integer, 0 is background
    distance2 : (Z, Y, X) int32, what the axis before left, None for axis 2
    weight : squared integer spacing along the axis
    open_ends : what lies behind both ends of a line counts as nothing; else as background

    Returns (Z, Y, X) int32. After axis 0 it is exact for the whole volume, however that was cut into parts; UNKNOWN
    where int32 cannot hold it.
    """
    labels = as_labels(labels)
    if distance2 is None:
        return _along_x(labels, weight, open_ends)[0]
    occupied = occupied_tiles(labels)
    found = distance2.copy()
    _along(axis, labels, found, occupied, weight, open_ends)
    return found


def occupied_tiles(labels: Labels) -> NDArray[np.bool_]:
    """(Z, Y, ceil(X / TILE)) bool: which tiles of TILE voxels of a row hold any label; few of a sparse volume do."""
    occupied = np.zeros((*labels.shape[:2], -(-labels.shape[2] // TILE)), np.bool_)
    _mark_occupied(labels, occupied)
    return occupied


def _along_x(labels: Labels, weight: int, open_ends: bool) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Distances along x alone, and which tiles hold labels."""
    found, occupied = np.zeros(labels.shape, np.int32), occupied_tiles(labels)
    _scan_x(labels, weight, open_ends, found, occupied)
    return found, occupied


def _along(
    axis: int,
    labels: Labels,
    found: NDArray[np.int32],
    occupied: NDArray[np.bool_],
    weight: int,
    open_ends: bool,
) -> None:
    """Add axis 1 or 0 to the distances, in place; the swept axis becomes the middle one, for y a view as it is."""
    lines, values, tiles = np.swapaxes(labels, axis, 1), np.swapaxes(found, axis, 1), np.swapaxes(occupied, axis, 1)
    _sweep(lines, weight, open_ends, values, tiles)
    if axis == 0:
        _tell_unknown(found, occupied)


def as_labels(labels: Labels | NDArray[np.bool_]) -> Labels:
    """The same voxels as a contiguous array of unsigned integers; a mask is one label, 1."""
    if labels.dtype == np.bool_:
        return np.ascontiguousarray(labels).view(np.uint8)
    unsigned: Labels = np.ascontiguousarray(labels)
    return unsigned


@njit(cache=True, nogil=True)
def _scan_x(
    labels: Labels,
    weight: int,
    open_ends: bool,
    distance2: NDArray[np.int32],
    occupied: NDArray[np.bool_],
) -> None:
    """Distances along x alone."""
    depth, height, width = labels.shape
    for z in range(depth):
        for y in range(height):
            start = 0
            while start < width:
                if not occupied[z, y, start // TILE]:
                    start = (start // TILE + 1) * TILE
                    continue
                label = labels[z, y, start]
                if label == 0:
                    start += 1
                    continue
                stop = start + 1
                while stop < width and labels[z, y, stop] == label:
                    stop += 1
                sees_low = start > 0 or not open_ends
                sees_high = stop < width or not open_ends
                for x in range(start, stop):
                    steps = FAR
                    if sees_low:
                        steps = x - start + 1
                    if sees_high:
                        steps = min(steps, stop - x)
                    distance2[z, y, x] = FAR if steps == FAR else min(FAR, weight * steps * steps)
                start = stop


@njit(cache=True, nogil=True)
def _mark_occupied(labels: Labels, occupied: NDArray[np.bool_]) -> None:
    depth, height, width = labels.shape
    whole = width // TILE
    for z in range(depth):
        for y in range(height):
            row = labels[z, y]
            for tile in range(whole):
                some = row[tile * TILE]
                for i in range(1, TILE):  # of fixed length and without a branch: 16 voxels in a few instructions
                    some |= row[tile * TILE + i]
                occupied[z, y, tile] = some != 0
            for x in range(whole * TILE, width):
                if row[x] != 0:
                    occupied[z, y, whole] = True


@njit(cache=True, nogil=True)
def _nearby_envelope(heights: NDArray[np.int64], length: int, weight: int, envelope: NDArray[np.int64]) -> None:
    """What `_lower_envelope` gives, by looking outwards from each position until nothing lower can come."""
    for i in range(length):
        lowest = min(FAR, heights[i])
        for steps in range(1, max(i, length - 1 - i) + 1):
            rise = weight * steps * steps
            if rise >= lowest:
                break
            if i >= steps:
                lowest = min(lowest, heights[i - steps] + rise)
            if i + steps < length:
                lowest = min(lowest, heights[i + steps] + rise)
        envelope[i] = lowest


@njit(cache=True, nogil=True)
def _lower_envelope(
    heights: NDArray[np.int64],
    length: int,
    weight: int,
    sites: NDArray[np.int64],
    starts: NDArray[np.int64],
    envelope: NDArray[np.int64],
) -> None:
    """envelope[i] = min over j of heights[j] + weight (i - j)^2 for i < length; a height of FAR is no site.

    `sites` and `starts` are scratch: the parabola of sites[k] is the lowest from starts[k] on.
    """
    top = -1
    for new in range(length):
        height = heights[new]
        if height >= FAR:
            continue
        while top >= 0:
            site, start = sites[top], starts[top]
            if heights[site] + weight * (start - site) ** 2 <= height + weight * (start - new) ** 2:
                break
            top -= 1
        if top < 0:
            top = 0
            sites[0], starts[0] = new, 0
            continue
        site = sites[top]
        # the first position at which the new parabola is strictly below the last one
        start = 1 + (weight * (new * new - site * site) + height - heights[site]) // (2 * weight * (new - site))
        if start < length:
            top += 1
            sites[top], starts[top] = new, start
    if top < 0:
        envelope[:length] = FAR
        return
    for i in range(length - 1, -1, -1):
        site = sites[top]
        envelope[i] = min(FAR, heights[site] + weight * (i - site) ** 2)
        if i == starts[top]:
            top -= 1


@njit(cache=True, nogil=True)
def _sweep_line(
    labels: Labels,
    length: int,
    weight: int,
    low_open: bool,
    high_open: bool,
    values: NDArray[np.int64],
    scratch: NDArray[np.int64],
) -> None:
    """Lower envelope of every run of one label on a line, in place; scratch is (4, >= length + 2)."""
    heights, envelope = scratch[0], scratch[1]
    start = 0
    while start < length:
        label = labels[start]
        if label == 0:
            start += 1
            continue
        stop = start + 1
        while stop < length and labels[stop] == label:
            stop += 1
        run = stop - start
        heights[0] = FAR if start == 0 and low_open else 0
        for i in range(run):  # slices would cost more than such loops
            heights[i + 1] = values[start + i]
        heights[run + 1] = FAR if stop == length and high_open else 0
        if run <= SHORT_RUN:
            _nearby_envelope(heights, run + 2, weight, envelope)
        else:
            _lower_envelope(heights, run + 2, weight, scratch[2], scratch[3], envelope)
        for i in range(run):
            values[start + i] = envelope[i + 1]
        start = stop


@njit(cache=True, nogil=True)
def _sweep(
    labels: Labels,
    weight: int,
    open_ends: bool,
    distance2: NDArray[np.int32],
    occupied: NDArray[np.bool_],
) -> None:
    """Add the middle axis to the distances. Only rows of tiles that hold labels are touched."""
    planes, length, width = labels.shape
    scratch = np.empty((4, length + 2), np.int64)
    line_labels = np.empty((TILE, length), labels.dtype)
    line_values = np.empty((TILE, length), np.int64)
    for plane in range(planes):
        for tile in range(occupied.shape[2]):
            x = tile * TILE
            columns = min(TILE, width - x)
            low = 0
            while low < length:
                if not occupied[plane, low, tile]:
                    low += 1
                    continue
                high = low + 1
                while high < length and occupied[plane, high, tile]:
                    high += 1
                rows = high - low
                for i in range(rows):
                    for j in range(columns):
                        line_labels[j, i] = labels[plane, low + i, x + j]
                        line_values[j, i] = distance2[plane, low + i, x + j]
                for j in range(columns):
                    # rows beyond [low, high) hold background, so an end inside the line is a site
                    low_open, high_open = low == 0 and open_ends, high == length and open_ends
                    _sweep_line(line_labels[j], rows, weight, low_open, high_open, line_values[j], scratch)
                for i in range(rows):
                    for j in range(columns):
                        distance2[plane, low + i, x + j] = line_values[j, i]
                low = high


@njit(cache=True, nogil=True)
def _tell_unknown(distance2: NDArray[np.int32], occupied: NDArray[np.bool_]) -> None:
    """Set to UNKNOWN what int32 could not hold."""
    depth, height, width = distance2.shape
    for z in range(depth):
        for y in range(height):
            for tile in range(occupied.shape[2]):
                if occupied[z, y, tile]:
                    for x in range(tile * TILE, min(width, (tile + 1) * TILE)):
                        if distance2[z, y, x] == FAR:
                            distance2[z, y, x] = UNKNOWN
