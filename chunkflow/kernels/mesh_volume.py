"""Surfaces that hold exactly the volume of their voxels.

    object's voxel o====NEAREST----first----1 - NEAREST====o neighbour       where a vertex may lie on its edge
                          -1         0          1                            amount: how far it is moved, of what it may

One amount for an object moves all its vertices, outwards above 0, inwards below. On either side of 0 places are linear
in the amount, so the volume is a cubic polynomial of it, known from four amounts, and where that is the volume of the
voxels is found without trying.

**There is always such an amount.** With all vertices at one part of their edges, each of the 256 kinds of cell holds
its share of the voxels at its corners (an eighth each) at a part between 0.0914 (one corner missing) and 0.9086 (one
corner: (3/4)^(1/3)). `NEAREST` lies beyond: so every object holds less than its voxels at -1, and more at 1.

**Nothing folds.** A triangle stays in its cell, and those of a cell do not pass through each other wherever on their
edges their vertices lie (`mesh_table`). Meshes of two objects that touch are independent, and may overlap where both
are thin. One amount for an object also means that a thin part of a wide object keeps the volume it has at 0: a line of
voxels 98 %, a plane 116 %.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels.mesh import STEPS, Triple

NEAREST = 1 / 16
"""Part of an edge that is left at either end."""
HALVINGS = 50


def amount_of(
    edge: NDArray[np.int64], reach: NDArray[np.int64], triangles: NDArray[Any], shape: Triple, voxels: int
) -> float:
    """The amount that gives the mesh of an object the volume of its voxels.

    Parameters
    ----------
    edge, reach : (V,) as in `mesh.Vertices`.
    triangles : (N, 3) numbers of vertices, a closed surface.
    shape : voxels of the volume that edges are numbered in.
    voxels : of the object.
    """
    lengths = np.array(shape, np.int64)
    at_rest = _volume(edge, reach, triangles, lengths, 0.0) - voxels
    side = 1.0 if at_rest < 0 else -1.0
    thirds = [at_rest, *(_volume(edge, reach, triangles, lengths, side * k / 3) - voxels for k in (1, 2, 3))]
    inner, outer = 0.0, 1.0  # the missing volume changes its sign between them
    for _ in range(HALVINGS):
        middle = (inner + outer) / 2
        if (_cubic(thirds, middle) < 0) == (at_rest < 0):
            inner = middle
        else:
            outer = middle
    return side * (inner + outer) / 2


def _cubic(thirds: list[float], at: float) -> float:
    """The cubic polynomial with these values at 0, 1/3, 2/3 and 1 (Newton's forward differences)."""
    a, b, c, d = thirds
    t = 3 * at
    return a + t * (b - a) + t * (t - 1) / 2 * (c - 2 * b + a) + t * (t - 1) * (t - 2) / 6 * (d - 3 * c + 3 * b - a)


def place_vertices(
    edge: NDArray[np.int64], reach: NDArray[np.int64], shape: Triple, amount: float = 0.0
) -> NDArray[np.float64]:
    """Places of vertices, (V, 3) z, y, x in voxels, 0 at the centre of voxel 0."""
    place = np.empty((len(edge), 3))
    _place(edge, reach, np.array(shape, np.int64), amount, place)
    return place


@njit(cache=True, nogil=True)
def _at(edge, reach, shape, amount, out):  # type: ignore[no-untyped-def]
    rows, columns = 2 * shape[1] + 3, 2 * shape[2] + 3
    ez, ey, ex = edge // (rows * columns), edge // columns % rows, edge % columns
    part = abs(reach) / STEPS
    if amount > 0:
        part += amount * (1 - NEAREST - part)
    else:
        part += amount * (part - NEAREST)
    if reach < 0:
        part = 1 - part
    out[0] = ez // 2 - 1 + ez % 2 * part
    out[1] = ey // 2 - 1 + ey % 2 * part
    out[2] = ex // 2 - 1 + ex % 2 * part


@njit(cache=True, nogil=True)
def _place(edge, reach, shape, amount, place):  # type: ignore[no-untyped-def]
    for k in range(len(edge)):
        _at(edge[k], reach[k], shape, amount, place[k])


@njit(cache=True, nogil=True)
def _volume(edge, reach, triangles, shape, amount):  # type: ignore[no-untyped-def]
    """Divergence theorem, tetrahedra from the first vertex: one sum in the order of the triangles."""
    origin, a, b, c = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    _at(edge[0], reach[0], shape, amount, origin)
    total = 0.0
    for k in range(len(triangles)):
        i, j, m = triangles[k, 0], triangles[k, 1], triangles[k, 2]
        _at(edge[i], reach[i], shape, amount, a)
        _at(edge[j], reach[j], shape, amount, b)
        _at(edge[m], reach[m], shape, amount, c)
        a -= origin
        b -= origin
        c -= origin
        # counter-clockwise in x, y, z, so clockwise in z, y, x
        total -= (
            a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0])
        )
    return total / 6
