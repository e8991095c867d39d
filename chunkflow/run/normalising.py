"""Numbers of a whole volume that its grey values are scaled by, counted block by block.

    minimum, maximum  ->  histogram (65,536 bins, or one per value)  ->  percentiles, or mean and standard deviation

The numbers are those that the stage `predict` takes for the same volume (`stages.normalize`), so that a network sees
the same values when it is applied as when it was trained. The volume is read twice and never held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import ConfigError, InputError
from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import threshold
from chunkflow.kernels.threshold import Bins
from chunkflow.models.usage import Normalization
from chunkflow.stages.normalize import compressed, scale_of, scaled
from chunkflow.storage.volume import Volume

BLOCK: Triple = (128, 128, 128)

Progress = Callable[[str, int, int], None]
"""Is told what is done, how much of it and of how much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """(value - offset) / scale, and asinh(a v) / asinh(a) of it where that is asked for; all in float32."""

    offset: float = 0.0
    scale: float = 1.0
    asinh: float | None = None

    @property
    def dark(self) -> float:
        """What grey value 0 becomes, before asinh."""
        return -self.offset / self.scale

    def linear(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The first part."""
        return np.asarray(scaled(values, self.offset, self.scale))

    def compressed(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The second part."""
        return np.asarray(compressed(values, self.asinh), np.float32)

    def apply(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Both."""
        return self.compressed(self.linear(values))


def scaling_of(volume: Volume, normalization: Normalization) -> Scaling:
    """The numbers that a volume is normalised by.

    Raises
    ------
    InputError : it holds NaN or infinity, or all of its voxels that matter have one value.
    """
    if normalization.kind in ("none", "linear"):
        if volume.dtype.kind == "f":  # no numbers to count, but a voxel that is none would end a training later
            grid = Grid(volume.shape, BLOCK)
            for number in range(len(grid)):
                read_finite(volume, grid.core_of(number))
        if normalization.kind == "none":
            return Scaling(asinh=normalization.asinh)
        return Scaling(offset=normalization.offset, scale=normalization.scale, asinh=normalization.asinh)
    counts, bins = histogram_of(volume)
    try:
        offset, scale = scale_of(normalization, counts, bins, "train")
    except ConfigError as error:
        raise InputError(f"{volume.path} cannot be normalised: {error.what}", "Use another normalization") from error
    return Scaling(offset=offset, scale=scale, asinh=normalization.asinh)


def histogram_of(
    volume: Volume, *, nodata: float | None = None, tell: Progress | None = None
) -> tuple[NDArray[np.int64], Bins]:
    """Counts of the grey values of a volume, without those of value `nodata`, and the bins they are counted in.

    tell : is told what is done, how much of it and of how much

    Raises
    ------
    InputError : it holds NaN or infinity, or nothing is left to count.
    """
    grid = Grid(volume.shape, BLOCK)
    low, high = np.inf, -np.inf
    for values in _usable(volume, grid, nodata, "range", tell):
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low > high:
        raise InputError(f"no voxel of {volume.path} is usable", "Check nodata")
    bins = Bins.of_range(low, high, volume.dtype, smoothed=False)
    counts = np.zeros(bins.count, np.int64)
    for values in _usable(volume, grid, nodata, "histogram", tell):
        counts += threshold.histogram(values, bins)
    return counts, bins


def _usable(
    volume: Volume, grid: Grid, nodata: float | None, what: str, tell: Progress | None
) -> Iterator[NDArray[Any]]:
    for number in range(len(grid)):
        values = read_finite(volume, grid.core_of(number))
        yield values.ravel() if nodata is None else values[values != values.dtype.type(nodata)]
        if tell is not None:
            tell(what, number + 1, len(grid))


def read_finite(volume: Volume, box: Box) -> NDArray[Any]:
    """Voxels of a box.

    Raises
    ------
    InputError : one of them is NaN or infinite.
    """
    values = volume.read(box)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{volume.path} holds NaN or infinity in {box}", "Repair it, or train on another part")
    return values
