"""Phantoms: masks and labels whose objects, loops, lengths and volumes are known by design.

`mitochondria` draws networks of smooth tubes, one after the other, until there are enough or the volume is full:

    a network grows  ->  its voxels have the designed  ->  others keep clear of it  ->  numbered by first voxel
    where there is       topology, or it is drawn          from now on                  and written as labels
    room (`tubes`)       again (`voxels`)                  (`space`)                    (here)

512^3 voxels take seconds. The labels are one array in memory, which ends at some 10^10 voxels.

The closed forms at the end (`ball`, `torus`, `plate`, `noise_blobs`, `bernoulli`) serve tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.errors import UsageError
from chunkflow.synth.space import Space, no_room
from chunkflow.synth.tubes import BEND_RADIUS_UM, Network, grow
from chunkflow.synth.voxels import tube_voxels

Float = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]
Triple = tuple[int, int, int]
TripleUm = tuple[float, float, float]

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
    seed : the same seed and parameters give the same phantom, on one kind of processor: sines and roots of numpy differ
        in their last bits between kinds, and what is drawn next follows from them.
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
    space = Space.of_volume(shape, voxel_um, radius_um, gap_um)
    rng = np.random.default_rng(seed)
    wanted_um = density * float(np.prod(np.multiply(shape, voxel_um)))
    networks: list[Network] = []
    voxels: list[Index] = []
    drawn_um, failures = 0.0, 0
    while failures < NETWORK_TRIES and (drawn_um < wanted_um if objects is None else len(networks) < objects):
        network = grow(space, rng)
        inside = None if network is None else tube_voxels(network, shape, np.asarray(voxel_um, np.float64))
        if network is None or inside is None:
            failures += 1
            continue
        failures = 0
        space.occupy(network.points, network.radii)
        drawn_um += network.length_um
        networks.append(network)
        voxels.append(inside)
    if len(networks) < (objects or 1):
        raise no_room(f"only {len(networks)} of {objects or 1} tube networks find", shape, voxel_um)
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


def _phantom(networks: list[Network], voxels: list[Index], shape: Triple, voxel_um: TripleUm) -> Phantom:
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
