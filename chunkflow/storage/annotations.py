"""The nodes of a graph as Neuroglancer's precomputed annotations: points that a viewer loads where it looks.

    nodes/info          kinds, bounds, units
    nodes/cells/X_Y_Z   the points of a box of the volume, about `PER_CELL`, in random order so that a part of them
                        stands for all
    nodes/by_id/        every point by its id            } sharded as the skeletons are
    nodes/by_object/    the points of every object       }

A point is where its node is in um, in nm, x, y, z, as the vertices of the skeletons. All nodes are held, 40 bytes each;
an object's points come in the order of their ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.storage.files import write_atomic
from chunkflow.storage.graphs import NM_PER_UM, write_sharded

PER_CELL = 1000
KINDS = ("end", "junction", "isolated", "cycle")
_POINT = np.dtype([("xyz", "<f4", 3), ("radius", "<f4"), ("degree", "<u2"), ("kind", "u1"), ("padding", "u1")])


def write_nodes(folder: str | Path, tables: Iterable[Mapping[str, NDArray[Any]]]) -> None:
    """Write the nodes of all parts.

    Parameters
    ----------
    tables : the columns of the table of nodes, some rows at a time: ids count on, objects increase.
    """
    folder = Path(folder)
    ids, objects, points = _points(tables)
    low = points["xyz"].min(axis=0) if len(points) else np.zeros(3, np.float32)
    high = points["xyz"].max(axis=0) if len(points) else np.ones(3, np.float32)
    cells = np.full(3, max(1, round((len(points) / PER_CELL) ** (1 / 3))))
    side = np.maximum((high - low) / cells, 1.0).astype(np.float64) * (1 + 1e-6)
    largest = _write_cells(folder / "cells", ids, points, ((points["xyz"] - low) / side).astype(np.int64))
    unique = np.unique(objects)
    bounds = [*np.searchsorted(objects, unique).tolist(), len(objects)]
    by_object = (
        (label, _encoded(ids[start:stop], points[start:stop]))
        for label, start, stop in zip(unique.tolist(), bounds[:-1], bounds[1:], strict=True)
    )
    info = {
        "@type": "neuroglancer_annotations_v1",
        "dimensions": {axis: [1e-9, "m"] for axis in "xyz"},
        "lower_bound": low.tolist(),
        "upper_bound": (low + side * cells).tolist(),
        "annotation_type": "point",
        "properties": [
            {"id": "radius", "type": "float32", "description": "nm"},
            {"id": "degree", "type": "uint16"},
            {"id": "kind", "type": "uint8", "enum_values": list(range(len(KINDS))), "enum_labels": list(KINDS)},
        ],
        "relationships": [
            {"id": "object", "key": "by_object", "sharding": _sharded(folder / "by_object", by_object, unique)}
        ],
        "by_id": {"key": "by_id", "sharding": _sharded(folder / "by_id", _each(ids, objects, points), ids)},
        "spatial": [
            {"key": "cells", "grid_shape": cells.tolist(), "chunk_size": side.tolist(), "limit": max(1, largest)}
        ],
    }
    write_atomic(folder / "info", json.dumps(info, indent=2).encode())


def _sharded(folder: Path, records: Iterable[tuple[int, bytes]], ids: NDArray[np.uint64]) -> dict[str, Any]:
    return write_sharded(folder, records, count=len(ids), largest=int(ids.max(initial=0)))


def _points(
    tables: Iterable[Mapping[str, NDArray[Any]]],
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[Any]]:
    """Ids, objects and encoded points of all parts."""
    ids, objects, points = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)], [np.zeros(0, _POINT)]
    for table in tables:
        part = np.zeros(len(table["node_id"]), _POINT)
        part["xyz"] = np.stack([table[f"{axis}_um"] for axis in "xyz"], axis=1) * NM_PER_UM
        part["radius"] = table["radius_um"] * NM_PER_UM
        part["degree"] = table["degree"]
        for number, kind in enumerate(KINDS):
            part["kind"][table["kind"] == kind] = number
        ids.append(table["node_id"].astype(np.uint64))
        objects.append(table["object_id"].astype(np.uint64))
        points.append(part)
    return np.concatenate(ids), np.concatenate(objects), np.concatenate(points)


def _write_cells(folder: Path, ids: NDArray[np.uint64], points: NDArray[Any], cell: NDArray[np.int64]) -> int:
    """One file for each box that holds points; returns the most that one holds."""
    shuffled = np.random.default_rng(0).permutation(len(ids))
    order = shuffled[np.lexsort(cell[shuffled].T)]
    sorted_cells = cell[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (np.diff(sorted_cells, axis=0) != 0).any(axis=1)
    starts = np.flatnonzero(begins).tolist()
    largest = 0
    for start, stop in pairwise([*starts, len(order)]):
        here = order[start:stop]
        largest = max(largest, len(here))
        name = "_".join(map(str, sorted_cells[start].tolist()))
        write_atomic(folder / name, _encoded(ids[here], points[here]), durable=False)
    return largest


def _encoded(ids: NDArray[np.uint64], points: NDArray[Any]) -> bytes:
    """Several points: how many, each, then their ids."""
    return np.uint64(len(ids)).tobytes() + points.tobytes() + ids.astype("<u8").tobytes()


def _each(ids: NDArray[np.uint64], objects: NDArray[np.uint64], points: NDArray[Any]) -> Iterator[tuple[int, bytes]]:
    """Every point alone, with its one object."""
    one = np.uint32(1).tobytes()
    for label, of, point in zip(ids.tolist(), objects, points, strict=True):
        yield label, point.tobytes() + one + of.tobytes()
