"""Union-find of the pieces of a volume that nobody holds: chunkflow's two sweeps over slabs of blocks.

Pieces and seams are drawn by chance, slab by slab, as a run would read them from records: a thousand pieces a block, a
fifth of which touch another block's. The peer is scipy's `connected_components` on everything at once, where that fits;
its classes are ranked by their first voxel too, and both must agree. The largest case runs in a process of its own,
so that its peak memory is that of the merge.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from common import Report, Row, in_fresh_process, options
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from chunkflow.kernels.union import FinalIds, Slab, element_offsets
from chunkflow.run.resident import peak_bytes
from chunkflow.storage.records import shelf_in

SIDE = 64
"""Voxels of a block's side."""
PIECES = 1000
SEAMS_PER_BLOCK = 200


@dataclass(frozen=True, slots=True)
class Case:
    """A grid of `layers` layers of `blocks` blocks."""

    layers: int
    blocks: int

    @property
    def pieces(self) -> int:
        return self.layers * self.blocks * PIECES

    @property
    def voxels(self) -> int:
        return self.layers * self.blocks * SIDE**3

    def slab(self, layer: int) -> Slab:
        """The pieces of a layer: where they begin, and what they touch in it and in the next one."""
        rng = np.random.default_rng((layer, self.blocks))
        count = self.blocks * PIECES
        layer_voxels = self.blocks * SIDE**3
        # distinct voxels of the layer, in any order: a layer's blocks interleave in raster order
        first = layer * layer_voxels + rng.permutation(count) * (layer_voxels // count)
        offsets = element_offsets(np.full(self.blocks, PIECES))
        here = rng.integers(0, count, (self.blocks * SEAMS_PER_BLOCK * 2 // 3, 1))
        inner = np.concatenate((here, (here + rng.integers(1, 2 * PIECES, here.shape)) % count), axis=1)
        ahead = np.zeros((0, 3), np.int64)
        if layer + 1 < self.layers:
            touching = rng.integers(0, count, self.blocks * SEAMS_PER_BLOCK // 3)
            there = (touching + rng.integers(0, PIECES, touching.size)) % count
            ahead = np.stack((touching, there // PIECES, there % PIECES), axis=1)
        return Slab(first, np.ones(count, np.int64), np.zeros(count, bool), offsets, inner, ahead)

    def slabs(self, seconds: list[float]) -> Iterator[Slab]:
        """Every layer; the time that drawing takes is noted."""
        for layer in range(self.layers):
            began = perf_counter()
            drawn = self.slab(layer)
            seconds.append(perf_counter() - began)
            yield drawn


SMALL, LARGE, QUICK = Case(10, 1000), Case(47, 2130), Case(10, 100)


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    report = Report("merge", "Merging the labels of many blocks beside scipy on everything at once", given, ["scipy"])
    for case in (QUICK,) if given.quick else (SMALL, LARGE):
        seconds, mib, edges, count = in_fresh_process(ours, case)
        what = f"{case.pieces:.3g} pieces of {case.layers * case.blocks} blocks, {edges:.3g} edges"
        theirs: tuple[float, float, int] | None = None
        if case is not LARGE:
            theirs = in_fresh_process(of_scipy, case)
            report.notes.append(f"{what}: {count} objects, ids as scipy's: {theirs[2] == count}")
        report.rows += [
            Row(name=f"{what} [s]", ours=seconds, peer="scipy and a sort", peer_value=theirs and theirs[0]),
            Row(name=f"{what} [s per 10^6 edges]", ours=1e6 * seconds / edges),
            Row(name=f"{what}, peak [MiB]", ours=mib, peer="scipy and a sort", peer_value=theirs and theirs[1]),
        ]
    report.notes.append("one round each: a case takes a process of its own, whose start and drawing are not counted")
    report.finish()


def ours(case: Case) -> tuple[float, float, int, int]:
    """Seconds, peak MiB of the process, edges and objects."""
    FinalIds(Case(2, 2).slabs([]), 2, _Held(), voxels=Case(2, 2).voxels)  # compiled before
    drawing: list[float] = []
    edges = 0

    def counted() -> Iterator[Slab]:
        nonlocal edges
        for slab in case.slabs(drawing):
            edges += len(slab.inner) + len(slab.ahead)
            yield slab

    with tempfile.TemporaryDirectory() as folder, shelf_in(Path(folder)) as shelf:
        began = perf_counter()
        found = FinalIds(counted(), case.layers, shelf, voxels=case.voxels)
        handed = sum(len(ids) for _, ids in found)
        seconds = perf_counter() - began - sum(drawing)
    assert handed == case.pieces
    return seconds, peak_bytes() / 2**20, edges, found.count


def of_scipy(case: Case) -> tuple[float, float, int]:
    """Seconds, peak MiB of the process, and objects; 0 objects where an id differs from ours."""
    slabs = list(case.slabs([]))
    began = perf_counter()
    per_layer = case.blocks * PIECES
    pairs = [slab.inner + layer * per_layer for layer, slab in enumerate(slabs)]
    for layer, slab in enumerate(slabs):
        there = (layer + 1) * per_layer + slab.ahead[:, 1] * PIECES + slab.ahead[:, 2]
        pairs.append(np.stack((slab.ahead[:, 0] + layer * per_layer, there), axis=1))
    joined = np.concatenate(pairs)
    ones = np.ones(len(joined), np.bool_)
    graph = coo_matrix((ones, (joined[:, 0], joined[:, 1])), shape=(case.pieces, case.pieces)).tocsr()
    count, classes = connected_components(graph, directed=False)
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, classes, np.concatenate([slab.first for slab in slabs]))
    rank = np.empty(count, np.int64)
    rank[np.argsort(first)] = np.arange(1, count + 1)
    ids = rank[classes]
    seconds, mib = perf_counter() - began, peak_bytes() / 2**20
    found = FinalIds(iter(slabs), case.layers, _Held(), voxels=case.voxels)
    same = all(np.array_equal(part, ids[n * per_layer : (n + 1) * per_layer]) for n, part in found)
    return seconds, mib, int(count) if same else 0


class _Held(dict[str, Any]):
    """A shelf in memory."""

    def put(self, name: str, arrays: dict[str, NDArray[Any]]) -> None:
        self[name] = arrays

    def take(self, name: str) -> Any:
        return self[name]


if __name__ == "__main__":
    main()
