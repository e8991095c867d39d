"""Exact squared distances of a whole volume, in pencils of whole lines along one axis after the other: x, y, then z.

The square of a distance separates into axes (`kernels.distance`), so a pencil needs no halo, however thick the
objects are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod, sqrt
from typing import ClassVar

import numpy as np

from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import distance
from chunkflow.stages.base import ArraySpec, Draft, Output, View, host

PENCIL_SIDE, SMALLEST_PENCIL_SIDE = 64, 16
PENCIL_BLOCKS = 8  # blocks that a pencil may be as large as; it holds half as much per voxel, and no halo


def spacing_weights(shape: Triple, voxel_um: tuple[float, float, float]) -> tuple[Triple, float]:
    """Squared integer spacings for `kernels.distance`, and the um that one unit of distance is.

    An axis one voxel long has no distances: its faces count as farther than anything, so that the radii of a 2-D image
    are those in its plane.
    """
    is_long = [n > 1 for n in shape]
    first = is_long.index(True) if any(is_long) else 0
    sides = tuple(v if long else voxel_um[first] for v, long in zip(voxel_um, is_long, strict=True))
    z, y, x = weights = distance.integer_weights((sides[0], sides[1], sides[2]))
    unit_um = sides[first] / sqrt(weights[first])
    if not any(is_long):
        return (z, y, x), unit_um
    beyond = min(distance.FAR - 1, sum(w * n * n for w, n, long in zip(weights, shape, is_long, strict=True) if long))
    return triple(tuple(w if long else beyond for w, long in zip(weights, is_long, strict=True))), unit_um


@dataclass(frozen=True, slots=True, kw_only=True)
class DistanceAlong:
    """Squared distances in a pencil: one axis more than what `before` holds.

    labels : the array whose values are told apart; open_ends : whether the volume goes on behind its sides
    """

    axis: int
    weight: int
    labels: str
    before: str
    open_ends: bool

    version: ClassVar[int] = 2
    produces: ClassVar[tuple[str, ...]] = ("distance",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {self.labels: out, self.before: out} if self.before else {self.labels: out}

    def run(self, view: View, out: Box) -> Output:
        labels = host(view.regions[self.labels].cut(out))
        if not labels.any():
            return Output(arrays={"distance": np.zeros(out.shape, np.int32)})
        before = host(view.regions[self.before].cut(out)) if self.before else None
        found = distance.squared_distance_along(self.axis, labels, before, weight=self.weight, open_ends=self.open_ends)
        return Output(arrays={"distance": found})

    def working_bytes(self, out: Triple) -> int:
        return 3 * prod(out) + 64 * PENCIL_SIDE * max(out) + 2**20


def distance_drafts(
    shape: Triple, block: Triple, *, labels: str, name: str, weights: Triple, open_ends: bool = False
) -> tuple[Draft, ...]:
    """The passes that measure distances, one axis each: `name`-x, `name`-y and `name`.

    Parameters
    ----------
    labels : array whose voxels are measured; the last pass is named like the array it writes.
    open_ends : the volume goes on behind its sides, so that these are not background.
    """
    drafts = []
    before = ""
    for axis, array in ((2, f"{name}-x"), (1, f"{name}-y"), (0, name)):
        step = DistanceAlong(axis=axis, weight=weights[axis], labels=labels, before=before, open_ends=open_ends)
        spec = ArraySpec(name=array, dtype="int32", product="distance")
        drafts.append(Draft(name=array, grid=pencils(shape, axis, block), steps=(step,), writes=(spec,)))
        before = array
    return tuple(drafts)


def pencils(shape: Triple, axis: int, block: Triple) -> Grid:
    """Blocks of whole lines along an axis, as wide as chunks are where that is no more than a few blocks."""
    side = PENCIL_SIDE
    while side > SMALLEST_PENCIL_SIDE and side * side * shape[axis] > PENCIL_BLOCKS * prod(block):
        side //= 2
    return Grid(shape, triple(tuple(shape[a] if a == axis else side for a in range(3))))
