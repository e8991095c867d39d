"""Phantoms: masks and labels whose objects, loops, lengths and volumes are known by design.

`mitochondria` draws networks of smooth tubes. A network starts as a strand or a ring and grows branches (one new
junction and one new end each) and handles (two new junctions and one loop each):

        ________             strand     2 ends                    nodes and loops are counted as they are added,
     __/   \\    \\__           branch    +1 junction, +1 end        so the truth never comes from the voxels
            \\___/   handle   handle    +2 junctions, +1 loop

Curves are samples `STEP_UM` apart. The truth holds in the voxels because a curve is taken only where

- every sample keeps `gap_um` (surface to surface, per axis: the PSF is longer in z) from all other networks,
- two samples of one network keep it too, unless they are nearer than twice their distance along the network
  (which is what neighbours on a smooth curve and the two sides of a junction are),
- a finished network, as voxels, is one 26-connected component with the designed number of loops and no cavity.

What fails is drawn again. Other networks are looked up in a grid of cells of the size of the largest distance that
matters, so the time grows with the tube length, not with its square; 512^3 voxels take seconds. The labels are one
array in memory, which ends at some 10^10 voxels.

The closed forms at the end (`ball`, `torus`, `plate`, `noise_blobs`, `bernoulli`) serve tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, exp, inf, pi, prod

import cc3d
import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.errors import UsageError

Float = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]
Triple = tuple[int, int, int]
TripleUm = tuple[float, float, float]

STEP_UM = 0.1
"""Distance of the samples of a curve."""
NETWORK_UM = (3.0, 40.0)
"""Length of the tubes of one network, drawn evenly in its logarithm."""
STRAND_UM = (2.5, 12.0)
BRANCH_UM = (1.5, 8.0)
"""Shorter strands and branches are not drawn: they could not be told from noise or a bump on a blurred tube."""
SHORTEST_UM = 1.0
"""... but a volume so small that nothing else fits gets strands of half its inner diagonal, down to this."""
ROOMY_UM = 4.0
"""A cube of this side has room for one network."""
NODE_SPACING_UM = 1.2
"""Distance along the network between any two nodes, for the same reason."""
HANDLE_UM = (2.4, 4.0)
"""Distance along the network between the two feet of a handle."""
HOLE_UM = 0.4
"""What a new loop keeps clear beyond the gap, so that its hole survives the blur."""
BEND_RADIUS_UM = 1.0
"""No strand or branch bends more tightly."""
FLATNESS = 0.5
"""How much of z is left in directions: cells on glass are flat, and so are their mitochondria."""
MARGIN_UM = 0.3
"""From any tube's surface to the border of the volume."""
RING_PROBABILITY = 0.15
HANDLE_PROBABILITY = 0.6
"""Of a handle rather than a branch, as the next curve to try."""
CURVE_TRIES = 40
"""Curves to try before a network is taken as it is."""
NETWORK_TRIES = 200
"""Networks that may fail one after the other before the volume counts as full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """Labels, and the truth about them that the design graph knows. Objects 1..N are entries 0..N-1."""

    labels: NDArray[np.uint16] | NDArray[np.uint32]
    """(Z, Y, X), 0 outside, 1..N ranked by the first voxel in raster order."""
    voxel_um: TripleUm
    object_loops: Index
    """(N,) independent loops of each network."""
    object_nodes: Index
    """(N,) ends and junctions; an isolated ring has one node. Branches are nodes - 1 + loops."""
    object_length_um: Float
    """(N,) summed length of the centrelines; a branch starts on the centreline that it leaves."""
    object_volume_um3: Float
    """(N,) from the voxels."""
    centrelines_um: tuple[tuple[Float, ...], ...]
    """Per object its curves as drawn, (n, 3) each; the origin is the centre of voxel 0, 0, 0."""

    @property
    def objects(self) -> int:
        """Number of networks."""
        return len(self.object_loops)

    @property
    def loops(self) -> int:
        """Independent loops of all networks."""
        return int(self.object_loops.sum())

    @property
    def length_um(self) -> float:
        """Length of all centrelines."""
        return float(self.object_length_um.sum())

    @property
    def volume_um3(self) -> float:
        """Volume of all labelled voxels."""
        return float(self.object_volume_um3.sum())


def mitochondria(
    shape: Triple,
    voxel_um: TripleUm,
    seed: int,
    *,
    density: float = 0.08,
    objects: int | None = None,
    radius_um: tuple[float, float] = (0.15, 0.22),
    gap_um: TripleUm = (1.0, 0.6, 0.6),
) -> Phantom:
    """Networks of smooth tubes, like mitochondria, with a known graph that also holds in the voxels.

    Parameters
    ----------
    shape : Z, Y, X in voxels.
    voxel_um : size of a voxel along z, y, x.
    seed : the same seed and parameters give the same phantom.
    density : um of tube per um^3 to draw, as far as there is room: about 0.2 fits.
    objects : exactly that many networks instead.
    radius_um : smallest and largest radius. The smallest is raised to half the diagonal of a voxel where that is
        more: a thinner tube would fall apart into voxels.
    gap_um : between the surfaces of two tubes along z, y, x; never less than three voxels.

    Raises
    ------
    UsageError : parameters without a sense, voxels too coarse for the radius, or no room for what was asked.
    """
    _check(shape, voxel_um, seed, density, objects, radius_um, gap_um)
    space = _Space.of_volume(shape, voxel_um, radius_um, gap_um)
    rng = np.random.default_rng(seed)
    wanted_um = density * float(np.prod(np.multiply(shape, voxel_um)))
    networks: list[_Network] = []
    voxels: list[Index] = []
    drawn_um, failures = 0.0, 0
    while failures < NETWORK_TRIES and (drawn_um < wanted_um if objects is None else len(networks) < objects):
        network = _grow(space, rng)
        inside = None if network is None else _voxels(network, shape, np.asarray(voxel_um, np.float64))
        if network is None or inside is None:
            failures += 1
            continue
        failures = 0
        space.occupy(network.points, network.radii)
        drawn_um += network.length_um
        networks.append(network)
        voxels.append(inside)
    if len(networks) < (objects or 1):
        raise _no_room(f"only {len(networks)} of {objects or 1} tube networks find", shape, voxel_um)
    return _phantom(networks, voxels, shape, voxel_um)


def _check(
    shape: Triple,
    voxel_um: TripleUm,
    seed: int,
    density: float,
    objects: int | None,
    radius_um: tuple[float, float],
    gap_um: TripleUm,
) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise UsageError(f"shape {shape} is not three positive numbers", "Give the voxels along z, y, x")
    if len(voxel_um) != 3 or not all(0 < v < inf for v in voxel_um):
        raise UsageError(f"voxel size {voxel_um} is not three positive numbers", "Give um along z, y, x")
    if seed < 0:
        raise UsageError(f"seed {seed} is negative", "Give 0 or more")
    if not 0 < density < inf:
        raise UsageError(f"density {density} is not positive", "Give um of tube per um^3, such as 0.08")
    if objects is not None and objects < 1:
        raise UsageError(f"{objects} objects cannot be drawn", "Ask for at least one")
    if not 0 < radius_um[0] <= radius_um[1] < inf:
        raise UsageError(f"radii {radius_um} are not a positive range", "Give the smallest and the largest in um")
    if radius_um[1] > BEND_RADIUS_UM / 2:
        raise UsageError(f"tubes of radius {radius_um[1]} um cannot bend", f"Give at most {BEND_RADIUS_UM / 2} um")
    if len(gap_um) != 3 or not all(0 <= g < inf for g in gap_um):
        raise UsageError(f"gap {gap_um} is not three numbers of at least 0", "Give um along z, y, x")
    diagonal_um = float(np.linalg.norm(voxel_um))
    if diagonal_um / 2 > radius_um[1]:
        raise UsageError(
            f"a tube of radius {radius_um[1]} um falls apart in voxels of {voxel_um} um",
            f"Give voxels with a diagonal of at most {2 * radius_um[1]:g} um",
        )


def _no_room(what: str, shape: Triple, voxel_um: TripleUm) -> UsageError:
    least = tuple(ceil(ROOMY_UM / v) for v in voxel_um)
    return UsageError(
        f"{what} room in {shape} voxels of {voxel_um} um",
        f"A shape of {least} takes one network; more need a larger one",
    )


@dataclass(slots=True)
class _Network:
    """One object while it grows: samples, which of them follow each other, and the graph counted so far."""

    points: Float
    """(n, 3) um."""
    radii: Float
    links: Index
    """(n_links, 2) neighbouring samples."""
    nodes: list[int]
    """Samples that are ends or junctions; empty for a bare ring."""
    loops: int
    curves: list[Float]

    @property
    def length_um(self) -> float:
        """Length of all centrelines."""
        return sum(_length(curve) for curve in self.curves)

    def distances_from(self, samples: list[int]) -> Float:
        """(n,) um along the network to the nearest of the samples."""
        lengths = np.linalg.norm(self.points[self.links[:, 0]] - self.points[self.links[:, 1]], axis=1)
        return _distances_along(self.links, lengths, np.asarray(samples, np.int64), len(self.points))

    def feet(self) -> Index:
        """Samples where a branch or a handle may start: far enough from every node."""
        if not self.nodes:
            return np.arange(len(self.points))
        return np.flatnonzero(self.distances_from(self.nodes) >= NODE_SPACING_UM)

    def tangent(self, sample: int) -> Float:
        """Unit direction at a sample with two neighbours."""
        ahead, behind = (int(n) for n in self.links[(self.links == sample).any(axis=1)].sum(axis=1) - sample)
        return _unit(self.points[ahead] - self.points[behind])

    def add(self, curve: Float, radii: Float, start: int, end: int | None) -> None:
        """Join a curve whose first sample is `start`, and whose last one is `end` where it makes a handle."""
        new = curve[1:] if end is None else curve[1:-1]
        ids = np.arange(len(self.points), len(self.points) + len(new))
        chain = np.concatenate([[start], ids, [] if end is None else [end]]).astype(np.int64)
        self.points = np.concatenate([self.points, new])
        self.radii = np.concatenate([self.radii, radii[1 : 1 + len(new)]])
        self.links = np.concatenate([self.links, np.stack([chain[:-1], chain[1:]], axis=1)])
        self.nodes += [start, int(chain[-1])]
        self.loops += end is not None
        self.curves.append(curve)


@dataclass(slots=True)
class _Space:
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
    def of_volume(cls, shape: Triple, voxel_um: TripleUm, radius_um: tuple[float, float], gap_um: TripleUm) -> _Space:
        voxel = np.asarray(voxel_um, np.float64)
        radius = max(radius_um[0], float(np.linalg.norm(voxel)) / 2), radius_um[1]
        gap = np.maximum(gap_um, 3 * voxel)
        extent = (np.asarray(shape) - 1) * voxel
        border = MARGIN_UM + radius[1]
        inner = extent - 2 * border
        strand_um = min(STRAND_UM[0], float(np.linalg.norm(inner)) / 2)
        if inner.min() < 0 or strand_um < SHORTEST_UM:
            raise _no_room("no tube network finds", shape, voxel_um)
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


def _grow(space: _Space, rng: np.random.Generator) -> _Network | None:
    """A network that keeps its distances, or None where the first curve found no room."""
    network = _ring(space, rng) if rng.random() < RING_PROBABILITY else _strand(space, rng)
    if network is None:
        return None
    wanted_um = exp(rng.uniform(*np.log(NETWORK_UM)))
    for _ in range(CURVE_TRIES):
        if network.length_um >= wanted_um:
            break
        add = _add_handle if rng.random() < HANDLE_PROBABILITY else _add_branch
        add(network, space, rng)
    return network


def _strand(space: _Space, rng: np.random.Generator) -> _Network | None:
    curve = _walk(rng.uniform(space.low, space.high), _direction(rng), rng.uniform(*STRAND_UM), rng)
    radii = _radii(curve, space, rng)
    clear = min(space.clear_start(curve, radii), _clear_start_alone(curve, radii, space.gap, inf))
    curve, radii = curve[:clear], radii[:clear]
    if _length(curve) < space.strand_um:
        return None
    ids = np.arange(len(curve))
    return _Network(curve, radii, np.stack([ids[:-1], ids[1:]], axis=1), [0, len(curve) - 1], 0, [curve])


def _ring(space: _Space, rng: np.random.Generator) -> _Network | None:
    """A closed curve, nearly flat: a circle with waves of two and three periods."""
    axis = _unit(_direction(rng) + np.array([3.0, 0.0, 0.0]))
    first = _unit(np.cross(axis, _direction(rng)))
    second = np.cross(axis, first)
    angle = np.linspace(0, 2 * pi, 400)
    (a2, a3, az), (p2, p3, pz) = rng.uniform(0, (0.15, 0.06, 0.1)), rng.uniform(0, 2 * pi, 3)
    size = rng.uniform(1.1, 1.7)
    radial = size * (1 + a2 * np.cos(2 * angle + p2) + a3 * np.cos(3 * angle + p3))
    rise = size * az * np.cos(2 * angle + pz)
    flat = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second
    curve = _resampled(rng.uniform(space.low, space.high) + radial[:, None] * flat + rise[:, None] * axis)
    curve[-1] = curve[0]
    radii = _radii(curve, space, rng)
    if space.clear_start(curve, radii) < len(curve):
        return None
    if _clear_start_alone(curve[:-1], radii[:-1], space.gap + HOLE_UM, STEP_UM) < len(curve) - 1:
        return None
    ids = np.arange(len(curve) - 1)
    return _Network(curve[:-1], radii[:-1], np.stack([ids, np.roll(ids, -1)], axis=1), [], 1, [curve])


def _add_branch(network: _Network, space: _Space, rng: np.random.Generator) -> None:
    feet = network.feet()
    if not len(feet):
        return
    start = int(rng.choice(feet))
    tangent = network.tangent(start)
    direction = _unit(_across(_direction(rng), tangent) + rng.uniform(-0.4, 0.4) * tangent)
    curve = _walk(network.points[start], direction, rng.uniform(*BRANCH_UM), rng)
    radii = _radii(curve, space, rng)
    clear = min(space.clear_start(curve, radii), _clear_start_of(network, curve, radii, start, None, space.gap))
    if _length(curve[:clear]) >= BRANCH_UM[0]:
        network.add(curve[:clear], radii[:clear], start, None)


def _add_handle(network: _Network, space: _Space, rng: np.random.Generator) -> None:
    feet = network.feet()
    if not len(feet):
        return
    start = int(rng.choice(feet))
    along = network.distances_from([start])[feet]
    feet = feet[(along >= HANDLE_UM[0]) & (along <= HANDLE_UM[1])]
    if not len(feet):
        return
    end = int(rng.choice(feet))
    a, b = network.points[start], network.points[end]
    sideways = _across(_direction(rng), _unit(b - a)) * rng.uniform(2.4, 3.2)  # a cubic rises to 3/4 of its arms
    t = np.linspace(0, 1, 200)[:, None]
    curve = _resampled(a + (b - a) * t * t * (3 - 2 * t) + sideways * 3 * t * (1 - t))
    radii = _radii(curve, space, rng)
    if space.clear_start(curve, radii) < len(curve):
        return
    if _clear_start_of(network, curve, radii, start, end, space.gap + HOLE_UM) == len(curve):
        network.add(curve, radii, start, end)


def _clear_start_alone(curve: Float, radii: Float, gap: Float, closing_um: float) -> int:
    """Leading samples clear of the others of a curve, whose ends are `closing_um` apart by another way."""
    none = np.empty(0)
    return int(_clear_of_own(curve, radii, np.empty((0, 3)), none, none, none, closing_um, gap))


def _clear_start_of(network: _Network, curve: Float, radii: Float, start: int, end: int | None, gap: Float) -> int:
    """Leading samples clear of the network (and of each other) that a curve leaves at `start` and meets at `end`."""
    from_start = network.distances_from([start])
    from_end = np.full(len(network.points), inf) if end is None else network.distances_from([end])
    closing_um = float(from_end[start])
    return int(_clear_of_own(curve, radii, network.points, network.radii, from_start, from_end, closing_um, gap))


def _direction(rng: np.random.Generator) -> Float:
    return _unit(rng.standard_normal(3) * (FLATNESS, 1.0, 1.0))


def _unit(vector: Float) -> Float:
    return np.asarray(vector / np.linalg.norm(vector))


def _across(vector: Float, axis: Float) -> Float:
    """Unit vector: the part of `vector` at right angles to the unit vector `axis`."""
    return _unit(vector - (vector @ axis) * axis)


def _length(curve: Float) -> float:
    return float(np.linalg.norm(np.diff(curve, axis=0), axis=1).sum())


def _resampled(curve: Float) -> Float:
    """The same curve with samples equally far apart, about `STEP_UM`; its ends stay."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    at = np.linspace(0, along[-1], ceil(along[-1] / STEP_UM) + 1)
    return np.stack([np.interp(at, along, curve[:, axis]) for axis in range(3)], axis=1)


