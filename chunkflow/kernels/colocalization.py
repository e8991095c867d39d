"""Other channels of an image, per object: their intensities, and how they go with the measured one.

Sums are exact integers, as in `kernels.measure`: with p the measured intensity and q the channel's, both integers or in
fixed point, blocks add up q, q^2, p q, and p and q where the other is above its background. So correlations and
fractions have the same bits whatever the blocks were. They are ratios, in which the powers of the fixed point cancel.

    Pearson's r   (n S_pq - S_p S_q) / sqrt((n S_pp - S_p^2) (n S_qq - S_q^2))       over the n voxels of the object
    Manders' M1   sum of p where q is above its background / sum of p
    Manders' M2   sum of q where p is above its background / sum of q

(Manders, Verbeek & Aten, J. Microsc. 169, 1993, eq. 5 and 6, where the background is 0.) Holds where `kernels.measure`
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels.components import ranked_runs
from chunkflow.kernels.limbs import (
    LIMB,
    LIMB_MASK,
    SQUARE_LIMBS,
    SUM_LIMBS,
    as_integers,
    carry,
    integers,
    intensity_sums,
    resolved,
)
from chunkflow.kernels.measure import ObjectSums, intensity_columns
from chunkflow.kernels.runs import painted


@dataclass(frozen=True, slots=True)
class ChannelSums:
    """What adds up over the blocks for one channel, one row per label."""

    label: NDArray[np.uint64]
    """(K,) labels present, increasing."""
    total: NDArray[np.int64]
    """(K, 3) sum of q, in limbs."""
    squares: NDArray[np.int64]
    """(K, 5) sum of q^2, in limbs."""
    lowest: NDArray[np.float64]
    """(K,) smallest value (not scaled)."""
    highest: NDArray[np.float64]
    """(K,) largest value (not scaled)."""
    products: NDArray[np.int64]
    """(K, 5) sum of p q, in limbs; 0 without a measured intensity, as the next two."""
    measured_inside: NDArray[np.int64]
    """(K, 3) sum of p where the channel is above its background, in limbs."""
    channel_inside: NDArray[np.int64]
    """(K, 3) sum of q where the measured intensity is above its background, in limbs."""


def channel_sums(
    labels: NDArray[Any],
    channel: NDArray[Any],
    measured: NDArray[Any] | None,
    *,
    powers: tuple[int, int],
    backgrounds: tuple[float, float],
) -> ChannelSums:
    """Sums of one channel over the voxels of each label in one block.

    Parameters
    ----------
    labels : (Z, Y, X) unsigned, 0 is not measured.
    channel : (Z, Y, X) bool, integer or float, finite.
    measured : the same for the measured intensity; None where none is.
    powers : `limbs.intensity_power` of the measured intensity and of the channel, of the whole volume.
    backgrounds : of both, in their own units; a voxel is above where it is larger.

    Returns
    -------
    ChannelSums, carried; exact.
    """
    cut, rank, present = ranked_runs(labels)
    rows = len(present) + 1
    total, squares, limits = intensity_sums(cut, rank, rows, channel, powers[1])
    products = np.zeros((rows, SQUARE_LIMBS), np.int64)
    insides = np.zeros((2, rows, SUM_LIMBS), np.int64)
    if measured is not None:
        dense = painted(cut, rank)
        p, q = as_integers(measured, powers[0]), as_integers(channel, powers[1])
        _add_products(dense, p, q, products)
        _add_where(dense, p, channel > backgrounds[1], insides[0])
        _add_where(dense, q, measured > backgrounds[0], insides[1])
    return ChannelSums(
        label=present,
        total=carry(total)[1:],
        squares=carry(squares)[1:],
        lowest=limits[1:, 0],
        highest=limits[1:, 1],
        products=carry(products)[1:],
        measured_inside=carry(insides[0])[1:],
        channel_inside=carry(insides[1])[1:],
    )


def merge_channel_sums(parts: Sequence[ChannelSums]) -> ChannelSums:
    """Sums of several blocks, or of several merges (at least one); exact in any order."""
    joined = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(ChannelSums)}
    label, where = np.unique(joined.pop("label"), return_inverse=True)
    merged: dict[str, NDArray[Any]] = {}
    for name, rows in joined.items():
        how, start = {"lowest": (np.minimum, np.inf), "highest": (np.maximum, -np.inf)}.get(name, (np.add, 0))
        merged[name] = np.full((len(label), *rows.shape[1:]), start, rows.dtype)
        how.at(merged[name], where, rows)
        if how is np.add:
            merged[name] = carry(merged[name])
    return ChannelSums(label, **merged)


def channel_columns(
    sums: ChannelSums, totals: ObjectSums, *, name: str, power: int, measured_power: int = 0
) -> dict[str, NDArray[Any]]:
    """The columns of the table of objects that tell of one channel.

    Parameters
    ----------
    sums : merged sums of the whole volume.
    totals : those of the objects with the measured intensity, the same labels.
    name : of the channel, in the names of the columns.
    power, measured_power : those that the sums of the channel and of the intensity were made with.

    Returns
    -------
    intensity_NAME_{mean,sd,min,max} and, where an intensity was measured, pearson_NAME, manders_m1_NAME and
    manders_m2_NAME (see the module; m1 is a share of the measured intensity, m2 of the channel). r is NaN where either
    image is constant on the object, a fraction where the sum it is a share of is not positive, and each where the steps
    of the sums are too coarse (`limbs.resolved`). Exact integers are
    divided once: r carries two roundings, a fraction one.
    """
    columns = intensity_columns(
        totals.count, sums.total, sums.squares, sums.lowest, sums.highest, power, prefix=f"intensity_{name}"
    )
    if not np.isnan(totals.intensity_min).any():
        own = resolved(totals.intensity_min, totals.intensity_max, measured_power)
        other = resolved(sums.lowest, sums.highest, power)
        columns |= {
            f"pearson_{name}": np.where(own[1] & other[1], _pearson(sums, totals), np.nan),
            f"manders_m1_{name}": np.where(own[0], _share(sums.measured_inside, totals.intensity_sum), np.nan),
            f"manders_m2_{name}": np.where(other[0], _share(sums.channel_inside, sums.total), np.nan),
        }
    return columns


def _pearson(sums: ChannelSums, totals: ObjectSums) -> NDArray[np.float64]:
    count = totals.count.astype(object)
    p, q = integers(totals.intensity_sum), integers(sums.total)
    covariance = count * integers(sums.products) - p * q
    spread = (count * integers(totals.intensity_squares) - p * p) * (count * integers(sums.squares) - q * q)
    squared = [c * c / s if s > 0 else np.nan for c, s in zip(covariance, spread, strict=True)]  # 1 where it is 1
    return np.asarray(np.copysign(np.sqrt(np.array(squared, np.float64)), covariance.astype(np.float64)))


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole of sums in limbs, NaN where the whole is not positive."""
    pairs = zip(integers(part), integers(whole), strict=True)
    return np.array([a / b if b > 0 else np.nan for a, b in pairs], np.float64)


