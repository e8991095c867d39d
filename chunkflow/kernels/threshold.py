"""Thresholds of a whole volume from a histogram that blocks add up.

    minimum, maximum of the volume -> Bins -> counts per block (int64, they add exactly) -> one threshold

Bins are one per value for integers of up to 16 bits, else 65,536 equal ones between minimum and maximum, so a
threshold is known to 1/65,536 of the range: on an image whose objects are 10,000 times dimmer than its brightest voxel
that is too coarse, and a fixed threshold is the remedy. Foreground is `value > threshold` everywhere.

The rules (`kernels.threshold_rules`) count in bins and come back to image values at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from chunkflow.backend import array_module, to_host
from chunkflow.errors import InputError

EQUAL_BINS = 65_536
# Voxels binned at a time: keeps the float64 copy small beside the block.
CHUNK = 2**20

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bins:
    """Equal bins that cover the values of a volume.

    first : lower edge of the first bin
    width : of each bin
    count : number of bins
    """

    first: float
    width: float
    count: int

    @classmethod
    def of_range(cls, lo: float, hi: float, dtype: DTypeLike, smoothed: bool) -> Self:
        """Bins between the minimum and maximum of the raw volume: one per value where the values are whole numbers.

        dtype : of the raw volume; `smoothed` says that the values counted are a smoothed, fractional copy of it.
        """
        kind = np.dtype(dtype)
        has_small_range = kind.kind == "b" or (kind.kind in "iu" and kind.itemsize <= 2)
        if has_small_range and not smoothed:
            return cls(float(lo) - 0.5, 1.0, int(hi) - int(lo) + 1)
        if hi <= lo:
            return cls(float(lo) - 0.5, 1.0, 1)
        return cls(float(lo), (float(hi) - float(lo)) / EQUAL_BINS, EQUAL_BINS)

    @property
    def edges(self) -> NDArray[np.float64]:
        """(count + 1,) bounds of the bins."""
        return self.first + self.width * np.arange(self.count + 1, dtype=np.float64)

    @property
    def centres(self) -> NDArray[np.float64]:
        """(count,) values in the middle of the bins; the values themselves with one bin per value."""
        return self.first + self.width * (np.arange(self.count, dtype=np.float64) + 0.5)

    def value(self, position: float) -> float:
        """Image value at a position counted in bins, 0 being the centre of the first."""
        return self.first + self.width * (position + 0.5)


def histogram(values: Any, bins: Bins) -> Counts:
    """Count the values per bin; values beyond the ends count in the end bins (smoothing rounds).

    Parameters
    ----------
    values : real, any shape, numpy or cupy, no NaN; only the voxels that are to count (`image[valid]`).

    Returns
    -------
    (bins.count,) int64 on the host. The bin is `floor((value - first) / width)` in float64, one operation at a time:
    the same everywhere, so counts of blocks add up to the counts of the volume.
    """
    xp = array_module(values)
    counts = xp.zeros(bins.count, np.int64)
    flat = values.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        position = flat[start : start + CHUNK].astype(np.float64)
        position -= bins.first
        position /= bins.width
        xp.clip(position, 0, bins.count - 1, out=position)
        counts += xp.bincount(position.astype(np.int64), minlength=bins.count)
    return np.asarray(to_host(counts))


def percentile(counts: Counts, bins: Bins, q: float) -> float:
    """The centre of the first bin that has at least q per cent of the voxels at or below it (q in 0..100).

    Raises
    ------
    InputError : no voxel was counted.
    """
    check_any(counts)
    cumulative = np.cumsum(counts)
    reached = cumulative >= max(1.0, int(cumulative[-1]) * (q / 100))
    return bins.value(float(reached.argmax()))


def check_any(counts: Counts) -> None:
    """Refuse a histogram of nothing.

    Raises
    ------
    InputError : no voxel was counted.
    """
    if not counts.any():
        raise InputError("no voxel to take a threshold from", "Check nodata and mask, which leave nothing")


def check_separable(counts: Counts, bins: Bins) -> None:
    """Refuse a histogram that no threshold divides.

    Raises
    ------
    InputError : no voxel was counted, or all of them are in one bin.
    """
    check_any(counts)
    used = np.flatnonzero(counts)
    if len(used) == 1:
        raise InputError(
            f"all voxels have one value, {bins.value(float(used[0])):g}: no threshold separates them",
            "Check channel, nodata and mask, or use threshold: {method: fixed, value: V}",
        )
