"""Surfaces as files: PLY or STL for every object, or Neuroglancer's precomputed meshes.

    ply            ID.ply, binary, x y z in um                MeshLab, Blender, ParaView, 3D Slicer, trimesh
                   (double, where single precision would move vertices: a stage is centimetres from its origin)
    stl            ID.stl, binary, x y z in um, no vertices shared         what prints
    precomputed    `info`, ID:0 and ID.mesh, x y z in nm      Neuroglancer, as a source `precomputed://URL`

Meshes come in pieces, object by object and plane after plane. Pieces wait in memory up to `HELD_BYTES`, then in files
beside the result; a mesh is put together from them at the end, so that any number of objects fits, of any number of
triangles; the vertices of one object are in memory. The bytes depend on vertices and triangles alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import UsageError
from chunkflow.storage.files import atomic_path, disk_full_reported, write_atomic

MeshFormat: TypeAlias = Literal["ply", "stl", "precomputed"]

FORMATS: tuple[MeshFormat, ...] = ("ply", "stl", "precomputed")
HELD_BYTES = 1 << 28
NM_PER_UM = 1000.0
NEAR_ENOUGH = 1e-4
"""Of the shortest side of an object: how far single precision may move a vertex of its PLY file."""
_MOST_VERTICES = 2**31
_AT_ONCE = 1 << 18  # triangles; fixed, so that the sum of their volumes is the same however they came
_PLY_FACE = np.dtype([("count", "u1"), ("vertices", "<i4", 3)])
_STL_FACE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


Place: TypeAlias = Callable[[int, NDArray[Any], NDArray[np.int32]], NDArray[np.float64]]
"""From an object's id, the rows of its vertices and its triangles to (V, 3) x, y, z in um."""


def _as_it_is(object_id: int, rows: NDArray[Any], triangles: NDArray[np.int32]) -> NDArray[np.float64]:
    return np.asarray(rows, np.float64)


@dataclass(frozen=True, slots=True)
class MeshFacts:
    """What the mesh of one object came out as."""

    object_id: int
    vertices: int
    triangles: int
    volume_um3: float
    """Enclosed by the triangles, each seen from outside counter-clockwise."""


@dataclass(slots=True)
class _Waiting:
    """Pieces of one object that are not in a file yet, and what there is in all."""

    row: tuple[np.dtype[Any], int]
    """Type and length of the row of a vertex."""
    vertices: list[NDArray[Any]] = field(default_factory=list)
    triangles: list[NDArray[np.int32]] = field(default_factory=list)
    vertex_count: int = 0
    triangle_count: int = 0


