r"""Tubes that crowd: they grow in cells or everywhere, branch, fuse, clump, and are drawn as light and as distance.

A tube is a persistent walk, a sample every `STEP_UM`. It grows until it is long enough, leaves, or comes as near to
another one as the stack's gap; then it ends, or at times goes on into the other. In a cell it is steered back from the
skin, or along the skin where the cell is cortical:

     ________
    / ~~~~   \      cortical: samples are drawn to one level of the ellipsoid
    |/     \ |
    \ ~~~~~~ /      otherwise: pushed back where they are about to leave it

Every sample of a new tube is compared with all that are there, so time grows with the square of their number: some
thousands take a tenth of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, log, pi
from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

if TYPE_CHECKING:
    from chunkflow.synth.mitochondria import Ranges

Float = NDArray[np.float64]
Image = NDArray[np.float32]
Triple = tuple[int, int, int]

VOXEL_UM = 0.056
"""Side of a voxel: 100x optics on a camera with pixels of 5.6 um, say."""
REACH_VOX = 4.0
"""Distances further out than this are told as this."""
STEP_UM = 0.05
"""Distance of the samples of a tube."""
STRAND_UM = (0.8, 12.0)
FRAGMENT_UM = (0.1, 0.8)
FRAGMENT_PROBABILITY = 0.15
BRANCH_UM = (0.8, 6.0)
SHORTEST_BRANCH_UM = 0.6
BRANCHES = 3
"""Most branches of one network."""
FUSE_PROBABILITY = 0.3
"""Of a tube that meets another one to end in it rather than before it."""
OWN_UM = 1.0
"""Samples of one tube nearer than this along it are not compared."""
ENDLESS_UM = 1e3
"""Semi-axis of a cell of which only the inside is seen."""
FAILURES = 60
"""Tubes that may find no room one after the other before a stack counts as full."""


@dataclass(slots=True)
class Cells:
    """(n, 3) centres and semi-axes in um, and the level of the skin that tubes keep to, 0 where they fill the cell.

    No cells: one that is so large that nothing of it is seen."""

    centres: Float
    axes: Float
    skins: Float

    def is_endless(self, cell: int) -> bool:
        """Whether nothing of the cell's border is seen."""
        return bool(self.axes[cell, 0] >= ENDLESS_UM)

    def inside(self, shape: Triple) -> NDArray[np.bool_]:
        """(Z, Y, X) bool: voxels of any cell."""
        mask = np.zeros(shape, np.bool_)
        grid = np.ogrid[tuple(slice(0, n) for n in shape)]
        for centre, axes in zip(self.centres, self.axes, strict=True):
            level = sum(((g * VOXEL_UM - c) / a) ** 2 for g, c, a in zip(grid, centre, axes, strict=True))
            mask |= level <= 1
        return mask


def draw_cells(rng: np.random.Generator, ranges: Ranges, shape: Triple) -> Cells:
    """One to three cells about the middle of the stack, or one without end."""
    extent = np.multiply(shape, VOXEL_UM)
    if rng.random() >= ranges.cell_probability:
        return Cells(extent[None] / 2, np.full((1, 3), ENDLESS_UM), np.zeros(1))
    count = int(rng.integers(1, 4))
    axes = rng.uniform((1.2, 1.5, 1.5), (2.4, 3.2, 3.2), (count, 3))
    centres = extent * rng.uniform(0.2, 0.8, (count, 3)) if count > 1 else extent * rng.uniform(0.4, 0.6, (1, 3))
    cortical = rng.random(count) < ranges.cortical_probability
    return Cells(centres, axes, np.where(cortical, rng.uniform(0.75, 0.92, count), 0.0))


