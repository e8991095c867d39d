"""A surface for every object of a label image, block by block, the same for any blocks.

Layers of blocks are looked at one after the other, from z = 0 on. In a layer every block gives its triangles
(`kernels.mesh`); the vertices in the plane between two layers are the same for both, and are numbered by the first:

    layer k      | ... own vertices ... | those of its last plane |
    layer k + 1                         | those of its first plane, numbered already | ... own vertices ... |

So an object's vertices stand in the order of their edges in the volume and its triangles in the order of the cells,
which no block has a part in. When all are known, the vertices of an object are moved until it holds the volume of its
voxels (`kernels.mesh_volume`), and become places. One block of labels and the surfaces in one layer are in memory,
about 200 bytes per triangle; at the end those of one object, about 90.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import UsageError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.kernels.mesh import (
    MARGIN,
    STEPS,
    Surfaces,
    block_surfaces,
    first_edge_of_plane,
    merge_triangles,
    merge_vertices,
)
from chunkflow.kernels.mesh_volume import amount_of, place_vertices
from chunkflow.storage.meshes import MeshFacts, MeshFormat, MeshWriter
from chunkflow.storage.volume import Volume

MeshSurface: TypeAlias = Literal["volume", "halfway"]

SURFACES: tuple[MeshSurface, ...] = ("volume", "halfway")
BLOCK: Triple = (64, 256, 256)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the vertices of an object lie once its whole mesh is known: the rows of the writer are edge and reach."""

    labels: Volume
    region: Box
    surface: MeshSurface
    voxels: Counter[int] = field(default_factory=Counter)
    """Of each object, as blocks are looked at."""

    def __call__(self, object_id: int, rows: NDArray[Any], triangles: NDArray[Any]) -> NDArray[np.float64]:
        """(V, 3) x, y, z in um."""
        shape, edge, reach = self.region.shape, np.ascontiguousarray(rows[:, 0]), np.ascontiguousarray(rows[:, 1])
        amount = 0.0
        if self.surface == "halfway":
            reach = np.sign(reach) * (STEPS // 2)
        else:
            amount = amount_of(edge, reach, np.asarray(triangles), shape, self.voxels[object_id])
        place = place_vertices(edge, reach, shape, amount) + self.region.start
        um = place * np.array(self.labels.scale.voxel_um) + np.array(self.labels.scale.translation_um)
        return np.ascontiguousarray(um[:, ::-1])


def export_meshes(
    labels: Volume,
    folder: str | Path,
    *,
    region: Box | None = None,
    objects: Collection[int] | None = None,
    format: MeshFormat = "ply",
    surface: MeshSurface = "volume",
    block: Triple = BLOCK,
    on_block: Callable[[int, int], None] | None = None,
) -> list[MeshFacts]:
    """Write the surface of every object as a file of its own, in um (x, y, z) in the frame of the image.

    Parameters
    ----------
    region : voxels that count, all by default; an object that it cuts is closed by the cut.
    objects : ids of those wanted, all by default.
    surface : "volume" holds the volume of the object's voxels and is smooth where the object is wide; "halfway" is
        plain marching cubes, whose vertices lie half-way between voxel centres, which takes from what is thin (a single
        voxel keeps a sixth).
    block : cells of a block; changes no byte.
    on_block : called with blocks done and blocks in all.

    Raises
    ------
    UsageError : the volume holds no integers, or one of `objects` is not there.
    """
    if labels.dtype.kind not in "biu":
        raise UsageError(f"{labels.path} holds {labels.dtype}, not labels", "Give an image of object ids")
    region = labels.box if region is None else region
    wanted = None if objects is None else np.array(sorted(objects), np.uint64)
    cells = [range(-1, n, step) for n, step in zip(region.shape, block, strict=True)]
    total, done = int(np.prod([len(starts) for starts in cells])), 0
    places = _Places(labels, region, surface)
    with MeshWriter(folder, format, place=places) as writer:
        for z in cells[0]:
            parts: list[Surfaces] = []
            for y in cells[1]:
                for x in cells[2]:
                    found = _block(labels, region, wanted, (z, y, x), block)
                    if found is not None:
                        places.voxels.update(found.voxels)
                        parts.append(found)
                    done += 1
                    if on_block is not None:
                        on_block(done, total)
            if parts:
                _add_layer(writer, parts, z, region)
        facts = writer.finish()
    if wanted is not None and (absent := set(wanted.tolist()) - {mesh.object_id for mesh in facts}):
        listed = ", ".join(map(str, sorted(absent)[:8]))
        raise UsageError(f"{labels.path} has no object {listed} in the region", "See tables/objects for their ids")
    return facts


def _block(
    labels: Volume, region: Box, wanted: NDArray[np.uint64] | None, start: Triple, block: Triple
) -> Surfaces | None:
    """The surfaces in one block of cells; None where there is no object."""
    stop = triple(tuple(min(a + step, n) for a, step, n in zip(start, block, region.shape, strict=True)))
    corners = Box(start, triple(tuple(b + 1 for b in stop))).grow((MARGIN,) * 3)
    inside = corners.clip(Box.of_shape(region.shape))
    read = labels.read(Box(_sum(inside.start, region.start), _sum(inside.stop, region.start)))
    if wanted is not None:
        read = np.where(np.isin(read, wanted), read, 0)
    if not read.any():
        return None
    voxels = np.zeros(corners.shape, np.uint64 if read.dtype.kind == "i" else read.dtype)
    voxels[inside.relative_to(corners.start).slices] = read
    return block_surfaces(voxels, start, region.shape)


def _sum(a: Triple, b: Triple) -> Triple:
    return triple(tuple(p + q for p, q in zip(a, b, strict=True)))


def _add_layer(writer: MeshWriter, parts: Sequence[Surfaces], z: int, region: Box) -> None:
    """Number the vertices of one layer of blocks and hand its surfaces over, object by object."""
    triangles = merge_triangles([part.triangles for part in parts])
    vertices = merge_vertices([part.vertices for part in parts])
    rows = np.stack([vertices.edge, vertices.reach], axis=1)
    known_before = first_edge_of_plane(z, region.shape) + (2 * region.shape[1] + 3) * (2 * region.shape[2] + 3)
    present, triangle_starts = np.unique(triangles.label, return_index=True)
    triangle_bounds = [*triangle_starts.tolist(), len(triangles.label)]
    vertex_bounds = [*np.searchsorted(vertices.label, present).tolist(), len(vertices.label)]
    for k, object_id in enumerate(present.tolist()):
        own = slice(vertex_bounds[k], vertex_bounds[k + 1])
        edges = vertices.edge[own]
        shared = int(np.searchsorted(edges, known_before))
        first = writer.vertices_of(object_id) - shared
        numbers = first + np.searchsorted(edges, triangles.edge[triangle_bounds[k] : triangle_bounds[k + 1]])
        writer.add(object_id, rows[own][shared:], numbers)