class MeshWriter(AbstractContextManager["MeshWriter"]):
    """Collects pieces of meshes, and writes a file for each object on `finish`.

    Vertices are rows of x, y, z in um, or of whatever `place` makes these of when the whole mesh of an object is there.
    """

    def __init__(self, folder: str | Path, format: MeshFormat = "ply", *, place: Place = _as_it_is) -> None:
        if format not in FORMATS:
            raise UsageError(f"meshes cannot be written as {format!r}", f"Choose one of {', '.join(FORMATS)}")
        self._folder, self._format, self._place = Path(folder), format, place
        self._objects: dict[int, _Waiting] = {}
        self._held = 0
        with disk_full_reported(folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._spool = Path(mkdtemp(prefix=".pieces-", dir=self._folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        rmtree(self._spool, ignore_errors=True)

    def vertices_of(self, object_id: int) -> int:
        """How many vertices an object has so far: the number of the next one."""
        found = self._objects.get(object_id)
        return 0 if found is None else found.vertex_count

    def add(self, object_id: int, rows: NDArray[Any], triangles: NDArray[np.int64]) -> None:
        """Append (n, k) vertices, and (m, 3) triangles of vertices that count from the object's first.

        Raises
        ------
        UsageError : if the object has more vertices than a file can name.
        """
        known = self._objects.setdefault(object_id, _Waiting((rows.dtype, rows.shape[1])))
        known.vertices.append(np.ascontiguousarray(rows))
        known.triangles.append(np.ascontiguousarray(triangles, "<i4"))
        known.vertex_count += len(rows)
        known.triangle_count += len(triangles)
        if known.vertex_count >= _MOST_VERTICES:
            raise UsageError(
                f"the surface of object {object_id} has more than {_MOST_VERTICES} vertices",
                "Export a part of it with --region",
            )
        self._held += rows.nbytes + triangles.size * 4
        if self._held > HELD_BYTES:
            self._write_pieces()

    def finish(self) -> list[MeshFacts]:
        """Write every object's file; the facts of each, by object id."""
        facts = []
        for object_id in sorted(self._objects):
            rows, triangles = self._whole(object_id)
            vertices = self._place(object_id, rows, triangles)
            self._write(object_id, vertices, triangles)
            volume = _volume(vertices, triangles)
            facts.append(MeshFacts(object_id, len(vertices), len(triangles), volume))
        if self._format == "precomputed":
            write_atomic(self._folder / "info", json.dumps({"@type": "neuroglancer_legacy_mesh"}).encode())
        return facts

    def _write_pieces(self) -> None:
        with disk_full_reported(self._spool):
            for object_id, waiting in self._objects.items():
                for ending, pieces in (("vertices", waiting.vertices), ("triangles", waiting.triangles)):
                    if pieces:
                        with self._piece(object_id, ending).open("ab") as file:
                            for piece in pieces:
                                file.write(piece.tobytes())
                        pieces.clear()
        self._held = 0

    def _piece(self, object_id: int, ending: str) -> Path:
        return self._spool / f"{object_id}.{ending}"

    def _whole(self, object_id: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """All vertices and triangles of an object, from memory, or mapped from the file of its pieces."""
        waiting = self._objects[object_id]
        if not self._piece(object_id, "vertices").exists():
            return np.concatenate(waiting.vertices), np.concatenate(waiting.triangles)
        self._write_pieces()
        kind, length = waiting.row
        vertices = np.memmap(self._piece(object_id, "vertices"), kind, "r", shape=(waiting.vertex_count, length))
        triangles = np.memmap(self._piece(object_id, "triangles"), "<i4", "r", shape=(waiting.triangle_count, 3))
        return vertices, triangles

    def _write(self, object_id: int, vertices: NDArray[np.float64], triangles: NDArray[np.int32]) -> None:
        write = {"ply": _write_ply, "stl": _write_stl, "precomputed": _write_fragment}[self._format]
        name = f"{object_id}.{'mesh' if self._format == 'precomputed' else self._format}"
        # Not synced one by one: as SWC files, they are many, and can be written again.
        with atomic_path(self._folder / name, durable=False) as partial, partial.open("wb") as file:
            write(file, object_id, vertices, triangles)
        if self._format == "precomputed":
            manifest = json.dumps({"fragments": [name]}).encode()
            write_atomic(self._folder / f"{object_id}:0", manifest, durable=False)


def _parts(triangles: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
    for start in range(0, len(triangles), _AT_ONCE):
        yield triangles[start : start + _AT_ONCE]


def _volume(vertices: NDArray[np.float64], triangles: NDArray[np.int32]) -> float:
    """Divergence theorem: tetrahedra from the first vertex to every triangle."""
    total = 0.0
    for part in _parts(triangles):
        a, b, c = (vertices[part[:, k]] - vertices[0] for k in range(3))
        total += float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum()) / 6
    return total


def _write_ply(file: BinaryIO, object_id: int, vertices: NDArray[np.float64], triangles: NDArray[np.int32]) -> None:
    single = vertices.astype("<f4")
    side = np.ptp(vertices, axis=0).min()
    is_fine = np.abs(single - vertices).max() <= NEAR_ENOUGH * side
    kind, stored = ("float", single) if is_fine else ("double", vertices)
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"comment surface of object {object_id}, written by chunkflow\ncomment unit micrometer\n"
        f"element vertex {len(vertices)}\n"
        + "".join(f"property {kind} {axis}\n" for axis in "xyz")
        + f"element face {len(triangles)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    file.write(header.encode("ascii"))
    _write_array(file, stored)
    for part in _parts(triangles):
        faces = np.empty(len(part), _PLY_FACE)
        faces["count"], faces["vertices"] = 3, part
        file.write(faces.tobytes())


def _write_stl(file: BinaryIO, object_id: int, vertices: NDArray[np.float64], triangles: NDArray[np.int32]) -> None:
    file.write(f"surface of object {object_id} in micrometers, written by chunkflow".encode("ascii").ljust(80))
    file.write(np.array([len(triangles)], "<u4").tobytes())
    for part in _parts(triangles):
        faces = np.zeros(len(part), _STL_FACE)
        corners = vertices[part].astype("<f4")
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        length = np.linalg.norm(normal, axis=1, keepdims=True)
        faces["normal"] = np.divide(normal, length, out=np.zeros_like(normal), where=length > 0)
        faces["corners"] = corners
        file.write(faces.tobytes())


def _write_fragment(
    file: BinaryIO, object_id: int, vertices: NDArray[np.float64], triangles: NDArray[np.int32]
) -> None:
    file.write(np.array([len(vertices)], "<u4").tobytes())
    for start in range(0, len(vertices), _AT_ONCE):
        file.write((vertices[start : start + _AT_ONCE] * NM_PER_UM).astype("<f4").tobytes())
    _write_array(file, triangles)


def _write_array(file: BinaryIO, values: NDArray[Any]) -> None:
    for start in range(0, len(values), _AT_ONCE):
        file.write(values[start : start + _AT_ONCE].tobytes())