@njit(cache=True, nogil=True)
def _add_products(
    dense: NDArray[np.uint32], p: NDArray[np.integer], q: NDArray[np.integer], products: NDArray[np.int64]
) -> None:
    """Add p q to the limbs, without carrying: each voxel adds less than 2^34 to a limb."""
    mask, shift = np.uint64(LIMB_MASK), np.uint64(LIMB)
    labels, first, second = dense.ravel(), p.ravel(), q.ravel()
    for i in range(labels.size):
        label = labels[i]
        if label == 0:
            continue
        a, b = first[i], second[i]
        sign = -1 if (a < 0) != (b < 0) else 1
        size_a = np.uint64(-np.int64(a)) if a < 0 else np.uint64(a)
        size_b = np.uint64(-np.int64(b)) if b < 0 else np.uint64(b)
        low_a, high_a, low_b, high_b = size_a & mask, size_a >> shift, size_b & mask, size_b >> shift
        product = low_a * low_b
        products[label, 0] += sign * np.int64(product & mask)
        products[label, 1] += sign * np.int64(product >> shift)
        if high_a != 0 or high_b != 0:
            for cross in (low_a * high_b, high_a * low_b):
                products[label, 1] += sign * np.int64(cross & mask)
                products[label, 2] += sign * np.int64(cross >> shift)
            product = high_a * high_b
            products[label, 2] += sign * np.int64(product & mask)
            products[label, 3] += sign * np.int64(product >> shift)


@njit(cache=True, nogil=True)
def _add_where(
    dense: NDArray[np.uint32], values: NDArray[np.integer], inside: NDArray[np.bool_], sums: NDArray[np.int64]
) -> None:
    """Add the values of the voxels inside to the limbs, without carrying."""
    mask, shift = np.uint64(LIMB_MASK), np.uint64(LIMB)
    labels, given, chosen = dense.ravel(), values.ravel(), inside.ravel()
    for i in range(labels.size):
        label = labels[i]
        if label == 0 or not chosen[i]:
            continue
        value = given[i]
        sign = -1 if value < 0 else 1
        size = np.uint64(-np.int64(value)) if value < 0 else np.uint64(value)
        sums[label, 0] += sign * np.int64(size & mask)
        sums[label, 1] += sign * np.int64(size >> shift)
