"""Skeleton graphs as files: GraphML, SWC and Neuroglancer's precomputed skeletons.

All three are written from parts of whole objects: the rows of their nodes and branches, ids counting on from part to
part and objects increasing, and the branches as curves: branch k of a part is `points_um[offsets[k]:offsets[k + 1]]` in
z, y, x, its first point at node_a and its last at node_b.

    GraphML       the multigraph with every column, without the curves; up to about 10^6 branches
    SWC           one file per object, a tree: loops are cut, and the header says where; up to about 10^4 objects
    precomputed   every object in a few shard files; any number of objects

One part is held at a time, with about 0.1 kB per point of its curves beside it, and one shard. Files are replaced
whole, and their bytes depend on the tables alone, not on the parts.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, BinaryIO, Protocol
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from chunkflow.storage.files import atomic_path, write_atomic

Columns = Mapping[str, NDArray[Any]]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NM_PER_UM = 1000.0
SHARDING = "neuroglancer_uint64_sharded_v1"
SKELETONS_PER_MINISHARD = 1024
"""A viewer reads a minishard's index, 24 bytes per skeleton, before the first skeleton in it."""
MAX_MINISHARD_BITS = 3
_ROWS = 10_000
_SWC_BYTES = 2**24
"""Of the samples of one object in memory: their header comes before them and is known after them."""


class Part(Protocol):
    """Some objects. `curves` holds points_um (P, 3), radius_um (P,) and offsets (E + 1,)."""

    @property
    def nodes(self) -> Columns: ...
    @property
    def branches(self) -> Columns: ...
    @property
    def curves(self) -> Columns: ...


class _Rows:
    """A part with nodes and branches named by their row; `node` and `branch` are the ids of the first ones."""

    def __init__(self, part: Part) -> None:
        nodes, branches = part.nodes, part.branches
        self.node, self.branch = (int(ids[0]) if len(ids) else 0 for ids in (nodes["node_id"], branches["branch_id"]))
        self.node_um = np.stack([nodes[name] for name in ("z_um", "y_um", "x_um")], axis=1)
        self.node_radius_um = nodes["radius_um"]
        self.node_label, self.branch_label = nodes["object_id"], branches["object_id"]
        self.node_a, self.node_b = branches["node_a"] - self.node, branches["node_b"] - self.node
        self.points_um, self.radius_um, self.offsets = (part.curves[n] for n in ("points_um", "radius_um", "offsets"))

    def inner(self, branch: int) -> Floats:
        """(n, 4) z, y, x, radius of a branch's points between its nodes."""
        between = slice(self.offsets[branch] + 1, self.offsets[branch + 1] - 1)
        return np.column_stack((self.points_um[between], self.radius_um[between]))


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
    """The lines that declare the columns; one part is held at a time."""
    largest = int(parts[len(parts) - 1].nodes.get("object_id", np.zeros(1)).max(initial=0))
    first = parts[0]
    for prefix, target, columns in (("n", "node", first.nodes), ("e", "edge", first.branches)):
        for k, (name, values) in enumerate(columns.items()):
            kind = _graphml_type(values, largest)
            yield f'  <key id="{prefix}{k}" for="{target}" attr.name="{name}" attr.type="{kind}"/>\n'


def write_swc(folder: str | Path, parts: Iterable[Part]) -> None:
    """Write `OBJECT_ID.swc` for every object: samples `id type x y z radius parent` in um, type 0 (undefined).

    SWC holds trees. From the smallest node of each component the graph is walked breadth first; a branch that arrives
    at a node that is there already keeps its points but stops short of that node, and the header names it. Parents
    come before children; an object of several components has several roots (parent -1).
    """
    for part in parts:
        rows = _Rows(part)
        for label, own_nodes, own_branches in _objects(rows):
            swc = _Swc()
            at_node = _branches_at(own_nodes, own_branches, rows)
            for root in own_nodes.tolist():
                if root not in swc.number_of_node:
                    _grow(swc, root, at_node, rows)
            # Not synced one by one: ten thousand small files would take a minute, and a next run can write them again.
            with atomic_path(Path(folder) / f"{label}.swc", durable=False) as made, made.open("wb") as file:
                file.write(swc.head(label, rows))
                swc.body.seek(0)
                shutil.copyfileobj(swc.body, file)
            swc.body.close()


