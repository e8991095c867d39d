"""Skeletons of a result as SWC files, of all objects or of some, of the volume or of a region."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.run.result import Result
from chunkflow.stages.graph import GraphTables
from chunkflow.storage.swc import write_swc

Bounds = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is kept of a part, nodes numbered anew."""

    nodes: Columns
    branches: Columns
    curves: Columns


def export_swc(
    result: Result, folder: Path, *, objects: NDArray[np.uint64] | None = None, box_um: Bounds | None = None
) -> list[Path]:
    """Write `OBJECT_ID.swc`, as a run does; the files, by object id.

    Parameters
    ----------
    box_um : (2, 3) lowest and highest z, y, x of nodes that are kept, and of branches between two of these. Numbers in
        the header of a file then count the nodes and branches kept.

    Raises
    ------
    InputNotFoundError : the result has no skeleton.
    """
    parts = (_kept(part, objects, box_um) for part in _parts(result.graph_parts))
    written: list[Path] = []
    for part in parts:
        write_swc(folder, [part])
        written += [folder / f"{label}.swc" for label in np.unique(part.nodes["object_id"]).tolist()]
    return written


def _parts(parts: Sequence[GraphTables]) -> Iterator[GraphTables]:
    for number in range(len(parts)):
        yield parts[number]


def _kept(part: GraphTables, objects: NDArray[np.uint64] | None, box_um: Bounds | None) -> GraphTables | _Kept:
    """The nodes of some objects in a box, and the branches between them."""
    if objects is None and box_um is None:
        return part
    nodes, branches = part.nodes, part.branches
    keep = np.ones(len(nodes["node_id"]), np.bool_)
    if objects is not None:
        keep &= np.isin(nodes["object_id"], objects)
    if box_um is not None:
        places = np.stack([nodes[f"{axis}_um"] for axis in "zyx"], axis=1)
        keep &= ((places >= box_um[0]) & (places <= box_um[1])).all(axis=1)
    ids = np.asarray(nodes["node_id"])[keep]
    ends = np.stack([branches["node_a"], branches["node_b"]], axis=1)
    stays: NDArray[np.bool_] = np.asarray(np.isin(ends, ids).all(axis=1))
    numbers = np.searchsorted(ids, ends[stays])
    kept_nodes = {name: values[keep] for name, values in nodes.items()} | {"node_id": np.arange(len(ids))}
    kept_branches = {name: values[stays] for name, values in branches.items()} | {
        "branch_id": np.arange(len(numbers)),
        "node_a": numbers[:, 0],
        "node_b": numbers[:, 1],
    }
    return _Kept(kept_nodes, kept_branches, _curves(part.curves, stays))


def _curves(curves: Columns, stays: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    lengths = np.diff(curves["offsets"])
    points = np.repeat(stays, lengths)
    offsets = np.concatenate(([0], np.cumsum(lengths[stays])))
    return {"points_um": curves["points_um"][points], "radius_um": curves["radius_um"][points], "offsets": offsets}
