"""Patches of a network: cut from a volume with reflection at its faces, and blended where they overlap.

    patch   |-margin-|----- step -----|-margin-|              patch i begins at step * i - margin
                     |-margin-|----- step -----|-margin-|      its step begins at step * i, voxel 0 being the first
            ~~~~~~~~~[-------- volume --------]~~~~~~~        beyond the volume: reflection

The lattice begins at voxel 0 of the volume whatever box is computed, so a voxel always sees the same patches. Blended,
it is the mean of all patches that cover it, weighted by a Gaussian centred in each and added up in raster order of the
lattice, single voxels at a time: the same bits from every box that holds it. Functions take numpy and cupy alike.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import array_module

Triple = tuple[int, int, int]

SMALLEST_WEIGHT = 1e-3  # of the largest: below it, float32 sums would lose the digits that border patches add


def gaussian_weights(patch: Triple) -> NDArray[np.float32]:
    """Weight of each voxel of a patch: a Gaussian of sigma = patch / 8 per axis (Isensee et al. 2021, nnU-Net).

    Returns (pz, py, px) float32, symmetric, largest value about 1, no value below `SMALLEST_WEIGHT`.
    """
    z, y, x = (np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in patch)
    weights = np.maximum(z[:, None, None] * y[None, :, None] * x[None, None, :], SMALLEST_WEIGHT)
    return np.asarray(weights, dtype=np.float32)


def reflected_span(first: int, stop: int, length: int) -> tuple[int, int]:
    """The smallest span of an axis that holds what positions first..stop - 1 are read from, reflection included."""
    voxels = _reflected(np.arange(first, stop), length)
    return int(voxels.min()), int(voxels.max()) + 1


def cut_patch(
    read: Any, read_start: Triple, patch_start: Triple, patch: Triple, shape: Triple, *, out: Any = None
) -> Any:
    """One patch of a volume, reflected at the volume's faces (numpy's "reflect": the border voxel is not repeated).

    read : (rz, ry, rx), any dtype, the voxels from `read_start` on; holds the `reflected_span` of the patch
    shape : of the whole volume; the reflection repeats where it is shorter than the patch
    out : (pz, py, px), any dtype; where the patch goes, else a new array of the dtype of `read`
    Returns `out`, or the new array, contiguous.
    """
    xp = array_module(read)
    if out is None:
        out = xp.empty(patch, read.dtype)
    axes = [
        _runs(_reflected(np.arange(first, first + size), length) - origin)
        for first, size, length, origin in zip(patch_start, patch, shape, read_start, strict=True)
    ]
    for parts in product(*axes):
        out[tuple(there for there, _ in parts)] = read[tuple(here for _, here in parts)]
    return out


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


def _runs(indices: NDArray[np.int64]) -> list[tuple[slice, slice]]:
    """Indices as few slices, by where they stand: a patch is then copied once, most of it as it lies in memory."""
    found, first = [], 0
    while first < len(indices):
        step = int(indices[first + 1] - indices[first]) if first + 1 < len(indices) else 1
        step = step or 1  # an axis of one voxel: it comes again and again
        turns = np.flatnonzero(np.diff(indices[first:]) != step)
        stop = first + int(turns[0]) + 1 if turns.size else len(indices)
        begin, end = int(indices[first]), int(indices[stop - 1]) + step
        found.append((slice(first, stop), slice(begin, end if end >= 0 else None, step)))
        first = stop
    return found


def _reflected(indices: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Indices folded into [0, length) as a path that walks to and fro between the two border voxels."""
    period = max(1, 2 * length - 2)
    folded = indices % period
    return np.minimum(folded, period - folded) if length > 1 else np.zeros_like(indices)