def _walk(start: Float, direction: Float, length_um: float, rng: np.random.Generator) -> Float:
    kicks = rng.standard_normal((round(length_um / STEP_UM), 3)) * (FLATNESS, 1.0, 1.0)
    walked: Float = _persistent_walk(start, direction, kicks)
    return walked


def _radii(curve: Float, space: _Space, rng: np.random.Generator) -> Float:
    """One radius per curve with waves of 5 %, inside the range asked for."""
    wave = np.sin(np.arange(len(curve)) * (2 * pi * STEP_UM / rng.uniform(1.5, 4.0)) + rng.uniform(0, 2 * pi))
    thinnest, thickest = space.radius
    return np.asarray(np.clip(rng.uniform(thinnest, thickest) * (1 + 0.05 * wave), thinnest, thickest))


@njit(cache=True, nogil=True)
def _persistent_walk(start: Float, direction: Float, kicks: Float) -> Float:
    """Steps whose curvature is an Ornstein-Uhlenbeck process, 0 at the start and at most 1 / BEND_RADIUS_UM."""
    memory = np.exp(-STEP_UM / 1.5)
    strength = 0.5 / BEND_RADIUS_UM * np.sqrt(1 - memory * memory)
    points = np.empty((len(kicks) + 1, 3))
    points[0] = start
    heading = direction.copy()
    curvature = np.zeros(3)
    for i in range(len(kicks)):
        curvature = memory * curvature + strength * kicks[i]
        curvature -= np.sum(curvature * heading) * heading
        bend = np.sqrt(np.sum(curvature * curvature)) * BEND_RADIUS_UM
        if bend > 1.0:
            curvature /= bend
        heading = heading + STEP_UM * curvature
        heading /= np.sqrt(np.sum(heading * heading))
        points[i + 1] = points[i] + STEP_UM * heading
    return points


