"""Exact sums per object: measured block by block, merged in any order, equal to the whole volume's bit for bit.

Every sum here is an integer, in limbs where 64 bits are too few (`kernels.limbs`): voxels, coordinates and their
products, intensities in fixed point and their squares. Means and deviations divide once, at the very end.

Holds for blocks below 2^29 voxels (812^3) and 2^16 along an axis, merges of less than 2^31 records at once, and
volumes below 2^63 voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels.components import dense_labels, ranked_runs
from chunkflow.kernels.limbs import LIMB, LIMB_MASK, carry, integers, intensity_sums, resolved
from chunkflow.kernels.runs import end_of_run

Triple = tuple[int, int, int]

_SECOND_LIMBS = 3
PRODUCTS: tuple[tuple[int, int], ...] = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""The axes of each second moment: zz, yy, xx, zy, zx, yx."""


TIE = 1e-9
"""Second moments this close, in shares of the largest, are equal: what rounding adds is a thousand times less."""


@dataclass(frozen=True, slots=True)
class ObjectSums:
    """What adds up over the blocks, one row per label; all arrays, so that a record can hold them by name."""

    label: NDArray[np.uint64]
    """(K,) labels present, increasing."""
    count: NDArray[np.int64]
    """(K,) voxels."""
    box_start: NDArray[np.int64]
    """(K, 3) smallest z, y, x in the volume."""
    box_stop: NDArray[np.int64]
    """(K, 3) one more than the largest z, y, x."""
    moment: NDArray[np.int64]
    """(K, 3, 2) sums of z, y, x over the voxels, in limbs."""
    second: NDArray[np.int64]
    """(K, 6, 3) sums of zz, yy, xx, zy, zx, yx over the voxels, in limbs."""
    intensity_sum: NDArray[np.int64]
    """(K, 3) sum of q, in limbs."""
    intensity_squares: NDArray[np.int64]
    """(K, 5) sum of q^2, in limbs."""
    intensity_min: NDArray[np.float64]
    """(K,) smallest intensity (not scaled); NaN without an image."""
    intensity_max: NDArray[np.float64]
    """(K,) largest intensity (not scaled); NaN without an image."""

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest value on each label, -1 where any of its voxels has a negative one (not known)."""

    label: NDArray[np.uint64]
    """(K,) labels present, increasing."""
    value: NDArray[np.int64]
    """(K,)"""


def object_sums(
    labels: NDArray[Any], core_start: Triple, intensity: NDArray[Any] | None, *, scale_power: int = 0
) -> ObjectSums:
    """Sums over the voxels of each label in one block.

    Parameters
    ----------
    labels : (Z, Y, X) unsigned, 0 is background and not measured.
    core_start : coordinate in the volume of the block's first voxel.
    intensity : (Z, Y, X) bool, integer or float, finite; None where there is no image.
    scale_power : `intensity_power` of the volume; of no effect on integers.

    Returns
    -------
    ObjectSums in coordinates of the volume, carried; exact.
    """
    cut, rank, present = ranked_runs(labels)
    rows = len(present) + 1
    extent = np.empty((rows, 3, 2), np.int64)
    extent[:, :, 0], extent[:, :, 1] = np.iinfo(np.int64).max, -1
    count, moment, second = np.zeros(rows, np.int64), np.zeros((rows, 3), np.int64), np.zeros((rows, 6), np.int64)
    _add_positions(cut.row, cut.start, rank, cut.shape, count, moment, second, extent)
    start = np.asarray(core_start, dtype=np.int64)
    shifted = moment + count[:, None] * start  # below 2^29 voxels times 2^31
    sums, squares, limits = intensity_sums(cut, rank, rows, intensity, scale_power)
    return ObjectSums(
        label=present,
        count=count[1:],
        box_start=extent[1:, :, 0] + start,
        box_stop=extent[1:, :, 1] + 1 + start,
        moment=carry(np.stack((shifted, np.zeros_like(shifted)), axis=-1))[1:],
        second=_shifted_second(count, moment, second, start)[1:],
        intensity_sum=carry(sums)[1:],
        intensity_squares=carry(squares)[1:],
        intensity_min=limits[1:, 0],
        intensity_max=limits[1:, 1],
    )


def merge_sums(parts: Sequence[ObjectSums]) -> ObjectSums:
    """Sums of several blocks, or of several merges; associative and commutative, bit for bit.

    Parameters
    ----------
    parts : at least one; all with intensities or all without.
    """
    joined = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(ObjectSums)}
    order = np.argsort(joined["label"], kind="stable")
    label = joined["label"][order]
    starts = np.flatnonzero(np.concatenate((np.ones(min(1, len(label)), np.bool_), label[1:] != label[:-1])))

    def reduced(name: str, how: np.ufunc) -> NDArray[Any]:
        values = joined[name][order]
        return np.asarray(how.reduceat(values, starts, axis=0)) if len(starts) else values

    return ObjectSums(
        label=label[starts],
        count=reduced("count", np.add),
        box_start=reduced("box_start", np.minimum),
        box_stop=reduced("box_stop", np.maximum),
        moment=carry(reduced("moment", np.add)),
        second=carry(reduced("second", np.add)),
        intensity_sum=carry(reduced("intensity_sum", np.add)),
        intensity_squares=carry(reduced("intensity_squares", np.add)),
        intensity_min=reduced("intensity_min", np.minimum),
        intensity_max=reduced("intensity_max", np.maximum),
    )


def object_columns(
    totals: ObjectSums,
    volume_shape: Triple,
    voxel_um: tuple[float, float, float],
    *,
    translation_um: tuple[float, float, float] = (0.0, 0.0, 0.0),
    scale_power: int = 0,
) -> dict[str, NDArray[Any]]:
    """The columns of the table of objects that come from sums, one row per object, by increasing id.

    Parameters
    ----------
    totals : merged sums of the whole volume.
    volume_shape : z, y, x.
    voxel_um : distance of voxel centres along z, y, x.
    translation_um : where the centre of voxel 0 lies.
    scale_power : the one that the sums were made with; 0 for an integer image.

    Returns
    -------
    object_id (uint64), volume_vox (int64), volume_um3, bbox_{z,y,x}_{min,max} (int64 voxels, half-open),
    bbox_{z,y,x}_{min,max}_um (the outer faces of these voxels, where the centroids are measured),
    centroid_{z,y,x}_um, intensity_{mean,sd,min,max} (float64; NaN without an image), touches_border (bool).
    `sd` is that of the population, sqrt(n S2 - S1^2) / n, from exact integers with one rounding before the root. Both
    are NaN where a far larger value elsewhere in the volume left too few digits (`limbs.resolved`).
    An axis one voxel long has no border, or every object of a 2-D image would touch it.
    """
    columns: dict[str, NDArray[Any]] = {
        "object_id": totals.label,
        "volume_vox": totals.count,
        "volume_um3": totals.count * (voxel_um[0] * voxel_um[1] * voxel_um[2]),
    }
    for axis, name in enumerate("zyx"):
        columns[f"bbox_{name}_min"] = totals.box_start[:, axis]
        columns[f"bbox_{name}_max"] = totals.box_stop[:, axis]
    for axis, name in enumerate("zyx"):
        for end, edge in (("min", totals.box_start), ("max", totals.box_stop)):
            columns[f"bbox_{name}_{end}_um"] = (edge[:, axis] - 0.5) * voxel_um[axis] + translation_um[axis]
    count = totals.count.astype(object)
    for axis, name in enumerate("zyx"):
        centre = (integers(totals.moment[:, axis]) / count).astype(np.float64)
        columns[f"centroid_{name}_um"] = centre * voxel_um[axis] + translation_um[axis]
    limits = totals.intensity_min, totals.intensity_max
    columns |= intensity_columns(totals.count, totals.intensity_sum, totals.intensity_squares, *limits, scale_power)
    columns["touches_border"] = _touches_border(totals, volume_shape)
    return columns


def intensity_columns(
    count: NDArray[np.int64],
    total: NDArray[np.int64],
    squares: NDArray[np.int64],
    lowest: NDArray[np.float64],
    highest: NDArray[np.float64],
    scale_power: int,
    *,
    prefix: str = "intensity",
) -> dict[str, NDArray[Any]]:
    """PREFIX_{mean,sd,min,max} (float64; NaN where `lowest` is) from the sums of q and q^2 in limbs; see
    `object_columns`. Mean and sd are NaN too where the steps of the sums are too coarse (`limbs.resolved`).
    """
    n, s1, s2 = count.astype(object), integers(total), integers(squares)
    mean = (s1 / n).astype(np.float64)
    variance = ((n * s2 - s1 * s1) / (n * n)).astype(np.float64)
    has_none = np.isnan(lowest)
    has_mean, has_spread = resolved(lowest, highest, scale_power)
    has_mean |= lowest == highest  # clipped, it is that value
    centre = np.clip(np.ldexp(mean, -scale_power), lowest, highest)
    return {
        f"{prefix}_mean": np.where(has_none | ~has_mean, np.nan, centre),
        f"{prefix}_sd": np.where(has_none | ~has_spread, np.nan, np.ldexp(np.sqrt(variance), -scale_power)),
        f"{prefix}_min": lowest,
        f"{prefix}_max": highest,
    }


def axis_columns(totals: ObjectSums, voxel_um: tuple[float, float, float]) -> dict[str, NDArray[Any]]:
    """Lengths and directions of the ellipsoid that has the second moments of the object, its voxels taken as boxes.

    The covariance of positions is n S_ab - S_a S_b over n^2, exact integers divided once, plus h^2 / 12 on the
    diagonal, the moment of a box of side h. A full axis of the ellipsoid is 2 sqrt(5 e) with e an eigenvalue.

    An axis has no sense of direction: the sign is such that its largest component is positive, of equally large ones
    the first of z, y, x. So the three are at right angles, but may be right- or left-handed. Axes that are equally long
    (the three of a ball, two of a round rod) have no direction at all and are NaN.

    Parameters
    ----------
    totals : merged sums of the whole volume.
    voxel_um : sides of a voxel along z, y, x.

    Returns
    -------
    axis_{major,middle,minor}_um, the full lengths; axis_{major,middle,minor}_{z,y,x}, their unit vectors; elongation =
    major / middle and flatness = middle / minor, both 1 for a ball (Lehmann, Insight Journal 2007).
    """
    count = totals.count.astype(object)
    first = [integers(totals.moment[:, axis]) for axis in range(3)]
    covariance = np.empty((len(totals), 3, 3))
    for k, (a, b) in enumerate(PRODUCTS):
        central = (count * integers(totals.second[:, k]) - first[a] * first[b]) / (count * count)
        box = voxel_um[a] ** 2 / 12 if a == b else 0.0
        covariance[:, a, b] = covariance[:, b, a] = central.astype(np.float64) * (voxel_um[a] * voxel_um[b]) + box
    values, vectors = np.linalg.eigh(covariance)
    minor, middle, major = 2 * np.sqrt(5 * values.T)
    columns = {"axis_major_um": major, "axis_middle_um": middle, "axis_minor_um": minor}
    for k, name in ((2, "major"), (1, "middle"), (0, "minor")):
        others = np.delete(values, k, axis=1)
        is_tied = (np.abs(others - values[:, k, None]) <= TIE * values[:, 2, None]).any(axis=1)
        direction = np.where(is_tied[:, None], np.nan, _signed(vectors[:, :, k]))
        columns |= {f"axis_{name}_{letter}": direction[:, axis] for axis, letter in enumerate("zyx")}
    return columns | {"elongation": major / middle, "flatness": middle / minor}


def _signed(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, 3) with the largest component of each positive, of those within `TIE` of the largest the first."""
    size = np.abs(vectors)
    first = (size >= (1 - TIE) * size.max(axis=1, keepdims=True)).argmax(axis=1)
    return np.where(np.take_along_axis(vectors, first[:, None], axis=1) < 0, -vectors, vectors)