@dataclass(slots=True)
class Tubes:
    """All samples so far: positions and radii in um, networks, and whether the sample before is linked to them."""

    points: Float
    radii: Float
    network: NDArray[np.int64]
    linked: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    shine: Float

    @classmethod
    def none(cls) -> Tubes:
        bools = np.empty(0, np.bool_)
        return cls(np.empty((0, 3)), np.empty(0), np.empty(0, np.int64), bools, bools, np.empty(0))

    def add(self, points: Float, radii: Float, network: int, shine: Float, *, counted: bool = True) -> None:
        n = len(points)
        linked = np.arange(n) > 0 if counted else np.zeros(n, np.bool_)
        self.points = np.concatenate([self.points, points])
        self.radii = np.concatenate([self.radii, radii])
        self.network = np.concatenate([self.network, np.full(n, network)])
        self.linked = np.concatenate([self.linked, linked])
        self.counted = np.concatenate([self.counted, np.full(n, counted)])
        self.shine = np.concatenate([self.shine, shine])

    def length_um(self, cut: NDArray[np.bool_], shape: Triple) -> float:
        """Of the links whose middle is inside the stack and not cut away."""
        ends = np.flatnonzero(self.linked)
        middle = np.rint((self.points[ends] + self.points[ends - 1]) / (2 * VOXEL_UM)).astype(np.int64)
        inside = ((middle >= 0) & (middle < shape)).all(axis=1)
        ends, (_, y, x) = ends[inside], middle[inside].T
        return float(np.linalg.norm(self.points[ends] - self.points[ends - 1], axis=1)[~cut[y, x]].sum())


def grow_tubes(rng: np.random.Generator, ranges: Ranges, shape: Triple, cells: Cells) -> Tubes:
    """Networks until there is as much tube as the density asks for, or no room is found any more."""
    extent = np.multiply(shape, VOXEL_UM)
    volume = float(cells.inside(shape).sum()) * VOXEL_UM**3
    wanted_um = rng.uniform(*ranges.density) * volume
    growth = _Growth(Tubes.none(), cells, ranges, rng.uniform(*ranges.gap_um), rng)
    whole = np.zeros(shape[1:], np.bool_)
    failures, network = 0, 0
    while failures < FAILURES and (network < 2 or growth.tubes.length_um(whole, shape) < wanted_um):
        cell = int(rng.integers(len(cells.axes)))
        start = _start(rng, extent, cells, cell)
        is_fragment = rng.random() < FRAGMENT_PROBABILITY
        least, most = FRAGMENT_UM if is_fragment else STRAND_UM
        if not growth.add(start, None, _drawn(rng, least, most), least, network=network, cell=cell):
            failures += 1
            continue
        failures = 0
        if not is_fragment:
            growth.branch(network, cell)
        network += 1
    return growth.tubes


