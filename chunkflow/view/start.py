"""Where to look first: a voxel that shows something, found without reading more than the coarsest level.

    skeletons         the node nearest to the middle of the volume, of the objects that are large
    labels            the object that comes nearest to the middle, of those that are large: its voxel nearest to its
                      centroid
    neither           the same of the places of the image that are bright, as a mean over a few voxels
    nothing in them   the middle of the volume

Large and bright is what has half of the most. A centroid alone will not do: that of a ring is empty. A level of more
than `LARGEST` voxels, of an image without a pyramid, is not read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.errors import ChunkflowError
from chunkflow.storage.omezarr import open_volume
from chunkflow.view.scene import Layer, Scene, levels_of

Voxel: TypeAlias = tuple[float, float, float]

LARGEST = 2**26
"""Voxels of a level that is read: a second, and 256 MiB of labels."""
ENOUGH = 0.5
"""Share of the largest object, or of the brightest place, that is enough to be looked at first."""
AROUND = 5
"""Voxels along each axis whose mean is compared."""


def start_of(scene: Scene) -> Voxel:
    """The voxel z, y, x of the finest level that is in the middle at first."""
    if len(scene.nodes):
        return _node(scene)
    for layer in sorted(scene.layers, key=lambda layer: not layer.is_labels):
        if layer.is_visible and (found := _in_coarsest(scene, layer)) is not None:
            return found
    return tuple(float(n // 2) for n in scene.shape)  # type: ignore[return-value]


def _node(scene: Scene) -> Voxel:
    sizes = scene.object_sizes
    large = scene.nodes[scene.nodes["object_id"].isin(sizes.index[sizes >= ENOUGH * sizes.iloc[0]])]
    points = large[["z_um", "y_um", "x_um"]].to_numpy(np.float64)
    middle = scene.scale.translation_um + (np.array(scene.shape) - 1) / 2 * scene.scale.voxel_um
    return _voxel(scene, points[_nearest(points, middle)])


def _nearest(points: NDArray[Any], to: NDArray[np.float64], unit: Sequence[float] = (1.0, 1.0, 1.0)) -> int:
    """The first of the points (N, 3) that are nearest to a place, in units of length along z, y, x."""
    return int(np.argmin((((points - to) * unit) ** 2).sum(axis=1)))


def _voxel(scene: Scene, at_um: NDArray[np.float64]) -> Voxel:
    """The voxel at a place, inside the volume."""
    index = np.rint((at_um - scene.scale.translation_um) / scene.scale.voxel_um)
    z, y, x = np.clip(index, 0, np.array(scene.shape) - 1).tolist()
    return z, y, x


def _in_coarsest(scene: Scene, layer: Layer) -> Voxel | None:
    """A place of a layer where something is; None where nothing is, or where looking for it would take long."""
    try:
        coarsest = open_volume(scene.place / layer.path, level=levels_of(scene.place, layer.path) - 1)
        if math.prod(coarsest.shape) > LARGEST:
            return None
        voxels = np.asarray(coarsest[...])
    except ChunkflowError:
        return None  # the viewer says what is wrong with it
    found = (_of_large_object if layer.is_labels else _of_bright_place)(voxels, coarsest.scale.voxel_um)
    if found is None:
        return None
    return _voxel(scene, found * coarsest.scale.voxel_um + coarsest.scale.translation_um)


def _of_large_object(labels: NDArray[Any], unit: Sequence[float]) -> NDArray[Any] | None:
    ids, counts = np.unique(labels[labels > 0], return_counts=True)
    return _of_central(labels, ids[counts >= ENOUGH * counts.max()], unit) if len(ids) else None


def _of_bright_place(image: NDArray[Any], unit: Sequence[float]) -> NDArray[Any] | None:
    if not image.size or image.min() == image.max():
        return None
    mean = ndimage.uniform_filter(np.nan_to_num(image.astype(np.float32)), AROUND, mode="nearest")
    places, count = ndimage.label(mean >= mean.min() + ENOUGH * (mean.max() - mean.min()))
    return _of_central(places, np.arange(1, count + 1), unit)


def _of_central(labels: NDArray[Any], ids: NDArray[Any], unit: Sequence[float]) -> NDArray[Any]:
    """Of the object that comes nearest to the middle, the voxel that is nearest to its centroid."""
    voxels = np.argwhere(np.isin(labels, ids))
    central = voxels[_nearest(voxels, (np.array(labels.shape) - 1) / 2, unit)]
    points = np.argwhere(labels == labels[tuple(central)])
    found: NDArray[Any] = points[_nearest(points, points.mean(axis=0), unit)]
    return found