def write_precomputed(folder: str | Path, parts: Iterable[Part], labels: NDArray[np.uint64]) -> None:
    """Write sharded precomputed skeletons: vertices x, y, z in nm with their radius in nm, one record per object id.

    A vertex is where the point is in um, so the centre of voxel i is at i * scale (+ translation), as in an OME-Zarr
    image. The format is Neuroglancer's `neuroglancer_skeletons` with `neuroglancer_uint64_sharded_v1`, identity hash,
    without compression: the bytes then depend on no compressor. A minishard holds a range of ids.

    Parameters
    ----------
    labels : (K,) the objects of all parts, increasing.
    """
    folder = Path(folder)
    skeletons = (skeleton for part in parts for skeleton in _lines(_Rows(part)).skeletons())
    info = {
        "@type": "neuroglancer_skeletons",
        "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
        "vertex_attributes": [{"id": "radius", "data_type": "float32", "num_components": 1}],
        "sharding": write_sharded(folder, skeletons, labels),
    }
    write_atomic(folder / "info", json.dumps(info, indent=2).encode())


def write_sharded(folder: Path, records: Iterable[tuple[int, bytes]], ids: NDArray[np.uint64]) -> dict[str, Any]:
    """Write records, by their ids, into a few shard files; returns the specification for `info`.

    Parameters
    ----------
    records : id and content, ids increasing.
    ids : (K,) all of them.
    """
    bits = _shard_bits(len(ids))
    minishard_bits = min(bits, MAX_MINISHARD_BITS)
    shift = max(0, int(ids[-1]).bit_length() - bits) if len(ids) else 0
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


def _graphml_type(values: NDArray[Any], largest: int) -> str:
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


def _objects(rows: _Rows) -> Iterator[tuple[int, Ints, Ints]]:
    """Label, nodes and branches (row numbers) of every object, by label."""
    labels = np.unique(rows.node_label)
    by_node, node_bounds = _grouped(rows.node_label, labels)
    by_branch, branch_bounds = _grouped(rows.branch_label, labels)
    for k, label in enumerate(labels.tolist()):
        yield (
            label,
            by_node[node_bounds[k] : node_bounds[k + 1]],
            by_branch[branch_bounds[k] : branch_bounds[k + 1]],
        )


def _grouped(values: NDArray[Any], labels: NDArray[Any]) -> tuple[Ints, Ints]:
    """Row numbers by label, in order inside each, and where each label starts (one more than labels)."""
    order = np.argsort(values, kind="stable")
    starts = np.searchsorted(values[order], labels)
    return order, np.append(starts, len(values))


@dataclass(slots=True)
class _Swc:
    """The samples of one object's SWC file."""

    body: IO[bytes] = field(default_factory=partial(SpooledTemporaryFile, _SWC_BYTES))
    count: int = 0
    cuts: list[tuple[int, int]] = field(default_factory=list)
    """Branch, and the node that it stops short of."""
    number_of_node: dict[int, int] = field(default_factory=dict)

    def add(self, samples: Sequence[Sequence[float]], parent: int) -> int:
        """Append samples z, y, x, radius, each the parent of the next; the number of the last, `parent` without any."""
        lines = []
        for z, y, x, radius in samples:
            self.count += 1
            lines.append(f"{self.count} 0 {x:.6f} {y:.6f} {z:.6f} {radius:.6f} {parent}\n")
            parent = self.count
        self.body.write("".join(lines).encode())
        return parent

    def head(self, label: int, rows: _Rows) -> bytes:
        """What stands before the samples: what the file is, and which loops are cut."""
        head = [
            f"# skeleton of object {label}, written by chunkflow",
            "# columns: id type x y z radius parent; um; type 0 is undefined",
            f"# loops cut: {len(self.cuts)} (SWC holds trees)",
        ]
        cuts = [
            f"# cut: branch {branch + rows.branch} before node {node + rows.node}" for branch, node in sorted(self.cuts)
        ]
        return ("\n".join([*head, *cuts]) + "\n").encode()


