"""Patches of a network on one lattice for the whole volume, and their blending inside any box.

    start  0      step    2 step   3 step            step = patch - overlap, a multiple of the network's stride
           |------patch------|
                  |------patch------|
                         |------patch------|
                                |------patch--|~~~|    the last one may hang over the end and is filled by reflection
           [----------------- volume ---------]

A voxel is the mean of all patches that cover it, weighted by a Gaussian centred in each patch, added up in raster
order of the lattice. The lattice starts at voxel 0 of the volume whatever box is computed, every addition is of
single voxels, and a voxel gets the same patches in the same order from every box that holds it: the result has the
same bits however the volume is cut.

What a box costs is every patch that touches it: boxes should be several patches wide. A cube of side c reads
(c + 2 (patch - 1))^3 voxels at most, and computes about ((c + patch) / step)^3 patches where c^3 / step^3 would do
for the whole volume. Array functions take numpy and cupy alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import array_module
from chunkflow.errors import PlanError

Triple = tuple[int, int, int]
Starts = tuple[Sequence[int], Sequence[int], Sequence[int]]

SMALLEST_WEIGHT = 1e-3  # of the largest: below it, float32 sums would lose the digits that border patches add


def patch_starts(length: int, patch: int, overlap: int, stride: int) -> tuple[int, ...]:
    """First voxels of the patches that cover one axis of a volume.

    length : voxels of the axis, >= 1
    patch, overlap : voxels of a patch, and of it shared with the next one
    stride : total stride of the network; both the patch and the step between patches are multiples of it
    Returns 0, step, 2 step, ... until a patch reaches the end; the last may reach beyond it.

    Raises
    ------
    PlanError : patch, overlap and stride do not fit; the message names the nearest value that does.
    """
    if patch < 1 or patch % stride:
        near = max(stride, round(patch / stride) * stride)
        raise PlanError(f"patch {patch} is not a multiple of the network's stride {stride}", f"Use {near}")
    step = patch - overlap
    if overlap < 0 or step < 1 or step % stride:
        near = patch - min(max(stride, round(step / stride) * stride), patch)
        raise PlanError(
            f"overlap {overlap} of patch {patch}: the step {step} is not a multiple of the network's stride {stride}",
            f"Use overlap {near}",
        )
    count = 1 + max(0, -(-(length - patch) // step))
    return tuple(step * i for i in range(count))


def gaussian_weights(patch: Triple) -> NDArray[np.float32]:
    """Weight of each voxel of a patch: a Gaussian of sigma = patch / 8 per axis (Isensee et al. 2021, nnU-Net).

    Returns (pz, py, px) float32, symmetric, largest value about 1, no value below `SMALLEST_WEIGHT`.
    """
    z, y, x = (np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in patch)
    weights = np.maximum(z[:, None, None] * y[None, :, None] * x[None, None, :], SMALLEST_WEIGHT)
    return np.asarray(weights, dtype=np.float32)


def patches_touching(core_start: Triple, core_stop: Triple, starts: Starts, patch: Triple) -> list[Triple]:
    """Lattice indices of the patches that cover any voxel of a box inside the volume, in raster order."""
    z, y, x = (_touching(*axis) for axis in zip(core_start, core_stop, starts, patch, strict=True))
    return list(product(z, y, x))


def read_box(
    core_start: Triple, core_stop: Triple, starts: Starts, patch: Triple, shape: Triple
) -> tuple[Triple, Triple]:
    """The smallest box (start, stop) that holds every voxel which the patches touching a core are cut from.

    Reflection included. Never more than patch - 1 voxels beyond the core on either side, nor beyond the volume.
    """
    spans = [
        _read_span(_touching(first, stop, line, size), line, size, length)
        for first, stop, line, size, length in zip(core_start, core_stop, starts, patch, shape, strict=True)
    ]
    (z0, z1), (y0, y1), (x0, x1) = spans
    return (z0, y0, x0), (z1, y1, x1)


def cut_patch(read: Any, read_start: Triple, patch_start: Triple, patch: Triple, shape: Triple) -> Any:
    """One patch of a volume, reflected at the volume's faces (numpy's "reflect": the border voxel is not repeated).

    read : (rz, ry, rx), any dtype, the voxels from `read_start` on; holds `read_box` of the patch
    shape : of the whole volume; the reflection repeats where it is shorter than the patch
    Returns (pz, py, px), contiguous, a copy.
    """
    xp = array_module(read)
    axes = (
        xp.asarray(_reflected(np.arange(first, first + size), length) - origin)
        for first, size, length, origin in zip(patch_start, patch, shape, read_start, strict=True)
    )
    return xp.ascontiguousarray(read[xp.ix_(*axes)])


def accumulate(
    total: Any, norm: Any, prediction: Any, weights: Any, *, core_start: Triple, patch_start: Triple
) -> None:
    """Add weights * prediction to `total` and weights to `norm` where the patch covers the core, in place.

    total, norm : (cz, cy, cx) float32, the core's sums
    prediction, weights : (pz, py, px) float32
    Exact to the bit only if the patches come in raster order of the lattice.
    """
    in_core, in_patch = [], []
    for a, size, first, count in zip(core_start, total.shape, patch_start, weights.shape, strict=True):
        start, stop = max(a, first), min(a + size, first + count)
        in_core.append(slice(start - a, stop - a))
        in_patch.append(slice(start - first, stop - first))
    core, part = tuple(in_core), tuple(in_patch)
    total[core] += weights[part] * prediction[part]
    norm[core] += weights[part]


def blend(predictions: Iterable[tuple[Triple, Any]], weights: Any, *, core_start: Triple, core_stop: Triple) -> Any:
    """Weighted mean of overlapping predictions over a core.

    predictions : (first voxel, (pz, py, px) float32) of every patch of `patches_touching`, in that order; taken one
        at a time, so that a generator needs the memory of one
    weights : (pz, py, px) float32, > 0, where the predictions are: numpy or cupy
    Returns (cz, cy, cx) float32; the same bits for a voxel whatever the core.
    """
    xp = array_module(weights)
    size = tuple(b - a for a, b in zip(core_start, core_stop, strict=True))
    total, norm = xp.zeros(size, xp.float32), xp.zeros(size, xp.float32)
    for patch_start, prediction in predictions:
        accumulate(total, norm, prediction, weights, core_start=core_start, patch_start=patch_start)
    return total / norm


def _touching(first: int, stop: int, starts: Sequence[int], patch: int) -> range:
    """Indices of the patches of one axis with a voxel in [first, stop)."""
    step = starts[1] - starts[0] if len(starts) > 1 else patch
    return range(max(0, (first - patch) // step + 1), min(len(starts), (stop - 1) // step + 1))


def _read_span(touching: range, starts: Sequence[int], patch: int, length: int) -> tuple[int, int]:
    voxels = _reflected(np.arange(starts[touching[0]], starts[touching[-1]] + patch), length)
    return int(voxels.min()), int(voxels.max()) + 1


def _reflected(indices: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Indices folded into [0, length) as a path that walks to and fro between the two border voxels."""
    period = max(1, 2 * length - 2)
    folded = indices % period
    return np.minimum(folded, period - folded) if length > 1 else np.zeros_like(indices)
