"""Instances that an open boundary parts become one, by the exact agglomeration of `kernels.agglomeration`.

    boundaries     faces and mean relief between the instances of a block, and those across its forward faces
    agglomerate    instance before -> instance, in raster order of the first voxel, small ones dropped

The planes that `flood` recorded are enough for the faces between blocks, so each is counted once, by the block before
it, and no voxel is read twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import agglomeration, watershed
from chunkflow.stages.base import Draft, Merged, Output, Record, View, host, iterate
from chunkflow.stages.merging import folded
from chunkflow.stages.naming import largest_of, ranked

FACES_AHEAD: tuple[tuple[str, Triple], ...] = (("z", (1, 0, 0)), ("y", (0, 1, 0)), ("x", (0, 0, 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class FindBoundaries:
    """Boundaries between the instances of a core, and between them and those of the forward neighbours."""

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"basins": out, "relief": out}

    def run(self, view: View, out: Box) -> Output:
        merged = view.values["flood-merge"]
        power = agglomeration.relief_power(float(merged["highest"][0]))
        labels = merged["ids"][view.regions["basins"].cut(out)]
        parts = [agglomeration.block_boundaries(labels, host(view.regions["relief"].cut(out)), power)]
        parts += self._seams(view, merged["ids"], power) if labels.any() else []
        found = agglomeration.merge_boundaries(parts)
        return Output(record={"pair": found.pair, "faces": found.faces, "total": found.total})

    @staticmethod
    def _seams(view: View, ids: NDArray[np.uint64], power: int) -> Iterator[agglomeration.Boundaries]:
        here = view.records["flood"][view.block]
        for axis, direction in FACES_AHEAD:
            index = view.grid.neighbour(view.block, direction)
            there = {} if index is None else view.records["flood"][index]
            if index is None or f"slot_{axis}0" not in there:
                continue
            beyond = view.records["flood-merge"][index]["ids"]
            yield agglomeration.seam_boundaries(
                ids[here[f"slot_{axis}1"]],
                beyond[there[f"slot_{axis}0"]],
                watershed.key_value(here[f"key_{axis}1"]),
                watershed.key_value(there[f"key_{axis}0"]),
                power,
            )

    def working_bytes(self, out: Triple) -> int:
        return 60 * prod(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agglomerate:
    """Instances ranked anew once boundaries whose mean relief is below a limit are gone.

    limit : in units of the relief
    """

    limit: float
    min_voxels: int

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        before = values["flood-merge"]
        count = int(before["count"][0])
        power = agglomeration.relief_power(float(before["highest"][0]))
        limit = int(agglomeration.rounded(self.limit, power))
        boundaries = folded(records["boundaries"], _boundaries_of, agglomeration.merge_boundaries)
        one = agglomeration.agglomerate(boundaries, count, limit)
        one = np.concatenate([np.zeros(1, np.int64), one])
        first, size = np.full(count + 1, np.iinfo(np.int64).max), np.zeros(count + 1, np.int64)
        for flooded, named in zip(iterate(records["flood"]), iterate(records["flood-merge"]), strict=True):
            now = one[named["ids"][1:]]
            np.minimum.at(first, now, flooded["first"])
            np.add.at(size, now, flooded["size"])
        ids = ranked(first, size, self.min_voxels)
        final = ids[one]
        parts = ((block, {"ids": final[named["ids"]]}) for block, named in enumerate(iterate(records["flood-merge"])))
        return Merged(largest_of(ids), parts)

    def working_bytes(self, blocks: int) -> int:
        return 65536 * blocks


def _boundaries_of(record: Record) -> agglomeration.Boundaries:
    return agglomeration.Boundaries(record["pair"], record["faces"], record["total"])


def agglomerate_drafts(grid: Grid, *, limit: float, min_voxels: int) -> tuple[Draft, ...]:
    """The passes between `flood-merge` and the naming of instances; the last is `agglomerate`."""
    merge = Agglomerate(limit=limit, min_voxels=min_voxels)
    return (
        Draft(name="boundaries", grid=grid, steps=(FindBoundaries(),), needs=("flood", "flood-merge")),
        Draft(name="agglomerate", grid=grid, merge=merge, needs=("flood", "flood-merge", "boundaries")),
    )
