"""Room for tubes: how far a curve keeps its distances from the border, from other networks and from itself.

Tubes do not grow together in the voxels because a curve is taken only as far as

- it stays inside the volume, `MARGIN_UM` from the border,
- every sample keeps `gap` (surface to surface, per axis: the PSF is longer in z) from all other networks,
- two samples of one network keep it too, unless they are nearer than twice their distance along the network
  (which is what neighbours on a smooth curve and the two sides of a junction are).

Samples of finished networks are filed in cells of the size of the largest distance that matters, so a sample of a new
curve is compared with those of 27 cells however many there are:

    +---+---+---+
    |   | . |  .|     .  finished samples
    +---+---+---+     o  sample of a new curve
    |.  | o |   |
    +---+---+---+     So the time grows with the length of all tubes, not with its square. Within one network every
    |   |  .| . |     sample is compared with every other: networks of millimetres would be slow.
    +---+---+---+
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.errors import UsageError

Float = NDArray[np.float64]
Triple = tuple[int, int, int]
TripleUm = tuple[float, float, float]

MARGIN_UM = 0.3
"""From any tube's surface to the border of the volume."""
STRAND_UM = (2.5, 12.0)
"""Length of a strand. A shorter one could not be told from noise on a blurred image."""
SHORTEST_UM = 1.0
"""... but a volume so small that nothing else fits gets strands of half its inner diagonal, down to this."""
ROOMY_UM = 4.0
"""A cube of this side has room for one network."""