@njit(cache=True, nogil=True)
def _distances_along(links: Index, lengths: Float, sources: Index, count: int) -> Float:
    """Shortest paths from the nearest source by sweeps over the links, which follow the curves: a few suffice."""
    distance = np.full(count, np.inf)
    distance[sources] = 0.0
    changed = True
    while changed:
        changed = False
        for k in range(2 * len(links)):
            link = k if k < len(links) else 2 * len(links) - 1 - k
            a, b = links[link]
            if distance[a] + lengths[link] < distance[b]:
                distance[b] = distance[a] + lengths[link]
                changed = True
            elif distance[b] + lengths[link] < distance[a]:
                distance[a] = distance[b] + lengths[link]
                changed = True
    return distance


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
def _clear_of_own(
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


def _voxels(network: _Network, shape: Triple, voxel: Float) -> Index | None:
    """Sorted flat indices of the network's voxels, or None where they do not have the designed topology."""
    reach = network.radii.max()
    start = np.floor((network.points.min(axis=0) - reach) / voxel).astype(np.int64) - 1
    stop = np.ceil((network.points.max(axis=0) + reach) / voxel).astype(np.int64) + 2
    mask = np.zeros(tuple(int(n) for n in stop - start), np.bool_)
    _fill_tubes(mask, network.points - start * voxel, network.radii, network.links, voxel)
    if _euler_number(mask) != 1 - network.loops:
        return None
    if cc3d.connected_components(mask, connectivity=26, return_N=True)[1] != 1:
        return None
    if cc3d.connected_components(~mask, connectivity=6, return_N=True)[1] != 1:
        return None
    z, y, x = (indices + first for indices, first in zip(np.nonzero(mask), start, strict=True))
    return np.asarray(np.ravel_multi_index((z, y, x), shape), np.int64)


@njit(cache=True, nogil=True)
def _fill_tubes(mask: Mask, points: Float, radii: Float, links: Index, voxel: Float) -> None:
    """Set the voxels whose centre is inside a link's round tube; the radius changes linearly along the link."""
    for link in range(len(links)):
        a, b = points[links[link, 0]], points[links[link, 1]]
        radius_a, radius_b = radii[links[link, 0]], radii[links[link, 1]]
        reach = max(radius_a, radius_b)
        step = b - a
        step2 = max(np.sum(step * step), 1e-12)
        first, last = np.empty(3, np.int64), np.empty(3, np.int64)
        for axis in range(3):
            first[axis] = int(np.ceil((min(a[axis], b[axis]) - reach) / voxel[axis]))
            last[axis] = int(np.floor((max(a[axis], b[axis]) + reach) / voxel[axis]))
        for z in range(first[0], last[0] + 1):
            for y in range(first[1], last[1] + 1):
                for x in range(first[2], last[2] + 1):
                    dz, dy, dx = z * voxel[0] - a[0], y * voxel[1] - a[1], x * voxel[2] - a[2]
                    t = min(max((dz * step[0] + dy * step[1] + dx * step[2]) / step2, 0.0), 1.0)
                    radius = radius_a + t * (radius_b - radius_a)
                    d2 = (dz - t * step[0]) ** 2 + (dy - t * step[1]) ** 2 + (dx - t * step[2]) ** 2
                    if d2 <= radius * radius:
                        mask[z, y, x] = True


@njit(cache=True, nogil=True)
def _euler_number(mask: Mask) -> int:
    """Euler number of the union of closed voxel cubes (26-connectivity): vertices - edges + faces - cubes.

    mask : (Z, Y, X) bool whose border is background, so each cell of the complex is seen from one 2^3 window.
    """
    number = 0
    nz, ny, nx = mask.shape
    for z in range(nz - 1):
        for y in range(ny - 1):
            for x in range(nx - 1):
                a, b, c, d = mask[z, y, x], mask[z, y, x + 1], mask[z, y + 1, x], mask[z, y + 1, x + 1]
                e, f, g, h = mask[z + 1, y, x], mask[z + 1, y, x + 1], mask[z + 1, y + 1, x], mask[z + 1, y + 1, x + 1]
                if not (a or b or c or d or e or f or g or h):
                    continue
                edges = int(a or b or c or d) + int(a or b or e or f) + int(a or c or e or g)
                faces = int(a or b) + int(a or c) + int(a or e)
                number += 1 - edges + faces - int(a)
    return number


def _phantom(networks: list[_Network], voxels: list[Index], shape: Triple, voxel_um: TripleUm) -> Phantom:
    """Number the networks by their first voxel and write the labels."""
    order = sorted(range(len(networks)), key=lambda i: int(voxels[i][0]))
    dtype = np.uint16 if len(order) <= np.iinfo(np.uint16).max else np.uint32
    labels = np.zeros(shape, dtype)
    for object_id, i in enumerate(order, start=1):
        labels.reshape(-1)[voxels[i]] = object_id
    ordered = [networks[i] for i in order]
    return Phantom(
        labels=labels,
        voxel_um=voxel_um,
        object_loops=np.array([n.loops for n in ordered], np.int64),
        object_nodes=np.array([max(len(set(n.nodes)), 1) for n in ordered], np.int64),
        object_length_um=np.array([n.length_um for n in ordered]),
        object_volume_um3=np.array([len(voxels[i]) for i in order]) * prod(voxel_um),
        centrelines_um=tuple(tuple(n.curves) for n in ordered),
    )


def ball(shape: Triple, radius: float) -> Mask:
    """(Z, Y, X) bool: voxel centres at most `radius` voxels from the centre of the volume."""
    z, y, x = _centred(shape)
    return np.asarray(z * z + y * y + x * x <= radius * radius)


def torus(shape: Triple, ring_radius: float, tube_radius: float) -> Mask:
    """(Z, Y, X) bool: a tube around a circle in the central y, x plane; one object, one loop. Radii in voxels."""
    z, y, x = _centred(shape)
    return np.asarray((np.hypot(y, x) - ring_radius) ** 2 + z * z <= tube_radius * tube_radius)


def plate(shape: Triple, thickness: int) -> Mask:
    """(Z, Y, X) bool: the `thickness` central planes along z, out to the border in y and x."""
    mask = np.zeros(shape, np.bool_)
    first = (shape[0] - thickness) // 2
    mask[first : first + thickness] = True
    return mask


def noise_blobs(shape: Triple, seed: int, sigma: float) -> Mask:
    """(Z, Y, X) bool: the upper half of white noise smoothed by `sigma` voxels; many objects, loops and cavities."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    return np.asarray(ndimage.gaussian_filter(noise, sigma, mode="reflect") > 0)


def bernoulli(shape: Triple, p: float, seed: int) -> Mask:
    """(Z, Y, X) bool: each voxel set with probability `p`, independently."""
    return np.random.default_rng(seed).random(shape) < p


def _centred(shape: Triple) -> tuple[Float, Float, Float]:
    """Open grids of the distance in voxels from the centre of the volume, (shape - 1) / 2."""
    z, y, x = np.ogrid[tuple(slice(0, n) for n in shape)]
    return z - (shape[0] - 1) / 2, y - (shape[1] - 1) / 2, x - (shape[2] - 1) / 2