@dataclass(slots=True)
class _Growth:
    """Tubes while they grow, and what they grow by; gap in um between the surfaces of those that do not fuse."""

    tubes: Tubes
    cells: Cells
    ranges: Ranges
    gap: float
    rng: np.random.Generator

    def branch(self, network: int, cell: int) -> None:
        """Some branches of a network, from any of its samples."""
        for _ in range(BRANCHES):
            if self.rng.random() < self.ranges.branch_probability:
                own = np.flatnonzero((self.tubes.network == network) & self.tubes.counted)
                foot = int(self.rng.choice(own))
                length_um = _drawn(self.rng, *BRANCH_UM)
                self.add(self.tubes.points[foot], foot, length_um, SHORTEST_BRANCH_UM, network=network, cell=cell)

    def add(
        self, start: Float, foot: int | None, length_um: float, least_um: float, *, network: int, cell: int
    ) -> bool:
        """A tube, free or from a sample, until it is long enough or meets something; false where it stays too short."""
        rng, tubes = self.rng, self.tubes
        curve = self._walked(start, max(2, round(length_um / STEP_UM)), cell)
        wave = np.sin(np.arange(len(curve)) * (2 * pi * STEP_UM / rng.uniform(0.8, 4.0)) + rng.uniform(0, 2 * pi))
        base = rng.uniform(*self.ranges.radius_um) if foot is None else float(tubes.radii[foot])
        radii = np.clip(base * (1 + 0.05 * wave), *self.ranges.radius_um)
        clear, met = _clear_start(curve, radii, tubes.points, tubes.radii, start, foot is not None, self.gap)
        if clear * STEP_UM < least_um * 0.99:
            return False
        kept, radii = curve[:clear], radii[:clear]
        if met >= 0 and rng.random() < FUSE_PROBABILITY:
            way_um = float(np.linalg.norm(tubes.points[met] - kept[-1]))
            way = np.linspace(0, 1, max(2, ceil(way_um / STEP_UM) + 1))[1:, None]
            radii = np.concatenate([radii, np.full(len(way), radii[-1])])
            kept = np.concatenate([kept, kept[-1] + way * (tubes.points[met] - kept[-1])])
        along = np.arange(len(kept)) * STEP_UM
        shine = 1 + rng.uniform(0, 0.2) * np.sin(along * (2 * pi / rng.uniform(1.0, 5.0)) + rng.uniform(0, 2 * pi))
        tubes.add(kept, radii, network, shine)
        if rng.random() < self.ranges.clump_probability:
            at = int(rng.integers(len(kept)))
            self._add_clump(kept[at], float(radii[at]), float(shine[at]), network)
        return True

    def _walked(self, start: Float, count: int, cell: int) -> Float:
        """Cells on glass are flat, and so are tubes where no cell is drawn: half of z is left in directions."""
        flat = 0.5 if self.cells.is_endless(cell) else 1.0
        kicks = self.rng.standard_normal((count, 3)) * (flat, 1.0, 1.0)
        heading = _unit(self.rng.standard_normal(3) * (flat, 1.0, 1.0))
        skin = float(self.cells.skins[cell])
        walked: Float = _walk(start, heading, kicks, self.cells.centres[cell], self.cells.axes[cell], skin)
        return walked

    def _add_clump(self, centre: Float, radius: float, shine: float, network: int) -> None:
        """Two to seven balls about as thick as the tube, near one of its samples."""
        size = int(self.rng.integers(2, 8))
        balls = centre + self.rng.standard_normal((size, 3)) * radius * self.rng.uniform(0.5, 1.0)
        radii = radius * self.rng.uniform(0.9, 1.6, size)
        self.tubes.add(balls, radii, network, np.full(size, shine), counted=False)


def _drawn(rng: np.random.Generator, low: float, high: float) -> float:
    """Evenly in the logarithm."""
    return exp(rng.uniform(log(low), log(high)))


def _start(rng: np.random.Generator, extent: Float, cells: Cells, cell: int) -> Float:
    """A point of the cell, on its skin where tubes keep to it."""
    if cells.is_endless(cell):
        return rng.uniform(0, extent)
    skin = cells.skins[cell]
    direction = _unit(rng.standard_normal(3))
    level = skin if skin else 0.9 * rng.random() ** (1 / 3)
    return np.asarray(cells.centres[cell] + level * cells.axes[cell] * direction)


def brightness(count: int, factor: float) -> Float:
    """(count,) of networks: 1 for the brightest, 1 / factor for the dimmest, the others evenly between them.

    They are ordered as the multiples of the golden ratio, which says nothing about where they are.
    """
    ranks = np.modf(np.arange(count) * 0.6180339887)[0]
    spread = (ranks - ranks.min()) / max(float(np.ptp(ranks)), 1e-9)
    return np.asarray(1 - spread * (1 - 1 / factor))


def draw_tubes(tubes: Tubes, factor: float, shape: Triple) -> tuple[Image, Image]:
    """Light of every voxel, networks as bright as they are, and the distance to their surface in voxels."""
    networks = int(tubes.network.max(initial=0)) + 1
    bright = brightness(networks, factor)[tubes.network] * tubes.shine
    distance = np.full(shape, REACH_VOX, np.float32)
    light = np.zeros(shape, np.float32)
    _draw(light, distance, tubes.points / VOXEL_UM, tubes.radii / VOXEL_UM, tubes.linked, bright, REACH_VOX)
    return light, distance


def _unit(vector: Float) -> Float:
    return np.asarray(vector / np.linalg.norm(vector))


