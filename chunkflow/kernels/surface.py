"""Surface areas of objects and contacts between them, from integer counts that add up over blocks.

**Surface.** A random line meets a surface of area A in A / 2 points per unit of area across it (Crofton). On a lattice
the lines run along 13 directions, those to the 26 neighbours, and every pair of neighbours of which one is in the
object is a crossing. With a line per area v / |d| across direction d (v the volume of a voxel),

    A = 2 * sum over directions of weight(d) * crossings(d) * v / |d|,    weights adding up to 1

(Lang, Ohser & Hilfer, J. Microsc. 203, 2001; Legland, Kieu & Devaux, Image Anal. Stereol. 26, 2007). Reflections share
a weight, so an object is seven integers. The weights solve a least-squares problem (`direction_weights`): balls right,
planes and tori as nearly right as can be. Digitised balls and tori are within 2 % from a radius of 5 voxels on (of the
long side, where voxels are long; 2.1 % at sides of 3 : 1). Planes are up to 7 % too small (along the lattice) or 3 %
too large, 23 % and 7 % at sides of 3 : 1. An object that the volume cuts is closed by the cut.

**Contacts.** Two objects touch where a voxel face lies between them; faces are counted per direction, each by the
block whose voxel lies before it. The area of the faces is exact for the voxels as boxes; a slanted contact is a
staircase, whose area is up to sqrt(3) times that of the plane through it, and half as much again on average.

Both look at one voxel around a block's core, and scale with the surface, not the volume, in what they return.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels.components import dense_labels, ranked_runs
from chunkflow.kernels.runs import end_of_run

Triple = tuple[int, int, int]
Floats3 = tuple[float, float, float]

CLASSES: tuple[Triple, ...] = ((0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1))
"""Steps (z, y, x) up to their signs: class 4 |z| + 2 |y| + |x| - 1."""
_DIRECTIONS = np.array([1, 1, 2, 1, 2, 2, 4])  # directions of each class, opposite ones being one
_SLAB = 8
_PLANES_PER_AXIS = 40  # of the octant over which the weights are fitted: planes in some 2,000 orientations


@dataclass(frozen=True, slots=True)
class Crossings:
    """Pairs of neighbours that the surface of an object lies between, one row per label."""

    label: NDArray[np.uint64]
    """(K,) labels present, increasing."""
    crossings: NDArray[np.int64]
    """(K, 7) pairs of a voxel of the object and a neighbour of another label or none, by class of the step."""


@dataclass(frozen=True, slots=True)
class Contacts:
    """Voxel faces between two labels, one row per pair."""

    pair: NDArray[np.uint64]
    """(M, 2) the labels, smaller first; rows in lexicographic order."""
    faces: NDArray[np.int64]
    """(M, 3) faces across z, y, x."""


def block_crossings(labels: NDArray[Any]) -> Crossings:
    """Crossings of the objects in one block, from the side of its core's voxels.

    Parameters
    ----------
    labels : (Z + 2, Y + 2, X + 2) bool or unsigned: the core and one voxel around it, zeros outside the volume.

    Returns
    -------
    Crossings of the labels in the core; they add up exactly over the blocks of a grid.
    """
    cut, rank, present = ranked_runs(labels)
    crossings = np.zeros((len(present) + 1, len(CLASSES)), np.int64)
    _add_crossings(cut.row, cut.start, rank, cut.shape, crossings)
    is_here = crossings[1:].any(axis=1)
    return Crossings(present[is_here], crossings[1:][is_here])


def block_contacts(labels: NDArray[Any]) -> Contacts:
    """Faces between two labels that lie behind a voxel of the core: towards larger z, y or x.

    Parameters
    ----------
    labels : as for `block_crossings`.
    """
    dense, present = dense_labels(labels)
    if len(present) < 2:
        return Contacts(np.zeros((0, 2), np.uint64), np.zeros((0, 3), np.int64))
    slabs = [_slab_contacts(dense, z, min(z + _SLAB, len(dense) - 1)) for z in range(1, len(dense) - 1, _SLAB)]
    by_rank = merge_contacts(slabs)
    return Contacts(present[by_rank.pair.astype(np.int64) - 1], by_rank.faces)


def merge_crossings(parts: Sequence[Crossings]) -> Crossings:
    """Crossings of several blocks, or of several merges (at least one); exact in any order."""
    label, where = np.unique(np.concatenate([part.label for part in parts]), return_inverse=True)
    total = np.zeros((len(label), len(CLASSES)), np.int64)
    np.add.at(total, where, np.concatenate([part.crossings for part in parts]))
    return Crossings(label, total)


def merge_contacts(parts: Sequence[Contacts]) -> Contacts:
    """Contacts of several blocks, or of several merges (at least one); exact in any order."""
    return _joined(np.concatenate([part.pair for part in parts]), np.concatenate([part.faces for part in parts]))


def direction_weights(voxel_um: Floats3) -> NDArray[np.float64]:
    """(7,) weight of one direction of each class; over all 13 directions they add up to 1.

    A plane with unit normal n is found 2 * sum of weight(d) |n . d| / |d| times as large as it is. The weights, none of
    them negative, bring that near 1 for planes of all orientations and, each as heavy as all planes together, for tori
    around the three axes, in the least-squares sense. For balls it is 1, because they add up to 1.
    """
    from scipy.optimize import nnls  # 13 MiB, which workers that measure no surfaces do without

    middle = (np.arange(_PLANES_PER_AXIS) + 0.5) / _PLANES_PER_AXIS
    planes = _seen(_normals(middle), voxel_um)
    torus = _normals(np.sin(middle * (np.pi / 2)))
    tori = [_seen(np.roll(torus, axis, axis=1), voxel_um).mean(axis=0) for axis in range(3)]
    strict = 1e4 * _DIRECTIONS  # as good as an equation
    rows = np.vstack((planes / np.sqrt(len(planes)), *tori, strict))
    wanted = np.concatenate((np.full(len(planes), 1 / np.sqrt(len(planes))), np.ones(3), [1e4]))
    weights, _ = nnls(rows, wanted)
    return np.asarray(weights / (weights @ _DIRECTIONS))


def _normals(height: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) unit vectors z, y, x of an octant: those heights, and as many angles around z."""
    angle = (np.arange(len(height)) + 0.5) / len(height) * (np.pi / 2)
    z, around = (grid.ravel() for grid in np.meshgrid(height, angle, indexing="ij"))
    across = np.sqrt(1 - z**2)
    return np.stack((z, across * np.sin(around), across * np.cos(around)), axis=1)


