"""Skeleton graphs as files: GraphML, SWC and Neuroglancer's precomputed skeletons.

All three are written from parts of whole objects: the rows of their nodes and branches, ids counting on from part to
part and objects increasing, and the branches as curves: branch k of a part is `points_um[offsets[k]:offsets[k + 1]]` in
z, y, x, its first point at node_a and its last at node_b.

    GraphML       the multigraph with every column, without the curves; up to about 10^6 branches
    SWC           one file per object, a tree: loops are cut, and the header says where; up to about 10^4 objects
    precomputed   every object in a few shard files; any number of objects

Parts are written in pieces of whole objects (`storage.graph_pieces`), with about 0.1 kB per row of a piece, and one
shard. Of an object that is larger than a piece columns are read in slices; its SWC (`storage.swc`) holds 0.2 kB per
branch, and none per point. Files are replaced whole, and their bytes depend on the tables alone, not on the parts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from chunkflow.storage.files import atomic_path, write_atomic
from chunkflow.storage.graph_pieces import (
    Numbered,
    Part,
    Piece,
    branch_pieces,
    first_of,
    grouped,
    row_slices,
    whole_objects,
)
from chunkflow.storage.record_columns import Column

Columns = Mapping[str, Column]
Encoded = tuple[int, bytes | Iterable[bytes]]
"""An id and what is stored of it, whole or in pieces."""
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NM_PER_UM = 1000.0
SHARDING = "neuroglancer_uint64_sharded_v1"
SKELETONS_PER_MINISHARD = 1024
"""A viewer reads a minishard's index, 24 bytes per skeleton, before the first skeleton in it."""
MAX_MINISHARD_BITS = 3
_ROWS = 10_000


def write_graphml(path: str | Path, parts: Sequence[Part]) -> None:
    """Write the multigraph with all columns as attributes; the ids are node_id and, for edges, branch_id.

    `networkx.read_graphml(path, node_type=int, force_multigraph=True)` gives it back with edge key = branch_id (without
    `force_multigraph` networkx makes a simple graph of one that has no parallel edges). NaN is written as NaN, which
    xs:double allows. Every part is looked at twice.
    """
    with atomic_path(path) as made, made.open("w", encoding="utf-8", newline="\n") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n')
        file.writelines(_graphml_keys(parts))
        file.write('  <graph edgedefault="undirected">\n')
        for part in parts:
            for row in _text_rows(part.nodes):
                file.write(f'    <node id="{row["node_id"]}">{_data("n", row)}</node>\n')
        for part in parts:
            for row in _text_rows(part.branches):
                ends = f'source="{row["node_a"]}" target="{row["node_b"]}"'
                file.write(f'    <edge id="{row["branch_id"]}" {ends}>{_data("e", row)}</edge>\n')
        file.write("  </graph>\n</graphml>\n")


def _graphml_keys(parts: Sequence[Part]) -> Iterator[str]:
    """The lines that declare the columns; one part is held at a time, from behind up to one that holds nodes."""
    first = parts[0]
    labels = (parts[k].nodes.get("object_id", np.zeros(1)) for k in range(len(parts) - 1, -1, -1))
    largest = next((int(ids[len(ids) - 1 :].max()) for ids in labels if len(ids)), 0)
    for prefix, target, columns in (("n", "node", first.nodes), ("e", "edge", first.branches)):
        for k, (name, values) in enumerate(columns.items()):
            kind = _graphml_type(values, largest)
            yield f'  <key id="{prefix}{k}" for="{target}" attr.name="{name}" attr.type="{kind}"/>\n'


def write_precomputed(folder: str | Path, parts: Iterable[Part], *, objects: int, largest: int) -> None:
    """Write sharded precomputed skeletons: vertices x, y, z in nm with their radius in nm, one record per object id.

    A vertex is where the point is in um, so the centre of voxel i is at i * scale (+ translation), as in an OME-Zarr
    image. The format is Neuroglancer's `neuroglancer_skeletons` with `neuroglancer_uint64_sharded_v1`, identity hash,
    without compression: the bytes then depend on no compressor. A minishard holds a range of ids.

    Parameters
    ----------
    objects : of all parts; largest : of their labels.
    """
    folder = Path(folder)
    skeletons = (skeleton for part in parts for piece in whole_objects(part) for skeleton in _skeletons(piece))
    info = {
        "@type": "neuroglancer_skeletons",
        "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
        "vertex_attributes": [{"id": "radius", "data_type": "float32", "num_components": 1}],
        "sharding": write_sharded(folder, skeletons, count=objects, largest=largest),
    }
    write_atomic(folder / "info", json.dumps(info, indent=2).encode())


