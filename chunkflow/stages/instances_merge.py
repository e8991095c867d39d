"""The two merges of `stages.instances`: minima of blocks become seeds, and basins of blocks become instances.

    seeds-merge   minima of the whole volume with dynamics above h, spread out
    flood-merge   basin -> instance, in raster order of the first voxel, small ones dropped

Both go slab by slab (`kernels.forest`). What is held of the whole volume are the seeds, with some 50 bytes each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.grid import Grid
from chunkflow.kernels import forest, union, watershed
from chunkflow.stages.base import Merged, Record, iterate
from chunkflow.stages.label_merge import blocks_of_slab
from chunkflow.stages.naming import largest_of, ranked

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSeeds:
    """Seeds of the whole volume, increasing, and which of them lie in each block."""

    grid: Grid
    h: float
    distance_um: float
    voxel_um: tuple[float, float, float]

    version: ClassVar[int] = 2

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        slots = Slots(records, "seeds", blocks_of_slab(self.grid))
        found = [forest.surviving_minima(self._slabs(slots), self.h)]
        for record in iterate(records["seeds"]):
            for name in ("deep", "lowest"):
                minimum, key = record[name], record[f"{name}_key"]
                found.append((minimum, key, np.full(len(minimum), name == "lowest")))
        seeds, keys, is_last = (np.concatenate(column) for column in zip(*found, strict=True))
        if self.distance_um > 0 and len(seeds):
            depth = watershed.key_value(keys)
            stays = watershed.spread_out(
                seeds, depth, is_last, distance_um=self.distance_um, voxel_um=self.voxel_um, volume=self.grid.shape
            )
            seeds = seeds[stays]
        seeds = np.sort(seeds)
        parts = ((block, {"here": rows}) for block, rows in self.grid.group(seeds))
        return Merged({"seeds": seeds, "count": np.array([len(seeds)])}, parts)

    @staticmethod
    def _slabs(slots: Slots) -> Iterator[tuple[Ints, Ints, forest.Edges]]:
        for number in range(len(slots)):
            minimum, key = slots.columns(number, ("minimum", "key"))
            yield minimum, key, slots.edges(number)

    def working_bytes(self, blocks: int) -> int:
        return 65536 * min(blocks, 2 * blocks_of_slab(self.grid))


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeFlood:
    """The instance of every slot of every block: ranked by their first voxel, those of few voxels left out."""

    grid: Grid
    min_voxels: int

    version: ClassVar[int] = 3
    shelves: ClassVar[bool] = True

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record], shelf: union.Shelf) -> Merged:
        slots = Slots(records, "flood", blocks_of_slab(self.grid))
        count = len(values["seeds-merge"]["seeds"])
        total, earliest = np.zeros(count + 1, np.int64), np.full(count + 1, np.iinfo(np.int64).max)
        slabs = ((slots.columns(n, ("label",))[0], slots.edges(n)) for n in range(len(slots)))
        for number, label in forest.FloodedLabels(slabs, len(slots), shelf):
            first, size = slots.columns(number, ("first", "size"))
            np.add.at(total, label, size)
            np.minimum.at(earliest, label, first)
            shelf.put(f"labels-{number}", {"label": label})
        ids = ranked(earliest, total, self.min_voxels)
        highest = max((float(record["highest"].max(initial=0.0)) for record in iterate(records["flood"])), default=0.0)
        return Merged({**largest_of(ids), "highest": np.array([highest])}, self._parts(slots, shelf, ids))

    @staticmethod
    def _parts(slots: Slots, shelf: union.Shelf, ids: NDArray[np.uint64]) -> Iterator[tuple[int, Record]]:
        none = np.zeros(1, np.uint64)
        for number in range(len(slots)):
            final = ids[shelf.take(f"labels-{number}")["label"]]
            for block, start, stop in slots.blocks(number):
                yield block, {"ids": np.concatenate([none, final[start:stop]])}

    def working_bytes(self, blocks: int) -> int:
        return 65536 * min(blocks, 2 * blocks_of_slab(self.grid))


class Slots:
    """The slots of all blocks and their edges, slab by slab, from the records of a pass and of its seams."""

    def __init__(self, records: Mapping[str, Sequence[Record]], source: str, step: int) -> None:
        self._blocks, self._seams, self._step = records[source], records[f"{source}-seams"], step
        self._counts = np.zeros(len(self._blocks), np.int64)

    def __len__(self) -> int:
        return -(-len(self._blocks) // self._step)

    def columns(self, number: int, names: Sequence[str]) -> list[Ints]:
        """Columns of a slab, block after block; the first one says how many slots a block has."""
        found: list[list[Ints]] = [[np.zeros(0, np.int64)] for _ in names]
        for block in self._span(number):
            record = self._blocks[block]
            self._counts[block] = len(record[names[0]])
            for column, name in zip(found, names, strict=True):
                column.append(record[name])
        return [np.concatenate(column) for column in found]

    def edges(self, number: int) -> forest.Edges:
        """The edges of a slab whose columns were asked for."""
        span = self._span(number)
        offsets = union.element_offsets(self._counts[span.start : span.stop])
        none = np.zeros((0, watershed.EDGE_COLUMNS), np.int64)
        inner, ahead, there = [none], [none], [np.zeros(0, np.int64)]
        for start, block in zip(offsets, span, strict=False):
            own, seams = self._blocks[block]["edges"].copy(), self._seams[block]
            own[:, :2] += start
            crossing, neighbour = seams["edges"].copy(), seams["neighbour"] - span.start
            crossing[:, 0] += start
            is_inner = neighbour < self._step
            crossing[is_inner, 1] += offsets[neighbour[is_inner]]
            inner += [own, crossing[is_inner]]
            ahead.append(crossing[~is_inner])
            there.append(neighbour[~is_inner] - self._step)
        return forest.Edges(offsets, np.concatenate(inner), np.concatenate(ahead), np.concatenate(there))

    def blocks(self, number: int) -> Iterator[tuple[int, int, int]]:
        """Each block of a slab whose columns were asked for, and where its slots begin and end."""
        span = self._span(number)
        offsets = union.element_offsets(self._counts[span.start : span.stop])
        return ((block, int(offsets[k]), int(offsets[k + 1])) for k, block in enumerate(span))

    def _span(self, number: int) -> range:
        return range(number * self._step, min((number + 1) * self._step, len(self._blocks)))