def _seen(normal: NDArray[np.float64], voxel_um: Floats3) -> NDArray[np.float64]:
    """(N, 7) what a weight of 1 for a class makes of the area of planes: 2 * sum of |n . d| / |d| over its steps d."""
    steps = np.asarray(CLASSES) * np.asarray(voxel_um)
    seen = np.zeros((len(normal), len(CLASSES)))
    for signs in ((1, 1, 1), (1, 1, -1), (1, -1, 1), (1, -1, -1)):  # a class of 1 or 2 directions repeats them
        seen += np.abs(normal @ (steps * signs).T) / np.linalg.norm(steps, axis=1)
    return np.asarray(seen * (2 * _DIRECTIONS / 4))


def surface_areas(crossings: NDArray[np.int64], voxel_um: Floats3) -> NDArray[np.float64]:
    """(K,) areas in um^2 from the crossings of whole objects (Crofton; see the module)."""
    steps_um = np.linalg.norm(np.asarray(CLASSES) * np.asarray(voxel_um), axis=1)
    factor = 2 * direction_weights(voxel_um) * np.prod(voxel_um) / steps_um
    area = np.zeros(len(crossings))
    for k in range(len(CLASSES)):  # one order for all rows
        area += crossings[:, k] * factor[k]
    return area


def sphericity(volume_um3: NDArray[np.float64], area_um2: NDArray[np.float64]) -> NDArray[np.float64]:
    """pi^(1/3) (6 V)^(2/3) / A: area of the ball of that volume over the area (Wadell, J. Geol. 43, 1935)."""
    return np.asarray(np.cbrt(np.pi * (6 * volume_um3) ** 2) / area_um2)


def contact_columns(contacts: Contacts, voxel_um: Floats3) -> dict[str, NDArray[Any]]:
    """The table of contacts: object_a < object_b (uint64), faces between their voxels in all and across each axis
    (int64), and their area.
    """
    z, y, x = voxel_um
    across_z, across_y, across_x = contacts.faces.T
    return {
        "object_a": contacts.pair[:, 0],
        "object_b": contacts.pair[:, 1],
        "faces": contacts.faces.sum(axis=1),
        "faces_z": across_z,
        "faces_y": across_y,
        "faces_x": across_x,
        "area_um2": across_z * (y * x) + across_y * (z * x) + across_x * (z * y),
    }


