"""Objects from the outputs of a network, for scoring it: quick ways for boxes in memory.

    foreground+boundary   components of what is inside and no boundary, grown back over the foreground
    distance              a watershed of the distance from its peaks
    affinities            components of neighbours that belong together

A pipeline does better (`instances`, with seeds by dynamics and whole volumes); scores by these rules tell trainings
apart, not methods.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from skimage import measure, morphology, segmentation

from chunkflow.models.targets import NEAREST_NEIGHBOURS, Target

label: Any = measure.label
h_maxima: Any = morphology.h_maxima
watershed: Any = segmentation.watershed
"""Without type hints of their own."""

HALF = 0.5
PEAK_SHARE = 0.1
"""Of clip_um: peaks that rise less above a saddle are one object."""


def objects_of(outputs: NDArray[np.float32], target: Target) -> NDArray[Any]:
    """(Z, Y, X) labels from (K, Z, Y, X) outputs with activation; connected parts where a target has no objects."""
    if target.kind == "foreground+boundary":
        inside = outputs[0] > HALF
        seeds = label(inside & (outputs[1] <= HALF), connectivity=1)
        return np.asarray(watershed(outputs[1], seeds, mask=inside))
    if target.kind == "distance":
        height = target.clip_um * PEAK_SHARE
        inside = outputs[0] > height
        if not inside.any():
            return np.zeros(inside.shape, np.int32)
        seeds = label(h_maxima(np.where(inside, outputs[0], 0).astype(np.float64), height) > 0)
        return np.asarray(watershed(-outputs[0], seeds * inside, mask=inside))
    if target.kind == "affinities":
        return _joined(outputs, target)
    return np.asarray(label(outputs[0] > HALF, connectivity=3))


def _joined(outputs: NDArray[np.float32], target: Target) -> NDArray[np.int32]:
    """Components over pairs of nearest neighbours with an affinity above one half; single voxels are background."""
    shape = outputs.shape[1:]
    index = np.arange(int(np.prod(shape))).reshape(shape)
    pairs = []
    for affinity, offset in zip(outputs, target.offsets, strict=True):
        if tuple(map(abs, offset)) not in {tuple(map(abs, o)) for o in NEAREST_NEIGHBOURS}:
            continue
        here = tuple(slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, shape, strict=True))
        there = tuple(slice(max(0, o), n - max(0, -o)) for o, n in zip(offset, shape, strict=True))
        joined = affinity[here] > HALF
        pairs.append(np.stack([index[here][joined], index[there][joined]]))
    ends = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
    graph = sparse.coo_matrix((np.ones(ends.shape[1], np.bool_), (ends[0], ends[1])), shape=(index.size,) * 2)
    _, component = csgraph.connected_components(graph, directed=False)
    sizes = np.bincount(component)
    names = np.where(sizes > 1, np.cumsum(sizes > 1), 0)
    return np.asarray(names[component].reshape(shape), np.int32)


def truth_of(labels: NDArray[Any], target: Target, known: NDArray[np.bool_]) -> NDArray[Any]:
    """Labels as objects: connected parts of each, since a box cuts objects into pieces."""
    if target.ignore is not None:
        known = known & (labels != target.ignore)
    cleaned = np.where(known & (labels > 0), labels, 0)
    if not target.is_instances:
        return np.asarray(ndimage.label(cleaned > 0, np.ones((3, 3, 3)))[0])
    return np.asarray(label(cleaned, connectivity=1))
