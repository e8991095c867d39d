"""A surface for every object of a label image, block by block, the same for any blocks.

Layers of blocks are looked at one after the other, from z = 0 on. In a layer every block gives its triangles
(`kernels.mesh`); the vertices in the plane between two layers are the same for both, and are numbered by the first:

    layer k      | ... own vertices ... | those of its last plane |
    layer k + 1                         | those of its first plane, numbered already | ... own vertices ... |

So an object's vertices stand in the order of their edges in the volume and its triangles in the order of the cells,
which no block has a part in. One block of labels and the surfaces in one layer are in memory, about 200 bytes per
triangle.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import UsageError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.kernels.mesh import (
    MARGIN,
    Triangles,
    Vertices,
    block_triangles,
    first_edge_of_plane,
    merge_triangles,
    merge_vertices,
)
from chunkflow.storage.meshes import MeshFacts, MeshFormat, MeshWriter
from chunkflow.storage.volume import Volume

BLOCK: Triple = (64, 256, 256)


def export_meshes(
    labels: Volume,
    folder: str | Path,
    *,
    region: Box | None = None,
    objects: Collection[int] | None = None,
    format: MeshFormat = "ply",
    block: Triple = BLOCK,
    on_block: Callable[[int, int], None] | None = None,
) -> list[MeshFacts]:
    """Write the surface of every object as a file of its own, in um (x, y, z) in the frame of the image.

    Parameters
    ----------
    region : voxels that count, all by default; an object that it cuts is closed by the cut.
    objects : ids of those wanted, all by default.
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
    with MeshWriter(folder, format) as writer:
        for z in cells[0]:
            parts: list[tuple[Triangles, Vertices]] = []
            for y in cells[1]:
                for x in cells[2]:
                    parts += _block(labels, region, wanted, (z, y, x), block)
                    done += 1
                    if on_block is not None:
                        on_block(done, total)
            if parts:
                _add_layer(writer, parts, z, labels, region)
        facts = writer.finish()
    if wanted is not None and (absent := set(wanted.tolist()) - {mesh.object_id for mesh in facts}):
        listed = ", ".join(map(str, sorted(absent)[:8]))
        raise UsageError(f"{labels.path} has no object {listed} in the region", "See tables/objects for their ids")
    return facts


def _block(
    labels: Volume, region: Box, wanted: NDArray[np.uint64] | None, start: Triple, block: Triple
) -> Iterator[tuple[Triangles, Vertices]]:
    """The surfaces in one block of cells; nothing where there are none."""
    stop = triple(tuple(min(a + step, n) for a, step, n in zip(start, block, region.shape, strict=True)))
    corners = Box(start, triple(tuple(b + 1 for b in stop))).grow((MARGIN,) * 3)
    inside = corners.clip(Box.of_shape(region.shape))
    read = labels.read(Box(_sum(inside.start, region.start), _sum(inside.stop, region.start)))
    if wanted is not None:
        read = np.where(np.isin(read, wanted), read, 0)
    if not read.any():
        return
    voxels = np.zeros(corners.shape, np.uint64 if read.dtype.kind == "i" else read.dtype)
    voxels[inside.relative_to(corners.start).slices] = read
    found = block_triangles(voxels, start, region.shape)
    if len(found[0].label):
        yield found


def _sum(a: Triple, b: Triple) -> Triple:
    return triple(tuple(p + q for p, q in zip(a, b, strict=True)))


def _add_layer(
    writer: MeshWriter, parts: list[tuple[Triangles, Vertices]], z: int, labels: Volume, region: Box
) -> None:
    """Number the vertices of one layer of blocks and hand its surfaces over, object by object."""
    triangles = merge_triangles([part[0] for part in parts])
    vertices = merge_vertices([part[1] for part in parts])
    voxel, origin = np.array(labels.scale.voxel_um), np.array(labels.scale.translation_um)
    um = (vertices.place + region.start) * voxel + origin
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
        writer.add(object_id, um[own][shared:, ::-1].astype(np.float32), numbers)
