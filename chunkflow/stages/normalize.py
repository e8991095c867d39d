"""From grey values to what a network or a classifier takes, by numbers of the whole volume: the same in every block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import array_module
from chunkflow.errors import ConfigError
from chunkflow.kernels import threshold
from chunkflow.models.usage import Normalization
from chunkflow.stages.base import Draft, Flow, Merged, Record
from chunkflow.stages.threshold import Histogram, bins_of, counted


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeScale:
    """Offset and scale of the whole volume, from its histogram: exact for integers of up to 16 bits, else as exact as
    65,536 bins between the smallest and the largest value."""

    key: str
    how: Normalization
    dtype: str
    array: str
    limits: str

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        bins = bins_of(values[self.limits], self.dtype, self.array)
        counts = counted(records[histogram_name(self.key)], bins)
        offset, scale = scale_of(self.how, counts, bins, self.key)
        return Merged({"offset": np.array([offset]), "scale": np.array([scale])})

    def working_bytes(self, blocks: int) -> int:
        return 4 * threshold.EQUAL_BINS * 8


def scale_of(how: Normalization, counts: Any, bins: threshold.Bins, where: str) -> tuple[float, float]:
    """Offset and scale, in grey values, of a volume with that histogram.

    where : what names it, for messages

    Raises
    ------
    ConfigError : the volume has no spread to scale by.
    """
    if how.kind == "percentiles":
        low, high = (threshold.percentile(counts, bins, q) for q in how.percentiles)
        if not low < high:
            raise ConfigError(
                f"{where}: percentiles {list(how.percentiles)} of the volume are both {low}",
                "Take them further apart, or set nodata",
            )
        return low, high - low
    threshold.check_any(counts)
    mean, deviation = _moments(counts, bins)
    if deviation == 0:
        raise ConfigError(f"{where}: all voxels of the volume are {mean}", "Check channel, nodata and mask")
    return mean, deviation


def _moments(counts: NDArray[np.int64], bins: threshold.Bins) -> tuple[float, float]:
    """Mean and standard deviation of a histogram; exact sums, divided once."""
    position = np.arange(bins.count)
    total = int(counts.sum())
    first = int(counts @ position)
    second = sum(int(c) * int(p) ** 2 for c, p in zip(counts, position, strict=True) if c)
    variance = Fraction(second, total) - Fraction(first, total) ** 2
    return bins.value(first / total), bins.width * float(variance) ** 0.5


def histogram_name(key: str) -> str:
    """The pass that counts grey values for a stage."""
    return f"{key}-histogram"


def scale_name(key: str) -> str:
    """The merge that holds offset and scale for a stage."""
    return f"{key}-scale"


def scale_drafts(flow: Flow, how: Normalization, key: str) -> tuple[Draft, ...]:
    """The passes that find offset and scale of the signal for a stage; none where they are given or not wanted."""
    if how.kind not in ("percentiles", "mean-sd"):
        return ()
    array, dtype, limits = str(flow.signal), flow.signal_dtype, flow.signal_range
    counts = Histogram(array=array, dtype=dtype, valid=flow.valid, limits=limits)
    merge = MergeScale(key=key, how=how, dtype=dtype, array=array, limits=limits)
    counted_by = histogram_name(key)
    return (
        Draft(name=counted_by, grid=flow.grid, steps=(counts,), needs=(limits,)),
        Draft(name=scale_name(key), grid=flow.grid, merge=merge, needs=(counted_by, limits)),
    )


def normalized(image: Any, how: Normalization, found: Record | None, channel: int = 0) -> Any:
    """The image as float32, scaled by what `MergeScale` found (of a channel, where it is of several) or by given
    numbers, then compressed."""
    offset, scale = 0.0, 1.0
    if how.kind == "linear":
        offset, scale = how.offset, how.scale
    elif found is not None:
        offset, scale = float(found["offset"][channel]), float(found["scale"][channel])
    return compressed(scaled(image, offset, scale), how.asinh)


def scaled(image: Any, offset: float, scale: float) -> Any:
    """(value - offset) / scale, float32 throughout; numpy or cupy, any real dtype and shape. Not always a copy."""
    xp = array_module(image)
    if (offset, scale) == (0, 1):
        return image.astype(xp.float32, copy=False)
    values = image.astype(xp.float32)
    values -= xp.float32(offset)
    values /= xp.float32(scale)
    return values


def compressed(values: Any, asinh: float | None) -> Any:
    """asinh(a v) / asinh(a) of float32 values, any shape; themselves where a is None."""
    if asinh is None:
        return values
    xp = array_module(values)
    return xp.arcsinh(values * xp.float32(asinh)) * xp.float32(1 / np.arcsinh(asinh))