def _slab_contacts(dense: NDArray[np.uint32], first: int, stop: int) -> Contacts:
    """Contacts between ranks behind the planes first..stop - 1: noise has three runs per voxel, too many at once."""
    found = np.empty((_runs_of_faces(dense, first, stop, np.empty((0, 4), np.int64)), 4), np.int64)
    _runs_of_faces(dense, first, stop, found)
    faces = np.zeros((len(found), 3), np.int64)
    faces[np.arange(len(found)), found[:, 2]] = found[:, 3]
    return _joined(found[:, :2].astype(np.uint64), faces)


def _joined(pair: NDArray[np.uint64], faces: NDArray[np.int64]) -> Contacts:
    """Rows of equal pairs added up, smaller labels first."""
    pair = np.sort(pair.reshape(-1, 2), axis=1)
    order = np.lexsort((pair[:, 1], pair[:, 0]))
    pair, faces = pair[order], faces[order]
    is_first = np.ones(len(pair), np.bool_)
    is_first[1:] = (pair[1:] != pair[:-1]).any(axis=1)
    starts = np.flatnonzero(is_first)
    return Contacts(pair[starts], np.add.reduceat(faces, starts, axis=0) if len(starts) else faces)


@njit(cache=True, nogil=True)
def _add_crossings(
    row: NDArray[np.int64],
    start: NDArray[np.int32],
    rank: NDArray[np.uint32],
    shape: Triple,
    crossings: NDArray[np.int64],
) -> None:
    """Look at every pair of rows once, and count their crossings for those voxels of a pair that lie in the core."""
    depth, height, width = shape
    for z in range(depth):
        for y in range(height):
            a_inside = 0 < z < depth - 1 and 0 < y < height - 1
            first, last = row[z * height + y], row[z * height + y + 1]
            if a_inside:
                for i in range(first, last - 1):  # between the runs of one row
                    if start[i + 1] > 1:
                        crossings[rank[i], 0] += 1
                    if start[i + 1] < width - 1:
                        crossings[rank[i + 1], 0] += 1
            for dz, dy in ((0, 1), (1, -1), (1, 0), (1, 1)):
                z1, y1 = z + dz, y + dy
                if z1 >= depth or y1 < 0 or y1 >= height:
                    continue
                b_inside = 0 < z1 < depth - 1 and 0 < y1 < height - 1
                if not (a_inside or b_inside):
                    continue
                first1, last1 = row[z1 * height + y1], row[z1 * height + y1 + 1]
                if last - first == 1 and last1 - first1 == 1 and rank[first] == rank[first1]:
                    continue
                for dx in range(-1, 2):
                    step = 4 * dz + 2 * abs(dy) + abs(dx) - 1
                    i, j = first, first1
                    begin = max(0, -dx)  # of what two runs have in common, along the first row
                    while begin < width - max(0, dx):
                        end = end_of_run(start, i, last, width)
                        other = end_of_run(start, j, last1, width) - dx
                        if begin >= end:
                            i += 1
                        elif begin >= other:
                            j += 1
                        else:
                            stop = min(end, other, width - max(0, dx))
                            if rank[i] != rank[j]:
                                if a_inside:
                                    crossings[rank[i], step] += max(0, min(stop, width - 1) - max(begin, 1))
                                if b_inside:
                                    inside = min(stop + dx, width - 1) - max(begin + dx, 1)
                                    crossings[rank[j], step] += max(0, inside)
                            begin = stop


@njit(cache=True, nogil=True)
def _runs_of_faces(dense: NDArray[np.uint32], first: int, stop: int, found: NDArray[np.int64]) -> int:
    """Number of runs along x of faces between the same two ranks; fills (rank, rank, axis, faces) if there is room.

    A run of faces across x is a single face.
    """
    _, height, width = dense.shape
    count = 0
    for z in range(first, stop):
        for y in range(1, height - 1):
            row = dense[z, y]
            for axis in range(3):
                behind = dense[z + (axis == 0), y + (axis == 1)]
                shift = int(axis == 2)
                last_a, last_b, last_x = 0, 0, -1
                for x in range(1, width - 1):
                    a, b = row[x], behind[x + shift]
                    if a == b or a == 0 or b == 0:
                        continue
                    if a == last_a and b == last_b and x == last_x + 1:
                        if found.shape[0]:
                            found[count - 1, 3] += 1
                    else:
                        if found.shape[0]:
                            found[count, 0], found[count, 1], found[count, 2], found[count, 3] = a, b, axis, 1
                        count += 1
                    last_a, last_b, last_x = a, b, x
    return count
