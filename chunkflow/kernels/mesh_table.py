"""The triangles of a marching-cubes cell, for each of the 256 ways its corners can lie in an object or outside.

Nothing is typed in: on each face of the cell the crossings of its sides are joined in pairs by one rule, which looks at
the four corners of that face alone; the segments of the six faces close to loops, and loops are cut into triangles.

    corner 4 z + 2 y + x of the cell              edge 3 corner + axis, from its lower corner

Two cells that share a face see the same corners, so the same segments: no cracks, without looking at values. On a face
whose corners alternate the object is joined across the diagonal (18-connected; outside 6-connected). A cut of a loop
never joins two crossings of one face, where the cell behind it could make the same edge again; so every edge lies in
two triangles, and every surface is closed. Of such cuts a fan, the most triangles around one crossing, is taken: no
triangle then passes through another wherever on their edges the crossings lie (of some other cuts they do).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Loop = tuple[int, ...]

CORNERS = tuple((z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1))
MOST = 5
"""Triangles of a cell, at most."""


@cache
def triangle_table() -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """How many triangles each case has, (256,), and their edges, (256, MOST, 3).

    Bit c of a case says that corner c is in the object. Seen from outside, corners run counter-clockwise in the frame
    x, y, z.
    """
    counts = np.zeros(256, np.int8)
    edges = np.zeros((256, MOST, 3), np.int8)
    for case in range(256):
        triangles = [triangle for loop in _loops(case) for triangle in _cut(loop)]
        counts[case] = len(triangles)
        edges[case, : len(triangles)] = triangles or np.zeros((0, 3))
    return counts, edges


@cache
def _faces() -> tuple[Loop, ...]:
    """The corners of each face, counter-clockwise in x, y, z when seen from outside."""
    return tuple(_face(axis, side) for axis in range(3) for side in (0, 1))


def _face(axis: int, side: int) -> Loop:
    first, second = (axis + 1) % 3, (axis + 2) % 3
    corners = []
    for a, b in ((0, 0), (1, 0), (1, 1), (0, 1)):
        place = [0, 0, 0]
        place[axis], place[first], place[second] = side, a, b
        corners.append(4 * place[0] + 2 * place[1] + place[2])
    # z, y, x is a left-handed order of x, y, z: the side at 1 is the one that runs clockwise
    return tuple(corners) if side else tuple(corners[::-1])


def _edge(a: int, b: int) -> int:
    return 3 * min(a, b) + {4: 0, 2: 1, 1: 2}[abs(a - b)]


def _loops(case: int) -> list[Loop]:
    """Loops of edges around the parts of a cell that lie in the object."""
    after: dict[int, int] = {}
    for face in _faces():
        crossings = [
            (_edge(a, b), bool(case >> a & 1))
            for a, b in zip(face, (*face[1:], face[0]), strict=True)
            if (case >> a ^ case >> b) & 1
        ]
        for k, (edge, leaves) in enumerate(crossings):
            if leaves:  # and the next crossing enters: what lies between, outside, is cut off
                after[edge] = crossings[(k + 1) % len(crossings)][0]
    loops = []
    while after:
        loop = [min(after)]
        while (following := after.pop(loop[-1])) != loop[0]:
            loop.append(following)
        loops.append(tuple(loop))
    return loops


def _cut(loop: Loop) -> list[Loop]:
    """The triangles of a loop: those of the first way of cutting it most like a fan in which no cut lies in a face."""
    around = {frozenset(pair) for pair in zip(loop, (*loop[1:], loop[0]), strict=True)}
    found = []
    for triangles in _cuts(loop):
        sides = {frozenset(pair) for triangle in triangles for pair in combinations(triangle, 2)}
        if not any(_share_a_face(*pair) for pair in sides - around):
            found.append(triangles)
    return max(found, key=_most_around_one)


def _most_around_one(triangles: list[Loop]) -> int:
    return max(Counter(edge for triangle in triangles for edge in triangle).values())


def _cuts(loop: Loop) -> Iterator[list[Loop]]:
    """Every way of cutting a loop into triangles."""
    if len(loop) == 3:
        yield [loop]
        return
    first, last = loop[0], loop[-1]
    for k in range(1, len(loop) - 1):
        for left in _cuts(loop[: k + 1]) if k > 1 else [[]]:
            for right in _cuts(loop[k:]) if k < len(loop) - 2 else [[]]:
                yield [(first, loop[k], last), *left, *right]


@cache
def _sides(edge: int) -> frozenset[int]:
    """The faces that an edge lies in."""
    a, b = edge // 3, edge // 3 + (4, 2, 1)[edge % 3]
    return frozenset(number for number, face in enumerate(_faces()) if a in face and b in face)


def _share_a_face(a: int, b: int) -> bool:
    return bool(_sides(a) & _sides(b))
