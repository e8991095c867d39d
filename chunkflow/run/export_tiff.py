"""Arrays of a result, or channels of an image, as TIFF: plane after plane, calibrated, any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import UsageError
from chunkflow.geometry.box import Box, triple
from chunkflow.geometry.scale import Scale, micrometer_triple
from chunkflow.storage.omezarr import Channel
from chunkflow.storage.tiff_write import stored_type, tiff_kind, write_tiff_planes
from chunkflow.storage.volume import Volume

SLAB_BYTES = 1 << 28
"""Voxels read at a time, so that a file of many planes is decoded once for all of them."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One channel of a TIFF."""

    volume: Volume
    channel: Channel | None
    """How it is shown; None for its range of values."""
    name: str
    is_labels: bool = False


def export_tiff(
    path: Path,
    layers: Sequence[Layer],
    scale: Scale,
    region: Box,
    *,
    on_plane: Callable[[int, int], None] | None = None,
) -> str:
    """Write layers as the channels of one TIFF; `imagej` or `ome`, what it became.

    Parameters
    ----------
    scale, region : the grid, and the voxels of it that are wanted.
    on_plane : called with planes done and planes in all, read to find ranges and written.

    Raises
    ------
    UsageError : no type of TIFF voxels holds all layers, or a layer lies on another grid.
    """
    volumes = [layer.volume for layer in layers]
    boxes = [region.relative_to(triple([-n for n in _offset(scale, volume)])) for volume in volumes]
    unknown = [k for k, layer in enumerate(layers) if layer.channel is None or layer.is_labels]
    tell = _Counter(region.shape[0] * (len(unknown) + len(layers)), on_plane)
    ranges = {k: _range(volumes[k], boxes[k], tell) for k in unknown}
    largest = int(ranges[len(layers) - 1][1]) if layers[-1].is_labels else None
    dtype = stored_type([volume.dtype for volume in volumes], largest)
    shown = [_shown(layer, ranges.get(k)) for k, layer in enumerate(layers)]
    write_tiff_planes(
        path,
        _planes(volumes, boxes, dtype, tell),
        shape=region.shape,
        dtype=dtype,
        scale=_moved(scale, region),
        channels=shown,
    )
    return tiff_kind(dtype, (len(layers), *region.shape))


def _shown(layer: Layer, found: tuple[float, float] | None) -> Channel:
    """How a layer is shown: labels from 0 to the largest, images as they are, else over their range."""
    if found is None:
        return replace(layer.channel or Channel("", (0.0, 1.0)), name=layer.name)
    low, high = (0.0, found[1]) if layer.is_labels else found
    return Channel(layer.name, (low, high if high > low else low + 1))


def _offset(scale: Scale, volume: Volume) -> tuple[int, int, int]:
    """Voxel of `volume` that lies at voxel 0 of the grid of `scale`.

    Raises
    ------
    UsageError : the two grids are not one.
    """
    own = volume.scale
    same = all(abs(a - b) <= 1e-6 * b for a, b in zip(own.voxel_um, scale.voxel_um, strict=True))
    shifts = [(a - b) / v for a, b, v in zip(scale.translation_um, own.translation_um, own.voxel_um, strict=True)]
    if not same or any(abs(shift - round(shift)) > 1e-3 for shift in shifts):
        raise UsageError(
            f"{volume.path} has voxels of {own.voxel_um} um from {own.translation_um}, the result {scale.voxel_um} from"
            f" {scale.translation_um}",
            "A resampled result has no voxel of the input to show beside it: export it without --channels",
        )
    return triple([round(shift) for shift in shifts])


def _moved(scale: Scale, region: Box) -> Scale:
    origin = [t + a * v for t, a, v in zip(scale.translation_um, region.start, scale.voxel_um, strict=True)]
    return Scale(scale.voxel_um, micrometer_triple(origin, "translation"))


class _Counter:
    def __init__(self, total: int, on_plane: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._on_plane = 0, total, on_plane

    def __call__(self, planes: int) -> None:
        self._done += planes
        if self._on_plane is not None:
            self._on_plane(self._done, self._total)


def _slabs(volume: Volume, box: Box, many: int) -> Iterator[Box]:
    """Layers of whole planes, as deep as the files of the volume where that is not too much."""
    size = prod(box.shape[1:]) * volume.dtype.itemsize * many
    depth = max(1, min(volume.layout.write_unit[0], SLAB_BYTES // max(1, size)))
    first = box.start[0]
    while first < box.stop[0]:
        last = min((first // depth + 1) * depth, box.stop[0])
        yield Box((first, *box.start[1:]), (last, *box.stop[1:]))
        first = last


def _range(volume: Volume, box: Box, tell: _Counter) -> tuple[float, float]:
    """Smallest and largest finite value."""
    lows, highs = [], []
    for slab in _slabs(volume, box, 1):
        values = volume.read(slab)
        tell(slab.shape[0])
        known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if known.size:
            lows.append(known.min().item())
            highs.append(known.max().item())
    return min(lows, default=0), max(highs, default=1)


def _planes(
    volumes: Sequence[Volume], boxes: Sequence[Box], dtype: np.dtype[Any], tell: _Counter
) -> Iterator[NDArray[Any]]:
    for slab in _slabs(volumes[0], boxes[0], len(volumes)):
        low, high = slab.start[0] - boxes[0].start[0], slab.stop[0] - boxes[0].start[0]
        parts = [
            volume.read(Box((box.start[0] + low, *box.start[1:]), (box.start[0] + high, *box.stop[1:])))
            for volume, box in zip(volumes, boxes, strict=True)
        ]
        for z in range(high - low):
            for part in parts:
                yield part[z].astype(dtype, copy=False)
        tell((high - low) * len(volumes))