def write_sharded(folder: Path, records: Iterable[Encoded], *, count: int, largest: int) -> dict[str, Any]:
    """Write records, by their ids, into a few shard files; returns the specification for `info`.

    Parameters
    ----------
    records : id and content, ids increasing; content whole or one piece behind the other.
    count : how many there are; largest : of the ids.
    """
    bits = _shard_bits(count)
    minishard_bits = min(bits, MAX_MINISHARD_BITS)
    shift = max(0, largest.bit_length() - bits) if count else 0
    for shard, members in groupby(records, key=lambda record: record[0] >> (shift + minishard_bits)):
        name = f"{shard:x}".zfill(math.ceil((bits - minishard_bits) / 4))
        with atomic_path(folder / f"{name}.shard") as made, made.open("wb") as file:
            _write_shard(file, members, shift, minishard_bits)
    return {
        "@type": SHARDING,
        "preshift_bits": shift,
        "hash": "identity",
        "minishard_bits": minishard_bits,
        "shard_bits": bits - minishard_bits,
        "minishard_index_encoding": "raw",
        "data_encoding": "raw",
    }


def _graphml_type(values: Column, largest: int) -> str:
    """The type of a column whose unsigned values go up to `largest`; GraphML's longs are signed."""
    if values.dtype.kind == "u" and largest >= 2**63:
        return "string"
    return {"i": "long", "u": "long", "f": "double", "b": "boolean"}.get(values.dtype.kind, "string")


def _text_rows(columns: Columns) -> Iterator[dict[str, str]]:
    """Rows as text, the shortest that reads back as the same number."""
    count = len(next(iter(columns.values()))) if columns else 0
    for start in range(0, count, _ROWS):
        chunk = [_texts(values[start : start + _ROWS]) for values in columns.values()]
        for row in zip(*chunk, strict=True):
            yield dict(zip(columns, row, strict=True))


def _texts(values: NDArray[Any]) -> list[str]:
    if values.dtype.kind == "f":
        return [repr(value) if math.isfinite(value) else _not_finite(value) for value in values.tolist()]
    return [escape(str(value)) for value in values.tolist()]


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "INF" if value > 0 else "-INF"


def _data(prefix: str, row: dict[str, str]) -> str:
    return "".join(f'<data key="{prefix}{k}">{text}</data>' for k, text in enumerate(row.values()))


@dataclass(frozen=True, slots=True, eq=False)
class _Lines:
    """Every object's vertices and line segments; object k has those from `[bounds[k]:bounds[k + 1]]`."""

    labels: NDArray[np.uint64]
    xyz_nm: NDArray[np.float32]
    radius_nm: NDArray[np.float32]
    vertex_bounds: Ints
    pairs: NDArray[np.uint32]
    """(M, 2) vertex numbers that count from 0 in each object."""
    pair_bounds: Ints

    def skeletons(self) -> Iterator[tuple[int, bytes]]:
        """Label and encoded skeleton of every object, by label."""
        return ((label, self._record(k)) for k, label in enumerate(self.labels.tolist()))

    def _record(self, k: int) -> bytes:
        vertices = slice(self.vertex_bounds[k], self.vertex_bounds[k + 1])
        pairs = self.pairs[self.pair_bounds[k] : self.pair_bounds[k + 1]]
        counts = np.array([vertices.stop - vertices.start, len(pairs)], "<u4")
        parts = (counts, self.xyz_nm[vertices], pairs, self.radius_nm[vertices])
        return b"".join(part.tobytes() for part in parts)


def _skeletons(piece: Piece) -> Iterator[Encoded]:
    """Label and encoded skeleton of every object of a piece, by label."""
    if piece.is_held:
        yield from _lines(Numbered(piece)).skeletons()
    else:
        yield int(piece.nodes["object_id"][:1][0]), _encoded(piece)


def _encoded(piece: Piece) -> Iterator[bytes]:
    """The skeleton of one object, slice by slice, as `_Lines` has it."""
    nodes, branches, points = (
        len(column) for column in (piece.nodes["node_id"], piece.branches["branch_id"], piece.curves["points_um"])
    )
    yield np.array([nodes + points - 2 * branches, points - branches], "<u4").tobytes()
    for rows in row_slices({name: piece.nodes[name] for name in ("x_um", "y_um", "z_um")}):
        yield (np.stack(list(rows.values()), axis=1) * NM_PER_UM).astype("<f4").tobytes()
    for some in branch_pieces(piece):
        yield (some.curves["points_um"][_is_inner(some)][:, ::-1] * NM_PER_UM).astype("<f4").tobytes()
    first_node, before = first_of(piece.nodes["node_id"]), nodes
    for some in branch_pieces(piece):
        is_inner, offsets = _is_inner(some), some.curves["offsets"]
        vertex = before + np.cumsum(is_inner) - 1
        before = int(vertex[-1]) + 1
        vertex[offsets[:-1]], vertex[offsets[1:] - 1] = (some.branches[n] - first_node for n in ("node_a", "node_b"))
        start = np.ones(len(vertex), np.bool_)
        start[offsets[1:] - 1] = False
        index = np.flatnonzero(start)
        yield np.stack((vertex[index], vertex[index + 1]), axis=1).astype("<u4").tobytes()
    for rows in row_slices({"radius_um": piece.nodes["radius_um"]}):
        yield (rows["radius_um"] * NM_PER_UM).astype("<f4").tobytes()
    for some in branch_pieces(piece):
        yield (some.curves["radius_um"][_is_inner(some)] * NM_PER_UM).astype("<f4").tobytes()


