"""Skeletons as SWC files, one per object: samples `id type x y z radius parent`, of trees.

An object's nodes and branches are held, 0.2 kB per branch, and of its curves one branch at a time.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO

import numpy as np
from numpy.typing import NDArray

from chunkflow.storage.files import atomic_path
from chunkflow.storage.graph_pieces import Numbered, Part, grouped, whole_objects

Ints = NDArray[np.int64]

_SWC_BYTES = 2**24
"""Of the samples of one object in memory: their header comes before them and is known after them."""


def write_swc(folder: str | Path, parts: Iterable[Part]) -> None:
    """Write `OBJECT_ID.swc` for every object: samples `id type x y z radius parent` in um, type 0 (undefined).

    SWC holds trees. From the smallest node of each component the graph is walked breadth first; a branch that arrives
    at a node that is there already keeps its points but stops short of that node, and the header names it. Parents
    come before children; an object of several components has several roots (parent -1).
    """
    for piece in (piece for part in parts for piece in whole_objects(part)):
        rows = Numbered(piece)
        for label, own_nodes, own_branches in _objects(rows):
            swc = _Swc.of(own_nodes)
            at_node = _branches_at(own_nodes, own_branches, rows)
            for root in own_nodes.tolist():
                if not swc.number_of_node[root - swc.first]:
                    _grow(swc, root, at_node, rows)
            # Not synced one by one: ten thousand small files would take a minute, and a next run can write them again.
            with atomic_path(Path(folder) / f"{label}.swc", durable=False) as made, made.open("wb") as file:
                file.write(swc.head(label, rows))
                swc.body.seek(0)
                shutil.copyfileobj(swc.body, file)
            swc.body.close()


def _objects(rows: Numbered) -> Iterator[tuple[int, Ints, Ints]]:
    """Label, nodes and branches (row numbers) of every object, by label."""
    labels = np.unique(rows.node_label)
    by_node, node_bounds = grouped(rows.node_label, labels)
    by_branch, branch_bounds = grouped(rows.branch_label, labels)
    for k, label in enumerate(labels.tolist()):
        yield (
            label,
            by_node[node_bounds[k] : node_bounds[k + 1]],
            by_branch[branch_bounds[k] : branch_bounds[k + 1]],
        )


def _new_body() -> IO[bytes]:
    return SpooledTemporaryFile(_SWC_BYTES)


@dataclass(slots=True)
class _Swc:
    """The samples of one object's SWC file; its nodes count from `first`."""

    first: int
    number_of_node: Ints
    """The sample of each node, 0 as long as it has none."""
    body: IO[bytes] = field(default_factory=_new_body)
    count: int = 0
    cuts: list[tuple[int, int]] = field(default_factory=list)
    """Branch, and the node that it stops short of."""

    @staticmethod
    def of(nodes: Ints) -> _Swc:
        """Of the nodes of one object, none of their samples written yet."""
        return _Swc(int(nodes[0]), np.zeros(int(nodes[-1] - nodes[0]) + 1, np.int64))

    def add(self, samples: Sequence[Sequence[float]], parent: int) -> int:
        """Append samples z, y, x, radius, each the parent of the next; the number of the last, `parent` without any."""
        lines = []
        for z, y, x, radius in samples:
            self.count += 1
            lines.append(f"{self.count} 0 {x:.6f} {y:.6f} {z:.6f} {radius:.6f} {parent}\n")
            parent = self.count
        self.body.write("".join(lines).encode())
        return parent

    def head(self, label: int, rows: Numbered) -> bytes:
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


@dataclass(frozen=True, slots=True)
class _Ends:
    """Which branches meet at the nodes of an object, by number; loops once. Those of node n are in
    `[start[n - first]:start[n - first + 1]]`.
    """

    first: int
    start: Ints
    branch: Ints
    far: Ints
    """The node at the other end."""
    direction: NDArray[np.int8]
    """1 where the branch begins here, -1 where it ends."""

    def of(self, node: int) -> Iterator[tuple[int, int, int]]:
        here = slice(self.start[node - self.first], self.start[node - self.first + 1])
        return zip(self.branch[here].tolist(), self.far[here].tolist(), self.direction[here].tolist(), strict=True)


def _branches_at(nodes: Ints, branches: Ints, rows: Numbered) -> _Ends:
    a, b = rows.node_a[branches], rows.node_b[branches]
    both = np.stack((np.ones(len(branches), np.bool_), a != b), axis=1).ravel()
    here, far = (np.stack(ends, axis=1).ravel()[both] for ends in ((a, b), (b, a)))
    order = np.argsort(here, kind="stable")
    start = np.searchsorted(here[order], np.arange(nodes[0], nodes[-1] + 2))
    direction = np.tile(np.array([1, -1], np.int8), len(branches))[both]
    return _Ends(int(nodes[0]), start, np.repeat(branches, 2)[both][order], far[order], direction[order])


def _grow(swc: _Swc, root: int, ends: _Ends, rows: Numbered) -> None:
    """Add the component of `root`, breadth first."""

    def sample_of(node: int) -> list[float]:
        return [*rows.node_um[node].tolist(), float(rows.node_radius_um[node])]

    numbers, first = swc.number_of_node, swc.first
    numbers[root - first] = swc.add([sample_of(root)], -1)
    queue = deque([(root, branch) for branch in ends.of(root)])
    walked: set[int] = set()
    while queue:
        node, (branch, far, direction) = queue.popleft()
        if branch in walked:
            continue
        walked.add(branch)
        number = swc.add(rows.inner(branch)[::direction].tolist(), int(numbers[node - first]))
        if numbers[far - first]:
            swc.cuts.append((branch, far))
            continue
        numbers[far - first] = swc.add([sample_of(far)], number)
        queue.extend((far, onward) for onward in ends.of(far))
