"""The two merges of `stages.instances`: minima of blocks become seeds, and basins of blocks become instances.

    seeds-merge   minima of the whole volume with dynamics above h, spread out
    flood-merge   basin -> instance, in raster order of the first voxel, small ones dropped

Both go slab by slab (`kernels.forest`). What is held of the whole volume are the seeds, with some 50 bytes each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.grid import Grid
from chunkflow.kernels import forest, union, watershed
from chunkflow.stages.base import Merged, Record
from chunkflow.stages.naming import largest_of, ranked
from chunkflow.stages.slabs import Slabs, blocks_of_slab

Ints = NDArray[np.int64]
Minima = tuple[Ints, Ints, NDArray[np.bool_]]
"""Index and key of each, and whether it is the lowest of its foreground."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSeeds:
    """Seeds of the whole volume, increasing, and which of them lie in each block."""

    grid: Grid
    h: float
    distance_um: float
    voxel_um: tuple[float, float, float]

    version: ClassVar[int] = 2

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        decided: list[Minima] = []
        found = [forest.surviving_minima(self._slabs(records, decided), self.h)]
        found += decided
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

    def _slabs(
        self, records: Mapping[str, Sequence[Record]], decided: list[Minima]
    ) -> Iterator[tuple[Ints, Ints, forest.Edges]]:
        """The slabs as the sweep wants them; what blocks decided alone is added to `decided` on the way."""
        slabs = Slabs.of(self.grid)
        slots = Slots(slabs, records, "seeds")
        for number in range(len(slabs)):
            tables, edges = slots.read(number, ("minimum", "key", "deep", "deep_key", "lowest", "lowest_key"))
            for table in tables:
                for name in ("deep", "lowest"):
                    minimum = table[name]
                    decided.append((minimum, table[f"{name}_key"], np.full(len(minimum), name == "lowest")))
            yield _joined(tables, "minimum"), _joined(tables, "key"), edges

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
        slabs = Slabs.of(self.grid)
        count = len(values["seeds-merge"]["seeds"])
        total, earliest = np.zeros(count + 1, np.int64), np.full(count + 1, np.iinfo(np.int64).max)
        highest = 0.0
        for number, label in forest.FloodedLabels(self._slots(slabs, records, shelf), len(slabs), shelf):
            known = shelf.take(f"slots-{number}")
            np.add.at(total, label, known["size"])
            np.minimum.at(earliest, label, known["first"])
            highest = max(highest, float(known["highest"].max(initial=0.0)))
            shelf.put(f"labels-{number}", {"label": label})
        ids = ranked(earliest, total, self.min_voxels)
        return Merged({**largest_of(ids), "highest": np.array([highest])}, self._parts(slabs, shelf, ids))

    @staticmethod
    def _slots(
        slabs: Slabs, records: Mapping[str, Sequence[Record]], shelf: union.Shelf
    ) -> Iterator[tuple[Ints, forest.Edges]]:
        """The slabs as the sweep wants them; what is wanted on the way back is put down."""
        slots = Slots(slabs, records, "flood")
        for number in range(len(slabs)):
            tables, edges = slots.read(number, ("label", "first", "size", "highest"))
            shelf.put(f"slots-{number}", {name: _joined(tables, name) for name in ("first", "size", "highest")})
            yield _joined(tables, "label"), edges

    @staticmethod
    def _parts(slabs: Slabs, shelf: union.Shelf, ids: NDArray[np.uint64]) -> Iterator[tuple[int, Record]]:
        none = np.zeros(1, np.uint64)
        for number in range(len(slabs)):
            final = ids[shelf.take(f"labels-{number}")["label"]]
            for block, start, stop in slabs.spans(number):
                yield block, {"ids": np.concatenate([none, final[start:stop]])}

    def working_bytes(self, blocks: int) -> int:
        return 65536 * min(blocks, 2 * blocks_of_slab(self.grid))


class Slots:
    """The slots of all blocks and their edges, from the records of a pass and of its seams, each read once."""

    def __init__(self, slabs: Slabs, records: Mapping[str, Sequence[Record]], source: str) -> None:
        self._slabs, self._blocks, self._seams = slabs, records[source], records[f"{source}-seams"]

    def read(self, number: int, names: Sequence[str]) -> tuple[Sequence[Record], forest.Edges]:
        """Columns of each block of a slab, the first of which has a row for each slot, and the edges of the slab."""
        tables = [_taken(self._blocks[block], (*names, "edges")) for block in self._slabs.blocks(number)]
        offsets = self._slabs.note(number, (len(table[names[0]]) for table in tables))
        return tables, self._edges(number, [table.pop("edges") for table in tables], offsets)

    def _edges(self, number: int, within: Sequence[Ints], offsets: Ints) -> forest.Edges:
        """The edges of a slab, from those inside its blocks, which are renumbered in place, and those of the seams."""
        blocks = self._slabs.blocks(number)
        inner, ahead, there = [], [], []
        for start, block, own in zip(offsets[:-1], blocks, within, strict=True):
            seams = _taken(self._seams[block], ("edges", "neighbour"))
            own[:, :2] += start
            crossing, neighbour = seams["edges"], seams["neighbour"] - blocks.start
            crossing[:, 0] += start
            is_inner = neighbour < self._slabs.step
            crossing[is_inner, 1] += offsets[neighbour[is_inner]]
            inner += [own, crossing[is_inner]]
            ahead.append(crossing[~is_inner])
            there.append(neighbour[~is_inner] - self._slabs.step)
        return forest.Edges(offsets, np.concatenate(inner), np.concatenate(ahead), np.concatenate(there))


def _taken(record: Record, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Copies of some arrays of a record: one of its own would keep all of its bytes, the planes too."""
    return {name: np.array(record[name]) for name in names}


def _joined(tables: Sequence[Record], name: str) -> NDArray[Any]:
    return np.concatenate([table[name] for table in tables])