@dataclass(slots=True)
class Space:
    """The volume in um: its inner box, and the samples of the finished networks in cells."""

    low: Float
    high: Float
    gap: Float
    radius: tuple[float, float]
    strand_um: float
    """Shortest strand to draw."""
    cell: Float
    heads: NDArray[np.int32]
    """(cells z, y, x) the sample added last to each cell, -1 where there is none."""
    points: Float = field(default_factory=lambda: np.empty((1024, 3)))
    radii: Float = field(default_factory=lambda: np.empty(1024))
    following: NDArray[np.int32] = field(default_factory=lambda: np.empty(1024, np.int32))
    """The sample added to the same cell before this one, or -1."""
    count: int = 0

    @classmethod
    def of_volume(cls, shape: Triple, voxel_um: TripleUm, radius_um: tuple[float, float], gap_um: TripleUm) -> Space:
        voxel = np.asarray(voxel_um, np.float64)
        radius = max(radius_um[0], float(np.linalg.norm(voxel)) / 2), radius_um[1]
        gap = np.maximum(gap_um, 3 * voxel)
        extent = (np.asarray(shape) - 1) * voxel
        border = MARGIN_UM + radius[1]
        inner = extent - 2 * border
        strand_um = min(STRAND_UM[0], float(np.linalg.norm(inner)) / 2)
        if inner.min() < 0 or strand_um < SHORTEST_UM:
            raise no_room("no tube network finds", shape, voxel_um)
        cell = 2 * radius[1] + gap
        heads = np.full(tuple(int(n) for n in extent // cell + 1), -1, np.int32)
        return cls(np.full(3, border), extent - border, gap, radius, strand_um, cell, heads)

    def occupy(self, points: Float, radii: Float) -> None:
        """Keep these samples clear from now on."""
        total = self.count + len(points)
        if total > len(self.points):
            more = max(total, 2 * len(self.points)) - len(self.points)
            self.points = np.concatenate([self.points, np.empty((more, 3))])
            self.radii = np.concatenate([self.radii, np.empty(more)])
            self.following = np.concatenate([self.following, np.empty(more, np.int32)])
        self.points[self.count : total] = points
        self.radii[self.count : total] = radii
        _file_samples(self.heads, self.following, self.points, self.cell, self.count, total)
        self.count = total

    def clear_start(self, curve: Float, radii: Float) -> int:
        """Number of leading samples inside the box and clear of the finished networks."""
        outside = ((curve < self.low) | (curve > self.high)).any(axis=1)
        inside = int(outside.argmax()) if outside.any() else len(curve)
        return int(
            _clear_of_others(
                curve[:inside],
                radii[:inside],
                self.points,
                self.radii,
                self.heads,
                self.following,
                self.cell,
                self.gap,
            )
        )


def no_room(what: str, shape: Triple, voxel_um: TripleUm) -> UsageError:
    """The error of a volume that is too small. `what` says what finds, as in "no tube finds" room."""
    least = tuple(ceil(ROOMY_UM / v) for v in voxel_um)
    return UsageError(
        f"{what} room in {shape} voxels of {voxel_um} um",
        f"A shape of {least} takes one network; more need a larger one",
    )


@njit(cache=True, nogil=True)
def _too_near(p: Float, q: Float, radii: float, gap: Float) -> bool:
    """Whether q is inside the ellipsoid around p with semi-axes gap + both radii."""
    dz, dy, dx = (p[0] - q[0]) / (gap[0] + radii), (p[1] - q[1]) / (gap[1] + radii), (p[2] - q[2]) / (gap[2] + radii)
    return bool(dz * dz + dy * dy + dx * dx < 1.0)


@njit(cache=True, nogil=True)
def _touches(p: Float, q: Float, radii: float, gap: Float, along: float) -> bool:
    """Too near for two samples of one network `along` um apart on it: nearer than the gap and than half the way."""
    if not _too_near(p, q, radii, gap):
        return False
    d2 = (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 + (p[2] - q[2]) ** 2
    return bool(4 * d2 < along * along)


@njit(cache=True, nogil=True)
def clear_of_own(
    curve: Float,
    radii: Float,
    points: Float,
    point_radii: Float,
    from_start: Float,
    from_end: Float,
    closing: float,
    gap: Float,
) -> int:
    """Leading samples of a curve that touch neither its earlier samples nor the network it joins.

    from_start, from_end : (n,) um along the network from its samples to those where the curve starts and ends.
    closing : um along the network between these two; infinite where the curve ends freely.
    """
    along = np.zeros(len(curve))
    for i in range(1, len(curve)):
        along[i] = along[i - 1] + np.sqrt(np.sum((curve[i] - curve[i - 1]) ** 2))
    total = along[-1] if len(curve) else 0.0
    for i in range(len(curve)):
        for j in range(i):
            way = along[i] - along[j]
            way = min(way, total - way + closing)
            if _touches(curve[i], curve[j], radii[i] + radii[j], gap, way):
                return i
        for j in range(len(points)):
            way = min(along[i] + from_start[j], total - along[i] + from_end[j])
            if _touches(curve[i], points[j], radii[i] + point_radii[j], gap, way):
                return i
    return len(curve)


@njit(cache=True, nogil=True)
def _file_samples(
    heads: NDArray[np.int32], following: NDArray[np.int32], points: Float, cell: Float, start: int, stop: int
) -> None:
    for i in range(start, stop):
        z, y, x = int(points[i, 0] // cell[0]), int(points[i, 1] // cell[1]), int(points[i, 2] // cell[2])
        following[i] = heads[z, y, x]
        heads[z, y, x] = i


@njit(cache=True, nogil=True)
def _clear_of_others(
    curve: Float,
    radii: Float,
    points: Float,
    point_radii: Float,
    heads: NDArray[np.int32],
    following: NDArray[np.int32],
    cell: Float,
    gap: Float,
) -> int:
    """Leading samples of a curve that keep the gap from all samples filed in the cells."""
    for i in range(len(curve)):
        z, y, x = int(curve[i, 0] // cell[0]), int(curve[i, 1] // cell[1]), int(curve[i, 2] // cell[2])
        for cz in range(max(z - 1, 0), min(z + 2, heads.shape[0])):
            for cy in range(max(y - 1, 0), min(y + 2, heads.shape[1])):
                for cx in range(max(x - 1, 0), min(x + 2, heads.shape[2])):
                    j = heads[cz, cy, cx]
                    while j >= 0:
                        if _too_near(curve[i], points[j], radii[i] + point_radii[j], gap):
                            return i
                        j = following[j]
    return len(curve)