def _branches_at(nodes: Ints, branches: Ints, rows: _Rows) -> dict[int, list[tuple[int, int, int]]]:
    """For each node its branches by number, with the node at the far end and the direction to walk; loops once."""
    at_node: dict[int, list[tuple[int, int, int]]] = {node: [] for node in nodes.tolist()}
    for branch, a, b in zip(branches.tolist(), rows.node_a[branches], rows.node_b[branches], strict=True):
        at_node[a].append((branch, int(b), 1))
        if a != b:
            at_node[b].append((branch, int(a), -1))
    return at_node


def _grow(swc: _Swc, root: int, at_node: dict[int, list[tuple[int, int, int]]], rows: _Rows) -> None:
    """Add the component of `root`, breadth first."""

    def sample_of(node: int) -> list[float]:
        return [*rows.node_um[node].tolist(), float(rows.node_radius_um[node])]

    swc.number_of_node[root] = swc.add([sample_of(root)], -1)
    queue = deque([(root, branch) for branch in at_node[root]])
    walked: set[int] = set()
    while queue:
        node, (branch, far, direction) = queue.popleft()
        if branch in walked:
            continue
        walked.add(branch)
        number = swc.add(rows.inner(branch)[::direction].tolist(), swc.number_of_node[node])
        if far in swc.number_of_node:
            swc.cuts.append((branch, far))
            continue
        swc.number_of_node[far] = swc.add([sample_of(far)], number)
        queue.extend((far, onward) for onward in at_node[far])


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


def _lines(rows: _Rows) -> _Lines:
    """Nodes and the inner points of branches as vertices, nodes first in each object, consecutive ones joined."""
    offsets = rows.offsets
    first, last = offsets[:-1], offsets[1:] - 1
    inner = np.ones(len(rows.points_um), np.bool_)
    inner[first] = inner[last] = False
    vertex = np.where(inner, len(rows.node_um) + np.cumsum(inner) - 1, 0)
    vertex[first], vertex[last] = rows.node_a, rows.node_b
    labels = np.unique(rows.node_label)
    order, vertex_bounds = _grouped(np.concatenate((rows.node_label, _label_of_point(rows)[inner])), labels)
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


def _segments(rows: _Rows, labels: NDArray[Any]) -> tuple[Ints, Ints]:
    """The points that another follows on their branch, by label, and where each label starts (one more than labels)."""
    goes_on = np.ones(len(rows.points_um), np.bool_)
    goes_on[rows.offsets[1:] - 1] = False
    start = np.flatnonzero(goes_on)
    by_label, bounds = _grouped(_label_of_point(rows)[start], labels)
    return start[by_label], bounds


def _label_of_point(rows: _Rows) -> NDArray[Any]:
    return np.repeat(rows.branch_label, np.diff(rows.offsets))


def _vertices_nm(of_nodes: Floats, of_points: Floats, order: Ints) -> NDArray[np.float32]:
    return (np.concatenate((of_nodes, of_points))[order] * NM_PER_UM).astype("<f4")


def _shard_bits(count: int) -> int:
    """How many of the highest bits of ids tell minishards apart, so that ids without gaps fill them evenly."""
    return max(0, math.ceil(math.log2(max(1, count) / SKELETONS_PER_MINISHARD)))


def _write_shard(file: BinaryIO, skeletons: Iterable[tuple[int, bytes]], shift: int, minishard_bits: int) -> None:
    """Shard index, then each minishard's skeletons by id and its index; offsets count from behind the shard index."""
    shard_index = np.zeros((1 << minishard_bits, 2), "<u8")
    file.write(shard_index.tobytes())
    at = 0
    for slot, members in groupby(skeletons, key=lambda skeleton: skeleton[0] >> shift):
        start = at
        ids, sizes = [], []
        for label, content in members:
            ids.append(label)
            sizes.append(_write(file, content))
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
