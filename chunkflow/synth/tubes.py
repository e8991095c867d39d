"""Networks of smooth tubes that know their ends, junctions, loops and length, because they count them as they grow.

A network starts as a strand or a ring and grows branches (one new junction and one new end each) and handles (two new
junctions and one loop each):

        ________             strand     2 ends                    the truth comes from the design,
     __/   \\    \\__           branch    +1 junction, +1 end        never from the voxels
            \\___/   handle   handle    +2 junctions, +1 loop

Curves are samples `STEP_UM` apart. A strand or a branch ends where it comes too near to something, a ring or a handle
is taken whole or not at all (see `chunkflow.synth.space`). Time grows with the square of the length of one network,
which suits the tens of um of `NETWORK_UM` and would not suit a net of millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, inf, pi

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.synth.space import STRAND_UM, Space, clear_of_own

Float = NDArray[np.float64]
Index = NDArray[np.int64]

STEP_UM = 0.1
"""Distance of the samples of a curve."""
NETWORK_UM = (3.0, 40.0)
"""Length of the tubes of one network, drawn evenly in its logarithm."""
BRANCH_UM = (1.5, 8.0)
"""Length of a branch. A shorter one could not be told from noise or a bump on a blurred tube."""
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
RING_PROBABILITY = 0.15
HANDLE_PROBABILITY = 0.6
"""Of a handle rather than a branch, as the next curve to try."""
CURVE_TRIES = 40
"""Curves to try before a network is taken as it is."""


@dataclass(slots=True)
class Network:
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


def grow(space: Space, rng: np.random.Generator) -> Network | None:
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


def _strand(space: Space, rng: np.random.Generator) -> Network | None:
    curve = _walk(rng.uniform(space.low, space.high), _direction(rng), rng.uniform(*STRAND_UM), rng)
    radii = _radii(curve, space, rng)
    clear = min(space.clear_start(curve, radii), _clear_start_alone(curve, radii, space.gap, inf))
    curve, radii = curve[:clear], radii[:clear]
    if _length(curve) < space.strand_um:
        return None
    ids = np.arange(len(curve))
    return Network(curve, radii, np.stack([ids[:-1], ids[1:]], axis=1), [0, len(curve) - 1], 0, [curve])


def _ring(space: Space, rng: np.random.Generator) -> Network | None:
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
    return Network(curve[:-1], radii[:-1], np.stack([ids, np.roll(ids, -1)], axis=1), [], 1, [curve])


def _add_branch(network: Network, space: Space, rng: np.random.Generator) -> None:
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


def _add_handle(network: Network, space: Space, rng: np.random.Generator) -> None:
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
    return int(clear_of_own(curve, radii, np.empty((0, 3)), none, none, none, closing_um, gap))


def _clear_start_of(network: Network, curve: Float, radii: Float, start: int, end: int | None, gap: Float) -> int:
    """Leading samples clear of the network (and of each other) that a curve leaves at `start` and meets at `end`."""
    from_start = network.distances_from([start])
    from_end = np.full(len(network.points), inf) if end is None else network.distances_from([end])
    closing_um = float(from_end[start])
    return int(clear_of_own(curve, radii, network.points, network.radii, from_start, from_end, closing_um, gap))


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


def _radii(curve: Float, space: Space, rng: np.random.Generator) -> Float:
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
