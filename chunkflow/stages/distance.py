"""Exact squared distances of a whole volume: near by from a crop, else in pencils of whole lines.

    shortcuts       what relabelled blocks bound their distances by -> blocks that no crop suffices for
    NAME-x, -y, NAME    distances along one axis after the other; only where such blocks need them

The distance inside a core alone, with nothing behind its sides, is never less than the true one. Where it stays below
MARGIN voxels in a block and in those around it, whatever is nearest to a voxel lies no farther than that, so a crop
with this margin holds it: the distances of the crop are the volume's, and no array is written. Elsewhere, the square of
a distance separates into axes (`kernels.distance`), so that a pencil needs no halo, however thick the objects are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import distance
from chunkflow.stages.base import ArraySpec, Draft, Merged, Output, Record, Region, View, host, iterate

PENCIL_SIDE, SMALLEST_PENCIL_SIDE = 64, 16
PENCIL_BLOCKS = 8  # blocks that a pencil may be as large as; it holds half as much per voxel, and no halo
MARGIN = 12
"""Voxels around what a block measures in a crop: tubes and sheets up to so many across are measured without pencils,
and those up to twice as many where no seam runs along them."""
SHORTCUTS = "shortcuts"


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
class Near:
    """Blocks that want distances in their cores and `halo` voxels around them."""

    grid: Grid
    halo: int

    def wants(self, far: NDArray[np.int64], core: Box, axes: range) -> bool:
        """Whether what one of the blocks `far` wants and a box overlap along some axes."""
        meets = np.ones(len(far), np.bool_)
        position = np.unravel_index(far, self.grid.counts)
        for axis in axes:
            start, length = position[axis] * self.grid.core[axis], self.grid.core[axis]
            meets &= (start - self.halo < core.stop[axis]) & (start + length + self.halo > core.start[axis])
        return bool(meets.any())


def near_limit(shape: Triple, weights: Triple) -> int:
    """Squared distance up to which what is nearest lies within MARGIN voxels along every axis."""
    sides = [weight for weight, n in zip(weights, shape, strict=True) if n > 1] or list(weights)
    return min(sides) * MARGIN**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """What no squared distance in a core exceeds: the largest where nothing is behind its sides."""

    labels: str
    weights: Triple

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {self.labels: out}

    def run(self, view: View, out: Box) -> Output:
        labels = host(view.regions[self.labels].cut(out))
        widest = 0
        if labels.any():
            found = distance.squared_distance(labels, weights=self.weights, open_ends=True)
            widest = distance.FAR if found.min() == distance.UNKNOWN else int(found.max())
        return Output(record={"width": np.array([widest], np.int64)})

    def working_bytes(self, out: Triple) -> int:
        return 6 * prod(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeShortcuts:
    """What blocks cannot be spared, as indices: "far" of those whose distances no crop holds, since a width within
    reach is above the limit; "unlike" of those where a label beside a voxel may differ from the filled one."""

    near: Near
    limit: int

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        flags = [(record["width"][0] > self.limit, record["unlike"][0]) for record in iterate(records["relabel"])]
        wide, unlike = np.array(flags, np.bool_).reshape(-1, 2).T
        return Merged({"far": self._within(wide, self.near.halo), "unlike": self._within(unlike, 1)})

    def _within(self, flags: NDArray[np.bool_], voxels: int) -> NDArray[np.int64]:
        """Blocks that have a block with a flag within so many voxels."""
        grid = self.near.grid
        sides = [2 * -(-voxels // n) + 1 for n in grid.core]
        return np.flatnonzero(ndimage.maximum_filter(flags.reshape(grid.counts), size=sides, mode="constant"))

    def working_bytes(self, blocks: int) -> int:
        return 128 * blocks + 2**20


def near_distances(region: Region, shape: Triple, weights: Triple) -> NDArray[np.int32]:
    """Squared distances of the labels of a region of a volume; behind the sides that it shares with it all is
    background, behind the others nothing is."""
    closed = [(int(a == 0), int(b == n)) for a, b, n in zip(region.box.start, region.box.stop, shape, strict=True)]
    labels = np.pad(region.data, closed) if any(map(any, closed)) else region.data
    inside = tuple(slice(low, n - high) for (low, high), n in zip(closed, labels.shape, strict=True))
    return np.asarray(distance.squared_distance(labels, weights=weights, open_ends=True)[inside])


@dataclass(frozen=True, slots=True, kw_only=True)
class DistanceAlong:
    """Squared distances in a pencil: one axis more than what `before` holds.

    labels : the array whose values are told apart; open_ends : whether the volume goes on behind its sides
    near : the blocks, and how far beyond them a block wants distances, where `shortcuts` says which do; None: all do
    """

    axis: int
    weight: int
    labels: str
    before: str
    open_ends: bool
    near: Near | None = None

    version: ClassVar[int] = 2
    produces: ClassVar[tuple[str, ...]] = ("distance",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {self.labels: out, self.before: out} if self.before else {self.labels: out}

    def is_idle(self, values: Mapping[str, Record], core: Box) -> bool:
        """Whether no block wants anything of a pencil. Those of an axis serve all that lies along the axes before."""
        return self.near is not None and not self.near.wants(values[SHORTCUTS]["far"], core, range(self.axis + 1, 3))

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
    shape: Triple,
    block: Triple,
    *,
    labels: str,
    name: str,
    weights: Triple,
    open_ends: bool = False,
    near: Near | None = None,
) -> tuple[Draft, ...]:
    """The passes that measure distances, one axis each: `name`-x, `name`-y and `name`.

    Parameters
    ----------
    labels : array whose voxels are measured; the last pass is named like the array it writes.
    open_ends : the volume goes on behind its sides, so that these are not background.
    near : the blocks that measure in crops as far as they can, told by the step `Width` of the pass "relabel".
    """
    drafts = []
    needs: tuple[str, ...] = ()
    if near is not None:
        needs = (SHORTCUTS,)
        merge = MergeShortcuts(near=near, limit=near_limit(shape, weights))
        drafts.append(Draft(name=SHORTCUTS, grid=near.grid, merge=merge, needs=("relabel",)))
    before = ""
    for axis, array in ((2, f"{name}-x"), (1, f"{name}-y"), (0, name)):
        step = DistanceAlong(
            axis=axis, weight=weights[axis], labels=labels, before=before, open_ends=open_ends, near=near
        )
        spec = ArraySpec(name=array, dtype="int32", product="distance")
        drafts.append(Draft(name=array, grid=pencils(shape, axis, block), steps=(step,), writes=(spec,), needs=needs))
        before = array
    return tuple(drafts)


def pencils(shape: Triple, axis: int, block: Triple) -> Grid:
    """Blocks of whole lines along an axis, as wide as chunks are where that is no more than a few blocks."""
    side = PENCIL_SIDE
    while side > SMALLEST_PENCIL_SIDE and side * side * shape[axis] > PENCIL_BLOCKS * prod(block):
        side //= 2
    return Grid(shape, triple(tuple(shape[a] if a == axis else side for a in range(3))))
