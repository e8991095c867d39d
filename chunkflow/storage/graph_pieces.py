"""A part of a graph in pieces, so that what writes or draws it holds a piece and not the part.

    part --> whole objects, as many as have `HELD_ROWS` rows; an object that has more by itself stays where it is,
             and its columns are read in slices                                          `whole_objects`
    part --> branches with their curves, in order                                        `branch_pieces`

A part holds whole objects, their labels increasing in its nodes and in its branches; its columns are arrays or read
slices of them (`storage.record_columns`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chunkflow.storage.record_columns import Column, Cut

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

HELD_ROWS = 2**18
"""Nodes, branches and points of a piece in memory: writing them takes 30 MiB."""
_AT_ONCE = 2**16
"""Rows of a column that are looked at together."""


class Part(Protocol):
    """Some objects. `curves` holds points_um (P, 3), radius_um (P,) and offsets (E + 1,)."""

    @property
    def nodes(self) -> Mapping[str, Column]: ...
    @property
    def branches(self) -> Mapping[str, Column]: ...
    @property
    def curves(self) -> Mapping[str, Column]: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a part, their ids as there; `is_held`: as arrays."""

    nodes: Mapping[str, Any]
    branches: Mapping[str, Any]
    curves: Mapping[str, Any]
    is_held: bool


@dataclass(frozen=True, slots=True)
class _Bounds:
    """(K + 1,) where the nodes, branches and points of consecutive objects begin."""

    node: Ints
    branch: Ints
    point: Ints

    def rows(self, first: int, stop: int) -> int:
        return sum(int(column[stop] - column[first]) for column in (self.node, self.branch, self.point))


def whole_objects(part: Part) -> Iterator[Piece]:
    """The objects of a part, in order; several to a piece. At least one piece, which may be empty."""
    nodes, branches, points = (
        len(part.nodes["object_id"]),
        len(part.branches["object_id"]),
        len(part.curves["points_um"]),
    )
    whole = _Bounds(*(np.array([0, count]) for count in (nodes, branches, points)))
    if whole.rows(0, 1) <= HELD_ROWS:
        yield _piece(part, whole, 0, 1)
        return
    bounds = _bounds(part)
    first, objects = 0, len(bounds.node) - 1
    while first < objects:
        stop = first + 1
        while stop < objects and bounds.rows(first, stop + 1) <= HELD_ROWS:
            stop += 1
        yield _piece(part, bounds, first, stop)
        first = stop


def branch_pieces(part: Part) -> Iterator[Piece]:
    """The branches of a part with their curves, in order, without nodes; at least one piece, which may be empty."""
    offsets, total = part.curves["offsets"], len(part.curves["offsets"]) - 1
    first = 0
    while first < total or first == 0:
        known = offsets[first : min(total, first + _AT_ONCE) + 1]
        count = max(1, int(np.searchsorted(known, known[0] + HELD_ROWS, side="right")) - 1) if total else 0
        curves = {name: column[int(known[0]) : int(known[count])] for name, column in _of_points(part.curves)}
        yield Piece(
            {},
            {name: column[first : first + count] for name, column in part.branches.items()},
            {**curves, "offsets": known[: count + 1] - known[0]},
            is_held=True,
        )
        first += max(1, count)


def pieces_of_curves(parts: Iterable[Part]) -> Iterator[Piece]:
    """`branch_pieces` of all parts."""
    return (piece for part in parts for piece in branch_pieces(part))


def row_slices(columns: Mapping[str, Column]) -> Iterator[dict[str, NDArray[Any]]]:
    """The rows of a table, some at a time; at least once, which may be empty."""
    count = len(next(iter(columns.values())))
    for start in range(0, max(1, count), _AT_ONCE):
        yield {name: column[start : start + _AT_ONCE] for name, column in columns.items()}


def _of_points(curves: Mapping[str, Column]) -> Iterator[tuple[str, Column]]:
    return ((name, column) for name, column in curves.items() if name != "offsets")