@njit(cache=True, nogil=True)
def _walk(start: Float, direction: Float, kicks: Float, centre: Float, axes: Float, skin: float) -> Float:
    """A persistent walk whose curvature is an Ornstein-Uhlenbeck process, kept in the cell or along its skin."""
    memory = np.exp(-STEP_UM / 1.0)
    strength = 1.0 * np.sqrt(1 - memory * memory)
    points = np.empty((len(kicks) + 1, 3))
    points[0] = start
    heading = direction.copy()
    curvature = np.zeros(3)
    for i in range(len(kicks)):
        offset = (points[i] - centre) / axes
        level = np.sqrt(np.sum(offset * offset))
        normal = offset / axes / max(level, 1e-9)
        slope = np.sqrt(np.sum(normal * normal))
        normal /= max(slope, 1e-12)
        away = (level - (skin if skin > 0 else 0.92)) / max(slope, 1e-12)
        if skin > 0:
            heading = heading - (np.sum(heading * normal) + 1.5 * away) * 0.3 * normal
        elif away > 0:
            heading = heading - max(np.sum(heading * normal) + 2.0 * away, 0.0) * 0.3 * normal
        heading /= np.sqrt(np.sum(heading * heading))
        curvature = memory * curvature + strength * kicks[i]
        curvature -= np.sum(curvature * heading) * heading
        bend = np.sqrt(np.sum(curvature * curvature)) * 0.5
        if bend > 1.0:
            curvature /= bend
        heading = heading + STEP_UM * curvature
        heading /= np.sqrt(np.sum(heading * heading))
        points[i + 1] = points[i] + STEP_UM * heading
    return points


@njit(cache=True, nogil=True)
def _clear_start(
    curve: Float, radii: Float, points: Float, point_radii: Float, foot: Float, has_foot: bool, gap: float
) -> tuple[int, int]:
    """Leading samples clear of all others and of the earlier ones, and the sample that was met, -1 for none.

    A branch may be near its foot: what lies within `OWN_UM` of it is not compared until the branch is as far away."""
    for i in range(len(curve)):
        for j in range(i - int(OWN_UM / STEP_UM)):
            near = radii[i] + radii[j] + gap
            if np.sum((curve[i] - curve[j]) ** 2) < near * near:
                return i, -1
        for j in range(len(points)):
            near = radii[i] + point_radii[j] + gap
            if has_foot and i * STEP_UM < near + 0.2 and np.sum((points[j] - foot) ** 2) < 4 * near * near:
                continue
            if np.sum((curve[i] - points[j]) ** 2) < near * near:
                return i, j
    return len(curve), -1


@njit(cache=True, nogil=True)
def _draw(
    light: Image,
    distance: Image,
    points: Float,
    radii: Float,
    linked: NDArray[np.bool_],
    bright: Float,
    reach: float,
) -> None:
    """Distances to every link (a ball for a sample by itself) and the light inside, in voxels; edges are soft."""
    shape = np.array(light.shape)
    first, last = np.empty(3, np.int64), np.empty(3, np.int64)
    for i in range(len(points)):
        j = i - 1 if linked[i] else i
        a, b = points[j], points[i]
        step = b - a
        step2 = max(np.sum(step * step), 1e-12)
        far = max(radii[i], radii[j]) + reach
        for axis in range(3):
            first[axis] = max(int(np.ceil(min(a[axis], b[axis]) - far)), 0)
            last[axis] = min(int(np.floor(max(a[axis], b[axis]) + far)), shape[axis] - 1)
        for z in range(first[0], last[0] + 1):
            for y in range(first[1], last[1] + 1):
                for x in range(first[2], last[2] + 1):
                    dz, dy, dx = z - a[0], y - a[1], x - a[2]
                    t = min(max((dz * step[0] + dy * step[1] + dx * step[2]) / step2, 0.0), 1.0)
                    d2 = (dz - t * step[0]) ** 2 + (dy - t * step[1]) ** 2 + (dx - t * step[2]) ** 2
                    d = np.sqrt(d2) - (radii[j] + t * (radii[i] - radii[j]))
                    distance[z, y, x] = min(distance[z, y, x], d)
                    if d < 0.5:
                        shine = bright[j] + t * (bright[i] - bright[j])
                        light[z, y, x] = max(light[z, y, x], shine * min(0.5 - d, 1.0))