def largest_values(labels: NDArray[Any], values: NDArray[Any]) -> Largest:
    """The largest value on each label of a block; (Z, Y, X) unsigned labels and integer values."""
    dense, present = dense_labels(labels)
    found = np.zeros(len(present) + 1, np.int64)
    _raise_to(dense, values, found)
    return Largest(present, found[1:])


def merge_largest(parts: Sequence[Largest]) -> Largest:
    """`largest_values` of several blocks, or of several merges (at least one); exact in any order."""
    label, where = np.unique(np.concatenate([part.label for part in parts]), return_inverse=True)
    value = np.concatenate([part.value for part in parts])
    found = np.zeros(len(label), np.int64)
    np.maximum.at(found, where, value)
    found[where[value < 0]] = -1
    return Largest(label, found)


def _shifted_second(
    count: NDArray[np.int64], moment: NDArray[np.int64], second: NDArray[np.int64], start: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(K, 6, 3) limbs of the second moments about the volume's origin from those about the block's.

    sum (a + s)(b + t) = sum ab + t sum a + s sum b + n s t, each product in limbs before they are added.
    """
    limbs = np.zeros((*second.shape, _SECOND_LIMBS), np.int64)
    one = np.int64(1)
    for k, (a, b) in enumerate(PRODUCTS):
        products = (
            (second[:, k], one),
            (moment[:, a], start[b]),
            (moment[:, b], start[a]),
            (count * start[a], start[b]),
        )
        for factor, by in products:
            low = (factor & LIMB_MASK) * by
            limbs[:, k, 0] += low & LIMB_MASK
            limbs[:, k, 1] += (low >> LIMB) + (factor >> LIMB) * by
    return carry(limbs)


def _touches_border(totals: ObjectSums, volume_shape: Triple) -> NDArray[np.bool_]:
    shape = np.asarray(volume_shape)
    at_side = (totals.box_start == 0) | (totals.box_stop == shape)
    return np.asarray((at_side & (shape > 1)).any(axis=1))


@njit(cache=True, nogil=True)
def _add_positions(
    row: NDArray[np.int64],
    start: NDArray[np.int32],
    rank: NDArray[np.uint32],
    shape: Triple,
    count: NDArray[np.int64],
    moment: NDArray[np.int64],
    second: NDArray[np.int64],
    extent: NDArray[np.int64],
) -> None:
    """Add run after run (`kernels.runs`); `extent` is (K, 3, 2), the smallest and largest z, y, x."""
    depth, height, width = shape
    for z in range(depth):
        for y in range(height):
            r = z * height + y
            for i in range(row[r], row[r + 1]):
                label = rank[i]
                if label == 0:
                    continue
                stop = end_of_run(start, i, row[r + 1], width)
                length = stop - start[i]
                begin = stop - length  # of 64 bits, as products of it need
                count[label] += length
                moment[label, 0] += z * length
                moment[label, 1] += y * length
                sum_x = (begin + stop - 1) * length // 2
                moment[label, 2] += sum_x
                second[label, 0] += z * z * length
                second[label, 1] += y * y * length
                second[label, 2] += _squares_below(stop) - _squares_below(begin)
                second[label, 3] += z * y * length
                second[label, 4] += z * sum_x
                second[label, 5] += y * sum_x
                for axis, low, high in ((0, z, z), (1, y, y), (2, begin, stop - 1)):
                    extent[label, axis, 0] = min(extent[label, axis, 0], low)
                    extent[label, axis, 1] = max(extent[label, axis, 1], high)


@njit(cache=True, nogil=True)
def _squares_below(n: int) -> int:
    """0^2 + 1^2 + ... + (n - 1)^2."""
    return (n - 1) * n * (2 * n - 1) // 6


@njit(cache=True, nogil=True)
def _raise_to(dense: NDArray[np.uint32], values: NDArray[np.integer], found: NDArray[np.int64]) -> None:
    labels, given = dense.ravel(), values.ravel()
    for i in range(labels.size):
        label = labels[i]
        if label != 0 and found[label] >= 0:
            found[label] = -1 if given[i] < 0 else max(found[label], np.int64(given[i]))