def _piece(part: Part, bounds: _Bounds, first: int, stop: int) -> Piece:
    node, branch, point = (
        (int(column[first]), int(column[stop])) for column in (bounds.node, bounds.branch, bounds.point)
    )
    is_held = bounds.rows(first, stop) <= HELD_ROWS

    def cut(column: Column, span: tuple[int, int], *, add: int = 0) -> Any:
        rows = Cut(column, *span, add=add)
        return rows[:] if is_held else rows

    curves = {name: cut(column, point) for name, column in _of_points(part.curves)}
    return Piece(
        {name: cut(column, node) for name, column in part.nodes.items()},
        {name: cut(column, branch) for name, column in part.branches.items()},
        curves | {"offsets": cut(part.curves["offsets"], (branch[0], branch[1] + 1), add=-point[0])},
        is_held=is_held,
    )


def _bounds(part: Part) -> _Bounds:
    """Of every object of a part: those without a branch have none between theirs."""
    labels, node = _runs(part.nodes["object_id"])
    known, start = _runs(part.branches["object_id"])
    branch = np.append(start[np.searchsorted(known, labels)], start[-1])
    return _Bounds(node, branch, _taken(part.curves["offsets"], branch))


def _runs(labels: Column) -> tuple[NDArray[Any], Ints]:
    """The different labels of a column in which they increase, and where each begins, and the end."""
    found: list[NDArray[Any]] = []
    starts: list[Ints] = []
    last: NDArray[Any] = np.zeros(0, labels.dtype)
    for first in range(0, len(labels), _AT_ONCE):
        here = labels[first : first + _AT_ONCE]
        begins = np.flatnonzero(np.diff(np.concatenate((last, here))))
        begins = np.concatenate(([0], begins + 1)) if not len(last) else begins
        found.append(here[begins])
        starts.append(first + begins)
        last = here[-1:]
    end = np.array([len(labels)], np.int64)
    return np.concatenate([last[:0], *found]), np.concatenate([*starts, end])


def _taken(column: Column, rows: Ints) -> Ints:
    """The values in some rows, which do not decrease."""
    bounds = np.searchsorted(rows, np.arange(0, len(column) + _AT_ONCE, _AT_ONCE))
    parts = [
        column[k * _AT_ONCE : (k + 1) * _AT_ONCE][rows[a:b] - k * _AT_ONCE]
        for k, (a, b) in enumerate(pairwise(bounds.tolist()))
        if a < b
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts])


class Numbered:
    """A part with nodes and branches named by their row; `node` and `branch` are the ids of the first ones."""

    def __init__(self, part: Part) -> None:
        nodes, branches = part.nodes, part.branches
        self.node, self.branch = (first_of(ids) for ids in (nodes["node_id"], branches["branch_id"]))
        self.node_um = np.stack([nodes[name][:] for name in ("z_um", "y_um", "x_um")], axis=1)
        self.node_radius_um = nodes["radius_um"][:]
        self.node_label, self.branch_label = nodes["object_id"][:], branches["object_id"][:]
        self.node_a, self.node_b = branches["node_a"][:] - self.node, branches["node_b"][:] - self.node
        self.points_um: Any = part.curves["points_um"]  # in slices alone, where they are many
        self.radius_um: Any = part.curves["radius_um"]
        self.offsets = part.curves["offsets"][:]

    def inner(self, branch: int) -> Floats:
        """(n, 4) z, y, x, radius of a branch's points between its nodes."""
        between = slice(self.offsets[branch] + 1, self.offsets[branch + 1] - 1)
        return np.column_stack((self.points_um[between], self.radius_um[between]))


def first_of(ids: Column) -> int:
    """The first of ids, 0 of none."""
    return int(ids[:1][0]) if len(ids) else 0


def grouped(values: NDArray[Any], labels: NDArray[Any]) -> tuple[Ints, Ints]:
    """Row numbers by label, in order inside each, and where each label starts (one more than labels)."""
    order = np.argsort(values, kind="stable")
    starts = np.searchsorted(values[order], labels)
    return order, np.append(starts, len(values))