def _is_inner(piece: Piece) -> NDArray[np.bool_]:
    """Which points of its curves are no nodes."""
    offsets = piece.curves["offsets"]
    inner = np.ones(len(piece.curves["points_um"]), np.bool_)
    inner[offsets[:-1]] = inner[offsets[1:] - 1] = False
    return inner


def _lines(rows: Numbered) -> _Lines:
    """Nodes and the inner points of branches as vertices, nodes first in each object, consecutive ones joined."""
    offsets = rows.offsets
    first, last = offsets[:-1], offsets[1:] - 1
    inner = np.ones(len(rows.points_um), np.bool_)
    inner[first] = inner[last] = False
    vertex = np.where(inner, len(rows.node_um) + np.cumsum(inner) - 1, 0)
    vertex[first], vertex[last] = rows.node_a, rows.node_b
    labels = np.unique(rows.node_label)
    order, vertex_bounds = grouped(np.concatenate((rows.node_label, _label_of_point(rows)[inner])), labels)
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order)) - np.repeat(vertex_bounds[:-1], np.diff(vertex_bounds))
    start, pair_bounds = _segments(rows, labels)
    pairs, xyz_nm = np.empty((len(start), 2), "<u4"), np.empty((len(order), 3), "<f4")
    for k in (0, 1):  # column by column, here and below: a graph of one object has every point in one part
        pairs[:, k] = number[vertex[start + k]]
    for k, axis in enumerate((2, 1, 0)):
        xyz_nm[:, k] = _vertices_nm(rows.node_um[:, axis], rows.points_um[inner, axis], order)
    return _Lines(
        labels=labels.astype(np.uint64),
        xyz_nm=xyz_nm,
        radius_nm=_vertices_nm(rows.node_radius_um, rows.radius_um[inner], order),
        vertex_bounds=vertex_bounds,
        pairs=pairs,
        pair_bounds=pair_bounds,
    )


def _segments(rows: Numbered, labels: NDArray[Any]) -> tuple[Ints, Ints]:
    """The points that another follows on their branch, by label, and where each label starts (one more than labels)."""
    goes_on = np.ones(len(rows.points_um), np.bool_)
    goes_on[rows.offsets[1:] - 1] = False
    start = np.flatnonzero(goes_on)
    by_label, bounds = grouped(_label_of_point(rows)[start], labels)
    return start[by_label], bounds


def _label_of_point(rows: Numbered) -> NDArray[Any]:
    return np.repeat(rows.branch_label, np.diff(rows.offsets))


def _vertices_nm(of_nodes: Floats, of_points: Floats, order: Ints) -> NDArray[np.float32]:
    return (np.concatenate((of_nodes, of_points))[order] * NM_PER_UM).astype("<f4")


def _shard_bits(count: int) -> int:
    """How many of the highest bits of ids tell minishards apart, so that ids without gaps fill them evenly."""
    return max(0, math.ceil(math.log2(max(1, count) / SKELETONS_PER_MINISHARD)))


def _write_shard(file: BinaryIO, skeletons: Iterable[Encoded], shift: int, minishard_bits: int) -> None:
    """Shard index, then each minishard's skeletons by id and its index; offsets count from behind the shard index."""
    shard_index = np.zeros((1 << minishard_bits, 2), "<u8")
    file.write(shard_index.tobytes())
    at = 0
    for slot, members in groupby(skeletons, key=lambda skeleton: skeleton[0] >> shift):
        start = at
        ids, sizes = [], []
        for label, content in members:
            ids.append(label)
            sizes.append(sum(_write(file, piece) for piece in ([content] if isinstance(content, bytes) else content)))
        at += sum(sizes)
        index = _minishard_index(ids, start, sizes)
        shard_index[slot & ((1 << minishard_bits) - 1)] = at, at + len(index)
        at += _write(file, index)
    file.seek(0)
    file.write(shard_index.tobytes())


def _write(file: BinaryIO, content: bytes) -> int:
    file.write(content)
    return len(content)


def _minishard_index(ids: Iterable[int], start: int, sizes: list[int]) -> bytes:
    """(3, n) uint64: id less the id before, start less the end before, size."""
    table = np.zeros((3, len(sizes)), "<u8")
    table[0] = np.diff(np.fromiter(ids, np.uint64), prepend=np.uint64(0))
    table[1, 0] = start
    table[2] = sizes
    return table.tobytes()
