"""Background and gains of a volume, from counts of its flattened grey values (see `stages.correct`).

    correct-histogram   counts of (input - dark) / flat, per plane where planes get gains
    correct-levels      background and gains, from integer counts: the same for any blocks

The background percentile is one number, what the camera and the medium add to every plane; planes fade by the light
above it. Blocks leave the histogram of each of their planes, at most six bytes per voxel before compression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import array_module
from chunkflow.errors import InputError
from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import shading, threshold
from chunkflow.stages.base import Merged, Output, Record, Region, View, iterate
from chunkflow.stages.scan import DATA, INSIDE

MOST_BINS = threshold.EQUAL_BINS


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What decides the bins, beside the range of the input: its type, and the range of the dark and flat images."""

    dtype: str
    dark: shading.Range
    flat: shading.Range

    def bins(self, limits: Record) -> threshold.Bins:
        """The bins of the whole volume."""
        low, high = float(limits["low"][0]), float(limits["high"][0])
        return shading.flattened_bins(low, high, self.dtype, dark=self.dark, flat=self.flat)


def flattened(region: Region, constants: Record) -> Any:
    """The region's voxels, dark subtracted and flat divided, float32."""
    xp = array_module(region.data)
    dark, flat = (xp.asarray(_cut(constants[name], region.box)) for name in ("dark", "flat"))
    return shading.flatten(region.data, dark, flat)


def _cut(image: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
    """The part of an image in a box; an axis of length one goes for all positions."""
    return image[tuple(slice(None) if n == 1 else cut for n, cut in zip(image.shape, box.slices, strict=True))]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneHistograms:
    """Counts of the usable voxels of each plane of a core, or of the core as one: pairs (bin, count) that occur.

    by_plane : whether planes are counted each for itself
    constant_bytes : size of the dark and flat images
    """

    valid: str | None
    span: Span
    by_plane: bool
    constant_bytes: int

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = True

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"input": out, self.valid: out} if self.valid else {"input": out}

    def run(self, view: View, out: Box) -> Output:
        bins = self.span.bins(view.values["range"])
        data = flattened(Region(view.core, view.regions["input"].cut(view.core)), view.values[""])
        usable = None if self.valid is None else view.regions[self.valid].cut(view.core) == DATA | INSIDE
        parts: list[Any] = list(range(len(data))) if self.by_plane else [slice(None)]
        found, counts = [], []
        for part in parts:
            of_part = threshold.histogram(data[part] if usable is None else data[part][usable[part]], bins)
            present = np.flatnonzero(of_part)
            found.append(present.astype(np.uint16))
            counts.append(of_part[present].astype(np.uint32))
        sizes = np.array([len(of_part) for of_part in found], np.int64)
        return Output(record={"bin": np.concatenate(found), "count": np.concatenate(counts), "bins_of_part": sizes})

    def working_bytes(self, out: Triple) -> int:
        part = prod(out[1:] if self.by_plane else out)
        counting = 5 * part + 32 * min(part, threshold.CHUNK) + 24 * MOST_BINS
        record = 12 * min(part, MOST_BINS) * (prod(out) // part)
        return 5 * prod(out) + counting + record + self.constant_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeLevels:
    """Background and gains of the volume.

    Leaves `background` and `reference`, the level that planes are brought to; per plane `level`, the percentile less
    the background (NaN where nothing is usable), and `gain`. Without gains per plane there is one level, the volume's.
    `unscaled` counts planes that are not brighter than the background and stay as they are.
    """

    span: Span
    grid: Grid
    by_plane: bool
    background_percentile: float | None
    gain: str
    gain_percentile: float
    gain_reference: float | None

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        bins = self.span.bins(values["range"])
        total, percentiles = self._counted(records["correct-histogram"], bins)
        q = self.background_percentile
        background = 0.0 if q is None else threshold.percentile(total, bins, q)
        level = shading.grouped_percentile(total, bins, self.gain_percentile) - background
        levels = percentiles - background if self.by_plane else np.array([level])
        reference = level if self.gain_reference is None else self.gain_reference
        gain = np.ones(1)
        if self.gain != "none":
            self._check(level, background)
            gain = shading.plane_gains(levels, reference)
        return Merged(
            {
                "background": np.array([background]),
                "reference": np.array([reference]),
                "level": levels,
                "gain": np.broadcast_to(gain, self.grid.shape[:1]).copy(),
                "unscaled": np.array([int((levels <= 0).sum()) if self.gain == "slice" else 0], np.int64),
            }
        )

    def _counted(
        self, records: Sequence[Record], bins: threshold.Bins
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Counts of the volume, and the percentile of each plane: a layer of blocks at a time, then forgotten."""
        total = np.zeros(bins.count, np.int64)
        percentiles: list[float] = []
        layers, *across = self.grid.counts
        reader = iterate(records)
        for layer in range(layers):
            deep = self.grid.core_of(layer * prod(across)).shape[0] if self.by_plane else 1
            counts = np.zeros((deep, bins.count), np.int64)
            for _ in range(prod(across)):
                record = next(reader)
                counts[np.repeat(np.arange(deep), record["bins_of_part"]), record["bin"]] += record["count"]
            total += counts.sum(axis=0)
            if self.by_plane:
                percentiles += [shading.grouped_percentile(plane, bins, self.gain_percentile) for plane in counts]
        return total, np.array(percentiles)

    def _check(self, level: float, background: float) -> None:
        if not level > 0:
            raise InputError(
                f"correct: percentile {self.gain_percentile:g} of the volume is {level:g} above the background of "
                f"{background:g}: there is no light to compare planes by",
                "Raise gain_percentile, or lower background_percentile or dark",
            )

    def working_bytes(self, blocks: int) -> int:
        deep = min(self.grid.core[0], self.grid.shape[0]) if self.by_plane else 1
        return 8 * MOST_BINS * (deep + 6) + 40 * prod(self.grid.core_of(0).shape)
