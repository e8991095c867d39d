"""The small picture of a result that a contact sheet is made of: all planes laid onto each other.

    gray      brightest voxel along z           A level of the pyramid that is about as large as the picture is read in
    outlines  borders of objects from above     slabs of z, so a picture of any volume takes the memory of a slab.

Pixels are square: a volume whose voxels are longer along y keeps its proportions. What is stored are values, not
colours, so that all pictures of a batch can be shown with one contrast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.box import Box
from chunkflow.run.result import Result, ResultVolume
from chunkflow.storage.omezarr import image_facts
from chunkflow.storage.volume import Volume

SIDE_PX = 160
"""Pixels of the longer side."""
PERCENTILES = (1.0, 99.8)
"""Of the picture, shown as black and white."""

Arrays = dict[str, NDArray[Any]]


def picture_of(result: Result) -> Arrays:
    """`gray` (H, W) float32, `outlines` (H, W) bool, `pixel_um` and `window`, each where the result has it."""
    light = result.image if result.image is not None else result.probability
    objects = result.labels if result.labels is not None else result.mask
    found: Arrays = {}
    for name, volume in (("gray", light), ("objects", objects)):
        if volume is not None:
            level = _level(volume)
            rows, columns, pixel_um = _pixels(level)
            found[name] = _projected(level)[rows][:, columns]
            found["pixel_um"] = np.array([pixel_um])
    if "objects" in found:
        found["outlines"] = _borders(found.pop("objects"))
    if "gray" in found:
        found["gray"] = np.nan_to_num(found["gray"].astype(np.float32))
        found["window"] = np.percentile(found["gray"], PERCENTILES)
    return found


def _level(volume: ResultVolume) -> Volume:
    """The coarsest level that still has a pixel's worth of voxels; the finest where none has."""
    levels = image_facts(Path(volume.volume.path).parent).levels
    return next((level for level in reversed(levels) if max(level.shape[1:]) >= SIDE_PX), levels[0])


def _pixels(level: Volume) -> tuple[NDArray[np.intp], NDArray[np.intp], float]:
    """Voxels under the pixel centres along y and x, and the side of a pixel."""
    voxel = level.scale.voxel_um[1:]
    size = [n * v for n, v in zip(level.shape[1:], voxel, strict=True)]
    pixel = max(size) / SIDE_PX
    counts = [max(1, round(s / pixel)) for s in size]
    rows, columns = (
        np.minimum((np.arange(count) + 0.5) * n / count, n - 1).astype(np.intp)
        for count, n in zip(counts, level.shape[1:], strict=True)
    )
    return rows, columns, pixel


def _projected(level: Volume) -> NDArray[Any]:
    """The largest value along z of every column."""
    depth, height, width = level.shape
    step = max(1, level.layout.chunk[0])
    top: NDArray[Any] | None = None
    for start in range(0, depth, step):
        slab = level.read(Box((start, 0, 0), (min(start + step, depth), height, width))).max(axis=0)
        top = slab if top is None else np.maximum(top, slab)
    assert top is not None
    return top


def _borders(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels of objects that another object, or none, lies beside."""
    border = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        ahead, behind = np.delete(labels, 0, axis), np.delete(labels, -1, axis)
        differ = ahead != behind
        rows, columns = differ.shape
        border[:rows, :columns] |= differ
        border[-rows:, -columns:] |= differ
    return border & (labels > 0)
